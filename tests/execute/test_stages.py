"""Running planned stages: results, staleness, failures, interruption."""

from __future__ import annotations

import json
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dpuforge.errors import Interrupted, MissingToolError, UsageError
from dpuforge.execute.process import explain_exit, run_logged
from dpuforge.execute.results import RESULT, hash_file, read_result, write_result
from dpuforge.execute.run_stages import LOG, Folders, Selection, Verdict, check_tools, run_stages, select_stages
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.plan import PlannedStage
from dpuforge.records.result import StageResult, Status

WRITES_OUTPUT = """
    import pathlib, sys
    build = pathlib.Path(sys.argv[sys.argv.index("--build") + 1])
    (build / "one").mkdir(exist_ok=True)
    (build / "one" / "made.txt").write_text("made")
    print("hello")
"""


class Watcher:
    """Remembers what it saw."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended: list[tuple[str, str, bool]] = []

    def start(self, stage: str, why: str) -> None:
        self.lines.append(f"start {stage}")

    def line(self, stage: str, text: str) -> None:
        self.lines.append(text)

    def finish(self, stage: str, result: StageResult, fresh: bool) -> None:
        self.ended.append((stage, result.status.value, fresh))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """An empty project."""
    (tmp_path / "generated").mkdir()
    return Folders(tmp_path, tmp_path / "generated", tmp_path / "build")


@pytest.fixture
def place() -> ToolchainPlace:
    """A toolchain that is this very Python."""
    return ToolchainPlace("emulator", sys.executable, {"PATH": "/usr/bin:/bin"}, {"python": "3", "torch": "2.4"})


def write_script(folders: Folders, name: str, text: str) -> None:
    (folders.scripts / name).write_text(textwrap.dedent(text))


def stage(name: str, **changes: object) -> PlannedStage:
    return replace(PlannedStage(name, "python", (f"{name}.py",), (f"{name}.py",)), **changes)


def run(stages: list[PlannedStage], place: ToolchainPlace, folders: Folders) -> tuple[tuple[StageResult, ...], Watcher]:
    watcher = Watcher()
    results = run_stages([(item, False) for item in stages], stages, place, folders, watcher)
    return results, watcher


def test_a_stage_leaves_a_result_and_its_log(folders: Folders, place: ToolchainPlace) -> None:
    """A script that writes no result.json of its own gets one, with the digests of what it made."""
    write_script(folders, "one.py", WRITES_OUTPUT)
    (result,), watcher = run([stage("one")], place, folders)
    assert result.status is Status.DONE
    assert list(result.outputs) == ["build/one/made.txt"]
    assert "hello" in watcher.lines
    assert (folders.build / "one" / LOG).read_text() == "hello\n"
    assert read_result(folders.build / "one") == result


def test_a_fresh_stage_does_not_run_again(folders: Folders, place: ToolchainPlace) -> None:
    """The second run finds the first one's result and runs nothing."""
    write_script(folders, "one.py", WRITES_OUTPUT)
    run([stage("one")], place, folders)
    _, watcher = run([stage("one")], place, folders)
    assert watcher.ended == [("one", "done", True)]
    assert watcher.lines == []


@pytest.mark.parametrize("change", ["script", "output", "lost", "toolchain"])
def test_whatever_decides_a_stage_makes_it_stale(folders: Folders, place: ToolchainPlace, change: str) -> None:
    """A changed script, a changed or lost output and another toolchain version each lead to a new run."""
    write_script(folders, "one.py", WRITES_OUTPUT)
    one = stage("one", uses_toolchain=True, packages=("torch",))
    run([one], place, folders)
    if change == "script":
        write_script(folders, "one.py", WRITES_OUTPUT + "    # changed\n")
    elif change == "output":
        (folders.build / "one" / "made.txt").write_text("tampered")
    elif change == "lost":
        (folders.build / "one" / "made.txt").unlink()
    else:
        place = replace(place, versions={"python": "3", "torch": "2.5"})
    _, watcher = run([one], place, folders)
    assert watcher.ended == [("one", "done", False)]


def test_what_decides_no_result_makes_nothing_stale(folders: Folders, place: ToolchainPlace) -> None:
    """Another Python, and a local tag of torch that one side does not know, lead to no new run."""
    write_script(folders, "one.py", WRITES_OUTPUT)
    one = stage("one", uses_toolchain=True, packages=("torch",))
    run([one], place, folders)
    place = replace(place, versions={"python": "4", "torch": "2.4+cpu"})
    assert run([one], place, folders)[1].ended == [("one", "done", True)]


def test_a_changed_output_makes_the_stages_after_it_stale(folders: Folders, place: ToolchainPlace) -> None:
    """A stage runs again exactly when the outputs of a stage it needs have changed."""
    write_script(folders, "one.py", WRITES_OUTPUT)
    write_script(folders, "two.py", "print('two')")
    stages = [stage("one"), stage("two", needs=("one",))]
    run(stages, place, folders)
    write_script(folders, "one.py", WRITES_OUTPUT + "    # same output\n")
    assert run(stages, place, folders)[1].ended == [("one", "done", False), ("two", "done", True)]
    write_script(folders, "one.py", WRITES_OUTPUT.replace('"made")', '"other")'))
    assert run(stages, place, folders)[1].ended == [("one", "done", False), ("two", "done", False)]


def test_a_failure_stops_the_run_and_names_the_last_line(folders: Folders, place: ToolchainPlace) -> None:
    """A script that dies fails its stage with its last words, and nothing runs after it."""
    write_script(folders, "one.py", "raise SystemExit('no data here')")
    write_script(folders, "two.py", "print('two')")
    results, watcher = run([stage("one"), stage("two")], place, folders)
    assert [result.status for result in results] == [Status.FAILED]
    assert "no data here" in results[0].reason
    assert watcher.ended == [("one", "failed", False)]


@pytest.mark.parametrize(("name", "meaning"), [("SIGKILL", "memory"), ("SIGABRT", "gave up"), ("SIGSEGV", "crash")])
def test_a_stage_ended_by_a_signal_says_which(folders: Folders, place: ToolchainPlace, name: str, meaning: str) -> None:
    """A stage that a signal ended names it, what it means, and the last lines of its log."""
    script = f"import os, signal\nprint('step 1')\nprint('step 2', flush=True)\nos.kill(os.getpid(), signal.{name})\n"
    write_script(folders, "one.py", script)
    (result,), _ = run([stage("one")], place, folders)
    assert result.status is Status.FAILED
    assert f"ended by {name}" in result.reason
    assert meaning in result.reason
    assert result.reason.endswith("step 1 | step 2")


@pytest.mark.parametrize(("code", "text"), [(1, "exit code 1"), (137, "ended by SIGKILL"), (255, "exit code 255")])
def test_exit_codes_are_explained(code: int, text: str) -> None:
    """Plain codes stay plain; a shell's 128 + n is its signal."""
    assert explain_exit(code).startswith(text)


def test_an_error_in_the_log_outweighs_exit_code_0(folders: Folders, place: ToolchainPlace) -> None:
    """The quantizer logs errors and exits 0; the stage fails with its code and the remedy."""
    line = "[VAIQ_ERROR][QUANTIZER_TORCH_XMODEL_BATCHSIZE]: Batch size must be 1 when exporting xmodel."
    write_script(folders, "one.py", f"print('\\x1b[0;31m{line}\\x1b[0m')")
    (result,), _ = run([stage("one", uses_toolchain=True)], place, folders)
    assert result.status is Status.FAILED
    assert "QUANTIZER_TORCH_XMODEL_BATCHSIZE" in result.reason
    assert "batch size 1" in result.reason


def test_a_script_that_says_done_and_exits_1_has_failed(folders: Folders, place: ToolchainPlace) -> None:
    """result.json alone proves nothing: the exit code counts as well."""
    write_script(
        folders,
        "one.py",
        """
        import json, pathlib
        pathlib.Path("one/result.json").write_text(json.dumps({"stage": "one", "status": "done"}))
        raise SystemExit(1)
        """,
    )
    (result,), _ = run([stage("one")], place, folders)
    assert result.status is Status.FAILED


def test_a_missing_tool_skips_the_stage_under_the_emulator(folders: Folders, place: ToolchainPlace) -> None:
    """Without vai_c_xir nothing is compiled, and the result says so."""
    (result,), _ = run([stage("compile", runner="bash", tools=("vai_c_xir",))], place, folders)
    assert result.status is Status.SKIPPED
    assert "vai_c_xir" in result.reason


def test_a_missing_tool_stops_the_native_toolchain_before_anything_runs(place: ToolchainPlace) -> None:
    """Natively a missing compiler is found before training, not after it."""
    with pytest.raises(MissingToolError, match="vai_c_xir"):
        check_tools([stage("compile", tools=("vai_c_xir",))], replace(place, name="native"))


def test_boards_run_side_by_side(folders: Folders, place: ToolchainPlace) -> None:
    """Two boards that each wait for the other end only when they run at the same time."""
    write_script(
        folders,
        "wait.py",
        """
        import pathlib, sys, time
        me, other = sys.argv[1:3]
        pathlib.Path(me).write_text("")
        end = time.monotonic() + 20
        while not pathlib.Path(other).exists():
            if time.monotonic() > end: raise SystemExit("alone")
            time.sleep(0.02)
        """,
    )
    stages = [
        stage("compile", argv=("wait.py", "a", "b"), board="A"),
        stage("compile", argv=("wait.py", "b", "a"), board="B"),
    ]
    results = run_stages([(item, False) for item in stages], stages, place, folders, Watcher(), jobs=2)
    assert [(result.board, result.status) for result in results] == [("A", Status.DONE), ("B", Status.DONE)]


def test_selection_runs_from_and_until(folders: Folders) -> None:
    """--from forces what it names, --until ends there, unknown names list the known ones."""
    stages = [stage("one"), stage("two"), stage("three")]
    chosen = select_stages(stages, Selection("two", "three"))
    assert [(item.name, forced) for item, forced in chosen] == [("two", True), ("three", True)]
    with pytest.raises(UsageError, match="no stage is called four"):
        select_stages(stages, Selection("four"))
    with pytest.raises(UsageError, match="comes after"):
        select_stages(stages, Selection("three", "one"))


def is_gone(stat: Path) -> bool:
    """Say whether a process has ended; a zombie only waits to be collected."""
    try:
        return stat.read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_stop_ends_the_child_and_what_it_started(tmp_path: Path) -> None:
    """An interrupted stage leaves no process behind, even one that ignores interrupts."""
    pidfile = tmp_path / "pid"
    script = f"""
import subprocess, sys, pathlib, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({str(pidfile)!r}).write_text(str(child.pid))
print("ready", flush=True)
time.sleep(60)
"""
    stop = threading.Event()
    show = lambda text: stop.set() if text == "ready" else None  # noqa: E731
    with pytest.raises(Interrupted):
        run_logged([sys.executable, "-c", script], tmp_path, {}, tmp_path / "log", show, stop)
    stat = Path(f"/proc/{pidfile.read_text()}/stat")
    end = time.monotonic() + 5  # a killed process is not gone in the same instant
    while not is_gone(stat) and time.monotonic() < end:
        time.sleep(0.02)
    assert is_gone(stat)


def test_a_progress_bar_shows_every_state_and_logs_the_last(tmp_path: Path) -> None:
    """Carriage returns redraw a line on the screen and do not fill the log."""
    seen: list[str] = []
    code = "import sys; sys.stdout.write('10%\\r50%\\r100%\\ndone\\n')"
    run_logged([sys.executable, "-c", code], tmp_path, {}, tmp_path / "log", seen.append, threading.Event())
    assert seen == ["10%", "50%", "100%", "done"]
    assert (tmp_path / "log").read_text() == "100%\ndone\n"


ODD = ('"scripts": {"a": 5}', '"inputs": []', '"outputs": {"a": null}', '"seconds": "long"', '"metrics": 3')
ODD_RESULTS = [f'{{"stage": "x", "status": "done", {odd}}}' for odd in ODD]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"stage": 1}', '{"stage": "x", "status": "odd"}', "[" * 100000, *ODD_RESULTS]
)
def test_a_broken_result_counts_as_none(tmp_path: Path, text: str) -> None:
    """Half a result.json, or a strange one, is as good as none."""
    (tmp_path / RESULT).write_text(text)
    assert read_result(tmp_path) is None


def test_a_result_survives_the_round_trip(tmp_path: Path) -> None:
    """What is written is what is read."""
    result = StageResult(
        "evaluate", Status.DONE, metrics={"float_accuracy": 97.5}, outputs={"a": "b"}, scripts={"evaluate.py": "c"}
    )
    (tmp_path / RESULT).write_text(json.dumps(result.to_json()))
    assert read_result(tmp_path) == result


def test_a_check_refuses_a_stage_that_ended_well(folders: Folders, place: ToolchainPlace) -> None:
    """What the check finds fails the stage, and its metrics are kept either way."""
    write_script(folders, "one.py", WRITES_OUTPUT)
    for failure, status in (("wrong fingerprint", Status.FAILED), ("", Status.DONE)):
        check = lambda stage, folder, failure=failure: Verdict(failure, {"seen": 1})  # noqa: E731
        one = stage("one")
        (result,) = run_stages([(one, True)], [one], place, folders, Watcher(), check=check)
        assert (result.status, result.reason, result.metrics["seen"]) == (status, failure, 1)


def test_a_known_failure_of_the_compiler_is_explained(folders: Folders, place: ToolchainPlace, tmp_path: Path) -> None:
    """A line of the compiler's log leads to its cause and remedy."""
    line = "[UNILOG][FATAL][TARGET_FACTORY_UNREGISTERED_TARGET][Unregistered target!] Cannot find target with name X"
    write_script(folders, "compile.sh", f"echo '{line}, valid names are: {{}}'; exit 3")
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    place = replace(place, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    one = stage("compile", runner="bash", argv=("compile.sh",), scripts=("compile.sh",), tools=("tool",))
    (result,), _ = run([one], place, folders)
    assert result.status is Status.FAILED
    assert "release" in result.reason


def test_a_script_that_skips_with_a_reason_is_not_run_again(folders: Folders, place: ToolchainPlace) -> None:
    """Nothing to do stays nothing to do until what decides it changes."""
    script = """
        import json, pathlib
        document = {"stage": "one", "status": "skipped", "reason": "nothing to do"}
        pathlib.Path("one/result.json").write_text(json.dumps(document))
    """
    write_script(folders, "one.py", script)
    (result,), _ = run([stage("one")], place, folders)
    assert (result.status, result.reason) == (Status.SKIPPED, "nothing to do")
    assert run([stage("one")], place, folders)[1].ended == [("one", "skipped", True)]


def write_imported(folders: Folders) -> Path:
    """Leave an imported calibration for weights that lie in the project; return the weights."""
    weights = folders.root / "model.pth"
    weights.write_text("weights")
    taken = folders.build / "one" / "quant_info.json"
    taken.parent.mkdir(parents=True)
    taken.write_text("positions")
    result = StageResult(
        "one",
        Status.DONE,
        inputs={"model.pth": hash_file(weights)},
        outputs={"build/one/quant_info.json": hash_file(taken)},
        metrics={"imported": {"folder": "elsewhere"}},
    )
    write_result(folders.build / "one", result)
    return weights


def test_an_imported_result_stands_though_its_script_never_ran(folders: Folders, place: ToolchainPlace) -> None:
    """Scripts and toolchain did not make it: they do not decide it, and it is not made again."""
    write_script(folders, "one.py", "raise SystemExit('must not run')")
    write_imported(folders)
    (result,), watcher = run([stage("one")], place, folders)
    assert result.status is Status.DONE
    assert watcher.ended == [("one", "done", True)]


@pytest.mark.parametrize("changed", ["model.pth", "build/one/quant_info.json"])
def test_an_imported_result_that_no_longer_fits_stops_the_run(
    folders: Folders, place: ToolchainPlace, changed: str
) -> None:
    """The stage fails with what changed and what to do, runs nothing, and leaves the imported result as it was."""
    write_script(folders, "one.py", WRITES_OUTPUT)
    write_imported(folders)
    before = (folders.build / "one" / RESULT).read_bytes()
    (folders.root / changed).write_text("other")
    (result,), _ = run([stage("one")], place, folders)
    assert result.status is Status.FAILED
    assert f"no longer fits: {changed} " in result.reason
    assert "dpuforge import-calibration SPEC FOLDER" in result.reason
    assert "--from one" in result.reason
    assert (folders.build / "one" / RESULT).read_bytes() == before
    assert not (folders.build / "one/made.txt").exists()


def test_calibrating_here_is_asked_for_by_name(folders: Folders, place: ToolchainPlace) -> None:
    """--from replaces an imported result by one made here."""
    write_script(folders, "one.py", WRITES_OUTPUT)
    write_imported(folders)
    (result,) = run_stages([(stage("one"), True)], [stage("one")], place, folders, Watcher())
    assert result.status is Status.DONE
    assert "imported" not in result.metrics
