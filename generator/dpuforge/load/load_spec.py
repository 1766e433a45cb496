"""READ FIRST of load: text, schema, defaults, rules, Project; all mistakes of a spec at once, each at its place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from dpuforge.errors import Problem, SpecError
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.build import build_project
from dpuforge.load.defaults import fill_defaults
from dpuforge.load.explain import format_path, trace_origins
from dpuforge.load.findings import Finding, Path, Place
from dpuforge.load.merge import OPTION, Sources, lay_over, read_sources
from dpuforge.load.rules import Context, check_rules
from dpuforge.load.spec_schema import check_schema
from dpuforge.paths import find_root
from dpuforge.records.hardware import Catalogue
from dpuforge.records.origin import Origin
from dpuforge.records.project import Project, SourceFile
from dpuforge.records.variant import Override


@dataclass(frozen=True)
class LoadedSpec:
    """A spec without mistakes: its file, the project, what to be told about it, and each value's origin by key."""

    path: FilePath
    project: Project
    warnings: tuple[Problem, ...]
    origins: Mapping[str, Origin]


@dataclass(frozen=True)
class _Checked:
    sources: Sources
    spec: dict[str, Any]
    defaults: dict[Path, str]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")


def load_project(path: FilePath, catalogue: Catalogue | None = None, overrides: Sequence[Override] = ()) -> LoadedSpec:
    """Read one spec with its bases, lay overrides over it, and return the project.

    catalogue is the known hardware (default: the shipped one). Raise SpecError with every mistake and warning, sorted,
    where there is a mistake; UserError where path cannot be read.
    """
    checked = _check(path, catalogue, overrides)
    if checked.errors:
        raise SpecError(checked.problems)
    root = find_root(path)
    files = tuple(_name_file(shown, sha256, root) for shown, sha256 in checked.sources.files.items())
    project = build_project(checked.spec, root, files)
    origins = trace_origins(checked.spec, checked.sources.places, checked.defaults, str(path))
    return LoadedSpec(path, project, checked.problems, origins)


def validate_file(path: FilePath, catalogue: Catalogue | None = None) -> tuple[Problem, ...]:
    """Return the mistakes and warnings of one spec, sorted by place; raise UserError where path cannot be read."""
    return _check(path, catalogue).problems


def _check(path: FilePath, catalogue: Catalogue | None, overrides: Sequence[Override] = ()) -> _Checked:
    sources = read_sources(path)
    for override in overrides:
        lay_over(sources, override)
    findings = list(sources.findings)
    spec, defaults = fill_defaults(sources.value)
    if sources.value or not sources.findings:
        findings += _without_repeats(check_schema(sources.value), sources)
        broken = frozenset(finding.path for finding in findings if finding.severity == "error")
        written = frozenset(sources.places)
        findings += check_rules(Context(spec, catalogue or shipped_catalogue(), find_root(path), written, broken))
    problems = {_locate(finding, sources.places) for finding in findings}
    return _Checked(sources, spec, defaults, tuple(sorted(problems)))


def _without_repeats(found: Iterable[Finding], sources: Sources) -> list[Finding]:
    """Leave out what the schema says about values that are wrong as YAML already: one mistake, one message."""
    places = sources.places
    said = {known.path for known in sources.findings if known.place and _starts(known.place, places.get(known.path))}
    return [finding for finding in found if finding.path not in said]


def _starts(one: Place, other: Place | None) -> bool:
    return other is not None and (one.file, one.line, one.column) == (other.file, other.line, other.column)


def _locate(finding: Finding, places: Mapping[Path, Place]) -> Problem:
    place, exact = _find_place(finding, places)
    line, column = place.key if finding.at_key and exact else (place.line, place.column)
    if not exact and finding.path:
        line, column = place.key
    field = format_path(finding.path) or "(file)"
    return Problem(
        place.file, line, column, field, _one_line(finding.message), _one_line(finding.help), finding.severity
    )


def _find_place(finding: Finding, places: Mapping[Path, Place]) -> tuple[Place, bool]:
    """Return the place of a finding, or that of the nearest key above it."""
    if finding.place is not None:
        return finding.place, True
    for length in range(len(finding.path), -1, -1):
        place = places.get(finding.path[:length])
        if place is not None:
            return place, length == len(finding.path)
    return Place("", 1, 1), False


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _name_file(shown: str, sha256: str, root: FilePath) -> SourceFile:
    if shown.startswith(OPTION):
        return SourceFile(shown, sha256)
    return SourceFile(FilePath(os.path.relpath(os.path.realpath(shown), root)).as_posix(), sha256)
