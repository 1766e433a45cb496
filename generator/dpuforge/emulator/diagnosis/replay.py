"""Runs many mixtures of float and quantised layers in one pass over the graph, computing every shared value once.

A mixture is the set of the layers that are quantised, as a bit mask. Two mixtures share a node's value when they
agree on all layers upstream of it, so what is computed is the float network once, the quantised network once, and for
each further mixture only the nodes downstream of the layer in which it differs. The walk goes down the graph with all
mixtures side by side: only the values still to be read are held, not the activations of whole networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from dpuforge.emulator.diagnosis.layers import Layer
from dpuforge.emulator.graph.evaluate import call_node, last_readers
from dpuforge.emulator.graph.kinds import Group
from dpuforge.emulator.graph.nodes import BatchSize, Node, Param, Ref, leaves, map_template
from dpuforge.emulator.quantise.steps import apply_step
from dpuforge.emulator.quantised_graph import QuantisedGraph

Mixture = int
ByMask = dict[Mixture, Any]
# observe(node, values before rounding, values after), both by the mask of quantised layers upstream.
Observe = Callable[[Node, ByMask, ByMask], None]

_FLOAT_BYTES = 4
_ELEMENT_COST = 16  # one element moved through memory costs about as much as this many multiply-adds (x86, AVX2)
_ROUNDING_COST = 5 * _ELEMENT_COST  # scale, floor, compare, add, clamp, scale back


class Replay:
    """A calibrated network, ready to be run as any mixture of float and quantised layers.

    original: the float tensors to compare with, where they are not those that are quantised (after fast_finetune).
    """

    def __init__(
        self, network: QuantisedGraph, layers: Sequence[Layer], original: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self.network = network
        self.exact = network.graph.tensors if original is None else {**network.graph.tensors, **original}
        self.layers = tuple(layers)
        self.float: Mixture = 0
        self.quantised: Mixture = (1 << len(layers)) - 1
        self._bit_of_point = {layer.point: 1 << i for i, layer in enumerate(layers) if layer.point is not None}
        self._bit_of_node = {
            layer.name: 1 << i
            for i, layer in enumerate(layers)
            if layer.parameters or layer.name in network.steps.input
        }
        keys = [key for layer in layers for _, key in layer.parameters]
        self._tensors = {**network.graph.tensors, **{key: network.quantised_parameter(key) for key in keys}}
        self._before: dict[str, Mixture] = {}
        self._after: dict[str, Mixture] = {}
        self._mark_reach()
        self._dying = last_readers(network.graph)

    def _mark_reach(self) -> None:
        """Note, per node, which layers its value depends on, before and after its own rounding."""
        for node in self.network.graph.nodes:
            reach = self._bit_of_node.get(node.name, 0)
            for name in node.input_names():
                reach |= self._after[name]
            self._before[node.name] = reach
            self._after[node.name] = reach | self._bit_of_point.get(node.name, 0)

    def exact_parameter(self, key: str) -> torch.Tensor:
        """Return a parameter as it would be without rounding and fine-tuning, its bias correction included."""
        corrections = self.network.corrections
        return self.exact[key] - corrections[key] if key in corrections else self.exact[key]

    def alone(self, layer: Layer) -> Mixture:
        """Return the mixture in which only this layer is quantised."""
        return 1 << self.layers.index(layer)

    def without(self, layer: Layer) -> Mixture:
        """Return the mixture in which only this layer is left in float."""
        return self.quantised & ~self.alone(layer)

    @torch.no_grad()
    def run(
        self, inputs: Sequence[torch.Tensor], mixtures: Sequence[Mixture], observe: Observe | None = None
    ) -> list[tuple[torch.Tensor, ...]]:
        """Return the network's output tensors for every mixture; the quantised one's bits are those of a test run."""
        values: dict[str, ByMask] = {}
        batch = int(inputs[0].shape[0])
        for position, node in enumerate(self.network.graph.nodes):
            before = self._compute(node, inputs, values, mixtures, batch)
            after = self._round(node, before, mixtures)
            if observe is not None:
                observe(node, before, after)
            values[node.name] = after
            for name in self._dying[position]:
                del values[name]
        return [self._outputs(values, mixture, batch) for mixture in mixtures]

    def _compute(
        self,
        node: Node,
        inputs: Sequence[torch.Tensor],
        values: Mapping[str, ByMask],
        mixtures: Sequence[Mixture],
        batch: int,
    ) -> ByMask:
        if node.is_input:
            return {0: inputs[node.call.args[0]]}
        own = self._bit_of_node.get(node.name, 0)
        results = {}
        for mask in _distinct(mixtures, self._before[node.name]):
            read = {name: values[name][mask & self._after[name]] for name in node.input_names()}
            if mask & own:
                results[mask] = call_node(node, self._round_inputs(node, read), self._tensors, batch)
            else:
                results[mask] = call_node(node, read, self.exact, batch)
        return results

    def _round_inputs(self, node: Node, read: dict[str, Any]) -> dict[str, Any]:
        """Round what a node reads where it has input steps of its own (CPU and GPU targets, mixed bit widths)."""
        for ref, step in zip(node.inputs, self.network.steps.input.get(node.name, ()), strict=False):
            rule, value = self.network.input_rule(node), read[ref.node]
            if ref.index is None:
                read[ref.node] = apply_step(value, step, rule)
            else:
                part = apply_step(value[ref.index], step, rule)
                read[ref.node] = (*value[: ref.index], part, *value[ref.index + 1 :])
        return read

    def _round(self, node: Node, before: ByMask, mixtures: Sequence[Mixture]) -> ByMask:
        bit = self._bit_of_point.get(node.name, 0)
        if not bit:
            return before
        step, rule = self.network.steps.output[node.name], self.network.rule("activation", node)
        reach = self._before[node.name]
        return {
            mask: apply_step(before[mask & reach], step, rule) if mask & bit else before[mask & reach]
            for mask in _distinct(mixtures, self._after[node.name])
        }

    def _outputs(self, values: Mapping[str, ByMask], mixture: Mixture, batch: int) -> tuple[torch.Tensor, ...]:
        def resolve(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                value = values[leaf.node][mixture & self._after[leaf.node]]
                return value if leaf.index is None else value[leaf.index]
            if isinstance(leaf, Param):
                return self.network.graph.tensors[leaf.key]
            return leaf.resolve(batch) if isinstance(leaf, BatchSize) else leaf

        found = leaves(map_template(self.network.graph.outputs, resolve))
        return tuple(leaf for leaf in found if isinstance(leaf, torch.Tensor))

    # -- what it costs -----------------------------------------------------------------------------------------

    def cost(self, mixtures: Sequence[Mixture]) -> float:
        """Return the work of a run in forward passes of the float network over as many images (an estimate)."""
        return sum(
            share * len(_distinct(mixtures, self._before[name]))
            + rounding * sum(bool(mask & self._bit_of_point.get(name, 0)) for mask in _distinct(mixtures, reach))
            for name, (share, rounding) in self._shares.items()
            for reach in [self._after[name]]
        )

    def downstream_cost(self, layer: Layer) -> float:
        """Return the work of the two mixtures that tell this layer's sensitivity, in forward passes."""
        bit, cost = self.alone(layer), 0.0
        for name, (share, rounding) in self._shares.items():
            cost += 2 * share * bool(self._before[name] & bit)
            cost += rounding * bool(self._after[name] & bit) * (name in self._bit_of_point)
        return cost

    @cached_property
    def _shares(self) -> Mapping[str, tuple[float, float]]:
        """Every node's share of a forward pass, and what rounding its result costs in the same unit."""
        nodes = self.network.graph.nodes
        costs = {node.name: self._node_cost(node) for node in nodes}
        whole = sum(costs.values())
        return {node.name: (costs[node.name] / whole, _ROUNDING_COST * _elements(node) / whole) for node in nodes}

    def _node_cost(self, node: Node) -> float:
        """Multiply-adds of a node, and its elements' way through memory."""
        moved = _ELEMENT_COST * _elements(node)
        weight = self.network.graph.tensors.get(node.parameters.get("weight", ""))
        if weight is None or not node.shape:
            return moved
        if node.traits.group is Group.TRANSPOSED:
            source = self.network.graph[node.inputs[0].node]
            return moved + _elements(source) / source.shape[1] * weight.numel()
        channels = node.shape[-1] if node.traits.group is Group.DENSE else node.shape[1]
        return moved + _elements(node) / channels * weight.numel()

    def bytes_per_image(self, mixtures: Sequence[Mixture]) -> float:
        """Return the most memory that values take at once, per image of the batch."""
        graph = self.network.graph
        held, most = 0.0, 0.0
        size = {
            node.name: _FLOAT_BYTES * _elements(node) * len(_distinct(mixtures, self._after[node.name]))
            for node in graph.nodes
        }
        for position, node in enumerate(graph.nodes):
            held += size[node.name]
            most = max(most, held)
            held -= sum(size[name] for name in self._dying[position])
        return most / max(graph.batch, 1)


def _distinct(mixtures: Sequence[Mixture], reach: Mixture) -> tuple[Mixture, ...]:
    """Return the different masks that the mixtures show to a node that depends on the layers of reach."""
    return tuple(dict.fromkeys(mixture & reach for mixture in mixtures))


def _elements(node: Node) -> int:
    shapes = node.shapes or (node.shape,)
    return sum(int(torch.Size(shape).numel()) for shape in shapes)
