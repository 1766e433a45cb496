"""Plans how each node of a quantised network runs on integers; what the integers cannot do exactly stays in float.

A value that only passes through operators that commute with rounding (relu, clamps, max pools, concat, moves) on its
way to a quantisation point is rounded where it arises: the result is the same, and the whole path runs on bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dpuforge.emulator.graph.kinds import Fact
from dpuforge.emulator.graph.nodes import BatchSize, Graph, Node, Param, Ref, map_template
from dpuforge.emulator.integer import exact
from dpuforge.emulator.quantise.steps import FixStep, Step


@dataclass(frozen=True)
class Integers:
    """An activation as uint8 with zero point 128, a tensor or a tuple of tensors; the scale is 2**-fix."""

    values: Any
    fix: int


Values = dict[str, Any]  # by node name: Integers, or a float value
Run = Callable[[Values, int], Any]  # (values so far, batch size) -> the node's value


@dataclass(frozen=True)
class Quantised:
    """What a plan is made from: the graph, the steps in force, and its tensors, quantised parameters among them.

    own_inputs: some node quantises its inputs anew.
    """

    graph: Graph
    output: Mapping[str, Step]
    param: Mapping[str, Step]
    tensors: Mapping[str, torch.Tensor]
    own_inputs: bool = False


@dataclass(frozen=True)
class PlannedNode:
    """One node, how it runs, and whether on integers; the run of a network input finds its floats among the values."""

    node: Node
    run: Run
    on_integers: bool


@dataclass
class Placement:
    """What is known about the values while planning.

    target: the fix position at which each value is, or may be, rounded; fix: that of the values already planned as
    Integers; not_negative: values known to be at least 0; with_relu: values to which their relu was applied already.
    """

    source: Quantised
    consumers: Mapping[str, list[str]]
    target: dict[str, int]
    fix: dict[str, int] = field(default_factory=dict)
    not_negative: set[str] = field(default_factory=set)
    with_relu: set[str] = field(default_factory=set)

    def only_reader(self, name: str) -> Node | None:
        """Return the node that alone reads a value, if there is one."""
        return _only_reader(self.source.graph, self.consumers, name)

    def input_fix(self, node: Node) -> tuple[int, ...] | None:
        """Return the fix positions of a node's inputs; None unless all of them are Integers of one tensor each."""
        found = [self.fix.get(ref.node) for ref in node.inputs]
        return tuple(fix for fix in found if fix is not None) if found and None not in found else None


Builder = Callable[[Node, Placement], Run | None]


def refusal(quantised: Quantised) -> str:
    """Say why a network cannot take the integer path at all; empty if it can."""
    if not quantised.output:
        return "no activation is quantised"
    if quantised.own_inputs:
        return "a layer quantises its inputs anew"
    for name, step in quantised.output.items():
        if not isinstance(step, FixStep):
            return f"{name} has no fix position"
        if step.bits != 8:
            return f"{name} has {step.bits} bits"
    if any(tensor.device.type != "cpu" for tensor in quantised.tensors.values()):
        return "the network is not on the CPU"
    if any(tensor.dtype in (torch.float64, torch.float16, torch.bfloat16) for tensor in quantised.tensors.values()):
        return "the network is not in single precision"
    return ""


def plan_nodes(quantised: Quantised, builders: Mapping[str, Builder]) -> tuple[PlannedNode, ...]:
    """Return how every node runs, in order; a builder gives None where the integers would not be exact."""
    consumers = quantised.graph.consumers()
    place = Placement(quantised, consumers, _find_targets(quantised, consumers))
    return tuple(_plan_node(node, place, builders) for node in quantised.graph.nodes)


def as_floats(value: Any, index: int | None = None, channels_last: bool = False) -> Any:
    """Return a value of the network, or one tensor of a tuple, as floats, contiguous or channels last."""
    picked = value.values if isinstance(value, Integers) else value
    picked = picked if index is None else picked[index]
    if not isinstance(value, Integers):
        return picked
    if isinstance(picked, torch.Tensor):
        return exact.dequantise(picked, value.fix, channels_last)
    return tuple(exact.dequantise(part, value.fix) for part in picked)


def resolver(
    values: Values, tensors: Mapping[str, torch.Tensor], batch: int, channels_last: bool = False
) -> Callable[[Any], Any]:
    """Return the function that puts floats in place of a call's references."""

    def resolve(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            return as_floats(values[leaf.node], leaf.index, channels_last)
        if isinstance(leaf, Param):
            return tensors[leaf.key]
        return leaf.resolve(batch) if isinstance(leaf, BatchSize) else leaf

    return resolve


def _only_reader(graph: Graph, consumers: Mapping[str, list[str]], name: str) -> Node | None:
    readers = consumers[name]
    return graph[readers[0]] if len(readers) == 1 and readers[0] != "return" else None


def _find_targets(quantised: Quantised, consumers: Mapping[str, list[str]]) -> dict[str, int]:
    """Return every point's fix position, and for values that reach one through commuting operators alone, its own."""
    target = {name: step.fix for name, step in quantised.output.items() if isinstance(step, FixStep)}
    for node in reversed(quantised.graph.nodes):
        reader = _only_reader(quantised.graph, consumers, node.name)
        if node.name in target or reader is None or reader.name not in target:
            continue
        if Fact.COMMUTES in reader.traits.facts:
            target[node.name] = target[reader.name]
    return target


def _plan_node(node: Node, place: Placement, builders: Mapping[str, Builder]) -> PlannedNode:
    form, facts = node.traits.integer, node.traits.facts
    run = builders[form](node, place) if form else None
    kept = Fact.KEEPS_SIGN in facts and all(ref.node in place.not_negative for ref in node.inputs)
    if Fact.NOT_NEGATIVE in facts or kept or node.name in place.with_relu:
        place.not_negative.add(node.name)
    if run is not None:
        return PlannedNode(node, run, True)
    return PlannedNode(node, _run_in_float(node, place), False)


def _run_in_float(node: Node, place: Placement) -> Run:
    """Return the node's own call on floats, rounded afterwards where its value has a target."""
    target = place.target.get(node.name) if len(node.shapes) <= 1 else None
    tensors, call, any_layout = place.source.tensors, node.call, Fact.ANY_LAYOUT in node.traits.facts
    if target is not None:
        place.fix[node.name] = target

    def run(values: Values, batch: int) -> Any:
        resolve = resolver(values, tensors, batch, any_layout)
        value = call.function(*map_template(call.args, resolve), **map_template(dict(call.kwargs), resolve))
        return value if target is None else Integers(exact.quantise_floats(value, target), target)

    return run
