"""The files of the history: one line a run, only ever added; texts and predictions beside it, by content."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpuforge.errors import UsageError
from dpuforge.records.files import hash_bytes
from dpuforge.writing import replacing

ROWS, KEPT = "runs.jsonl", "kept"


def find_folder(root: Path) -> Path:
    """Return the folder of a root's history."""
    return root / "build" / "history"


def add_row(root: Path, row: Mapping[str, Any]) -> None:
    """Add one line, whole and at the end, also beside another run; a line that a crash cut off is ended first."""
    folder = find_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str).encode() + b"\n"
    file = os.open(folder / ROWS, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with contextlib.suppress(OSError):  # a file system without flock: O_APPEND alone keeps lines apart
            fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        cut = size and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, b"\n" + line if cut else line)
    finally:
        os.close(file)


def keep(root: Path, content: bytes, suffix: str) -> str:
    """Keep a text under the digest of its content, which is returned."""
    digest = hash_bytes(content)
    path = find_folder(root) / KEPT / f"{digest}{suffix}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)
    return digest


def read_kept(root: Path, digest: str, suffix: str) -> bytes:
    """Return what was kept; raise UsageError where it is missing or is not what its name says."""
    path = find_folder(root) / KEPT / f"{digest}{suffix}"
    try:
        content = path.read_bytes()
    except OSError:
        raise UsageError(f"{path} is missing: it cannot be brought back") from None
    if hash_bytes(content) != digest:
        raise UsageError(f"{path} was changed: it is not what the run read")
    return content


def read_rows(root: Path) -> dict[int, dict[str, Any]]:
    """Return the rows by number, from 1 in the order in which runs ended; a damaged line keeps its number alone."""
    try:
        lines = (find_folder(root) / ROWS).read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return {}
    found: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and is_whole(row):
                found[number] = row
    return found


def is_whole(row: Mapping[str, Any]) -> bool:
    """Say whether a row has what is read of it, each of its kind."""
    kinds = {"time": str, "project": str, "spec": str, "outcome": str, "settings": dict, "texts": dict, "metrics": dict}
    return all(isinstance(row.get(name), kind) for name, kind in kinds.items())


def find_row(rows: Mapping[int, dict[str, Any]], number: int) -> dict[str, Any]:
    """Return the row of a number; raise UsageError where there is none."""
    if number not in rows:
        known = f"its rows are {min(rows)} to {max(rows)}" if rows else "no run has left a row yet"
        raise UsageError(f"the history has no row {number}", known)
    return rows[number]
