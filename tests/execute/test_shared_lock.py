"""Scripts that Snakemake or a person starts hold the same lock as a run of dpuforge: each keeps the other out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dpuforge.errors import LockedError
from dpuforge.execute.lock import LOCK, claim
from dpuforge.execute.process import RUN_VARIABLE
from tests.conftest import REPO

SCRIPTS = REPO / "generated" / "quickstart"
# A stage of a generated script: named by its first word, it ends when a file "go" is there.
STAGE = f"""
import argparse, pathlib, sys, time
sys.path.insert(0, {str(SCRIPTS)!r})
import results
name = sys.argv.pop(1)
parser = argparse.ArgumentParser()
results.add_folders(parser)
arguments = results.parse(parser)
with results.Stage(name, arguments):
    print("at work", flush=True)
    while not (arguments.build / "go").exists():
        time.sleep(0.02)
"""


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """An empty folder of results."""
    folder = tmp_path / "quick build ü"
    folder.mkdir()
    return folder


@pytest.fixture
def start(build: Path) -> Iterator[Start]:
    """Start a stage by hand; what still works at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start_stage(name: str, **variables: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", STAGE, name, "--root", str(build.parent), "--build", str(build)]
        env = {**os.environ, **variables}
        started.append(subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start_stage
    for stage in started:
        stage.kill()
        stage.wait()
        for stream in (stage.stdout, stage.stderr):
            assert stream is not None
            stream.close()


def at_work(stage: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Wait until a stage works."""
    assert stage.stdout is not None
    assert stage.stdout.readline() == "at work\n"
    return stage


def silent(text: str) -> None:
    """Hear nothing."""


def test_a_run_is_refused_while_a_script_works_and_names_it(build: Path, start: Start) -> None:
    """The script's process and command are told, it goes on unharmed, and its result is its own."""
    stage = at_work(start("train"))
    begun = time.monotonic()
    with pytest.raises(LockedError, match=f"process {stage.pid} on"), claim(build, silent):
        pass
    assert time.monotonic() - begun < 5
    (build / "go").touch()
    assert stage.wait(20) == 0
    assert json.loads((build / "train/result.json").read_text())["status"] == "done"
    with claim(build, silent):
        pass


def test_a_script_is_refused_while_a_run_works_and_writes_nothing(build: Path, start: Start) -> None:
    """Exit status 3, one line that names the run, and not a file of the stage is touched."""
    with claim(build, silent):
        stage = start("train")
        _, said = stage.communicate(timeout=20)
    assert stage.returncode == 3
    assert "is in use by" in said
    assert f"(process {os.getpid()} on" in said
    assert "Traceback" not in said
    assert not (build / "train").exists()


def test_a_stage_of_the_run_itself_is_let_in(build: Path, start: Start) -> None:
    """What the holder of the lock starts says so; who only claims to belong to another run is refused."""
    (build / "go").touch()
    with claim(build, silent):
        assert start("train", **{RUN_VARIABLE: str(os.getpid())}).wait(20) == 0
        assert start("train", **{RUN_VARIABLE: "1"}).wait(20) == 3


def test_stages_that_differ_work_side_by_side_and_one_stage_only_once(build: Path, start: Start) -> None:
    """A workflow engine runs inspect beside calibrate; a second calibrate is refused."""
    first, other = at_work(start("calibrate")), at_work(start("inspect"))
    second = start("calibrate")
    _, said = second.communicate(timeout=20)
    assert second.returncode == 3
    assert f"(process {first.pid} on" in said
    (build / "go").touch()
    assert [first.wait(20), other.wait(20)] == [0, 0]


def test_a_killed_script_leaves_no_lock(build: Path, start: Start) -> None:
    """The kernel gives both locks back: the next run and the same script are let in."""
    stage = at_work(start("train"))
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    with claim(build, silent):
        pass
    (build / "go").touch()
    assert start("train").wait(20) == 0


def test_a_compile_script_is_refused_while_a_run_works(build: Path, tmp_path: Path) -> None:
    """compile.sh takes the same lock before it removes anything."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "vai_c_xir").write_text("#!/bin/sh\ntouch started\n")
    (tools / "vai_c_xir").chmod(0o755)
    old = build / "compile/KV260/result.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    argv = ["bash", str(SCRIPTS / "compile.sh"), "KV260", "--build", str(build)]
    env = {**os.environ, "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with claim(build, silent):
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert f"(process {os.getpid()} on" in done.stderr
    assert old.read_text() == "{}"
    assert not (tmp_path / "started").exists()


def test_where_there_are_no_locks_a_runs_file_is_respected(build: Path) -> None:
    """On a file system without flock the file that dpuforge leaves there is read, and otherwise it is said."""
    broken = "import errno, fcntl\ndef no(*args):\n    raise OSError(errno.ENOLCK, 'no')\nfcntl.flock = no\n"
    argv = [sys.executable, "-c", broken + STAGE, "train", "--root", str(build.parent), "--build", str(build)]
    (build / "go").touch()
    alone = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (alone.returncode, "no locks on this file system" in alone.stdout) == (0, True)
    (build / f"{LOCK}.owner").write_text(json.dumps({"pid": 7, "host": "far", "since": "then", "command": "run"}))
    beside = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert beside.returncode == 3
    assert "run (process 7 on far" in beside.stderr
