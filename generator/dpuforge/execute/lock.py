"""One run at a time in build/<project>/: the second says who holds it; what a dead run left is waited for, or ended.

The lock is flock's, so the kernel gives it back when its last holder dies, also after a reboot. The stages hold it
too: it is free exactly when nobody writes. Scripts that Snakemake or a person starts share it. Where a file system has
no flock, a file with the holder's process, host and boot takes its place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dpuforge.errors import LockedError

LOCK = ".lock"
_OWNER = ".lock.owner"
_NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_PATIENCE_SECONDS = 10.0  # for the stages of a run that was killed to end
_BOOT = Path("/proc/sys/kernel/random/boot_id")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Holder:
    """Who holds a lock; boot and born tell a process from a later one of the same number ("" where unknown)."""

    pid: int
    host: str
    since: str
    boot: str = ""
    born: str = ""
    command: str = ""

    def __str__(self) -> str:
        return f"{self.command or 'dpuforge'} (process {self.pid} on {self.host}, since {self.since})"

    @property
    def is_gone(self) -> bool:
        """Whether the holder has certainly ended: seen only on its own host."""
        if self.host != socket.gethostname():
            return False
        return self.boot != _read_boot() or _find_birth(self.pid) in ("", "Z") or _find_birth(self.pid) != self.born


@contextlib.contextmanager
def claim(build: Path, say: Say) -> Iterator[tuple[int, ...]]:
    """Hold build/<project>/ and yield the open files that stages must inherit, so that they hold it too.

    Raises LockedError where another run holds it, OSError where the folder cannot be written.
    """
    build.mkdir(parents=True, exist_ok=True)
    lock = os.open(build / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with _hold_file(build) if not _try_flock(lock, build, say) else contextlib.nullcontext():
            _write(lock)
            yield (lock,)
            os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def refuse_while_held(build: Path) -> None:
    """Raise LockedError where a run works in build/<project>/; nothing is made where none ever did."""
    with contextlib.suppress(OSError):  # a folder that cannot be written: no run works in it
        if (build / LOCK).exists():
            with claim(build, lambda text: None):
                refuse_orphan(build)


def refuse_orphan(build: Path) -> None:
    """Raise LockedError, for the holder of the lock, where a job of a killed run still works: on a node it has no lock.

    It holds its stage's alone.
    """
    script = _find_script(build)
    if script is not None:
        raise _refuse(build, script)


def _try_flock(lock: int, build: Path, say: Say) -> bool:
    """Take the lock; return False where the file system has none, raise LockedError where it is held."""
    end, told = time.monotonic() + _PATIENCE_SECONDS, False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            script = _find_script(build)
            if script is not None:
                raise _refuse(build, script) from None
            holder = _parse(os.pread(lock, 65536, 0))
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            return False
        if holder is not None and not holder.is_gone:
            raise _refuse(build, holder)
        if not told and holder is not None:
            say(f"{holder} was killed: waiting for what it left running")
            told = True
        if time.monotonic() > end and not _end_orphans(build / LOCK, say):
            raise _refuse(build, holder)
        time.sleep(0.05)


def _find_script(build: Path) -> Holder | None:
    """Return a stage's script at work that no run of dpuforge started: each holds a lock of its stage's name."""
    for path in build.glob(".*.lock"):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parse(file.read()) or Holder(0, "this machine", "a moment", command=path.name)
    return None


def _refuse(build: Path, holder: Holder | None) -> LockedError:
    who = str(holder) if holder else "another process"
    remedy = f"wait for it, or end it with `kill {holder.pid}`" if holder else "wait for it"
    return LockedError(f"build/{build.name} is in use by {who}", remedy)


def _end_orphans(lock: Path, say: Say) -> bool:
    """Kill what still holds the lock of a run that is dead; return whether there was anything to kill."""
    found = False
    for folder in Path("/proc").glob("[0-9]*/fd"):
        pid = int(folder.parent.name)
        with contextlib.suppress(OSError):
            if pid != os.getpid() and any(_is_link_to(link, lock) for link in folder.iterdir()):
                say(f"ending process {pid}, which a killed run left")
                os.kill(pid, signal.SIGKILL)
                found = True
    return found


def _is_link_to(link: Path, path: Path) -> bool:
    try:
        return os.path.samestat(os.stat(link), os.stat(path))
    except OSError:
        return False


def _describe_self() -> Holder:
    words = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else []
    command = " ".join(words).replace("__main__.py", "dpuforge")
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return Holder(os.getpid(), socket.gethostname(), since, _read_boot(), _find_birth(os.getpid()), command)


def _write(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(asdict(_describe_self())).encode(), 0)


def _parse(text: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None  # being written, or damaged


def _read_boot() -> str:
    """Return what tells this boot of the machine from every other, "" where the system does not say."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _find_birth(pid: int) -> str:
    """Return when a process started, in the kernel's ticks: "" where there is none, "Z" for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "Z" if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    with contextlib.suppress(ProcessLookupError):  # a system without /proc
        os.kill(pid, 0)
        return "alive"
    return ""


@contextlib.contextmanager
def _hold_file(build: Path) -> Iterator[None]:
    """Hold a lock file, where there is no flock; one whose holder is gone is replaced."""
    path = build / _OWNER
    for _ in range(2):
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            break
        except FileExistsError:
            holder = _parse(path.read_bytes())
            if holder is not None and not holder.is_gone:
                raise _refuse(build, holder) from None
            path.unlink(missing_ok=True)
    else:
        raise _refuse(build, None)
    try:
        os.write(file, json.dumps(asdict(_describe_self())).encode())
        os.close(file)
        yield
    finally:
        path.unlink(missing_ok=True)
