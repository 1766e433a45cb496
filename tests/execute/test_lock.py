"""One run at a time, and none that outlives its run: the lock on build/, the guard of a stage, kills at any moment."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpuforge.errors import LockedError
from dpuforge.execute import lock
from dpuforge.execute.lock import claim
from dpuforge.execute.process import run_logged
from dpuforge.execute.results import read_result
from dpuforge.records.result import Status
from tests.squares_project import dpuforge, write_project

# A run of two stages, as the command line makes one: each goes on from what it finds, and writes as long as it lives.
DRIVER = """
import sys
from pathlib import Path
from dpuforge.execute.lock import claim
from dpuforge.execute.run_stages import Folders, run_stages
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.plan import PlannedStage


class Watcher:
    def start(self, stage, why): print("start", stage, flush=True)
    def line(self, stage, text): pass
    def finish(self, stage, result, fresh): print(result.status.value, stage, flush=True)


root = Path(sys.argv[1])
stages = [PlannedStage("one", "python", ("stage.py", "one"), ("stage.py",)),
          PlannedStage("two", "python", ("stage.py", "two"), ("stage.py",), needs=("one",))]
place = ToolchainPlace("emulator", sys.executable, {"PATH": "/usr/bin:/bin"}, {})
with claim(root / "build", print) as kept:
    folders = Folders(root, root, root / "build", {}, kept)
    run_stages([(stage, False) for stage in stages], stages, place, folders, Watcher())
"""
STAGE = """
import os, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
beat = pathlib.Path(os.environ.get("BEAT", "beat"))
worker = "import sys, time\\nwhile True: open(sys.argv[1], 'a').write('w'); time.sleep(0.01)"
child = subprocess.Popen([sys.executable, "-c", worker, str(beat)])
state, part = folder / "steps.txt", folder / ".steps.tmp"
done = state.read_text().split() if state.exists() else []
for step in range(len(done), 12):
    time.sleep(0.02)
    part.write_text(" ".join([*done, f"{sys.argv[1]}{step}"]))
    os.replace(part, state)
    done = state.read_text().split()
part.exists() and part.unlink()
child.kill()
"""


def start_run(root: Path) -> subprocess.Popen[str]:
    """Start a run in a process of its own."""
    root.mkdir(exist_ok=True)
    (root / "stage.py").write_text(textwrap.dedent(STAGE))
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(root)], stdout=subprocess.PIPE, text=True)


def read_end(run: subprocess.Popen[str]) -> str:
    """Wait for a run's end and return what it printed."""
    printed, _ = run.communicate(timeout=60)
    return printed


def kill(run: subprocess.Popen[str]) -> None:
    """Kill a process and nothing that it started."""
    run.kill()
    run.wait()
    if run.stdout is not None:
        run.stdout.close()


def outcome(root: Path) -> dict[str, str]:
    """Return the digests of what both stages made."""
    results = [read_result(root / "build" / name) for name in ("one", "two")]
    assert all(result is not None and result.status is Status.DONE for result in results)
    return {name: digest for result in results if result for name, digest in result.outputs.items()}


def wait_until(true: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Return whether something becomes true in time."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def is_silent(beat: Path) -> bool:
    """Say whether nobody writes to a file any more."""
    before = beat.stat().st_size if beat.exists() else 0
    time.sleep(0.15)
    return before == (beat.stat().st_size if beat.exists() else 0)


def test_kills_at_random_moments_lead_to_the_same_result(tmp_path: Path) -> None:
    """A run killed six times leaves no writer behind each time, and ends as one that was not disturbed."""
    assert "done two" in read_end(start_run(tmp_path / "calm"))
    root, moments = tmp_path / "killed", random.Random(11)
    for _ in range(6):
        run = start_run(root)
        time.sleep(moments.uniform(0.1, 0.9))
        kill(run)
        assert wait_until(lambda: is_silent(root / "build/beat"))
    assert "done two" in read_end(start_run(root))
    assert outcome(root) == outcome(tmp_path / "calm")


def test_a_worker_of_a_killed_run_is_gone_too(tmp_path: Path) -> None:
    """The stage and the process that it started end within a moment of the run's SIGKILL."""
    run = start_run(tmp_path / "root")
    beat = tmp_path / "root/build/beat"
    assert wait_until(lambda: beat.exists() and beat.stat().st_size > 3, 20)
    kill(run)
    assert wait_until(lambda: is_silent(beat))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel of Linux alone offers the signal")
def test_a_killed_guard_takes_its_stage_along(tmp_path: Path) -> None:
    """Where the guard itself is killed the stage ends, and the run says that something was killed."""
    script = "import os, time; print(os.getppid(), os.getpid(), flush=True); time.sleep(60)"
    pids: list[int] = []

    def kill_guard(text: str) -> None:
        pids.extend(map(int, text.split()))
        os.kill(pids[0], signal.SIGKILL)

    code = run_logged([sys.executable, "-c", script], tmp_path, {}, tmp_path / "log", kill_guard, threading.Event())
    assert code == -signal.SIGKILL
    stat = Path(f"/proc/{pids[1]}/stat")
    assert wait_until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z")


@pytest.mark.parametrize("code", ["raise SystemExit(7)", "import os; os.kill(os.getpid(), 11)", "print('x')"])
def test_the_guard_ends_as_its_stage_does(tmp_path: Path, code: str) -> None:
    """Exit codes and signals pass through."""
    run = [sys.executable, "-c", code]
    plain = subprocess.run(run, check=False, capture_output=True).returncode
    assert run_logged(run, tmp_path, {}, tmp_path / "log", lambda text: None, threading.Event()) == plain


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """What cannot be started raises OSError, as without a guard."""
    with pytest.raises(FileNotFoundError, match="no_such_program"):
        run_logged(["no_such_program"], tmp_path, {"PATH": "/bin"}, tmp_path / "log", print, threading.Event())


def test_a_log_on_a_full_disk_does_not_stop_the_stage(tmp_path: Path) -> None:
    """A stage that prints much ends, and the run says that the disk is full instead of waiting for ever."""
    (tmp_path / "log").symlink_to("/dev/full")
    code = "for _ in range(5000): print('x' * 100)"
    with pytest.raises(OSError, match="No space left on device"):
        run_logged([sys.executable, "-c", code], tmp_path, {}, tmp_path / "log", lambda text: None, threading.Event())


HOLD = """
import sys, time
from pathlib import Path
from dpuforge.execute.lock import claim
with claim(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(build: Path) -> subprocess.Popen[str]:
    """Hold a folder's lock in another process."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(build)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_the_second_run_says_who_is_at_work(tmp_path: Path) -> None:
    """The refusal names process, host and time; a killed holder's lock is free."""
    holder = hold(tmp_path / "squares")
    with pytest.raises(LockedError) as refused, claim(tmp_path / "squares", print):
        pass
    said = str(refused.value)
    assert f"process {holder.pid} on {socket.gethostname()}, since 2" in said
    assert f"kill {holder.pid}" in said
    kill(holder)
    with claim(tmp_path / "squares", print):
        assert json.loads((tmp_path / "squares/.lock").read_text())["pid"] == os.getpid()


def test_generate_waits_for_no_run_and_changes_nothing_under_one(tmp_path: Path) -> None:
    """While a run works its scripts are not rewritten: exit code 3, who it is, and not a file touched."""
    write_project(tmp_path)
    assert dpuforge(tmp_path, "generate").returncode == 0
    script = tmp_path / "generated/squares/train.py"
    script.unlink()
    holder = hold(tmp_path / "build/squares")
    done = dpuforge(tmp_path, "generate")
    kill(holder)
    assert done.returncode == 3
    assert f"build/squares is in use by -c {tmp_path}/build/squares (process {holder.pid}" in done.stderr
    assert not script.exists()
    assert dpuforge(tmp_path, "generate").returncode == 0
    assert script.exists()


def test_what_a_killed_run_left_is_ended_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that escaped its group still holds the lock: it is waited for, told, and then ended."""
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.3)
    escaped = HOLD.replace("import sys", "import subprocess, sys").replace("print):", "print) as kept:")
    start = "subprocess.Popen(['sleep', '60'], pass_fds=kept, start_new_session=True)"
    escaped = escaped.replace("    time.sleep(60)", f"    print({start}.pid, flush=True)\n    time.sleep(60)")
    run = subprocess.Popen([sys.executable, "-c", escaped, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "held\n"
    orphan = int(run.stdout.readline())
    kill(run)
    said: list[str] = []
    with claim(tmp_path, said.append):
        pass
    assert "was killed: waiting for what it left running" in said[0]
    assert said[1] == f"ending process {orphan}, which a killed run left"


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without flock."""

    def refuse(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


STALE = {
    "another boot": {"boot": "before the reboot"},
    "a process number given anew": {"born": "1"},
    "no such process": {"pid": 2**22 + 1},
    "half a file": None,
}


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("case", STALE)
def test_a_stale_lock_file_is_seen_through(tmp_path: Path, case: str) -> None:
    """After a reboot, or where the number belongs to another process now, the lock counts as free."""
    changes = STALE[case]
    owner = tmp_path / ".lock.owner"
    owner.write_text("{" if changes is None else json.dumps({**vars(lock._describe_self()), **changes}))
    with claim(tmp_path, print):
        assert json.loads(owner.read_text())["pid"] == os.getpid()
    assert not owner.exists()


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("change", [{}, {"host": "elsewhere", "pid": 1}])
def test_a_lock_file_of_a_living_run_is_respected(tmp_path: Path, change: dict[str, object]) -> None:
    """A holder that lives, or that another host alone can tell of, is named and not replaced."""
    (tmp_path / ".lock.owner").write_text(json.dumps({**vars(lock._describe_self()), **change}))
    with pytest.raises(LockedError, match="is in use by"), claim(tmp_path, print):
        pass
    assert (tmp_path / ".lock.owner").exists()
