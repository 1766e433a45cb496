"""Compare rendered files with generated/<project>/ on disk, and bring the folder in step: all or nothing."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from dpuforge.errors import UsageError
from dpuforge.records.files import Change, FileChange, RenderedFile
from dpuforge.render.render import MANIFEST
from dpuforge.writing import PARTIAL, replacing

_IGNORED_FOLDERS = {"__pycache__", ".ruff_cache", ".mypy_cache", ".ipynb_checkpoints"}


def compare_folder(files: Sequence[RenderedFile], folder: Path) -> tuple[FileChange, ...]:
    """Return one change for every file on either side, sorted by path; identical files included."""
    changes = [_compare_file(file, folder / file.path) for file in files]
    planned = {file.path for file in files}
    extra = [path for path in _list_files(folder) if path not in planned]
    changes += [FileChange(path, Change.PRUNE, before=_read_text(folder / path)[0]) for path in extra]
    return tuple(sorted(changes, key=lambda change: change.path))


def _compare_file(file: RenderedFile, path: Path) -> FileChange:
    if not os.path.lexists(path):
        return FileChange(file.path, Change.CREATE, after=file.text)
    before, detail = _read_text(path)
    if not detail and _is_executable(path) != file.executable:
        wanted, found = ("executable", "plain") if file.executable else ("plain", "executable")
        detail = f"mode: {found} on disk, {wanted} in the plan"
    same = before == file.text and not detail
    return FileChange(file.path, Change.IDENTICAL if same else Change.UPDATE, before, file.text, detail)


def _read_text(path: Path) -> tuple[str, str]:
    """Return the text of a file and, where it is no plain text file, what it is instead."""
    if path.is_symlink():
        return "", "a symbolic link on disk, a file in the plan"
    if not path.is_file():
        return "", "no file on disk, a file in the plan"
    try:
        return path.read_bytes().decode(), ""
    except UnicodeDecodeError:
        return "", "not UTF-8 text on disk"


def _is_executable(path: Path) -> bool:
    """Say whether the owner may execute a file: the one mode bit that git keeps."""
    return bool(path.stat().st_mode & stat.S_IXUSR)


def _list_files(folder: Path) -> list[str]:
    """Return every file below folder, relative and with forward slashes, caches of tools left out."""
    found: list[str] = []
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _IGNORED_FOLDERS)
        links = [name for name in folders if Path(top, name).is_symlink()]
        found += [Path(top, name).relative_to(folder).as_posix() for name in [*names, *links]]
    return sorted(found)


def write_folder(
    files: Sequence[RenderedFile], folder: Path, left_alone: tuple[str, ...] = ()
) -> tuple[FileChange, ...]:
    """Bring folder in step with the rendered files and return what was done.

    Paths that start with one of left_alone are neither written nor pruned.
    Each file is replaced in one step, so that a killed run leaves whole files. Raises UsageError, before anything
    is touched, where the folder holds files and no manifest: dpuforge did not make them and will not remove them.
    """
    everything = compare_folder(files, folder)
    changes = tuple(change for change in everything if not change.path.startswith(left_alone or ("\0",)))
    surplus = [change.path for change in changes if change.change is Change.PRUNE]
    strangers = [path for path in surplus if not path.endswith(PARTIAL)]
    if strangers and not (folder / MANIFEST).is_file():
        raise UsageError(
            f"{folder} holds files that dpuforge did not make: {', '.join(strangers[:5])}",
            "choose another --out folder, or move these files away",
        )
    by_path = {file.path: file for file in files}
    for change in changes:
        if change.change in (Change.CREATE, Change.UPDATE):
            _write_file(by_path[change.path], folder / change.path)
    for path in surplus:
        (folder / path).unlink(missing_ok=True)
    _remove_empty(folder)
    return changes


def _write_file(file: RenderedFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(file.text.encode())
        partial.chmod(0o755 if file.executable else 0o644)


def _remove_empty(folder: Path) -> None:
    for top, _, _ in sorted(os.walk(folder), reverse=True):
        if top != str(folder) and not os.listdir(top):
            os.rmdir(top)


def format_diff(changes: Iterable[FileChange], prefix: str) -> str:
    """Return a unified diff from the folder to the plan, file names behind prefix; empty where all is identical."""
    return "".join(_format_change(change, prefix) for change in changes if change.change is not Change.IDENTICAL)


def _format_change(change: FileChange, prefix: str) -> str:
    name = f"{prefix}/{change.path}"
    before = "/dev/null" if change.change is Change.CREATE else f"a/{name}"
    after = "/dev/null" if change.change is Change.PRUNE else f"b/{name}"
    lines = difflib.unified_diff(change.before.splitlines(True), change.after.splitlines(True), before, after)
    header = f"{change.change.value} {name}" + (f" ({change.detail})" if change.detail else "")
    return f"{header}\n" + "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
