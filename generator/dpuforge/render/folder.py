"""Compare rendered files with generated/<project>/ on disk, and bring the folder in step: all or nothing."""

from __future__ import annotations

import difflib
import fnmatch
import os
import shutil
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dpuforge.errors import HandEditsError, UsageError
from dpuforge.records.files import Change, Edits, FileChange, RenderedFile
from dpuforge.render.authorship import NEXT, Authorship, format_next, read_authorship
from dpuforge.render.render import MANIFEST
from dpuforge.writing import replacing

# What tools leave beside the files that they run or show: no one's work, in no one's way.
_IGNORED_FOLDERS = {"__pycache__", ".ruff_cache", ".mypy_cache", ".ipynb_checkpoints", ".snakemake", ".idea", ".vscode"}
_IGNORED_FILES = (".DS_Store", "Thumbs.db", "desktop.ini", "*~", ".*.sw?", ".nfs*")
_MOST_NAMED = 10
_REMEDY = (
    "--keep leaves these files as they are and writes the others; --overwrite moves them to build/<project>/set_aside/ "
    "first; or put the change into the spec and move your own files out of generated/"
)


def compare_folder(files: Sequence[RenderedFile], folder: Path) -> tuple[FileChange, ...]:
    """Return one change for every file on either side, sorted by path; identical files included."""
    changes = [_compare_file(file, folder / file.path) for file in files]
    planned = {file.path for file in files}
    extra = [path for path in _list_files(folder) if path not in planned]
    changes += [FileChange(path, Change.PRUNE, before=_read_text(folder / path)[0]) for path in extra]
    authorship = read_authorship(folder, files)
    return tuple(sorted((_explain(change, folder, authorship) for change in changes), key=lambda change: change.path))


def _explain(change: FileChange, folder: Path, authorship: Authorship) -> FileChange:
    """Add who made a difference."""
    if change.change is Change.IDENTICAL:
        return change
    path = folder / change.path
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    return replace(change, cause=authorship.explain(change.path, change.change, content))


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
        kept = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in _IGNORED_FILES)]
        found += [Path(top, name).relative_to(folder).as_posix() for name in [*kept, *links]]
    return sorted(found)


def find_persons(changes: Iterable[FileChange]) -> tuple[FileChange, ...]:
    """Return the changes that would lose what a person did: files edited by hand, files that dpuforge never made."""
    return tuple(change for change in changes if change.cause.is_persons)


def refuse_loss(changes: Iterable[FileChange], folder: Path) -> None:
    """Raise HandEditsError, which names them, where a write would lose what a person did."""
    persons = find_persons(changes)
    if not persons:
        return
    rows = [f"  {folder / change.path}: {change.why}" for change in persons[:_MOST_NAMED]]
    rows += [f"  and {len(persons) - _MOST_NAMED} more"] * (len(persons) > _MOST_NAMED)
    raise HandEditsError("\n".join(["nothing was written, since this would be lost:", *rows]), _REMEDY)


def write_folder(
    files: Sequence[RenderedFile],
    folder: Path,
    left_alone: tuple[str, ...] = (),
    edits: Edits = Edits.REFUSE,
    aside: Path | None = None,
) -> tuple[FileChange, ...]:
    """Bring folder in step with the rendered files and return what was done.

    Paths that start with one of left_alone are neither written nor pruned. Each file is replaced in one step, so that
    a killed run leaves whole files. What a person edited or put there is refused (HandEditsError, before anything is
    touched), kept as it is, or moved below the folder aside and then overwritten.
    """
    changes = select_changes(compare_folder(files, folder), left_alone)
    persons = {change.path for change in find_persons(changes)}
    if edits is Edits.REFUSE:
        refuse_loss(changes, folder)
    elif edits is Edits.KEEP:
        changes = tuple(replace(it, change=Change.KEEP) if it.path in persons else it for it in changes)
    else:
        _set_aside(sorted(persons), folder, aside or folder.with_name(f"{folder.name}.set_aside"))
    _carry_out(changes, {file.path: file for file in files}, folder)
    return changes


def select_changes(changes: Iterable[FileChange], left_alone: tuple[str, ...]) -> tuple[FileChange, ...]:
    """Return the changes of all paths but those that start with one of left_alone."""
    return tuple(change for change in changes if not change.path.startswith(left_alone or ("\0",)))


def _carry_out(changes: Sequence[FileChange], files: Mapping[str, RenderedFile], folder: Path) -> None:
    """Prune and write, the manifest last; what will be written is noted first, so that a killed write is ours."""
    stale = [change.path for change in changes if change.change in (Change.CREATE, Change.UPDATE)]
    surplus = [change.path for change in changes if change.change is Change.PRUNE and change.path != NEXT]
    if not stale and not surplus:
        return
    rendered = tuple(files.values())
    note = RenderedFile(NEXT, format_next(read_authorship(folder, rendered), rendered))
    _write_file(note, folder / NEXT)
    for path in surplus:  # first: a folder may take a file's place
        (folder / path).unlink(missing_ok=True)
    for path in sorted(stale, key=lambda path: path == MANIFEST):
        _write_file(files[path], folder / path)
    (folder / NEXT).unlink(missing_ok=True)
    _remove_empty(folder)


def _set_aside(paths: Sequence[str], folder: Path, aside: Path) -> None:
    """Move a person's files below aside, in a folder of their own time; nothing that lies there is replaced."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for path in paths:
        if not os.path.lexists(folder / path):
            continue  # it went with its folder, which stood in a file's place
        goal = aside / stamp / path
        while os.path.lexists(goal):
            goal = goal.with_name(f"{goal.name}.again")
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / path, goal)


def _write_file(file: RenderedFile, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(file.text.encode())
            partial.chmod(0o755 if file.executable else 0o644)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "see what stands in its way") from error


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
    header = f"{change.change.value} {name}" + (f" ({change.why})" if change.why else "")
    return f"{header}\n" + "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
