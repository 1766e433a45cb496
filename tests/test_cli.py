"""The command line through its front door: files, words and exit codes of the contract."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpuforge import cli, errors, pipeline
from tests.conftest import REPO

SPEC = REPO / "spec" / "quickstart.yaml"


def dpuforge(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dpuforge", *map(str, args)],
        cwd=cwd or REPO,
        env={**os.environ, "NO_COLOR": "1", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder of one's own with the quickstart spec, generated."""
    (tmp_path / "spec").mkdir()
    shutil.copy(SPEC, tmp_path / "spec")
    done = dpuforge("generate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def read_tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_committed_tree_is_in_step_with_the_specs() -> None:
    """generated/ is what the specs of this repository say; on failure run `dpuforge generate` and review."""
    done = dpuforge("check")
    assert done.returncode == 0, done.stdout


def test_generating_twice_says_identical_for_every_file(project: Path) -> None:
    """Every file of the second run is identical."""
    done = dpuforge("generate", cwd=project)
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"identical"}


def test_bytes_do_not_depend_on_hash_seed_or_working_directory(project: Path, tmp_path: Path) -> None:
    """Two hash seeds and two working directories give the same tree."""
    one, two = tmp_path / "one", tmp_path / "two"
    spec = project / "spec" / "quickstart.yaml"
    assert dpuforge("generate", spec, "--out", one, cwd=project, PYTHONHASHSEED="1").returncode == 0
    assert dpuforge("generate", spec, "--out", two, cwd="/", PYTHONHASHSEED="2").returncode == 0
    assert read_tree(one) == read_tree(two)
    assert read_tree(one) == read_tree(project / "generated")


@pytest.mark.parametrize(
    ("change", "word", "why", "options"),
    [
        (lambda path: path.write_text(path.read_text() + "# edited\n"), "different", "edited by hand", ["--overwrite"]),
        (lambda path: path.unlink(), "missing", "deleted by hand", []),
        (lambda path: path.chmod(0o755), "different", "mode: executable on disk", []),
        (lambda path: path.with_name("extra.py").write_text(""), "extra", "not made by dpuforge", ["--overwrite"]),
    ],
    ids=["edited", "missing", "mode", "extra"],
)
def test_check_names_what_is_out_of_step(
    project: Path, change: Callable[[Path], object], word: str, why: str, options: list[str]
) -> None:
    """An edited, missing or extra file and another mode each exit 1 with name and cause; generate mends them."""
    change(project / "generated" / "quickstart" / "train.py")
    done = dpuforge("check", cwd=project)
    assert done.returncode == 1
    found = "extra" if word == "extra" else "train"
    assert f"{word:<9} quickstart/{found}.py (" in done.stdout
    assert why in done.stdout
    assert dpuforge("diff", cwd=project).returncode == 1
    assert dpuforge("generate", *options, cwd=project).returncode == 0
    assert dpuforge("check", cwd=project).returncode == 0


def add_work(project: Path) -> dict[Path, str]:
    """Edit a generated file and lay one's own beside it; return what has to survive."""
    folder = project / "generated/quickstart"
    mine = {folder / "train.py": "print('my own training')\n", folder / "notes.txt": "mine\n"}
    for path, text in mine.items():
        path.write_text(text)
    return mine


@pytest.mark.parametrize("command", ["generate", "run", "bundle"])
def test_a_persons_work_survives(project: Path, command: str) -> None:
    """A hand edit and a foreign file stop every command that writes generated/: exit 1, both named, both whole."""
    mine = add_work(project)
    before = read_tree(project / "generated")
    done = dpuforge(command, "spec/quickstart.yaml", cwd=project)
    assert done.returncode == 1, done.stderr
    assert "generated/quickstart/train.py: edited by hand" in done.stderr
    assert "generated/quickstart/notes.txt: not made by dpuforge" in done.stderr
    assert "--keep" in done.stderr
    assert read_tree(project / "generated") == before
    assert not (project / "build/quickstart/prepare").exists()
    assert {path: path.read_text() for path in mine} == mine


def test_kept_or_moved_aside_as_asked(project: Path) -> None:
    """--keep leaves a person's files and says so; --overwrite says where they lie; both at once is refused."""
    mine = add_work(project)
    done = dpuforge("generate", "--keep", cwd=project)
    assert done.returncode == 0
    assert "keep      quickstart/train.py" in done.stdout
    assert {path: path.read_text() for path in mine} == mine
    done = dpuforge("bundle", "spec/quickstart.yaml", "--keep", cwd=project)
    assert done.returncode == 3, "the network is not compiled; the edit is no hindrance"
    assert dpuforge("generate", "--keep", "--overwrite", cwd=project).returncode == 2
    done = dpuforge("generate", "--overwrite", cwd=project)
    assert "set_aside" in done.stderr
    aside = read_tree(project / "build/quickstart/set_aside")
    assert sorted(path.rpartition("/")[2] for path in map(str, aside)) == ["notes.txt", "train.py"]
    assert dpuforge("check", cwd=project).returncode == 0


def test_one_projects_edit_stops_all(project: Path) -> None:
    """With several specs nothing is written anywhere while one of them would lose something."""
    add_work(project)
    other = project / "spec/zz_other.yaml"
    other.write_text(SPEC.read_text().replace("project: quickstart", "project: zz_other"))
    assert dpuforge("generate", "spec/zz_other.yaml", "spec/quickstart.yaml", cwd=project).returncode == 1
    assert not (project / "generated/zz_other").exists()


def test_ten_mistakes_are_ten_located_problems(tmp_path: Path) -> None:
    """All mistakes of a spec are reported at once, each with its line."""
    text = SPEC.read_text()
    for good, bad in [
        ("spec_version: 1", "spec_version: 2"),
        ("project: quickstart", "project: Quick Start"),
        ("backbone: resnet18", "backbone: resnet81"),
        ("height: 32", "height: tall"),
        ("method: fine_tuning", "method: fine_tunning"),
        ("epochs: 4", "epochs: 0"),
        ("lr: 1.0e-3", "lr: 1e-3"),
        ("batch_size: 64", "batch_size: true"),
        ("boards: [KV260, ZCU104]", "boards: [KV270]"),
        ("toolchain: emulator", "toolchan: emulator"),
    ]:
        assert good in text
        text = text.replace(good, bad)
    spec = tmp_path / "bad.yaml"
    spec.write_text(text)
    done = dpuforge("validate", spec, "--json")
    assert done.returncode == 2
    problems = json.loads(done.stdout)[str(spec)]["problems"]
    assert len([problem for problem in problems if problem["severity"] == "error"]) == 10
    assert len({problem["line"] for problem in problems}) == 10
    plain = dpuforge("validate", spec)
    assert plain.returncode == 2
    assert plain.stdout == ""
    assert plain.stderr.count(f"{spec}:") == 10


def test_json_output_is_one_document_on_stdout() -> None:
    """Commands with --json print a document and nothing else there."""
    for command in (["explain", SPEC], ["boards"], ["releases"], ["backbones"], ["validate", SPEC], ["schema"]):
        done = dpuforge(*command, *([] if command == ["schema"] else ["--json"]))
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)


@pytest.mark.parametrize("command", [["--help"], ["generate", "--help"], ["generate", str(SPEC)]])
def test_the_cli_does_not_import_torch(command: list[str], tmp_path: Path) -> None:
    """Help and generate answer without loading torch."""
    code = f"""
import sys
from collections.abc import Callable
from dpuforge.cli import app
try:
    app({[*command, *(["--out", str(tmp_path)] if command[-1] == str(SPEC) else [])]!r})
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=REPO)


def test_every_command_has_help_with_an_example() -> None:
    """Help teaches: each command shows an example."""
    listing = dpuforge("--help").stdout
    names = [line.split()[0] for line in listing.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    commands = [[name] for name in names if name not in ("xmodel", "Exit", "stage", "missed,")]
    commands += [["xmodel", name] for name in ("show", "run", "diff")]
    assert len(commands) > 15
    for command in commands:
        done = dpuforge(*command, "--help")
        assert done.returncode == 0, command
        assert "Example:" in done.stdout, command


def test_bad_usage_exits_2_without_a_traceback(tmp_path: Path) -> None:
    """A missing file, a folder without specs and an unknown option are usage errors."""
    for args in (["generate", "nowhere.yaml"], ["check"], ["generate", "--no-such-option"], ["xmodel", "show", "x"]):
        done = dpuforge(*args, cwd=tmp_path)
        assert done.returncode == 2, (args, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr


def test_a_missing_native_toolchain_exits_4_and_says_where_it_lives(project: Path) -> None:
    """Without AMD's quantizer the native toolchain stops before anything runs."""
    done = dpuforge("run", "spec/quickstart.yaml", "--toolchain", "native", cwd=project)
    assert done.returncode == 4
    assert "AMD's image" in done.stderr
    assert not (project / "build").exists()


@pytest.mark.parametrize(
    ("name", "code", "words"), [("container", 4, "docker is not installed"), ("docker", 2, "native")]
)
def test_other_toolchains_are_refused_by_name(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, words: str
) -> None:
    """The container toolchain names the engines that it looked for; an unknown one lists the known."""
    monkeypatch.setenv("PATH", str(tmp_path))
    done = dpuforge("run", "spec/quickstart.yaml", "--toolchain", name, cwd=project)
    assert done.returncode == code
    assert words in done.stderr


def test_init_writes_a_spec_that_validates(tmp_path: Path) -> None:
    """Flags answer every question; the spec is good and generates."""
    answers = ["--backbone", "mobilenet_v2", "--weights", "none", "--classes", "5", "--freeze", "none"]
    done = dpuforge("init", "spec/mine.yaml", *answers, "--board", "KV260,ZCU102", "--release", "3.0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert dpuforge("validate", "spec/mine.yaml", cwd=tmp_path).returncode == 0
    assert dpuforge("generate", cwd=tmp_path).returncode == 0
    again = dpuforge("init", "spec/mine.yaml", *answers, "--board", "KV260", "--release", "3.0", cwd=tmp_path)
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_generate_for_one_board_leaves_the_others_alone(project: Path) -> None:
    """--board writes the shared files and that board's folder only."""
    folder = project / "generated" / "quickstart" / "boards"
    shutil.rmtree(folder)
    done = dpuforge("generate", "--board", "ZCU104", cwd=project)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["ZCU104"]
    assert dpuforge("generate", "--board", "ZCU999", cwd=project).returncode == 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (errors.Interrupted(), 130, "run the same command again"),
        (KeyboardInterrupt(), 130, ""),
        (errors.StageError("the gate was missed", "look at the log"), 3, "help: look at the log"),
        (errors.MissingToolError("no tool"), 4, "error: no tool"),
    ],
)
def test_errors_become_messages_and_exit_codes(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted run exits 130; errors of the user's print a message and a remedy, no traceback."""

    def fail(spec: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "load", fail)
    monkeypatch.setattr(sys, "argv", ["dpuforge", "generate", str(SPEC)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
    assert words in capsys.readouterr().err
