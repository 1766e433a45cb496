"""Gathers what a report shows beside the results: the spec, files of the stages, boards' measurements, the hardware."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpuforge.describing.draw_network import describe_hardware
from dpuforge.records.job import Job
from dpuforge.records.plan import Plan
from dpuforge.records.result import StageResult, Status
from dpuforge.report.elsewhere import list_places, log_elsewhere
from dpuforge.report.facts import Facts, SpecText

_LARGEST = 64 << 20  # bytes of a file that the report reads
_FILES = (
    "prepare/pictures.json",
    "prepare/copies.json",
    "prepare/problems.txt",
    "train/history.csv",
    "evaluate/confusion.json",
    "evaluate/predictions.json",
    "evaluate/pictures.json",
    "evaluate/histograms.json",
    "preflight/predictions.json",
)


def gather_facts(
    job: Job,
    plan: Plan,
    results: Mapping[str, StageResult],
    outdated: Mapping[str, str],
    visits: Mapping[str, Mapping[str, Any]],
) -> Facts:
    """Return the facts of a project; files of stages that have not run, or are outdated, are left out.

    visits maps boards to what `dpuforge board` found on them with the present network.
    """
    current = {key: result for key, result in results.items() if key not in outdated}
    names = [name for name in _FILES if name.partition("/")[0] in current]
    measured = {board: _describe_visit(found) for board, found in visits.items()}
    files = {name: content for name in names if (content := read_data(job.build / name)) is not None}
    hardware = describe_hardware(job, current, measured)
    return Facts(_describe_spec(job), files, hardware, measured, tuple(stage.key for stage in plan.stages))


def tell_elsewhere(job: Job, document: Mapping[str, Any], facts: Facts) -> None:
    """Log the report to TensorBoard and MLflow where the spec or the environment asks for it; say where it went."""
    places = list_places(job.project.report.log, os.environ)
    for line in log_elsewhere(document, facts, job.build, places, os.environ):
        print(line, file=sys.stderr)


def read_data(path: Path) -> Any:
    """Return what a JSON, CSV or text file holds, None where it is missing, too large or damaged.

    Rows of a CSV file become dicts with numbers where cells are numbers; text becomes its lines. NaN and infinity
    become None.
    """
    try:
        if path.stat().st_size > _LARGEST:
            return None
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text, parse_constant=_drop)
        lines = text.splitlines()
        return [_parse_row(row) for row in csv.DictReader(lines)] if path.suffix == ".csv" else lines
    except (OSError, ValueError, csv.Error):
        return None


def _parse_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): _parse_cell(cell) for name, cell in row.items()}


def _drop(name: str) -> None:
    """Stand for NaN and infinity, which the page's own JSON does not know."""


def _parse_cell(cell: Any) -> Any:
    try:
        return float(cell) if math.isfinite(float(cell)) else None
    except (TypeError, ValueError):
        return cell


def _describe_visit(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured on a board; of a failed visit the reason alone counts."""
    done = found.get("status") == Status.DONE.value
    answers = (found.get("answers") if done else None) or {}
    rows = ((found.get("bench") if done else None) or {}).get("rows", ())
    return {
        **{key: answers.get(key) for key in ("accuracy", "interval", "images", "accuracy_here", "mcnemar")},
        "fps": max((row["end_to_end"]["fps"] for row in rows), default=None),
        "outputs": found.get("outputs"),
        "toolchain": f"{'emulated board' if found.get('emulated') else 'board'} {found.get('host', '')}".strip(),
        "emulated": bool(found.get("emulated")),
        "reason": found.get("reason") or found.get("note") or "",
    }


def _describe_spec(job: Job) -> SpecText:
    spec, project = job.project.spec, job.project
    path = job.root / spec.path
    lines = {}
    for key, origin in job.origins.items():
        place, _, _ = origin.where.rpartition(":")
        name, _, line = place.rpartition(":")
        if name and line.isdigit() and origin.kind == "spec":
            lines[key] = int(line)
    return SpecText(
        path=spec.path,
        text=path.read_text(encoding="utf-8") if path.is_file() else "",
        lines=lines,
        description=project.description,
        release=project.target.vitis_ai,
        backbone=project.model.backbone,
        weights=project.model.weights,
        bases={base.path: base.sha256 for base in project.bases},
        settings={key: origin.value for key, origin in job.origins.items()},
    )
