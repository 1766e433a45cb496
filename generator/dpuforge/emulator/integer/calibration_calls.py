"""Calls that give the same values with less memory traffic, put in place of a graph's own for calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dpuforge.emulator.arithmetic.piecewise import is_large
from dpuforge.emulator.graph.kinds import Fact
from dpuforge.emulator.graph.nodes import Call, Graph, Node
from dpuforge.emulator.integer import exact
from dpuforge.emulator.quantise.steps import FixStep, Step

Steps = Mapping[str, Step]


def economise_calls(graph: Graph, steps: Steps) -> Graph:
    """Return the graph with relus that overwrite and max pools that run on bytes.

    steps are those of node outputs; they may still change while the graph runs.
    """
    consumers = graph.consumers()
    return graph.replace_nodes(_economise(node, graph, consumers, steps) for node in graph.nodes)


def _economise(node: Node, graph: Graph, consumers: Mapping[str, list[str]], steps: Steps) -> Node:
    if len(node.inputs) != 1 or node.inputs[0].index is not None:
        return node
    source = graph[node.inputs[0].node]
    overwrites = Fact.NEW_TENSOR in source.traits.facts and len(consumers[source.name]) == 1
    if node.traits.integer == "relu" and overwrites:
        return replace(node, call=Call(torch.relu_, (node.inputs[0],)))
    if node.traits.integer == "max_pool" and len(node.shape) == 4 and len(node.shapes) <= 1:
        return replace(node, call=Call(_GridPool(node, source.name, steps), (node.inputs[0],)))
    return node


@dataclass(frozen=True)
class _GridPool:
    """A max pool that runs on bytes where its input lies on an 8-bit grid: the largest integer is the largest value."""

    node: Node
    source: str
    steps: Steps

    def __call__(self, values: torch.Tensor) -> Any:
        step = self.steps.get(self.source)
        on_grid = isinstance(step, FixStep) and step.bits == 8 and is_large(values)
        if not on_grid or not isinstance(step, FixStep) or not exact.integer_support().available:
            call = self.node.call
            return call.function(values, *call.args[1:], **call.kwargs)
        settings = self.node.attributes
        sizes = [list(settings[name]) for name in ("kernel", "stride", "padding", "dilation")]
        whole = exact.quantise_floats(values, step.fix)
        pooled = exact.max_pool(whole, sizes[0], sizes[1], sizes[2], sizes[3], bool(settings["ceil_mode"]))
        return exact.dequantise(pooled, step.fix)
