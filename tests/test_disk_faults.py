"""What a full disk and forbidden folders look like: one line, exit code 3, nothing half written."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.squares_project import dpuforge, write_project

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A generated project; what a test forbids is allowed again."""
    write_project(tmp_path / "root")
    assert dpuforge(tmp_path / "root", "generate").returncode == 0
    yield tmp_path / "root"
    for folder in (tmp_path / "root/build", tmp_path / "root/generated"):
        if folder.exists():
            folder.chmod(0o755)


def run(root: Path, first: Callable[[], object]) -> subprocess.CompletedProcess[str]:
    """Run the first stage, which needs no torch, after a change in the process itself."""
    command = [sys.executable, "-m", "dpuforge", "run", "spec/squares.yaml", "--until", "prepare"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=root, env=env, preexec_fn=first, capture_output=True, text=True, check=False, timeout=120
    )


def obey_permissions() -> None:
    """Take from root the right to write where nobody may."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


def limit_files(size: int) -> Callable[[], object]:
    """Let no file grow larger, as on a disk that fills up."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capabilities are Linux's")
@pytest.mark.parametrize(("folder", "code"), [("build", 3), ("generated", 2)])
def test_a_folder_that_may_not_be_written_is_one_line(root: Path, folder: str, code: int) -> None:
    """The path and the reason are named; no traceback."""
    (root / folder).mkdir(exist_ok=True)
    if folder == "generated":
        (root / "generated/squares/train.py").unlink()
        (root / "generated/squares").chmod(0o555)
    (root / folder).chmod(0o555)
    done = run(root, obey_permissions)
    (root / "generated/squares").chmod(0o755)
    assert done.returncode == code, done.stderr
    assert f"root/{folder}/squares" in done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stage_on_a_full_disk_says_so_and_goes_on_later(root: Path) -> None:
    """prepare fails with the reason in one line; once there is room the same command ends well."""
    done = run(root, limit_files(4000))
    assert done.returncode == 3, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((root / "build/squares/prepare").glob(".*.tmp"))
    assert run(root, lambda: None).returncode == 0


def test_generating_on_a_full_disk_leaves_the_old_files(root: Path) -> None:
    """What cannot be written whole is not written."""
    script = root / "generated/squares/train.py"
    before = script.read_text()
    spec = root / "spec/squares.yaml"
    spec.write_text(spec.read_text().replace("epochs: 2", "epochs: 3"))
    done = run(root, limit_files(2000))
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert script.read_text() == before
