"""What became of a variant: its report's figures, and what it made of each image of the test split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpuforge.execute.aftermath import FAILED
from dpuforge.records.variant import Variant

PREDICTIONS = "predictions.json"


@dataclass(frozen=True)
class Answers:
    """Which images int8 and float recognise (1 or 0); images is a digest of their names and classes."""

    images: str
    int8: tuple[int, ...]
    exact: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """A variant's end; reason is why it has no figures, or what gate it missed; document is its report's.

    shared names the stages that were taken from other runs, and from which; weights is a digest of what training made.
    """

    number: int
    variant: Variant
    status: str
    reason: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)
    answers: Answers | None = None
    shared: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""

    @property
    def int8(self) -> float | None:
        """The int8 accuracy in percent, None where it was not measured."""
        return self._figure("int8_accuracy")

    @property
    def exact(self) -> float | None:
        """The float accuracy in percent."""
        return self._figure("float_accuracy")

    def _figure(self, name: str) -> float | None:
        found = self.document.get("metrics", {}).get(name)
        return None if found is None else float(found)


def read_answers(build: Path) -> Answers | None:
    """Return what evaluate noted of each image, also where it missed its gate; None where there is nothing."""
    folder = build / "evaluate"
    for path in (folder / PREDICTIONS, folder / FAILED / PREDICTIONS):
        try:
            return parse_answers(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def parse_answers(listed: Mapping[str, Any]) -> Answers:
    """Return the answers that a predictions.json holds; raises KeyError, TypeError or ValueError for another file."""
    labels: Sequence[int] = listed["label"]
    rows = {
        name: tuple(int(made == label) for made, label in zip(listed[name], labels, strict=True))
        for name in ("int8", "float")
    }
    images = hashlib.sha256(json.dumps([listed["files"], labels]).encode()).hexdigest()
    return Answers(images, rows["int8"], rows["float"])
