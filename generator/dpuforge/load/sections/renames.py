"""Keys that were renamed (spec/schema/renamed.yaml): an old spec is read under the new names, with what to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from dpuforge.load.findings import Finding, Path
from dpuforge.load.shipped_yaml import LOADER
from dpuforge.load.text import Document
from dpuforge.paths import find_shipped


@dataclass(frozen=True)
class Rename:
    """One key that has another name since a version of the spec."""

    old: str
    new: str
    version: int


@cache
def read_renames() -> tuple[Rename, ...]:
    """Return the table of renamed keys."""
    text = (find_shipped("spec/schema") / "renamed.yaml").read_text(encoding="utf-8")
    return tuple(Rename(**row) for row in yaml.load(text, Loader=LOADER)["renamed"])


def find_renamed(document: Mapping[str, Any]) -> tuple[Rename, ...]:
    """Return the rows of the table whose old key stands in a document."""
    return tuple(row for row in read_renames() if _find_parent(document, row.old) is not None)


def has_both(document: Mapping[str, Any], row: Rename) -> bool:
    """Say whether a document has a key under the new name (and, for a found row, under the old one too)."""
    return _find_parent(document, row.new) is not None


def apply_renames(document: Document) -> None:
    """Move the values of old keys of a file to the new ones, their places with them, and note what to write.

    It is a mistake where the file says that it is of the version that renamed them, or has both names.
    """
    written = document.value.get("spec_version")
    for row in find_renamed(document.value):
        old, new = (tuple(key.split(".")) for key in (row.old, row.new))
        twice = has_both(document.value, row)
        knows = isinstance(written, int) and written >= row.version
        what = (
            f"the key is called {row.new} since version {row.version} of the spec" + ", and that is there too" * twice
        )
        remedy = f"write {row.new}, or let `dpuforge migrate` do it"
        severity = "error" if twice or knows else "warning"
        place = document.places.get(old)
        document.findings.append(Finding(old, what, remedy, severity, at_key=True, place=place))
        _move(document, old, new, keep=not twice)


def _find_parent(document: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """Return the mapping that holds a dotted key, None where the key is not there."""
    here: Any = document
    *above, last = key.split(".")
    for part in above:
        here = here.get(part) if isinstance(here, dict) else None
    return here if isinstance(here, dict) and last in here else None


def _move(document: Document, old: Path, new: Path, keep: bool) -> None:
    """Take a value out of its place, with keep into another."""
    here: Any = document.value
    for part in old[:-1]:
        here = here[part]
    value = here.pop(old[-1])
    places = {path: place for path, place in document.places.items() if path[: len(old)] == old}
    for path, place in places.items():
        del document.places[path]
        if keep:
            document.places[new + path[len(old) :]] = place
    if keep:
        here = document.value
        for number, part in enumerate(new[:-1], 1):
            document.places.setdefault(new[:number], places[old])
            if not isinstance(here.get(part), dict):
                here[part] = {}
            here = here[part]
        here[new[-1]] = value
