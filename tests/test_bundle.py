"""dpuforge bundle: the folder that is copied to a board; and how little a new board adds to a project."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpuforge.errors import FormatError
from dpuforge.execute.results import write_result
from dpuforge.records.result import StageResult, Status
from dpuforge.render.environment import format_env_value
from tests.conftest import REPO
from tests.test_compile_script import compile_board, root

__all__ = ["root"]


def dpuforge(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a project."""
    command = [sys.executable, "-m", "dpuforge", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def bundle(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run dpuforge bundle on the quickstart of a project."""
    (root / "spec").mkdir(exist_ok=True)
    shutil.copyfile(REPO / "spec/quickstart.yaml", root / "spec/quickstart.yaml")
    return dpuforge("bundle", "spec/quickstart.yaml", *arguments, cwd=root)


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_command_makes_what_compile_sh_made(root: Path) -> None:
    """After an edit, and after a deletion, the command gives the folder that the compile stage ended with."""
    assert compile_board(root).returncode == 0
    folder = root / "build/quickstart/bundle/KV260"
    made = read_folder(folder)
    (folder / "app.py").write_text("edited")
    (folder / "notes.txt").write_text("mine")
    done = bundle(root, "--board", "KV260")
    assert done.returncode == 0, done.stderr
    assert str(folder) in done.stdout
    assert read_folder(folder) == made
    shutil.rmtree(folder.parent)
    assert bundle(root, "--board", "KV260").returncode == 0
    assert read_folder(folder) == made


def test_what_is_not_compiled_is_refused_with_the_command_that_compiles_it(root: Path) -> None:
    """Exit code 3, the missing file, AMD's image and the command; an unknown board is a usage error."""
    done = bundle(root, "--board", "ZCU104")
    assert done.returncode == 3
    for words in (
        "compile/ZCU104/resnet18_digits.xmodel does not exist",
        "xilinx/vitis-ai-pytorch-cpu",
        "bash generated/quickstart/compile.sh ZCU104",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / "build/quickstart/bundle").exists()
    assert compile_board(root).returncode == 0
    assert bundle(root).returncode == 3, "all boards: ZCU104 is still missing"
    done = bundle(root, "--board", "ZCU999")
    assert done.returncode == 2
    assert "KV260, ZCU104" in done.stderr


def test_a_result_that_was_refused_is_not_bundled(root: Path) -> None:
    """An xmodel changed after compiling, and one that the compile stage refused, are no bundle."""
    assert compile_board(root).returncode == 0
    compiled = root / "build/quickstart/compile/KV260"
    write_result(compiled, StageResult("compile", Status.FAILED, "another DPU", board="KV260"))
    done = bundle(root, "--board", "KV260")
    assert done.returncode == 3
    assert "the compile stage of KV260 failed: another DPU" in done.stderr
    assert compile_board(root).returncode == 0
    (compiled / "resnet18_digits.xmodel").write_bytes(b"changed")
    done = bundle(root, "--board", "KV260")
    assert done.returncode == 3
    assert "compile again" in done.stderr


def test_a_new_board_adds_two_files_and_a_few_lines(tmp_path: Path) -> None:
    """ZCU102 added to the quickstart's boards: at most 3 new files and 60 changed lines in all of generated/."""
    (tmp_path / "spec").mkdir()
    spec = tmp_path / "spec/quickstart.yaml"
    text = (REPO / "spec/quickstart.yaml").read_text(encoding="utf-8")
    spec.write_text(text, encoding="utf-8")
    assert dpuforge("generate", cwd=tmp_path).returncode == 0
    shutil.copytree(tmp_path / "generated", tmp_path / "before")
    assert "boards: [KV260, ZCU104]" in text
    spec.write_text(text.replace("boards: [KV260, ZCU104]", "boards: [KV260, ZCU104, ZCU102]"), encoding="utf-8")
    assert dpuforge("generate", cwd=tmp_path).returncode == 0
    command = ["git", "diff", "--no-index", "--numstat", "before", "generated"]
    rows = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout.splitlines()
    added = {path.relative_to(tmp_path / "generated") for path in (tmp_path / "generated").rglob("*") if path.is_file()}
    added -= {path.relative_to(tmp_path / "before") for path in (tmp_path / "before").rglob("*")}
    assert sorted(path.name for path in added) == ["arch.json", "board.env"]
    assert {path.parent.as_posix() for path in added} == {"quickstart/boards/ZCU102"}
    assert 0 < sum(int(row.split()[0]) + int(row.split()[1]) for row in rows) <= 60, rows


@pytest.mark.parametrize("value", ["it's", "two\nlines", "\x1b[1m", "Ü"])
def test_a_value_that_could_mislead_a_reader_is_refused(value: str) -> None:
    """The quote that ends a value, line ends, control characters and non-ASCII are refused where they are written."""
    with pytest.raises(FormatError, match=r"board\.env"):
        format_env_value(value)
    assert format_env_value('$(x) `y` \\ "z"') == "'$(x) `y` \\ \"z\"'"


READ = "import bundle, json, sys; print(json.dumps(bundle.read_board(sys.argv[1])))"


def test_bash_and_python_read_the_same_values(root: Path) -> None:
    """For every board and key, sed as in compile.sh and the reader of bundle.py see one value."""
    scripts = root / "generated/quickstart"
    for path in sorted(scripts.glob("boards/*/board.env")):
        command = [sys.executable, "-c", READ, str(path)]
        board = json.loads(subprocess.run(command, cwd=scripts, capture_output=True, text=True, check=True).stdout)
        assert board["BOARD"] == path.parent.name
        assert json.loads((path.parent / "arch.json").read_text()) == {"target": board["TARGET"]}
        for key, value in board.items():
            command = ["sed", "-n", f"s/^{key}='\\([^']*\\)'$/\\1/p", str(path)]
            assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == value + "\n"
