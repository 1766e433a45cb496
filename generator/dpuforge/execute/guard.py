"""Stands between a run and a stage's program: where the run dies, whatever way, the stage dies with it.

A script of its own, started by path: guard.py PIPE WORD... runs the words in its own process group. PIPE is the
reading end of a pipe that the run alone writes to; its end of file is the run's death, on every POSIX system. On Linux
the kernel kills the program, too, where the guard itself is killed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
# What is for the program, which is in the same group.
_IGNORED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGABRT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_CANNOT_START = 127


def main() -> NoReturn:
    """Run the program; leave as it does."""
    pipe, words = int(sys.argv[1]), sys.argv[2:]
    waking, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    for number in _IGNORED:
        signal.signal(number, lambda number, frame: None)
    child = os.fork()
    if child == 0:
        _become(words, (pipe, waking, waker))
    while True:
        ready, _, _ = select.select([pipe, waking], [], [])
        if pipe in ready:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os.read(waking, 4096)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            _leave(status)


def _become(words: list[str], files: tuple[int, ...]) -> NoReturn:
    """Turn into the program, in the child."""
    signal.set_wakeup_fd(-1)
    for number in (*_IGNORED, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    guard = os.getppid()
    _die_with_parent()
    if os.getppid() != guard:
        os._exit(_CANNOT_START)
    for file in files:
        os.close(file)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(_CANNOT_START)


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies, where it can be asked."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _leave(status: int) -> NoReturn:
    """End with the program's exit code, or by the signal that ended it."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pause()
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main()
