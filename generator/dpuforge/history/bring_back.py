"""Bring back the spec of a run, with its bases, as they were read then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpuforge.edit.edit_spec import set_overrides
from dpuforge.errors import HandEditsError, UsageError
from dpuforge.history.keep_rows import read_kept, read_rows
from dpuforge.records.files import hash_bytes
from dpuforge.records.variant import Override
from dpuforge.writing import replacing


def bring_back(root: Path, row: Mapping[str, Any], out: Path | None, overwrite: bool) -> list[str]:
    """Write the spec of a row, and its bases, where they were read; return what was done, a line a file.

    With out the spec alone goes there. A file whose present text no row has kept is not lost: HandEditsError, before
    anything is written, unless overwrite.
    """
    wanted = list(_list_texts(root, row, out))
    known = {digest for other in read_rows(root).values() for digest in other["texts"].values()}
    for path, content in wanted:
        there = path.read_bytes() if path.is_file() else content
        if not overwrite and there != content and hash_bytes(there) not in known:
            raise HandEditsError(
                f"{path} was edited since, and no run has kept that text: nothing was written",
                "--overwrite replaces it, --out FILE writes elsewhere",
            )
    lines = []
    for path, content in wanted:
        same = path.is_file() and path.read_bytes() == content
        lines.append(f"{path}: {'is already so' if same else 'brought back'}")
        if not same:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                partial.write_bytes(content)
    return lines


def _list_texts(root: Path, row: Mapping[str, Any], out: Path | None) -> Iterator[tuple[Path, bytes]]:
    """Yield where each text of a row goes; a variant's values stand in its spec."""
    if row["spec"] not in row["texts"]:
        raise UsageError("the row has not kept its spec")
    for name, digest in row["texts"].items():
        path = root / name
        if name == row["spec"]:
            content = read_kept(root, str(digest), ".yaml")
            overrides = [Override(str(key), str(text)) for key, text in row.get("variant") or ()]
            content = set_overrides(content.decode("utf-8"), overrides).encode() if overrides else content
            path = out or path
        elif out is not None:
            continue
        else:
            content = read_kept(root, str(digest), ".yaml")
        if path != out and not path.resolve().is_relative_to(root.resolve()):
            raise UsageError(
                f"{name} lies outside the project: it is not brought back", "--out FILE writes the spec alone"
            )
        yield path, content
