"""Gathers what a report shows beside the results: files of the stages, boards' measurements, the network on the DPU."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dpuforge.errors import FormatError, UserError
from dpuforge.estimating import estimate_boards, resolve_boards, sort_fastest
from dpuforge.execute.results import read_result
from dpuforge.hardware.estimate import Estimate
from dpuforge.hardware.partition import Placement
from dpuforge.records.job import Job
from dpuforge.records.operator import OpKind
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
)


def gather_facts(job: Job, plan: Plan, results: Mapping[str, StageResult], outdated: Mapping[str, str]) -> Facts:
    """Return the facts of a project; files of stages that have not run, or are outdated, are left out."""
    current = {key: result for key, result in results.items() if key not in outdated}
    names = [name for name in _FILES if name.partition("/")[0] in current]
    boards = {target.board: _read_board(job.build / "board" / target.board) for target in job.targets}
    measured = {board: found for board, found in boards.items() if found}
    files = {name: content for name in names if (content := read_data(job.build / name)) is not None}
    for board in measured:
        made = read_data(job.build / "board" / board / "predictions.json")
        if made is not None:
            files[f"board/{board}/predictions.json"] = made
    hardware = describe_hardware(job, current, measured)
    return Facts(_describe_spec(job), files, hardware, measured, tuple(stage.key for stage in plan.stages))


def tell_elsewhere(job: Job, document: Mapping[str, Any], facts: Facts) -> None:
    """Log the report to TensorBoard and MLflow where the spec or the environment asks for it; say where it went."""
    places = list_places(job.project.report.log, os.environ)
    for line in log_elsewhere(document, facts, job.build, places, os.environ):
        print(line, file=sys.stderr)


def read_data(path: Path) -> Any:
    """Return what a JSON, CSV or text file holds, None where it is missing, too large or damaged.

    Rows of a CSV file become dicts with numbers where cells are numbers; text becomes its lines.
    """
    try:
        if path.stat().st_size > _LARGEST:
            return None
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        lines = text.splitlines()
        return [_parse_row(row) for row in csv.DictReader(lines)] if path.suffix == ".csv" else lines
    except (OSError, ValueError, csv.Error):
        return None


def _parse_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): _parse_cell(cell) for name, cell in row.items()}


def _parse_cell(cell: Any) -> Any:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return cell


def _read_board(folder: Path) -> dict[str, Any]:
    """Return what was measured on a board, {} where nothing was; a failed or foreign result says so."""
    result = read_result(folder)
    if result is None:
        return {}
    toolchain = " ".join(str(part) for part in [result.toolchain.get("name", "")] if part)
    found = {**result.metrics, "toolchain": toolchain, "reason": result.reason, "seconds": result.seconds}
    accuracy = result.metrics.get("accuracy")
    if isinstance(accuracy, Mapping):
        found |= {"accuracy": accuracy.get("top1"), "top5": accuracy.get("top5"), "images": accuracy.get("images")}
    elif not isinstance(accuracy, (int, float)):
        found["accuracy"] = result.metrics.get("board_accuracy")
    if result.status is not Status.DONE:
        found["accuracy"] = None
    found["emulated"] = bool(result.metrics.get("emulated")) or "emulator" in toolchain
    return found


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


def describe_hardware(
    job: Job, current: Mapping[str, StageResult], measured: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the network on the first board, and every board that the release serves; {} before the export."""
    xmodel = job.build / "deploy" / f"{job.project.target.net_name}_int.xmodel"
    if "deploy" not in current or not xmodel.is_file():
        return {}
    from dpuforge.xmodel.neutral import neutral_operators
    from dpuforge.xmodel.read import read_xmodel

    try:
        operators = neutral_operators(read_xmodel(xmodel))
    except FormatError:
        return {}
    try:
        every = resolve_boards(job.catalogue, job.release.name, (), job.project, job.targets)
    except UserError:
        every = job.targets
    estimates = sort_fastest(estimate_boards(job.catalogue, operators, every))
    own = [target.board for target in job.targets]
    first = next((found for found in estimates if found.board.board == own[0]), None)
    rows = [_describe_board(found, found.board.board in own, measured) for found in estimates]
    labels = name_operators(current["evaluate"].metrics if "evaluate" in current else {})
    return {"release": job.release.name, "boards": rows, **(_describe_network(first, labels) if first else {})}


def name_operators(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the user's names of the xmodel's operators, as far as the diagnosis tells them."""
    layers = (metrics.get("diagnosis") or {}).get("layers", ())
    return {re.sub(r"\W", "_", row["node"]): row["layer"] for row in layers if "node" in row}


def _shorten(name: str) -> str:
    """Return "layer1.0.conv1" for "ResNet__ResNet_Sequential_layer1__BasicBlock_0__Conv2d_conv1__input_5"."""
    parts = [part.rpartition("_")[2] for part in name.split("__")[1:-1]]
    return ".".join(part for part in parts if part) or name


def _describe_board(found: Estimate, own: bool, measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    on_board = measured.get(found.board.board, {})
    document = found.to_json()
    return {
        "board": found.board.board,
        "target": found.board.target,
        "own": own,
        "fps": document["fps"]["multi"],
        "latency_ms": document["latency_ms"],
        "dpu_subgraphs": document["dpu_subgraphs"],
        "cpu_ops": len(document["cpu_ops"]),
        "measured_fps": on_board.get("fps") if isinstance(on_board.get("fps"), (int, float)) else None,
        "notes": document["notes"],
    }


def _describe_network(found: Estimate, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the graph, the time of each layer and the roofline of one board."""
    document = found.to_json()
    return {
        "board": found.board.board,
        "target": found.board.target,
        "graph": _draw_graph(found.partition.placements, document["layers"], labels),
        "roofline": document["roofline"],
        "clock_mhz": found.board.clock_mhz,
        "cores": found.board.cores,
        "latency_ms": document["latency_ms"],
        "dpu_subgraphs": document["dpu_subgraphs"],
        "workload": document["workload"],
    }


def _draw_graph(
    placements: Iterable[Placement], layers: Iterable[Mapping[str, Any]], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return one row an operator, in order: what it is, where it runs and why, whom it reads, its time."""
    times = {layer["op"]: layer for layer in layers}
    places: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for number, placement in enumerate(placements):
        operator = placement.operator
        for name in (operator.name, *operator.merged):
            places[name] = number
        time = times.get(operator.name, {})
        rows.append(
            {
                "op": operator.name,
                "label": labels.get(operator.name) or _shorten(operator.name),
                "kind": str(operator.kind),
                "shape": list(operator.out_shape),
                "device": placement.device if operator.kind is not OpKind.INPUT else "input",
                "subgraph": placement.subgraph,
                "reason": placement.reason,
                "help": placement.remedy,
                "reads": sorted({places[name] for name in operator.inputs if name in places}),
                **{name: time.get(name) for name in ("ms", "bound", "workload", "ops_per_byte")},
            }
        )
    return rows
