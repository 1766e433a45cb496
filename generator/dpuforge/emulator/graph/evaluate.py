"""Runs a graph node by node, forgetting each value after its last reader: for float, calibration and test runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from dpuforge.emulator.graph.nodes import BatchSize, Graph, Node, Param, Ref, map_template

Values = dict[str, Any]
After = Callable[[Node, Any, Values], Any]
Before = Callable[[Node, Values], Values]


class Evaluator:
    """Evaluates one graph.

    before(node, values) returns the values that a node's call reads; after(node, value, values) may replace its result.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._dying = last_readers(graph)

    def run(
        self,
        inputs: Sequence[torch.Tensor],
        tensors: Mapping[str, torch.Tensor],
        after: After | None = None,
        before: Before | None = None,
    ) -> Any:
        """Return the network's outputs for these inputs, with these tensors as parameters."""
        values: Values = {}
        batch = int(inputs[0].shape[0]) if inputs and inputs[0].dim() else 1
        for position, node in enumerate(self.graph.nodes):
            read = values if before is None else before(node, values)
            if node.is_input:
                value: Any = inputs[node.call.args[0]]
            else:
                value = call_node(node, read, tensors, batch)
            values[node.name] = value if after is None else after(node, value, read)
            for name in self._dying[position]:
                del values[name]
        return map_template(self.graph.outputs, _resolver(values, tensors, batch))


def last_readers(graph: Graph) -> list[list[str]]:
    """Return, per position, the values nobody reads afterwards."""
    last = {node.name: position for position, node in enumerate(graph.nodes)}
    for position, node in enumerate(graph.nodes):
        for name in node.input_names():
            last[name] = position
    kept = {ref.node for ref in graph.output_refs}
    dying: list[list[str]] = [[] for _ in graph.nodes]
    for name, position in last.items():
        if name not in kept:
            dying[position].append(name)
    return dying


def _resolver(values: Values, tensors: Mapping[str, torch.Tensor], batch: int) -> Callable[[Any], Any]:
    def resolve(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            value = values[leaf.node]
            return value if leaf.index is None else value[leaf.index]
        if isinstance(leaf, Param):
            return tensors[leaf.key]
        return leaf.resolve(batch) if isinstance(leaf, BatchSize) else leaf

    return resolve


def call_node(node: Node, values: Values, tensors: Mapping[str, torch.Tensor], batch: int) -> Any:
    """Return what a node's call gives for the values computed so far."""
    resolve = _resolver(values, tensors, batch)
    args = map_template(node.call.args, resolve)
    kwargs = map_template(dict(node.call.kwargs), resolve)
    return node.call.function(*args, **kwargs)
