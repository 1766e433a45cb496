"""What a shell completes: boards, backbones, releases, stages and spec files; reads names alone, so it is fast."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

Completer = Callable[[Any, Any, str], list[str]]


def _answers_shell(complete: Callable[[str], list[str]]) -> Completer:
    """Make a completer of the form that click calls; it may answer `kv` by KV260, which a filter would drop."""

    @wraps(complete)
    def answer(_context: Any, _parameter: Any, incomplete: str) -> list[str]:
        return complete(incomplete)

    return answer


def _starting(incomplete: str, words: Iterable[str]) -> list[str]:
    """Return the words that begin as what was typed; where none does, those that do in another case."""
    known = list(words)
    exact = [word for word in known if word.startswith(incomplete)]
    return exact or [word for word in known if word.lower().startswith(incomplete.lower())]


def _file_names(folder: str) -> list[str]:
    """Return the names of the shipped YAML files in a folder, without their suffix."""
    from dpuforge.paths import find_shipped

    return sorted(path.stem for path in find_shipped(folder).glob("*.yaml"))


@_answers_shell
def complete_boards(incomplete: str) -> list[str]:
    """Return the boards."""
    return _starting(incomplete, _file_names("spec/boards"))


@_answers_shell
def complete_board_list(incomplete: str) -> list[str]:
    """Return the boards, after a comma those that are not named before it."""
    before, comma, last = incomplete.rpartition(",")
    others = [name for name in _file_names("spec/boards") if name not in before.split(",")]
    return [f"{before}{comma}{name}" for name in _starting(last, others)]


@_answers_shell
def complete_releases(incomplete: str) -> list[str]:
    """Return the releases of Vitis AI that a project can be built with."""
    from dpuforge.load.boards.catalogue import shipped_catalogue

    releases = shipped_catalogue().releases
    return _starting(incomplete, [name for name in releases if releases[name].supported])


@_answers_shell
def complete_backbones(incomplete: str) -> list[str]:
    """Return torchvision's classifiers."""
    from dpuforge.load.backbones import load_backbones

    return _starting(incomplete, load_backbones())


@_answers_shell
def complete_stages(incomplete: str) -> list[str]:
    """Return the stages of a run."""
    from dpuforge.plan.stages import STAGES

    return _starting(incomplete, [row.name for row in STAGES])


@_answers_shell
def complete_toolchains(incomplete: str) -> list[str]:
    """Return the toolchains."""
    from dpuforge.load.spec_schema import read_schema

    return _starting(incomplete, read_schema()["run"]["schema"]["toolchain"]["allowed"])


@_answers_shell
def complete_specs(incomplete: str) -> list[str]:
    """Return the specs at a beginning of a path, and folders to look further in."""
    return list(_find_files(incomplete, (".yaml", ".yml")))


@_answers_shell
def complete_networks(incomplete: str) -> list[str]:
    """Return specs and .xmodel files."""
    return list(_find_files(incomplete, (".yaml", ".yml", ".xmodel")))


def _find_files(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield files as they would be typed; the specs of a folder that fits stand for it."""
    typed, _, beginning = incomplete.rpartition("/")
    before = f"{typed}/" if "/" in incomplete else ""
    for entry in _list_folder(Path(os.path.expanduser(before) or ".")):
        if not entry.name.startswith(beginning) or (entry.name.startswith(".") and not beginning):
            continue
        if entry.is_file() and _is_wanted(entry, suffixes):
            yield f"{before}{entry.name}"
        elif entry.is_dir():
            inside = [file.name for file in _list_folder(entry) if file.is_file() and _is_wanted(file, suffixes)]
            yield from (f"{before}{entry.name}/{name}" for name in inside)
            if not inside:
                yield f"{before}{entry.name}/"


def _list_folder(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_wanted(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Tell specs from the other YAML files of a project: a spec names its project."""
    if path.suffix not in suffixes:
        return False
    if path.suffix == ".xmodel":
        return True
    try:
        with path.open("rb") as stream:
            return re.search(rb"^project: *[^\s#]", stream.read(65_536), re.MULTILINE) is not None
    except OSError:
        return False
