"""Copies to and from a board: only what is not there, known by digest; half copies go on, nothing half is ever used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dpuforge.board.session import Session
from dpuforge.errors import StageError
from dpuforge.execute.results import hash_file
from dpuforge.writing import PARTIAL

_AHEAD = 64  # files that may be on their way before the first is acknowledged: a slow link is kept busy


@dataclass(frozen=True)
class Pushed:
    """What a push did: what went over now, what an earlier call had left half copied, what was found changed there."""

    files: int
    sent: int
    bytes_sent: int
    bytes_resumed: int
    changed: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.sent:
            return f"{self.files} files, all there already: nothing copied"
        resumed = f", {self.bytes_resumed / 1e6:.2f} MB of them by an earlier call" if self.bytes_resumed else ""
        return f"{self.sent} of {self.files} files copied, {self.bytes_sent / 1e6:.2f} MB{resumed}"


def push_files(session: Session, folder: str, files: Mapping[str, Path]) -> Pushed:
    """Bring files into a folder of the board, which shows the old ones or all the new ones.

    folder is relative to dpuforge's own on the board. Raises StageError where they do not fit on its disk.
    """
    digests = {name: hash_file(path) for name, path in files.items()}
    paths = {digest: files[name] for name, digest in digests.items()}
    sizes = {digest: path.stat().st_size for digest, path in paths.items()}
    answer = session.ask("have", sizes=sizes)
    missing: dict[str, int] = answer["missing"]
    left = sum(sizes[digest] - offset for digest, offset in missing.items())
    if left > answer["free"]:
        room = f"{left / 1e6:.1f} MB to copy, {answer['free'] / 1e6:.1f} MB free"
        raise StageError(
            f"{session.host.name}: the disk there has no room: {room}",
            "make room on the board, or let boards.yaml name another folder; then run the same command again",
        )
    for number, (digest, offset) in enumerate(missing.items()):
        session.send_file(digest, paths[digest], sizes[digest], offset)
        if number >= _AHEAD:
            session.receive()
    for _ in range(min(len(missing), _AHEAD)):
        session.receive()
    session.ask("install", name=folder, files=digests)
    names = {digest: name for name, digest in digests.items()}
    changed = tuple(names[digest] for digest in answer["changed"])
    return Pushed(len(files), len(missing), left, sum(missing.values()), changed)


def pull_files(session: Session, folder: str, destination: Path) -> tuple[Path, ...]:
    """Bring a folder of the board here and return the paths; each file is written in one step.

    Raises StageError where the board names a file outside the folder, or sends another content than it said.
    """
    paths = []
    for name, said in sorted(session.ask("list", folder=folder)["files"].items()):
        path = destination / _check_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or hash_file(path) != said["sha256"]:
            _pull(session, f"{folder}/{name}", path, said["sha256"])
        paths.append(path)
    return tuple(paths)


def _pull(session: Session, source: str, path: Path, digest: str) -> None:
    partial = path.with_name(f".{digest[:16]}{PARTIAL}")
    offset = partial.stat().st_size if partial.is_file() else 0
    session.send("get", path=source, offset=offset)
    try:
        with partial.open("ab") as stream:
            for block in session.receive_blocks():
                stream.write(block)
        if hash_file(partial) != digest:
            partial.unlink()
            raise StageError(f"{session.host.name}: {source} arrived damaged", "run the same command again")
        partial.replace(path)
    except OSError as error:
        raise StageError(f"{path} cannot be written: {error.strerror}", "make room here, then run it again") from error


def _check_name(name: str) -> PurePosixPath:
    """Return a path that stays within its folder, whatever a board sends."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise StageError(f"the board names a file outside its folder: {name!r}")
    return path
