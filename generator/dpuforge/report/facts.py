"""What a report is made of beside the results: the spec's text, files that stages left, what the hardware will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SpecText:
    """The spec as written: path relative to the root, text, and {dotted key: line} of what it states itself."""

    path: str = ""
    text: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)
    description: str = ""
    release: str = ""
    backbone: str = ""
    weights: str = ""
    bases: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All of it for one project; a file that is missing, damaged or of an outdated stage is absent.

    files maps "evaluate/confusion.json" to its content (rows of a CSV file as dicts); hardware is what
    describing/draw_network.py makes of the deployed xmodel; boards maps a board's name to the metrics that were
    measured on it and its toolchain.
    """

    spec: SpecText = field(default_factory=SpecText)
    files: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    boards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stages: Sequence[str] = ()

    def rows(self, name: str, *keys: str) -> list[Any]:
        """Return a file that holds a list, [] where there is none; with keys, its objects that have them all."""
        found = self.files.get(name)
        rows = found if isinstance(found, list) else []
        return [row for row in rows if isinstance(row, dict) and row.keys() >= set(keys)] if keys else rows

    def table(self, name: str) -> dict[str, Any]:
        """Return a file that holds an object, {} where there is none."""
        found = self.files.get(name)
        return found if isinstance(found, dict) else {}
