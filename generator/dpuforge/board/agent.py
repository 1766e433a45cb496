"""What runs on the board while dpuforge is connected: sent over ssh to the board's own Python, nothing is installed.

Standard library alone, Python 3.7. Requests come as one JSON object a line on standard input, some with bytes behind
them; answers go the same way to standard output. When the connection ends or falls silent, what was started ends too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

PROTOCOL = 1
SILENCE_S = 60.0  # the other side says something every few seconds
GRACE_S = 5.0
BLOCK = 1 << 20
OLD_S = 7 * 86400.0  # copies that nobody came back for
SET = ".set.json"  # what an installed folder holds: {name: sha256}


class Gone(Exception):
    """The other side ended, or fell silent."""


class Wire:
    """Standard input and output: lines of JSON, with bytes between them."""

    def __init__(self) -> None:
        self.buffer = b""
        self.output = os.dup(1)
        os.dup2(2, 1)  # whatever prints must not end up between the answers

    def fill(self, others: tuple[int, ...] = (), seconds: float = SILENCE_S) -> list[int]:
        """Wait for input on standard input or others; return those of the others that are ready."""
        ready = select.select([0, *others], [], [], seconds)[0]
        if not ready and not others:
            raise Gone
        if 0 in ready:
            block = os.read(0, BLOCK)
            if not block:
                raise Gone
            self.buffer += block
        return [number for number in ready if number != 0]

    def next_line(self) -> dict[str, Any] | None:
        """Return the next request that is complete, or None; a ping is none."""
        while b"\n" in self.buffer:
            line, self.buffer = self.buffer.split(b"\n", 1)
            request: dict[str, Any] = json.loads(line.decode("utf-8"))
            if request["do"] != "ping":
                return request
        return None

    def read(self, most: int) -> bytes:
        """Return between 1 and `most` bytes."""
        if not self.buffer:
            self.fill()
        block, self.buffer = self.buffer[:most], self.buffer[most:]
        return block

    def send(self, **message: Any) -> None:
        """Send one answer."""
        self.send_bytes(json.dumps(message).encode("utf-8") + b"\n")

    def send_bytes(self, content: bytes) -> None:
        """Send bytes as they are."""
        while content:
            content = content[os.write(self.output, content) :]


def hash_file(path: str) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


class Board:
    """Answers the requests; `root` is the folder on the board that is dpuforge's."""

    def __init__(self, wire: Wire, root: str, python: str) -> None:
        self.wire, self.root, self.python = wire, os.path.abspath(os.path.expanduser(root)), python
        self.child: subprocess.Popen[bytes] | None = None
        self.lock_file: int | None = None

    def path(self, *parts: str) -> str:
        """Return a path below the folder."""
        return os.path.join(self.root, *parts)

    def serve(self) -> None:
        """Answer until the other side ends."""
        self.wire.send(dpuforge=PROTOCOL, python=sys.version.split()[0], root=self.root)
        while True:
            request = self.wire.next_line()
            if request is None:
                self.wire.fill()
                continue
            try:
                getattr(self, "do_" + str(request.pop("do")))(**request)
            except OSError as error:
                self.wire.send(error=str(error), errno=error.errno or 0, free=self.free_bytes())

    def free_bytes(self) -> int:
        """Return the free bytes where the folder lies, or will lie."""
        folder = self.root
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        return shutil.disk_usage(folder).free

    def do_lock(self, path: str, who: str, wait: float) -> None:
        """Take the board for this connection; the kernel gives it back when this process ends, however it ends."""
        try:
            number = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            with contextlib.suppress(OSError):
                os.fchmod(number, 0o666)
        until = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                holder = os.pread(number, 4096, 0).decode("utf-8", "replace").strip()
                if time.monotonic() >= until:
                    os.close(number)
                    self.wire.send(ok=False, holder=holder)
                    return
                self.wait_a_second()
        before = os.pread(number, 4096, 0).decode("utf-8", "replace").strip()
        os.ftruncate(number, 0)
        os.pwrite(number, who.encode("utf-8"), 0)
        self.lock_file = number
        self.wire.send(ok=True, left_by=before)

    def wait_a_second(self) -> None:
        """Sleep, but notice that the other side ended."""
        if select.select([0], [], [], 1.0)[0]:
            self.wire.fill()

    def do_facts(self, modules: str) -> None:
        """Say what this board is; modules is the program that looks at its Python's packages."""
        uname = os.uname()
        names = dict(line.split("=", 1) for line in read_text("/etc/os-release").splitlines() if "=" in line)
        memory = dict(line.split(":", 1) for line in read_text("/proc/meminfo").splitlines() if ":" in line)
        self.wire.send(
            machine=uname.machine,
            kernel=uname.release,
            hostname=uname.nodename,
            image=names.get("PRETTY_NAME", "").strip('"'),
            model=read_text("/proc/device-tree/model").strip("\0\n "),
            cpus=os.cpu_count(),
            memory_kb={key: int(memory[key].split()[0]) for key in ("MemTotal", "MemAvailable") if key in memory},
            disk_free_bytes=self.free_bytes(),
            python=sys.version.split()[0],
            modules=self.ask([self.python, "-c", modules]),
            query=self.ask(["xdputil", "query"]),
        )

    def ask(self, argv: list[str]) -> dict[str, Any]:
        """Return the output of a short command, or why there is none."""
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=50, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"error": str(error)}
        text, said = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        return {"text": text, "error": said[-2000:] if done.returncode else "", "status": done.returncode}

    def do_have(self, sizes: dict[str, int]) -> None:
        """Say which contents are not here yet, and how many bytes of each are; what was changed in place is no copy."""
        missing, changed = {}, []
        for digest, size in sizes.items():
            path, partial = self.path("blobs", digest), self.path("partial", digest)
            if os.path.isfile(path):
                if os.path.getsize(path) == size and hash_file(path) == digest:
                    continue
                os.makedirs(self.path("set_aside"), exist_ok=True)
                os.replace(path, self.path("set_aside", digest + "." + str(int(time.time()))))
                changed.append(digest)
            done = os.path.getsize(partial) if os.path.isfile(partial) else 0
            missing[digest] = done if done <= size else 0
        self.wire.send(missing=missing, changed=changed, free=self.free_bytes())

    def do_put(self, digest: str, size: int, offset: int) -> None:
        """Take the rest of a content; what has arrived stays for the next connection if this one breaks."""
        partial, left, fault = self.path("partial", digest), size - offset, None
        number = -1
        try:
            os.makedirs(self.path("partial"), exist_ok=True)
            os.makedirs(self.path("blobs"), exist_ok=True)
            number = os.open(partial, os.O_WRONLY | os.O_CREAT | (0 if offset else os.O_TRUNC), 0o644)
            os.lseek(number, offset, os.SEEK_SET)
        except OSError as error:
            fault = error
        while left:  # all that was announced is read, so that the next request is found behind it
            block = self.wire.read(min(left, BLOCK))
            left -= len(block)
            try:
                while block and fault is None:
                    block = block[os.write(number, block) :]
            except OSError as error:
                fault = error
        if number >= 0:
            os.close(number)
        if fault is not None:
            if fault.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) and os.path.exists(partial):
                os.unlink(partial)  # a half copy must not be what fills the disk
            raise fault
        if hash_file(partial) != digest:
            os.unlink(partial)
            self.wire.send(error="a file arrived damaged", errno=errno.EIO, free=self.free_bytes())
            return
        os.replace(partial, self.path("blobs", digest))
        self.wire.send(ok=True)

    def do_install(self, name: str, files: dict[str, str]) -> None:
        """Make a folder of contents and let `name`/current point to it, in one step; remove what it replaced."""
        listing = json.dumps(files, sort_keys=True)
        own = hashlib.sha256(listing.encode("utf-8")).hexdigest()[:16]
        folder, current = self.path(name, own), self.path(name, "current")
        if not (os.path.isfile(os.path.join(folder, SET)) and self.is_whole(folder, files)):
            shutil.rmtree(folder, ignore_errors=True)
            self.link_files(folder + ".partial", files)
            with open(os.path.join(folder + ".partial", SET), "w", encoding="utf-8") as stream:
                stream.write(listing)
            os.rename(folder + ".partial", folder)
        fresh = os.path.realpath(current) != os.path.realpath(folder)
        if fresh:
            if os.path.lexists(current + ".partial"):
                os.unlink(current + ".partial")
            os.symlink(own, current + ".partial")
            os.replace(current + ".partial", current)
        self.prune(name, own)
        self.wire.send(ok=True, folder=current, fresh=fresh)

    def is_whole(self, folder: str, files: dict[str, str]) -> bool:
        """Tell whether an installed folder holds its contents: links to them, or equal copies."""
        for name, digest in files.items():
            path, blob = os.path.join(folder, name), self.path("blobs", digest)
            if not os.path.isfile(path):
                return False
            if not os.path.samefile(path, blob) and hash_file(path) != digest:
                return False
        return True

    def link_files(self, folder: str, files: dict[str, str]) -> None:
        """Fill a new folder with links to contents, or copies where the file system has no links."""
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        for name, digest in files.items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                os.link(self.path("blobs", digest), path)
            except OSError:
                shutil.copyfile(self.path("blobs", digest), path)

    def prune(self, name: str, own: str) -> None:
        """Remove earlier folders of `name` with the contents that were theirs alone, and what nobody came back for."""
        dropped = set()
        for entry in os.listdir(self.path(name)):
            listing = self.path(name, entry, SET)
            if entry not in (own, "current") and os.path.isfile(listing):
                dropped.update(json.loads(read_text(listing)).values())
                shutil.rmtree(self.path(name, entry))
        used = set()
        for folder, _, names in os.walk(self.root):
            if SET in names:
                used.update(json.loads(read_text(os.path.join(folder, SET))).values())
        for kind in ("blobs", "partial"):
            for digest in os.listdir(self.path(kind)) if os.path.isdir(self.path(kind)) else ():
                path = self.path(kind, digest)
                old = abs(time.time() - os.path.getmtime(path)) > OLD_S
                if digest not in used and (digest in dropped or old):
                    os.unlink(path)

    def do_run(self, argv: list[str], folder: str, results: str) -> None:
        """Run a program in a folder; what it leaves in RESULTS takes the place of `results` when it ends well."""
        new, last = self.path(results + ".partial"), self.path(results)
        shutil.rmtree(new, ignore_errors=True)
        os.makedirs(new)
        words = [self.python if word == "PYTHON" else word.replace("RESULTS", new) for word in argv]
        environment = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")
        self.child = subprocess.Popen(
            words,
            cwd=self.path(folder),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.wire.send(started=self.child.pid)
        try:
            status = self.follow(self.child)
        finally:
            self.end_child()
        if status == 0:
            shutil.rmtree(last, ignore_errors=True)
            os.rename(new, last)
        else:
            shutil.rmtree(new, ignore_errors=True)
        self.wire.send(exit=status)

    def follow(self, child: subprocess.Popen[bytes]) -> int:
        """Pass on what a program prints, until it ends; return its exit status."""
        assert child.stdout is not None
        number, heard = child.stdout.fileno(), time.monotonic()
        while True:
            before = len(self.wire.buffer)
            ended = child.poll() is not None
            ready = self.wire.fill((number,), 0.2)
            heard = time.monotonic() if len(self.wire.buffer) != before else heard
            request = self.wire.next_line()
            if time.monotonic() - heard > SILENCE_S:
                raise Gone
            if request is not None and request["do"] == "stop":
                self.end_child()
            block = os.read(number, 65536) if ready else b""
            if block:
                self.wire.send(text=block.decode("utf-8", "replace"))
            elif ended:
                return child.wait()
            elif ready:  # it closed its output and goes on
                time.sleep(0.05)

    def end_child(self) -> None:
        """End what was started, with all that it started itself."""
        if self.child is None:
            return
        for number, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
            try:
                os.killpg(self.child.pid, number)
                self.child.wait(seconds)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self.child = None

    def do_list(self, folder: str) -> None:
        """Say what a folder holds."""
        found, top = {}, self.path(folder)
        for place, _, names in os.walk(top):
            for name in names:
                path = os.path.join(place, name)
                found[os.path.relpath(path, top)] = {"size": os.path.getsize(path), "sha256": hash_file(path)}
        self.wire.send(files=found)

    def do_get(self, path: str, offset: int) -> None:
        """Send a file from offset on."""
        with open(self.path(path), "rb") as stream:
            left = os.fstat(stream.fileno()).st_size - offset
            stream.seek(offset)
            self.wire.send(bytes=left)
            while left > 0:
                block = stream.read(min(left, BLOCK))
                if not block:
                    raise Gone  # the file shrank: the bytes that were promised do not exist
                self.wire.send_bytes(block)
                left -= len(block)


def read_text(path: str) -> str:
    """Return the text of a file, or nothing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _leave(number: int, frame: Any) -> None:
    raise Gone


def main(root: str, python: str) -> None:
    """Serve one connection."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _leave)
    board = Board(Wire(), root, python)
    try:
        board.serve()
    except (Gone, BrokenPipeError):
        pass
    finally:
        board.end_child()
        if board.lock_file is not None:
            os.ftruncate(board.lock_file, 0)  # an end without this line shows as a lock that was left behind
