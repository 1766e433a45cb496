"""What a sweep leaves below build/<project>/sweeps/: what was asked, every outcome; read again to apply one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpuforge.errors import UsageError
from dpuforge.execute.results import write_json
from dpuforge.records.variant import Override, Variant

SWEEPS = "sweeps"
SWEEP = "sweep.json"
TABLE, PLOT = "sweep.md", "pareto.png"


@dataclass(frozen=True)
class Asked:
    """What identifies a sweep: its --set options, how many images each split has, who chooses the trials."""

    options: tuple[str, ...]
    images: int = 0
    sampler: str = ""

    @property
    def name(self) -> str:
        """The sweep's folder: the same question has the same one, so that it is gone on with."""
        text = json.dumps([sorted(self.options), self.images, self.sampler])
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def limit(self, variant: Variant) -> Variant:
        """Return a variant on as many images as were asked for."""
        if not self.images:
            return variant
        return Variant((*variant.overrides, Override("data.limit", str(self.images))))

    def free(self, variant: Variant) -> Variant:
        """Return a variant without that limit: what is written into the spec is for all images."""
        kept = (it for it in variant.overrides if not (self.images and it.key == "data.limit"))
        return Variant(tuple(kept))


def save(folder: Path, asked: Asked, document: Mapping[str, Any]) -> None:
    """Write sweep.json in one step."""
    write_json(folder / SWEEP, {"set": asked.options, "images": asked.images, "sampler": asked.sampler, **document})


def read_latest(build: Path, asked: Asked | None) -> tuple[Asked, dict[str, Any]]:
    """Return the sweep that was asked, or the latest one of a project; raise UsageError where there is none."""
    paths = [build / SWEEPS / asked.name / SWEEP] if asked else sorted((build / SWEEPS).glob(f"*/{SWEEP}"), key=_time)
    for path in reversed(paths):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return Asked(tuple(found["set"]), int(found["images"]), str(found["sampler"])), found
        except (OSError, ValueError, KeyError, TypeError):
            continue
    raise UsageError("there is no such sweep of this spec", "run it first, with the same --set options")


def _time(path: Path) -> int:
    return path.stat().st_mtime_ns


def find_variant(document: Mapping[str, Any], number: int) -> Variant:
    """Return the variant of a number in a sweep's document; raise UsageError where there is none."""
    rows: Sequence[Mapping[str, Any]] = document["variants"]
    for row in rows:
        if row["number"] == number:
            return Variant(tuple(Override(key, text) for key, text in row["set"].items()))
    known = ", ".join(str(row["number"]) for row in rows)
    raise UsageError(f"the sweep has no variant {number}", f"its variants are {known}")
