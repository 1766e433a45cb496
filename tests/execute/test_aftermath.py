"""A stage that failed or hung: its outputs are out of the way, and it says where it was."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path

import pytest

from dpuforge.execute.aftermath import describe_overrun, set_aside
from dpuforge.execute.run_stages import LOG, Folders, run_stages
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.load.spec_schema import read_schema
from dpuforge.plan.stages import STAGES
from dpuforge.records.plan import PlannedStage
from dpuforge.records.result import StageResult, Status
from dpuforge.records.run_settings import Run, Toolchain
from tests.execute.test_stages import Watcher

MAKES_AND_FAILS = """
    import pathlib
    for name in ("model.pth", "net.last.pth", "decoded.jsonl", "deep/er/quant_info.json"):
        path = pathlib.Path("one") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    raise SystemExit({code})
"""
HANGS = """
    import time
    def wait_for_nothing():
        print("waiting", flush=True)
        time.sleep(600)
    wait_for_nothing()
"""


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """An empty project."""
    (tmp_path / "generated").mkdir()
    return Folders(tmp_path, tmp_path / "generated", tmp_path / "build")


def run_one(folders: Folders, script: str, **options: object) -> StageResult:
    """Run one stage of a script and return its result."""
    (folders.scripts / "one.py").write_text(textwrap.dedent(script))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONFAULTHANDLER": "1"}
    place = ToolchainPlace("emulator", sys.executable, environment, {})
    one = PlannedStage("one", "python", ("one.py",), ("one.py",))
    return run_stages([(one, True)], [one], place, folders, Watcher(), **options)[0]  # type: ignore[arg-type]


def list_files(folder: Path) -> set[str]:
    """Return the files below a folder, by their path in it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_outputs_of_a_failed_stage_are_set_aside(folders: Folders) -> None:
    """What it made lies in failed/; checkpoints and what is known by digest stay for the next run."""
    assert run_one(folders, MAKES_AND_FAILS.format(code=1)).status is Status.FAILED
    assert list_files(folders.build / "one") == {
        *("result.json", LOG, "net.last.pth", "decoded.jsonl"),
        *("failed/model.pth", "failed/deep/er/quant_info.json"),
    }


def test_a_good_run_removes_what_failed_before_it(folders: Folders) -> None:
    """failed/ is of the last run alone, and its files are no outputs."""
    run_one(folders, MAKES_AND_FAILS.format(code=1))
    result = run_one(folders, MAKES_AND_FAILS.format(code=0))
    assert result.status is Status.DONE
    assert not (folders.build / "one/failed").exists()
    assert "build/one/model.pth" in result.outputs


def test_an_earlier_good_output_is_no_output_of_a_failed_run(folders: Folders) -> None:
    """After a failure the earlier run's file is out of the next stage's way, too."""
    run_one(folders, MAKES_AND_FAILS.format(code=0))
    run_one(folders, "raise SystemExit('no')")
    assert not (folders.build / "one/model.pth").exists()
    assert (folders.build / "one/failed/model.pth").exists()


def test_setting_aside_twice_and_from_nowhere_does_no_harm(tmp_path: Path) -> None:
    """An absent folder is nothing to move; a second failure replaces the first one's files."""
    assert set_aside(tmp_path / "absent", LOG) == ()
    for text in ("first", "second"):
        (tmp_path / "made.txt").write_text(text)
        assert set_aside(tmp_path, LOG) == ("made.txt",)
    assert (tmp_path / "failed/made.txt").read_text() == "second"


def test_a_stage_past_its_limit_is_ended_with_what_it_was_doing(folders: Folders) -> None:
    """The reason names the limit's key, the line of code and the last words; the run does not wait longer."""
    started = time.monotonic()
    result = run_one(folders, HANGS, limits={"one": 0.03})
    assert time.monotonic() - started < 20
    assert result.status is Status.FAILED
    assert result.reason == (
        "ended after 0.03 minutes, the spec's run.time_limit.one: it was in one.py:5 (wait_for_nothing); "
        "its last lines: waiting"
    )


def test_a_stage_within_its_limit_is_left_alone(folders: Folders) -> None:
    """A limit changes nothing for a stage that ends."""
    assert run_one(folders, "print('done')", limits={"one": 1.0}).status is Status.DONE


def test_a_stage_that_ignores_being_aborted_is_killed(folders: Folders) -> None:
    """A script deaf to SIGABRT is ended all the same, without a stack."""
    script = (
        "import signal, time\nsignal.signal(signal.SIGABRT, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    )
    result = run_one(folders, script, limits={"one": 0.03})
    assert result.reason.endswith("run.time_limit.one; its last lines: deaf")


def test_an_overrun_without_a_word_says_so() -> None:
    """No output and no stack is said plainly."""
    assert describe_overrun(5, "train", "train.py", "").endswith("run.time_limit.train; it had printed nothing")


def test_the_schema_names_every_stage() -> None:
    """run.stages and run.time_limit have a key for each stage of the plan; preflight runs on the host alone."""
    names = {row.name for row in STAGES}
    keys = read_schema()["run"]["schema"]
    assert set(keys["time_limit"]["schema"]) == names
    assert set(keys["stages"]["schema"]) == names - {"preflight"}


def test_places_follow_the_toolchain_and_what_the_spec_says() -> None:
    """Under container, AMD's part goes into the image unless the spec says otherwise; else all is on the host."""
    run = Run(Toolchain.CONTAINER, {"train": "container", "compile": "host"})
    places = {row.name: run.place_of(row.name) for row in STAGES}
    assert places == {
        **dict.fromkeys(("prepare", "adjust", "preflight", "compile"), "host"),
        **dict.fromkeys(("train", "inspect", "qat", "calibrate", "evaluate", "deploy"), "container"),
    }
    assert {run.place_of(row.name, "emulator") for row in STAGES} == {"host"}
    assert Run(Toolchain.EMULATOR).place_of("compile", "container") == "container"
    assert Run(Toolchain.CONTAINER, {"calibrate": "host"}).place_of("qat") == "host"  # it stands in its place
