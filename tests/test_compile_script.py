"""compile.sh against a stand-in for AMD's closed compiler that behaves, and misbehaves, as recorded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPO

FAKE = """#!/usr/bin/env python3
import hashlib, json, os, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert sorted(options) == ["-a", "-n", "-o", "-x"], sys.argv
mode = os.environ.get("FAKE_MODE", "")
if mode == "refuse" or not pathlib.Path(options["-x"]).is_file():
    sys.exit("cannot open the xmodel")
target = json.loads(pathlib.Path(options["-a"]).read_text())["target"]
print("[UNILOG][INFO] Target architecture: " + ("DPUCZDX8G_ISA0_B4096" if mode == "target" else target))
count = 2 if mode == "split" else 1
print(f"[UNILOG][INFO] Total device subgraph number 3, DPU subgraph number {count}")
if mode == "fatal":
    print("[UNILOG][FATAL][XCOM_DATA_OUTRANGE][Data value is out of range!]")
if mode == "nothing":
    sys.exit(0)
out = pathlib.Path(options["-o"])
compiled = out / (options["-n"] + ".xmodel")
compiled.write_bytes(b"compiled")
digest = hashlib.md5(b"other" if mode == "md5" else b"compiled").hexdigest()
(out / "md5sum.txt").write_text(digest + "\\n")
(out / "meta.json").write_text(json.dumps({"target": target}))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with generated scripts, a quantised xmodel and the stand-in compiler in bin/."""
    shutil.copytree(REPO / "generated/quickstart", tmp_path / "generated/quickstart")
    deploy = tmp_path / "build/quickstart/deploy"
    deploy.mkdir(parents=True)
    (deploy / "resnet18_digits_int.xmodel").write_bytes(b"quantised")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/vai_c_xir").write_text(FAKE)
    (tmp_path / "bin/vai_c_xir").chmod(0o755)
    return tmp_path


def compile_board(root: Path, mode: str = "", *args: str, path: str = "") -> subprocess.CompletedProcess[str]:
    script = root / "generated/quickstart/compile.sh"
    env = {**os.environ, "FAKE_MODE": mode, "PATH": f"{path or root / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(
        [script, *(args or ("KV260",))], env=env, cwd="/", capture_output=True, text=True, check=False
    )


def test_a_good_compile_leaves_the_files_and_says_so(root: Path) -> None:
    """The compiled xmodel, its digest and the log lie in build/<project>/compile/<BOARD>."""
    done = compile_board(root)
    assert done.returncode == 0, done.stderr
    folder = root / "build/quickstart/compile/KV260"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["md5sum.txt", "meta.json", "resnet18_digits.xmodel", "result.json", "vai_c_xir.log"]
    assert "1 DPU subgraph" in done.stdout


def test_a_good_compile_ends_with_the_folder_to_copy(root: Path) -> None:
    """bundle/<BOARD> holds the application, the board's data, the compiled network and its description, and no more."""
    (root / "build/quickstart/train").mkdir()
    (root / "build/quickstart/train/model.json").write_text("{}")
    assert compile_board(root).returncode == 0
    folder = root / "build/quickstart/bundle/KV260"
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "app.py", "bench.py", "preprocess.py", "preprocess.hpp", "resnet18_digits.prototxt"),
        *("app.cpp", "CMakeLists.txt", "resnet18_digits.service"),
        *("arch.json", "board.env", "resnet18_digits.xmodel", "model.json", "meta.json"),
    }
    assert (folder / "resnet18_digits.xmodel").read_bytes() == b"compiled"
    assert json.loads((folder / "meta.json").read_text())["board"] == "KV260"
    assert "BOARD='KV260'" in (folder / "board.env").read_text().splitlines()
    assert [path.name for path in folder.parent.iterdir()] == ["KV260"]


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("refuse", 3, "stopped with exit code 1"),
        ("nothing", 3, "does not exist or is empty"),
        ("md5", 3, "md5sum.txt says"),
        ("split", 3, "2 DPU subgraphs, the spec demands 1"),
        ("fatal", 3, "fatal error"),
        ("target", 3, "compiled for DPUCZDX8G_ISA0_B4096"),
    ],
)
def test_every_way_to_fail_is_refused_with_its_reason(root: Path, mode: str, code: int, words: str) -> None:
    """A compiler that fails, silently or not, fails the script, also after a good run left its files."""
    assert compile_board(root).returncode == 0
    done = compile_board(root, mode)
    assert done.returncode == code
    assert words in done.stderr
    assert not (root / "build/quickstart/bundle/KV260").exists()
    assert not (root / "build/quickstart/compile/KV260/resnet18_digits.xmodel").exists()


def test_a_missing_xmodel_names_the_stage_that_makes_it(root: Path) -> None:
    """Without the quantised xmodel the message says which stage to run."""
    (root / "build/quickstart/deploy/resnet18_digits_int.xmodel").unlink()
    done = compile_board(root)
    assert done.returncode == 3
    assert "run the deploy stage first" in done.stderr


def test_a_missing_compiler_exits_4_and_names_the_image(root: Path) -> None:
    """Outside AMD's image the script says where vai_c_xir lives."""
    (root / "bin/vai_c_xir").unlink()
    done = compile_board(root)
    assert done.returncode == 4
    assert "xilinx/vitis-ai-pytorch-cpu" in done.stderr


def test_bad_usage_exits_2_and_help_explains(root: Path) -> None:
    """An unknown argument, an option without its value and two boards are usage errors."""
    assert compile_board(root, "", "KV260", "--nonsense").returncode == 2
    assert compile_board(root, "", "KV260", "--root").returncode == 2
    assert compile_board(root, "", "KV260", "ZCU104").returncode == 2
    done = compile_board(root, "", "--help")
    assert done.returncode == 0
    assert "--xmodel" in done.stdout


@pytest.mark.parametrize("board", [(), ("ZCU999",), ("../boards/KV260",), ("KV260 ZCU104",), ("*",)])
def test_without_a_board_of_the_project_its_boards_are_named(root: Path, board: tuple[str, ...]) -> None:
    """No board, and what is none of boards/, is a usage error that lists the boards; nothing is written."""
    done = compile_board(root, "", *(board or ("--build", str(root / "build"))))
    assert done.returncode == 2
    assert "this project's are KV260 ZCU104" in done.stderr.replace("This", "this")
    assert not (root / "build/quickstart/compile").exists()


def test_board_env_is_data_that_nobody_executes(root: Path) -> None:
    """A line that is a command, in board.env, is not run."""
    path = root / "generated/quickstart/boards/KV260/board.env"
    path.write_text(path.read_text() + f"touch {root}/executed\nRELEASE='$(touch {root}/executed)'\n")
    compile_board(root)
    assert not (root / "executed").exists()


def test_arch_json_names_the_target(root: Path) -> None:
    """The compiler is pointed at the project's own arch.json, never at one inside the image."""
    arch = json.loads((root / "generated/quickstart/boards/KV260/arch.json").read_text())
    assert arch == {"target": "DPUCZDX8G_ISA1_B4096"}


@pytest.mark.parametrize("project", ["quickstart", "fruits30_kv260", "boards_matrix"])
def test_every_generated_shell_script_is_clean(project: str) -> None:
    """bash and shellcheck find nothing in any board's script."""
    scripts = sorted((REPO / "generated" / project).rglob("*.sh"))
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (extra test)")
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
