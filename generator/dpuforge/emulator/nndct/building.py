"""From a user's module to its quantised graph, with the lines that the real tool prints on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.graph.nodes import Graph
from dpuforge.emulator.nndct import log
from dpuforge.emulator.nndct.arguments import mover
from dpuforge.emulator.nndct.calibration_files import list_graph, replace_text
from dpuforge.emulator.quantise.settings import Settings
from dpuforge.emulator.quantised_graph import QuantisedGraph


def build_quantised(
    module: nn.Module,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any] | None,
    settings: Settings,
    device: torch.device,
) -> QuantisedGraph:
    """Move the module to the device, capture it and prepare it."""
    name = type(module).__name__
    log.note(f"=>Quant Module is in '{device.type}'.")
    log.note(f"=>Parsing {name}...")
    module = module.to(device)
    if any(type(part) is nn.ReLU6 for part in module.modules()) and settings.replaces_relu6:
        log.warn("REPLACE_RELU6", "ReLU6 has been replaced by ReLU.")
    graph = capture_noted(module, arguments, keywords, device)
    if settings.equalisation:
        log.note("=>Doing weights equalization...")
    quantised = QuantisedGraph(graph, settings, log.warn)
    for kind in quantised.points.floating:
        if kind.startswith("aten::"):
            log.warn("FLOAT_OP", f"The quantizer recognize new op `{kind}` as a float operator by default.")
    return quantised


def capture_noted(
    module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any] | None, device: torch.device
) -> Graph:
    """Capture a module with the real tool's lines."""
    move = mover(device)
    log.note("Start to trace and freeze model...")
    log.note(f"The input model nndct_st_{type(module).__name__}_ed is torch.nn.Module.")
    graph = capture_graph(module, move(arguments), move(dict(keywords or {})))
    log.note("Finish tracing.")
    for line in graph.frozen:
        log.warn("", f"Python reads a tensor's value at {line}: what it decided is frozen as for the example input.")
    log.note("Processing ops...")
    return graph


def write_listing(quantised: QuantisedGraph, folder: Path) -> None:
    """Write <Network>.py, which lists the quantised graph."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / f"{quantised.graph.name}.py"
    replace_text(listing, list_graph(quantised))
    log.note(f"=>Quantizable module is generated.({listing})")
