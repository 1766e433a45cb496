"""What a tune leaves below build/<project>/tunes/: what was asked, a row for each remedy, the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpuforge.execute.results import write_json
from dpuforge.records.job import Job

TUNES, RECORD, PAGE = "tunes", "tune.json", "tune.md"


@dataclass(frozen=True)
class Wish:
    """What identifies a tune beside the spec: how near int8 is to come, in how many minutes, judged on how many images.

    images 0 are all of the validation split, None as many as the time allows; toolchain "" is the spec's.
    """

    target_drop: float = 1.0
    minutes: float = 30.0
    images: int | None = None
    toolchain: str = ""

    def name(self, job: Job) -> str:
        """Return the tune's folder: the same question of the same settings is gone on with."""
        settings = {key: origin.value for key, origin in job.origins.items()}
        text = json.dumps([asdict(self), settings], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


def save(folder: Path, document: Mapping[str, Any]) -> None:
    """Write tune.json in one step."""
    write_json(folder / RECORD, document)


def read_record(folder: Path) -> dict[str, Any]:
    """Return what an earlier call of the same command left, {} where there is nothing to go on from."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return found if isinstance(found["rows"], list) and isinstance(found["baseline"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def read_seconds(document: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of each trial that ended, by its folder: what was spent counts, whichever call spent it."""
    rows = [document.get("baseline") or {}, *document.get("rows", ())]
    new = {row["folder"]: float(row["seconds"]) for row in rows if row.get("folder") and row.get("int8_accuracy")}
    return {**document.get("seconds", {}), **new}
