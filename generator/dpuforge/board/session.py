"""One connection to a board: the system's ssh client carries agent.py there, then requests and answers."""

from __future__ import annotations

import contextlib
import errno
import json
import queue
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dpuforge.board.hosts import Host
from dpuforge.errors import ExitCode, MissingToolError, StageError, UserError

_AGENT = Path(__file__).with_name("agent.py")
_PING_SECONDS = 10.0
_BLOCK = 1 << 18
_NOISE = 200  # lines that a login script may print before the board answers
# Nothing is asked, host keys are checked as the user's configuration says, a dead connection is noticed.
_OPTIONS = {
    "BatchMode": "yes",
    "ClearAllForwardings": "yes",
    "ConnectTimeout": "20",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "6",
}
# One line: the first eight bytes on standard input are the length of the program that follows.
_LOADER = (
    'import os;r=lambda n,b=b"":b if len(b)==n else r(n,b+(os.read(0,n-len(b)) or os._exit(1)));exec(r(int(r(8))))'
)


class BoardError(UserError):
    """A board cannot be reached, or the connection to it broke; the same command goes on from there."""

    exit_code = ExitCode.ENVIRONMENT


class BusyError(BoardError):
    """Somebody else works on the board."""


class Session:
    """A connection; use it as a context manager. Its end ends whatever runs on the board for it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._answers: queue.Queue[dict[str, Any] | bytes | None] = queue.Queue(maxsize=256)
        self._said: list[str] = []
        self._sending = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> Session:
        try:
            self._ssh = subprocess.Popen(
                make_command(self.host),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches dpuforge alone, which then ends the connection
            )
        except OSError as error:
            raise MissingToolError(f"ssh cannot be started: {error}", "install the OpenSSH client") from error
        self._complaints = threading.Thread(target=self._read_complaints, daemon=True)
        self._complaints.start()
        for target in (self._read_answers, self._ping):
            threading.Thread(target=target, daemon=True).start()
        try:
            self._send_agent()
            self.greeting = self.receive()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; what runs on the board for it ends with it."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._ssh.wait(10.0)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()

    @property
    def _input(self) -> IO[bytes]:
        assert self._ssh.stdin is not None
        return self._ssh.stdin

    def _send_agent(self) -> None:
        call = f"\nmain({self.host.folder!r}, {self.host.python!r})\n"
        program = _AGENT.read_bytes() + call.encode()
        self._write(f"{len(program):08d}".encode() + program)

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send one request and return its answer; raise StageError where the board could not do it."""
        self.send(do, **fields)
        return self.receive()

    def send(self, do: str, **fields: Any) -> None:
        """Send one request."""
        self._write(json.dumps({"do": do, **fields}).encode() + b"\n")

    def send_file(self, digest: str, path: Path, size: int, offset: int) -> None:
        """Send the rest of a file; `receive` then says whether it arrived."""
        self.send("put", digest=digest, size=size, offset=offset)
        left = size - offset
        with path.open("rb") as stream:
            stream.seek(offset)
            while left:
                block = stream.read(min(_BLOCK, left))
                if not block:
                    raise StageError(f"{path} became shorter while it was sent", "run the command again")
                self._write(block)
                left -= len(block)

    def receive(self) -> dict[str, Any]:
        """Return the next answer."""
        answer = self._next()
        assert isinstance(answer, dict)
        if "error" in answer:
            raise explain_refusal(self.host, answer)
        return answer

    def receive_blocks(self) -> Iterator[bytes]:
        """Yield the bytes that follow the answer to `get`."""
        left = int(self.receive()["bytes"])
        while left > 0:
            block = self._next()
            assert isinstance(block, bytes)
            left -= len(block)
            yield block

    def _next(self) -> dict[str, Any] | bytes:
        answer = self._answers.get()
        if answer is None:
            self._answers.put(None)
            raise self._explain()
        return answer

    def _write(self, content: bytes) -> None:
        try:
            with self._sending:
                self._input.write(content)
                self._input.flush()
        except (OSError, ValueError):
            raise self._explain() from None

    def _ping(self) -> None:
        while not self._closing.wait(_PING_SECONDS):
            try:
                self.send("ping")
            except UserError:
                return

    def _read_answers(self) -> None:
        assert self._ssh.stdout is not None
        try:
            for answer in read_answers(self._ssh.stdout, self._said):
                self._answers.put(answer)
        except (OSError, ValueError) as error:
            self._said.append(f"what the board answered cannot be read: {error}")
        self._answers.put(None)

    def _read_complaints(self) -> None:
        assert self._ssh.stderr is not None
        for line in self._ssh.stderr:
            self._said.append(line.decode(errors="replace").rstrip())

    def _explain(self) -> BoardError:
        """Return why the connection is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._ssh.wait(5.0)
        self._complaints.join(5.0)  # what ssh said last is why it ended
        return explain_end(self.host, self._ssh.poll(), self._said)


def make_command(host: Host) -> list[str]:
    """Return the command line of ssh that starts the agent on a board."""
    ssh = shutil.which("ssh")
    if ssh is None:
        raise MissingToolError("ssh is not on this machine", "install the OpenSSH client")
    command = [ssh, "-T", *(["-F", host.ssh_config] if host.ssh_config else [])]
    for name, value in _OPTIONS.items():
        command += ["-o", f"{name}={value}"]
    command += ["-l", host.user] if host.user else []
    command += ["-p", str(host.port)] if host.port else []
    start = f"exec {shlex.quote(host.python)} -c {shlex.quote(_LOADER)}"
    source = f". {shlex.quote(host.environment)} >&2 && " if host.environment else ""
    return [*command, "--", host.destination, f"sh -c {shlex.quote(source + start)}"]


def read_answers(stream: IO[bytes], noise: list[str]) -> Iterator[dict[str, Any] | bytes]:
    """Yield answers, and the bytes behind them block by block; noise gets what a login script prints before them."""
    for line in stream:
        if line.startswith(b'{"dpuforge"'):
            yield json.loads(line)
            break
        noise.append(line.decode(errors="replace").rstrip())
        if len(noise) > _NOISE:
            raise ValueError("it does not stop printing text of its own")
    for line in stream:
        answer = json.loads(line)
        yield answer
        left = answer.get("bytes", 0)
        while left:
            block = stream.read(min(_BLOCK, left))
            if not block:
                return
            left -= len(block)
            yield block


# what ssh or the board's shell says -> what helps
_REMEDIES = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the board's host key is not the known one: if its card was written anew, say `ssh-keygen -R HOST` and connect "
        "once with `ssh HOST`; if not, this may be another machine. dpuforge never skips this check",
    ),
    (
        r"Host key verification failed",
        "connect once with `ssh HOST`, compare the key with the board's own and accept it. dpuforge never skips "
        "this check",
    ),
    (r"Permission denied", "let `ssh HOST` log in with a key first (ssh-copy-id); dpuforge knows no passwords"),
    (r"Could not resolve|Name or service not known", "give ssh's name of the board, or list it in boards.yaml"),
    (r"Connection refused|No route to host|timed out", "is the board switched on, and does `ssh HOST` reach it?"),
    (r"Broken pipe|closed by remote|reset by peer|not responding|Connection to .* closed",
     "the connection broke: run the same command again, it goes on where it was"),
    (r"python\S*: (?:command )?not found|No such file",
     "boards.yaml says which Python (`python`) and which file to source first (`environment`) on the board"),
    (r"SyntaxError|ModuleNotFoundError", "the board's Python must be 3.7 or newer: boards.yaml, `python`"),
)  # fmt: skip


def explain_end(host: Host, status: int | None, said: list[str]) -> BoardError:
    """Return the error for a connection that ended by itself."""
    text = "\n".join(said)
    what = next((line for line in reversed(said) if line.strip() and not re.match(r"[@\s]*$", line)), "")
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text, re.IGNORECASE)), "")
    default = "the connection broke: run the same command again, it goes on where it was"
    message = f"{host.name}: the connection ended (exit status {status}){': ' + what if what else ''}"
    return BoardError(message, (remedy or default).replace("HOST", host.destination))


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain_refusal(host: Host, answer: dict[str, Any]) -> StageError:
    """Return the error for something that the board could not do."""
    number = answer.get("errno", 0)
    if number in _FULL:
        free = f", {answer['free'] / 1e6:.1f} MB are free there"
        remedy = "make room on the board, or let boards.yaml name another `folder`; then run the same command again"
        return StageError(f"{host.name}: {answer['error']}{free}", remedy)
    if number in _NOT_ALLOWED:
        remedy = "boards.yaml: `folder` and `lock` must lie where the user may write, on a file system with links"
        return StageError(f"{host.name}: {answer['error']}", remedy)
    return StageError(f"{host.name}: {answer['error']}", "run the same command again; `board push` comes before `run`")
