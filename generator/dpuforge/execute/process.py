"""The one door to subprocesses: output goes to a log and to whoever watches, and nobody is left behind."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import IO

from dpuforge.errors import Interrupted

RUN_VARIABLE = "DPUFORGE_RUN"  # tells a script the process that holds build/ for it
_GRACE_SECONDS = 15.0
_STACK_SECONDS = 5.0  # for an aborted child
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Limit:
    """How long a child may take; abort reaches what its process group does not, a container."""

    seconds: float
    abort: Callable[[], None] = lambda: None


class Overrun(Exception):
    """A child took longer than its limit, and was ended."""


def run_logged(
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    log_path: Path,
    show: Callable[[str], None],
    stop: threading.Event,
    kept: Sequence[int] = (),
    limit: Limit | None = None,
) -> int:
    """Run argv in cwd, write its output to log_path, hand each line to show, and return the exit code.

    Progress bars redraw one line with carriage returns: each state is shown, whole lines are logged. Once stop is
    set the child is interrupted, killed after 15 seconds, and Interrupted is raised; past its limit it is aborted, so
    that Python prints its stack, and Overrun is raised. Where this process is killed the child dies with it. kept are
    open files that the child inherits. A program that cannot be started, and a log that cannot be written, raise
    OSError.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    failed: list[OSError] = []
    with log_path.open("wb", buffering=0) as log, _start(argv, cwd, env, kept) as child:
        assert child.stdout is not None
        reader = threading.Thread(target=_copy_output, args=(child.stdout, log, show, failed), daemon=True)
        reader.start()
        try:
            _wait(child, stop, limit)
        finally:
            _stop_group(child)
            reader.join(_GRACE_SECONDS)
    if failed:
        raise OSError(failed[0].errno, failed[0].strerror, str(log_path))
    return child.returncode


# signal -> what it means for a stage; others are named and no more.
_SIGNALS = {
    signal.SIGKILL: "killed from outside, most often because memory ran out: lower batch_size or --jobs",
    signal.SIGSEGV: "a crash inside a C++ library: run the stage again; if it repeats, report its log",
    signal.SIGABRT: "a C++ library gave up: the lines above say why",
    signal.SIGFPE: "a C++ library divided by zero: look for an empty or zero-sized input",
    signal.SIGBUS: "memory or disk ran out: give the container more shared memory (--shm-size) or free the disk",
    signal.SIGILL: "a library was built for another processor",
}


def explain_exit(code: int) -> str:
    """Return what a non-zero exit code says: the signal that ended the program (negative, or 128 + n in a shell)."""
    number = -code if code < 0 else code - 128
    try:
        ended_by = signal.Signals(number)
    except ValueError:
        return f"exit code {code}"
    meaning = _SIGNALS.get(ended_by)
    return f"ended by {ended_by.name}" + (f" ({meaning})" if meaning else "")


def _wait(child: subprocess.Popen[bytes], stop: threading.Event, limit: Limit | None) -> None:
    end = time.monotonic() + limit.seconds if limit else math.inf
    while child.poll() is None:
        if stop.wait(0.05):
            _stop_child(child)
            raise Interrupted
        if limit and time.monotonic() > end:
            _abort_child(child, limit)
            raise Overrun


def _abort_child(child: subprocess.Popen[bytes], limit: Limit) -> None:
    """Abort a child, in its container first where it has one, and leave it time to print its stack."""
    for abort in (limit.abort, lambda: _signal_group(child, signal.SIGABRT)):
        if child.poll() is None:
            abort()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_STACK_SECONDS)


@contextlib.contextmanager
def _start(
    argv: Sequence[str], cwd: Path, env: Mapping[str, str], kept: Sequence[int]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start argv under the guard, in a process group of its own, so that a stop reaches its workers too."""
    program = shutil.which(argv[0], path=env.get("PATH"))
    if program is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    dies, lives = os.pipe()  # this process alone has the writing end: the kernel closes it with us
    guarded = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), str(dies), program, *argv[1:]]
    try:
        with subprocess.Popen(
            guarded,
            cwd=cwd,
            env={**env, **({RUN_VARIABLE: str(os.getpid())} if kept else {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(dies, *kept),
        ) as child:
            yield child
    finally:
        os.close(dies)
        os.close(lives)


def _stop_child(child: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGINT, _GRACE_SECONDS), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        _signal_group(child, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
            return


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what a child left running (data-loader workers), so that nothing outlives its stage."""
    _signal_group(child, signal.SIGKILL)


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _copy_output(stream: IO[bytes], log: RawIOBase, show: Callable[[str], None], failed: list[OSError]) -> None:
    """Log and show what a child prints; a log that can no longer be written is noted, and the child goes on."""
    for text, whole in _split_lines(stream):
        if whole and not failed:
            try:
                log.write(text.encode() + b"\n")
            except OSError as error:
                failed.append(error)
        if text.strip():
            show(text)


def _split_lines(stream: IO[bytes]) -> Iterator[tuple[str, bool]]:
    """Yield (text, True) for lines and (text, False) for what a carriage return overwrites."""
    rest = b""
    while chunk := os.read(stream.fileno(), 65536):
        *pieces, rest = re.split(rb"(\r?\n|\r)", rest + chunk)
        for text, end in zip(pieces[::2], pieces[1::2], strict=True):
            yield _clean(text), end != b"\r"
    if rest:
        yield _clean(rest), True


def _clean(raw: bytes) -> str:
    return _COLOUR.sub("", raw.decode(errors="replace"))
