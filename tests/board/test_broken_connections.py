"""dpuforge board where things go wrong: connections that break, full disks, wrong keys, other people."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.board.loopback import Loopback, make_key

SPEC = ("spec/small.yaml", "--host", "bench")


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once something holds; fail after a minute."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.002)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs (one that has ended and was not collected does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def let_the_application_hang(loopback: Loopback) -> Path:
    """Let app.py sleep for ten minutes on the board before it does anything; return the file that holds its pid."""
    python, pid = loopback.folder / "python", loopback.folder / "app.pid"
    hang = f'case "$1" in app.py) echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 600;; esac'
    python.write_text(f'#!/bin/sh\n{hang}\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    loopback.write_hosts(python=str(python))
    return pid


@pytest.mark.slow
def test_a_copy_that_was_cut_goes_on_where_it_was(loopback: Loopback, large_project: Path) -> None:
    """The server killed mid-copy: nothing half is in use, and the next call copies the rest alone."""
    card = large_project / "build/small/train/model.json"
    partial = loopback.board / "partial" / hashlib.sha256(card.read_bytes()).hexdigest()
    running = loopback.start_dpuforge("board", "push", *SPEC, cwd=large_project)
    wait_for(lambda: partial.is_file() and partial.stat().st_size > 1_000_000)
    loopback.cut()
    _, said = running.communicate(timeout=60)
    assert running.returncode == 4, said
    assert "run the same command again, it goes on where it was" in said
    assert not (loopback.board / "small/KV260/app/current").exists()
    copied = partial.stat().st_size
    assert 1_000_000 < copied < card.stat().st_size
    done = loopback.dpuforge("board", "push", *SPEC, cwd=large_project)
    assert done.returncode == 0, done.stderr
    assert f"{copied / 1e6:.2f} MB of them by an earlier call" in done.stderr
    current = loopback.board / "small/KV260/app/current"
    assert (current / "model.json").read_bytes() == card.read_bytes()
    assert not list((loopback.board / "partial").iterdir())


@pytest.mark.slow
def test_a_run_that_was_cut_ends_on_the_board_and_can_be_done_again(loopback: Loopback, project: Path) -> None:
    """The server killed mid-run: the application ends there, the lock is free, nothing of the run is taken for one."""
    pid_file = let_the_application_hang(loopback)
    running = loopback.start_dpuforge("board", "test", *SPEC, "--no-bench", cwd=project)
    wait_for(pid_file.is_file)
    pid = int(pid_file.read_text())
    assert is_alive(pid)
    loopback.cut()
    _, said = running.communicate(timeout=60)
    assert running.returncode == 4, said
    wait_for(lambda: not is_alive(pid), 20)
    assert not (project / "build/small/board").exists()
    loopback.write_hosts()
    done = loopback.dpuforge("board", "test", *SPEC, "--no-bench", cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("nothing copied") == 2
    assert [path.name for path in (loopback.board / "small/KV260").iterdir() if "partial" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_what_runs_on_the_board(loopback: Loopback, project: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM: exit code 130, and the application on the board ends with it."""
    pid_file = let_the_application_hang(loopback)
    assert loopback.dpuforge("board", "push", *SPEC, "--images", "2", cwd=project).returncode == 0
    running = loopback.start_dpuforge("board", "run", *SPEC, cwd=project)
    wait_for(pid_file.is_file)
    pid = int(pid_file.read_text())
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    wait_for(lambda: not is_alive(pid), 20)


@pytest.mark.slow
def test_two_people_do_not_use_a_board_at_once(loopback: Loopback, project: Path) -> None:
    """A second call says who has the board since when, and exits with 4; with --wait it gets its turn."""
    pid_file = let_the_application_hang(loopback)
    assert loopback.dpuforge("board", "push", *SPEC, "--images", "2", cwd=project).returncode == 0
    first = loopback.start_dpuforge("board", "run", *SPEC, cwd=project)
    wait_for(pid_file.is_file)
    done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
    assert done.returncode == 4
    holder = json.loads((loopback.folder / "lock").read_text())
    assert f"bench is in use: {holder['who']} since {holder['since']} (board run spec/small.yaml)" in done.stderr
    second = loopback.start_dpuforge("board", "check", *SPEC, "--wait", "60", cwd=project)
    time.sleep(1.0)
    assert second.poll() is None
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    _, said = second.communicate(timeout=90)
    assert second.returncode == 0, said
    assert (loopback.folder / "lock").read_text() == "", "whoever ends leaves no name"


def test_a_lock_whose_holder_is_gone_is_seen_through(loopback: Loopback, project: Path) -> None:
    """A name left in the lock stops nobody, and is told; a lock that is held does, whatever it says."""
    lock = loopback.folder / "lock"
    lock.write_text(json.dumps({"who": "ann@lab", "since": "2026-01-01T00:00:00+00:00", "doing": "board bench"}))
    done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "the lock of ann@lab since 2026-01-01T00:00:00+00:00 (board bench) was left behind" in done.stderr
    with lock.open("r+") as stream:
        stream.write("no JSON")
        stream.flush()
        fcntl.flock(stream, fcntl.LOCK_EX)
        done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
        assert done.returncode == 4
        assert "bench is in use: 'no JSON'" in done.stderr


def test_a_wrong_host_key_stops_everything(loopback: Loopback, project: Path) -> None:
    """Another key than the known one, and a board that is not known yet: exit code 4, and nothing is sent."""
    make_key(loopback.folder / "other")
    loopback.write_known_host(loopback.folder / "other.pub")
    done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
    assert done.returncode == 4
    assert "the board's host key is not the known one" in done.stderr
    assert "ssh-keygen -R loop" in done.stderr
    (loopback.folder / "known_hosts").write_text("")
    done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
    assert done.returncode == 4
    assert "connect once with `ssh loop`" in done.stderr
    assert (loopback.folder / "known_hosts").read_text() == "", "no key is accepted by itself"


@pytest.mark.slow
def test_what_cannot_be_reached_says_what_to_do(loopback: Loopback, project: Path) -> None:
    """A board that is off, a name that nobody knows, a key that is not accepted, a Python that is not there."""
    cases: dict[str, tuple[Callable[[], object], str]] = {
        "key": (lambda: (loopback.folder / "authorized_keys").write_text(""), "ssh-copy-id"),
        "name": (lambda: loopback.write_hosts(host="nobody.invalid"), "give ssh's name of the board"),
        "python": (lambda: loopback.write_hosts(python="/nowhere/python3"), "which Python"),
        "environment": (lambda: loopback.write_hosts(environment="/nowhere/set.sh"), "which file to source"),
        "off": (loopback.stop, "is the board switched on"),
    }
    for name, (spoil, words) in cases.items():
        spoil()
        done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
        assert done.returncode == 4, (name, done.stderr)
        assert words in done.stderr, name
        assert "Traceback" not in done.stderr
        (loopback.folder / "authorized_keys").write_text((loopback.folder / "user.pub").read_text())
        loopback.write_hosts()


@pytest.mark.slow
def test_what_the_board_does_not_allow_says_which_setting_helps(loopback: Loopback, project: Path) -> None:
    """A lock that cannot be made, a folder that is a file, a run before anything was pushed: one line, exit code 3."""
    done = loopback.dpuforge("board", "run", *SPEC, cwd=project)
    assert (done.returncode, "`board push` comes before `run`" in done.stderr) == (3, True), done.stderr
    loopback.write_hosts(lock="/sys/dpuforge.lock")
    done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
    assert (done.returncode, "`folder` and `lock`" in done.stderr) == (3, True), done.stderr
    loopback.write_hosts(folder="/dev/null/x")
    done = loopback.dpuforge("board", "push", *SPEC, cwd=project)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a tmpfs of 8 MB; skip where that is not allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_board_whose_disk_has_no_room_is_told_before_copying(loopback: Loopback, large_project: Path) -> None:
    """40 MB for a disk of 8 MB: exit code 3, both figures, and nothing was copied."""
    with small_disk(loopback.board):
        done = loopback.dpuforge("board", "push", *SPEC, cwd=large_project)
        assert done.returncode == 3, done.stderr
        assert "the disk there has no room: 40." in done.stderr
        assert not (loopback.board / "blobs").exists()


def test_a_disk_that_fills_while_copying_keeps_no_half_file(loopback: Loopback, large_project: Path) -> None:
    """Where writing fails in the middle: exit code 3, the reason, no half copy, and the next call works."""
    loopback.write_environment("ulimit -f 8192")
    done = loopback.dpuforge("board", "push", *SPEC, cwd=large_project)
    assert done.returncode == 3, done.stderr
    assert "File too large" in done.stderr
    assert "make room on the board" in done.stderr
    assert not list((loopback.board / "partial").iterdir())
    assert not (loopback.board / "small/KV260/app/current").exists()
    loopback.write_environment()
    done = loopback.dpuforge("board", "push", *SPEC, cwd=large_project)
    assert done.returncode == 0, done.stderr


def test_login_scripts_that_talk_do_not_disturb(loopback: Loopback, project: Path) -> None:
    """A banner on standard output before the shell starts, and one in the sourced file, are no answers of the board."""
    loopback.stop()
    force = "ForceCommand sh -c 'echo Welcome to PetaLinux; echo {}; exec sh -c \"$SSH_ORIGINAL_COMMAND\"'"
    loopback.settings.append(force)
    loopback.write_configuration()
    loopback.write_environment("echo setting up", "echo done >&2")
    loopback.start()
    done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
    assert done.returncode == 0, done.stderr


def test_a_board_without_its_tools_is_said_to_lack_them(loopback: Loopback, project: Path) -> None:
    """No xdputil is a warning, no DPU in its output and no vart do not fit: exit code 1 and the reason of each."""
    tool = loopback.folder / "bin/xdputil"
    tool.unlink()
    done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "warning: xdputil is not on the board" in done.stdout
    tool.write_text("#!/bin/sh\necho 'no dpu cu detected. please check /usr/lib/dpu.xclbin' >&2\nexit 1\n")
    tool.chmod(0o755)
    loopback.write_environment("unset PYTHONPATH")
    done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
    assert done.returncode == 1, done.stderr
    assert "no dpu cu detected" in done.stdout
    assert "cannot import vart" in done.stdout


THROTTLE = """\
import os, socket, sys, threading, time
board = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def pump(read, write):
    while block := read():
        time.sleep(len(block) / float(sys.argv[2]))
        write(block)
    os._exit(0)
threading.Thread(target=pump, args=(lambda: board.recv(4096), lambda b: os.write(1, b))).start()
pump(lambda: os.read(0, 4096), board.sendall)
"""


@pytest.mark.slow
def test_a_slow_link_takes_its_time(loopback: Loopback, project: Path) -> None:
    """At 64 kilobytes a second everything still arrives, compares equal, and nothing times out."""
    (loopback.folder / "throttle.py").write_text(THROTTLE)
    with (loopback.folder / "ssh_config").open("a") as stream:
        stream.write(f"  ProxyCommand {sys.executable} {loopback.folder}/throttle.py {loopback.port} 65536\n")
    done = loopback.dpuforge("board", "test", *SPEC, "--no-bench", cwd=project)
    assert done.returncode == 0, done.stderr


def test_a_board_that_names_files_elsewhere_writes_nothing_elsewhere(loopback: Loopback, project: Path) -> None:
    """A listing with a way out of the folder is refused, exit code 3."""
    assert loopback.dpuforge("board", "push", *SPEC, "--images", "1", cwd=project).returncode == 0
    results = loopback.board / "small/KV260/run"
    results.mkdir()
    (results / "a\\..\\b").write_text("x")
    done = loopback.dpuforge("board", "pull", *SPEC, cwd=project)
    assert done.returncode == 3
    assert "names a file outside its folder" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("boards: {bench: {host: loop, password: secret}}", "unknown field"),
        ("boards: {bench: {host: -oProxyCommand=touch}}", "does not match"),
        ("boards: {bench: {board: KV260}}", "required field"),
        ("boards: [bench]", "must be of dict type"),
        ("boards: {bench: {host: loop}", "boards.yaml"),
    ],
)
def test_a_broken_list_of_boards_is_refused(loopback: Loopback, project: Path, text: str, words: str) -> None:
    """Exit code 2 and the fault; a password has no place there, and a host is no option of ssh."""
    (loopback.folder / "config/dpuforge/boards.yaml").write_text(text)
    done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_host_that_is_an_option_is_refused(project: Path) -> None:
    """--host=-oProxyCommand=... reaches no command line of ssh."""
    command = [sys.executable, "-m", "dpuforge", "board", "check", "spec/small.yaml", "--host=-oProxyCommand=true"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert "is no host" in done.stderr
