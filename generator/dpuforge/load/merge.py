"""Reads a spec and the files its `base` names, and lays them over one another; every value keeps its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

from dpuforge.errors import UserError
from dpuforge.load.findings import Finding, Path, Place, show_value
from dpuforge.load.sections.renames import apply_renames
from dpuforge.load.text import MAX_BYTES, Document, read_document
from dpuforge.records.files import hash_bytes, hash_text
from dpuforge.records.variant import Override

MAX_BASES = 32
OPTION = "--set "  # before the name of what was no file


@dataclass
class Sources:
    """A spec with everything underneath it: merged values, their places, and the files that were read, spec first.

    files maps each path as shown to its SHA-256; reads counts every reading, which bounds includes of includes.
    """

    value: dict[str, Any] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    reads: int = 0


def read_sources(path: FilePath) -> Sources:
    """Read a spec and its bases; raise UserError where path is no file that can be read."""
    sources = Sources()
    try:
        content = _read_bounded(path)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise UserError(f"{path}: {reason}", "name a spec that exists; `dpuforge init` writes one") from None
    shown = str(path)
    _read(content, shown, (os.path.realpath(path),), sources)
    return sources


def _read_bounded(path: FilePath) -> bytes:
    """Return a file's bytes, at most what shows that it is too large: /dev/zero has no end."""
    with path.open("rb") as stream:
        return stream.read(16 * MAX_BYTES)


def lay_over(sources: Sources, override: Override) -> None:
    """Lay one value over what was read, as if the spec ended with it; its place is the option that set it."""
    *above, last = override.key.split(".")
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(above)]
    text = "\n".join([*lines, f"{'  ' * len(above)}{last}: {override.text}"])
    document = read_document(text.encode(), override.option)
    place = Place(override.option, 1, len(OPTION) + len(override.key) + 2)
    document.places = dict.fromkeys(document.places, place)
    sources.files[override.option] = hash_text(str(override))
    sources.findings += [replace(found, place=found.place and place) for found in document.findings]
    _overlay(sources.value, document.value, (), document, sources)


def read_value(override: Override) -> Any:
    """Return an override's value as a spec would have it."""
    return read_document(f"value: {override.text}".encode(), override.option).value.get("value")


def _read(content: bytes, shown: str, chain: tuple[str, ...], sources: Sources) -> None:
    """Lay one file over what `sources` holds, after the files that it names as base; chain leads from the spec here."""
    sources.reads += 1
    sources.files[shown] = hash_bytes(content)
    document = read_document(content, shown)
    apply_renames(document)
    sources.findings += document.findings
    for path, name in _iterate_bases(document, sources):
        _read_base(name, document.places[path], shown, chain, sources)
    # The place of `base` itself is the one in the spec: bases of bases are read where they stand.
    if len(chain) > 1:
        document.value.pop("base", None)
    _forget(set(_find_replaced(sources.value, document.value, ())), sources.places)
    _overlay(sources.value, document.value, (), document, sources)
    sources.places[()] = document.places.get((), Place(shown, 1, 1))


def _iterate_bases(document: Document, sources: Sources) -> Iterator[tuple[Path, str]]:
    named = document.value.get("base", [])
    bases = named if isinstance(named, list) else []
    for index, name in enumerate(bases[:MAX_BASES]):
        if isinstance(name, str):
            yield ("base", index), name
    if len(bases) > MAX_BASES:
        what = f"a spec has at most {MAX_BASES} base files, got {len(bases)}"
        sources.findings.append(Finding(("base",), what, "merge some of them", place=document.places[("base",)]))


def _read_base(name: str, place: Place, shown: str, chain: tuple[str, ...], sources: Sources) -> None:
    base = os.path.normpath(os.path.join(os.path.dirname(shown), name))
    real = os.path.realpath(base) if "\0" not in base else base
    complaint = _refuse_base(real, chain, sources)
    if complaint:
        message, remedy = complaint
        sources.findings.append(Finding(("base",), f"{message}, got {show_value(name)}", remedy, place=place))
        return
    try:
        content = _read_bounded(FilePath(base))
    except (OSError, ValueError) as error:
        what = f"the base file cannot be read ({getattr(error, 'strerror', '') or error}), got {show_value(name)}"
        remedy = "paths are relative to the file that names them"
        sources.findings.append(Finding(("base",), what, remedy, place=place))
        return
    _read(content, base, (*chain, real), sources)


def _refuse_base(real: str, chain: tuple[str, ...], sources: Sources) -> tuple[str, str] | None:
    if real in chain:
        return "the files include one another in a circle", "remove one of the base entries"
    if sources.reads > MAX_BASES:
        return f"more than {MAX_BASES} files are included", "merge some of them"
    return None


def _overlay(under: dict[str, Any], over: dict[str, Any], path: Path, document: Document, sources: Sources) -> None:
    """Merge `over` into `under` in place: maps merge, everything else replaces."""
    for key, value in over.items():
        where = (*path, key)
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            sources.places[where] = document.places[where]
            _overlay(under[key], value, where, document, sources)
            continue
        under[key] = value
        _remember(value, where, document, sources)


def _remember(value: Any, path: Path, document: Document, sources: Sources) -> None:
    if path in document.places:
        sources.places[path] = document.places[path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        _remember(item, (*path, key), document, sources)


def _find_replaced(under: dict[str, Any], over: dict[str, Any], path: Path) -> Iterator[Path]:
    """Yield the paths whose values give way to those of `over`."""
    for key, value in over.items():
        below = under.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            yield from _find_replaced(below, value, (*path, key))
        elif key in under:
            yield (*path, key)


def _forget(replaced: set[Path], places: dict[Path, Place]) -> None:
    """Drop the places of values that gave way, in one pass: a spec may have twenty thousand."""
    gone = [
        known for known in places if replaced and any(known[:length] in replaced for length in range(1, len(known) + 1))
    ]
    for known in gone:
        del places[known]
