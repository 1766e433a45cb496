"""What became of the images since prepare read them: by content, with size and time of change to save reading."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpuforge.execute.results import hash_file

SEEN = "seen.json"  # of the prepare stage: {source: {"files": {path: [size, time, sha256]}, "classes", "left_out"}}
_NOT_ENTERED = ("hidden", "a link to a folder around it")  # kinds of prepare's find_images.py

Seen = Mapping[str, Mapping[str, Any]]


def read_seen(folder: Path) -> Seen:
    """Return what the prepare stage saw, {} where it left nothing that can be read."""
    try:
        found = json.loads((folder / SEEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(map(_is_source, found.values())) else {}


def _is_source(item: Any) -> bool:
    """Say whether an entry of the file is what prepare writes of a folder or a CSV file."""
    if not isinstance(item, dict) or not isinstance(item.get("files"), dict):
        return False
    if not isinstance(item.get("left_out", {}), dict) or not isinstance(item.get("classes", []), list):
        return False
    rows = item["files"].values()
    return all(isinstance(row, list) and list(map(type, row)) == [int, int, str] for row in rows)


def find_data_changes(seen: Seen, sources: Sequence[str], root: Path, trusting: bool = True) -> Iterator[str]:
    """Yield what was changed, added or taken away in the folders and CSV files that hold the images.

    A file of the same size and time of change counts as the same; without trusting every file is read.
    """
    if not seen:
        yield f"prepare/{SEEN} is missing: what was in the images is not known"
        return
    for name in dict.fromkeys(sources):
        shown = Path(os.path.relpath(root / name, root)).as_posix()
        if shown not in seen:
            yield f"{name} was not looked at"
            continue
        files = seen[shown]["files"]
        for path, (size, time_ns, digest) in files.items():
            yield from _compare_file(root, path, size, time_ns if trusting else -1, digest)
        yield from _find_new_rows(root, shown, files) if shown in files else _find_new(root, shown, seen[shown])


def _compare_file(root: Path, name: str, size: int, time_ns: int, digest: str) -> Iterator[str]:
    try:
        status = os.stat(root / name)
    except OSError:
        yield f"{show(name)} is gone"
        return
    if status.st_size == size and status.st_mtime_ns == time_ns:
        return
    if status.st_size != size:
        yield f"{show(name)} changed ({size} -> {status.st_size} bytes)"
    elif (now := hash_file(root / name)) != digest:
        yield f"{show(name)} changed ({digest[:8]} -> {now[:8]})"


def _find_new(root: Path, top: str, seen: Mapping[str, Any]) -> Iterator[str]:
    """Yield files, and class folders, that were not there; links are followed, a folder inside itself is not."""
    files, left_out, classes = seen["files"], seen.get("left_out", {}), seen.get("classes", ())
    waiting = [(top, frozenset(_identify(root / top)))]
    while waiting:
        folder, around = waiting.pop()
        for entry, status in _scan(root / folder):
            name = f"{folder}/{entry.name}"
            if entry.name.startswith(".") or name in files or left_out.get(name) in _NOT_ENTERED:
                continue
            if status is None or not entry.is_dir():
                if name not in left_out:
                    yield f"{show(name)} is new"
            elif folder == top and entry.name not in classes:
                yield f"{show(name)} is a new folder"
            elif (status.st_dev, status.st_ino) not in around:
                waiting.append((name, around | {(status.st_dev, status.st_ino)}))


def _identify(folder: Path) -> Iterator[tuple[int, int]]:
    """Yield what tells a folder from every other, nothing where there is none."""
    if folder.is_dir():
        status = os.stat(folder)
        yield status.st_dev, status.st_ino


def _scan(folder: Path) -> Iterator[tuple[os.DirEntry[str], os.stat_result | None]]:
    """Yield (entry, what it leads to) of a folder, sorted; None where it leads to nothing."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        try:
            yield entry, entry.stat()
        except OSError:
            yield entry, None


def _find_new_rows(root: Path, table: str, files: Mapping[str, Any]) -> Iterator[str]:
    """Yield files that a CSV file's rows would now lead to instead: beside the table comes before below the root."""
    text = (root / table).read_text(encoding="utf-8", errors="replace") if (root / table).is_file() else ""
    beside = Path(table).parent
    for row in csv.reader(text.replace(";", ",").replace("\t", ",").replace("\0", "").splitlines()):
        for cell in filter(None, map(str.strip, row)):
            near, far = (Path(os.path.relpath(root / place / cell, root)).as_posix() for place in (beside, Path()))
            if far in files and near not in files and (root / near).is_file():
                yield f"{show(near)} is new"


def hash_listing(folder: Path) -> str:
    """Return a digest of the names, sizes and times of change below a folder, or of a CSV file's content."""
    digest = hashlib.sha256()
    if folder.is_file():
        return hash_file(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            digest.update(
                os.fsencode(path.relative_to(folder)) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode()
            )
    return digest.hexdigest()


def show(name: str) -> str:
    """Return a path as text that can be printed anywhere."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
