"""Decide by content, never by time stamps, whether a stage must run again, and say why."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpuforge.execute.results import hash_file, read_result
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.plan import PlannedStage
from dpuforge.records.result import StageResult, Status


def describe_inputs(
    stage: PlannedStage, place: ToolchainPlace, scripts: Path, root: Path, results: Mapping[str, StageResult]
) -> dict[str, Any]:
    """Return all that decides what a stage yields: scripts, arguments, earlier outputs, folders, toolchain.

    scripts is generated/<project>/; results holds what earlier stages left. Folders of images, and the images that CSV
    files name, enter by listing (path, size, modification time, of what links lead to): prepare reads their bytes.
    """
    return {
        "stage": stage.key,
        "argv": list(stage.argv),
        "scripts": {name: hash_file(scripts / name) for name in stage.scripts if (scripts / name).is_file()},
        "needs": {name: dict(results[name].outputs) for name in stage.needs if name in results},
        "folders": {name: _hash_listing(root / name, root) for name in stage.folders},
        "files": {name: _hash_existing(root / name) for name in stage.files},
        "toolchain": {"name": place.name, **place.versions} if stage.uses_toolchain else place.versions.get("torch"),
    }


def _hash_existing(path: Path) -> str:
    return hash_file(path) if path.is_file() else "missing"


def hash_inputs(inputs: Mapping[str, Any]) -> str:
    """Return the key of a stage: the sha256 of what decides it."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def hash_settings(inputs: Mapping[str, Any]) -> str:
    """Return the digest of what decides a stage but for the toolchain."""
    return hash_inputs({name: value for name, value in inputs.items() if name != "toolchain"})


def _hash_listing(folder: Path, root: Path) -> str:
    digest = hashlib.sha256()
    listed = _list_csv(folder, root) if folder.is_file() else _list_folder(str(folder))
    for line in sorted(listed):
        digest.update(line)
    return digest.hexdigest()


def _list_folder(top: str) -> Iterator[bytes]:
    """Yield one line for all that lies in a folder, links followed; a folder inside itself is not entered again."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while waiting:
        folder, around = waiting.pop()
        try:
            status = os.stat(folder)
            entries = list(os.scandir(folder))
        except OSError:
            continue
        above = around | {(status.st_dev, status.st_ino)}
        for entry in entries:
            yield _describe_file(entry.path, entry.path[len(top) :])
            if _is_new_folder(entry, above):
                waiting.append((entry.path, above))


def _is_new_folder(entry: os.DirEntry[str], above: frozenset[tuple[int, int]]) -> bool:
    try:
        status = entry.stat()
        return entry.is_dir() and (status.st_dev, status.st_ino) not in above
    except OSError:
        return False


def _list_csv(path: Path, root: Path) -> Iterator[bytes]:
    """Yield one line for a CSV file, and one for every file that a cell of it names."""
    yield hash_file(path).encode()
    text = path.read_text(encoding="utf-8", errors="replace")
    for row in csv.reader(text.replace(";", ",").replace("\t", ",").replace("\0", "").splitlines()):
        for name in filter(None, map(str.strip, row)):
            yield from (_describe_file(str(place / name), name) for place in (path.parent, root))


def _describe_file(path: str, name: str) -> bytes:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.fsencode(name) + b"\0nothing\n"
    return os.fsencode(name) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode()


def explain_staleness(folder: Path, key: str, root: Path) -> str:
    """Return why the stage in folder must run, or "" where its result still stands.

    key is the stage's present key; outputs are checked by content.
    """
    result = read_result(folder)
    if result is None:
        return "never run"
    # A script that skipped with its reason has a key and stands; a missing tool leaves none and is looked for again.
    if result.status is Status.FAILED or (result.status is Status.SKIPPED and not result.key):
        return f"last run {result.status.value}"
    if result.key != key:
        return "its script, settings, data, toolchain or an earlier stage's output changed"
    return _explain_files(result.outputs, root)


def _explain_files(recorded: Mapping[str, str], root: Path) -> str:
    for name, digest in recorded.items():
        path = root / name
        if not path.is_file():
            return f"{name} is missing"
        if hash_file(path) != digest:
            return f"{name} was changed"
    return ""


def explain_age(result: StageResult, inputs: Mapping[str, Any], place: str, root: Path) -> str:
    """Return why a result, good or bad, is not one of the present configuration, or "" where it is.

    place names the toolchain that inputs were described with: a result of another one is judged by all else, since
    its versions cannot be had here. The result of a script that was run by hand is judged by the files it read.
    """
    if not result.key:
        return _explain_files(result.inputs, root)
    if result.settings and result.settings != hash_settings(inputs):
        return "its script, settings, data or an earlier stage's output changed"
    if (not result.settings or result.toolchain.get("name") == place) and result.key != hash_inputs(inputs):
        return "its toolchain changed"
    return _explain_files(result.outputs, root)
