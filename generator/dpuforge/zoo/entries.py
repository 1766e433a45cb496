"""The shipped specs of spec/zoo/, without importing torch: what each is, its card, and a copy of it for a project."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dpuforge.errors import UsageError
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.load_spec import LoadedSpec, load_project
from dpuforge.load.shipped_yaml import LOADER
from dpuforge.paths import find_shipped
from dpuforge.records.project import Project

CARDS = "cards.json"  # written by compute_cards.py
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Source:
    """Where weights or images come from, under what licence, and the command that fetches them."""

    source: str
    licence: str
    needs: str = ""


@dataclass(frozen=True)
class Entry:
    """One shipped spec: its file, its project, and whence come its weights (the teacher's too) and its images."""

    name: str
    path: Path
    project: Project
    weights: tuple[Source, ...]
    data: Source

    @property
    def companions(self) -> tuple[str, ...]:
        """Files that the spec names and that ship with it, relative to the project's root."""
        path, _, factory = self.project.model.backbone.rpartition(".py:")
        return (f"{path}.py",) if factory and path else ()


@cache
def list_entries() -> tuple[Entry, ...]:
    """Return every shipped spec, by name."""
    return tuple(_read_entry(path) for path in sorted(find_shipped("spec/zoo").glob("*.yaml")))


def find_entry(name: str) -> Entry:
    """Return the shipped spec called name; raise UsageError with names that are like it."""
    known = {entry.name: entry for entry in list_entries()}
    if name not in known:
        close = get_close_matches(name, known, 3, 0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "`dpuforge zoo` lists them"
        raise UsageError(f"the zoo has no {name!r}", hint)
    return known[name]


@cache
def read_cards() -> Mapping[str, Any]:
    """Return the computed part of every card by name: parameters, and for each board its DPU and estimate."""
    cards: dict[str, Any] = json.loads((find_shipped("spec/zoo") / CARDS).read_text(encoding="utf-8"))
    return cards


def describe_entry(entry: Entry) -> dict[str, Any]:
    """Return the whole card of a shipped spec."""
    project = entry.project
    return {
        "name": entry.name,
        "description": project.description,
        "backbone": project.model.backbone,
        "method": project.transfer.method.value,
        "release": project.target.vitis_ai,
        "input_px": [project.model.input.height, project.model.input.width],
        **read_cards()[entry.name],
        "weights": [vars(source) for source in entry.weights],
        "data": vars(entry.data),
    }


def digest_network(entry: Entry) -> str:
    """Return what decides the computed part of a card, as the spec gives it: network, input, classes, boards, release.

    Keys that the spec leaves to their defaults are no part of it: a new key of dpuforge's changes no card.
    """
    given = yaml.safe_load(entry.path.read_text(encoding="utf-8"))
    files = [(find_shipped("spec/zoo") / name).read_bytes() for name in entry.companions]
    parts = json.dumps({key: given.get(key) for key in ("model", "classes", "target", "quantization")}, sort_keys=True)
    return hashlib.sha256(parts.encode() + b"".join(files)).hexdigest()[:16]


def write_copy(entry: Entry, project: str, root: Path) -> tuple[Path, ...]:
    """Write root/spec/PROJECT.yaml and the files that it names; return what was written.

    The name of the shipped spec becomes the project's wherever it stands: in the project's name, its folders and its
    comments. Raises UsageError, before anything is written, where a file is there already or the name is none; a
    companion that is there with the same bytes is left.
    """
    from dpuforge.edit.edit_spec import write_spec

    if not _NAME.fullmatch(project):
        raise UsageError(
            f"{project!r} names no project", "use lower-case letters, digits and _, beginning with a letter, 64 at most"
        )
    spec = root / "spec" / f"{project}.yaml"
    _refuse_existing(root, spec, project)
    shipped = {root / name: (find_shipped("spec/zoo") / name).read_bytes() for name in entry.companions}
    missing = {path: content for path, content in shipped.items() if not _holds(path, content)}
    for path, content in missing.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    text = re.sub(rf"\b{entry.name}\b", project, entry.path.read_text(encoding="utf-8"))
    write_spec(spec, text, shipped_catalogue())
    return (spec, *missing)


def _refuse_existing(root: Path, spec: Path, project: str) -> None:
    for path in (spec, spec.with_suffix(".yml")):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path.relative_to(root)} exists", f"choose another name: --as {project}_2")


def _holds(path: Path, content: bytes) -> bool:
    """Say whether a file is there with this content; raise UsageError where it is there with another."""
    if not path.exists() and not path.is_symlink():
        return False
    if path.is_file() and path.read_bytes() == content:
        return True
    raise UsageError(f"{path} exists and is not the file that this spec needs", "move it, then copy again")


def _read_entry(path: Path) -> Entry:
    loaded: LoadedSpec = load_project(path, shipped_catalogue())
    project, known = loaded.project, _read_sources()
    teacher = project.transfer.teacher
    names = [project.model.weights, *([teacher.weights] if teacher else [])]
    keys = dict.fromkeys(name if name in known["weights"] else "torchvision" for name in names)
    weights = tuple(Source(**known["weights"][key]) for key in keys)
    return Entry(path.stem, path, project, weights, Source(**known["data"][project.data.source or "own"]))


@cache
def _read_sources() -> Mapping[str, Any]:
    text = (find_shipped("spec/schema") / "zoo.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = yaml.load(text, Loader=LOADER)
    return found
