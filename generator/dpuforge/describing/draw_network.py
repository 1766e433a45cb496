"""The deployed network as the hardware model sees it: frame rates of all boards, one board's graph, times, roofline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dpuforge.errors import FormatError, UserError
from dpuforge.estimating import estimate_boards, resolve_boards, sort_fastest
from dpuforge.hardware.estimate import Estimate
from dpuforge.hardware.partition import Placement
from dpuforge.records.job import Job
from dpuforge.records.operator import OpKind
from dpuforge.records.result import StageResult


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
        "measured_fps": on_board.get("fps"),
        "measured_emulated": bool(on_board.get("emulated")),
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
