"""The quantised parts of a network between its stubs: each becomes an xmodel of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dpuforge.emulator.export.xmodel_builder import ExportError
from dpuforge.emulator.graph.kinds import INPUT
from dpuforge.emulator.graph.nodes import Graph, Node, Ref


def quantised_parts(graph: Graph) -> tuple[Graph, ...]:
    """Return the connected parts of what is quantised, named <Net>_0, <Net>_1; without stubs the graph as it is.

    A part's inputs are its QuantStubs, its outputs what a DeQuantStub reads or the network returns.
    Raises ExportError where a part reads a float value past the QuantStubs.
    """
    if not graph.has_stubs:
        return (graph,)
    parts: dict[str, list[Node]] = {}
    for name, leader in _leaders(graph).items():
        parts.setdefault(leader, []).append(graph[name])
    return tuple(_part(graph, nodes, f"{graph.name}_{number}") for number, nodes in enumerate(parts.values()))


def _leaders(graph: Graph) -> Mapping[str, str]:
    """Return, for each quantised node in order, the first node of its part."""
    leader: dict[str, str] = {}
    for node in (node for node in graph.nodes if node.in_scope):
        leader[node.name] = node.name
        joined = [leader[name] for name in ([] if node.begins_scope else node.input_names()) if name in leader]
        if joined:
            first = min(joined, key=list(leader).index)
            leader.update({name: first for name, old in leader.items() if old in joined or name == node.name})
    return leader


def _part(graph: Graph, nodes: list[Node], name: str) -> Graph:
    inside = {node.name for node in nodes}
    made, count = [], 0
    for node in nodes:
        if node.begins_scope:
            made.append(replace(node, kind=INPUT, inputs=(), attributes={}, call=replace(node.call, args=(count,))))
            count += 1
            continue
        outside = [source for source in node.input_names() if source not in inside]
        if outside:
            message = f"{node.name} reads {outside[0]}, which is not quantised"
            raise ExportError(message, "put a QuantStub before every value that enters the quantised part")
        made.append(node)
    readers = graph.consumers()
    left = [node.name for node in nodes if any(reader not in inside for reader in readers[node.name])]
    return replace(graph, name=name, nodes=tuple(made), outputs=tuple(Ref(name) for name in left))
