"""The float network that a quantised one began as, captured anew: to compare with after fast_finetune, to try on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from dpuforge.emulator.diagnosis.sensitivity import Inputs
from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.graph.nodes import Graph
from dpuforge.emulator.prepare.passes import prepare_graph
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.errors import UserError

_SAME = 1e-4  # of the largest value: folding on another device differs by less, fine-tuning moves weights by more


@dataclass(frozen=True)
class Original:
    """The float module's graph, or why there is none; tensors: its prepared ones, where fine-tuning moved any."""

    captured: Graph | None = None
    tensors: Mapping[str, torch.Tensor] | None = None
    problem: str = "the float network was not given"


def find_original(network: QuantisedGraph, module: nn.Module | None, inputs: Inputs) -> Original:
    """Capture the float module that a network was made from, and compare its weights with the network's."""
    if module is None:
        return Original()
    try:
        captured = capture_graph(module, tuple(part[:1] for part in inputs))
    except UserError as error:
        return Original(problem=f"the float network cannot be captured ({error})")
    prepared = prepare_graph(captured, network.settings.prepare_options())
    return Original(captured, _moved_tensors(network.graph, prepared), "")


def _moved_tensors(graph: Graph, prepared: Graph) -> Mapping[str, torch.Tensor] | None:
    """Return the float module's tensors under the network's names; None where they are the same, or do not fit."""
    keys = {key for node in graph.nodes for key in node.parameters.values()}
    known = {key.partition("::")[2]: tensor for key, tensor in prepared.tensors.items()}
    found = {key: known[key.partition("::")[2]] for key in keys if key.partition("::")[2] in known}
    if len(found) < len(keys) or any(found[key].shape != graph.tensors[key].shape for key in keys):
        return None
    moved = any(_differs(graph.tensors[key], found[key].to(graph.tensors[key].device)) for key in keys)
    return {key: tensor.to(graph.tensors[key].device) for key, tensor in found.items()} if moved else None


def _differs(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not other.numel():
        return False
    return float((one - other).abs().max()) > _SAME * float(other.abs().max())
