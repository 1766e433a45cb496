"""Where tensors are quantised: one point per group of operators, on the last that computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dpuforge.emulator.graph.kinds import Group, Point
from dpuforge.emulator.graph.nodes import Graph, Node
from dpuforge.records.operator import OpKind

_RETURN = "return"
_FOLLOWING = (Point.JOINS, Point.MOVES)  # part of what comes before, where nothing else reads that


@dataclass(frozen=True)
class Points:
    """The quantisation points of a graph.

    outputs: nodes whose result is quantised, in quant_info's order (float operators that feed quantised ones last);
    point_of: for every node, the node at whose output its value gets quantised, or None;
    floating: kinds of computing operators left in float, each once;
    inputs: nodes whose inputs are quantised anew before they are read.
    """

    outputs: tuple[str, ...]
    point_of: Mapping[str, str | None]
    floating: tuple[str, ...]
    inputs: tuple[str, ...] = ()

    def __contains__(self, name: object) -> bool:
        return name in self._set

    def __post_init__(self) -> None:
        object.__setattr__(self, "_set", frozenset(self.outputs))

    _set: frozenset[str] = frozenset()


def is_compute(node: Node) -> bool:
    """Say whether a node is quantised in its own right."""
    if not node.floating or not node.in_scope:
        return False
    if "kernel" in node.attributes and node.attributes["kernel"] is None:  # an adaptive pool of uneven windows
        return False
    return node.traits.point is Point.OWN


def place_points(graph: Graph) -> Points:
    """Decide which node outputs are quantised (docs/quantizer.md, section 4)."""
    consumers = graph.consumers()
    groups = _group(graph, consumers)
    own = [name for name in _group_points(graph, groups) if not _only_feeds_concat(name, graph, consumers, groups)]
    position = {node.name: index for index, node in enumerate(graph.nodes)}
    own.sort(key=position.__getitem__)
    late = [name for name in own if _stands_late(name, graph, groups)]
    sources = _float_sources(graph, set(own), consumers)
    extra = sorted((*late, *sources), key=lambda name: _execution(name, graph, consumers, position))
    point_of = _map_points(graph, {*own, *sources}, consumers, groups)
    outputs = (*_by_first_member(graph, [name for name in own if name not in late], point_of, consumers), *extra)
    floating = dict.fromkeys(node.kind for node in graph.nodes if not _quantisable(node))
    return Points(outputs, point_of, tuple(floating))


def _by_first_member(
    graph: Graph, names: list[str], point_of: Mapping[str, str | None], consumers: Mapping[str, list[str]]
) -> list[str]:
    """Return points in the order in which the first operator that is quantised there comes.

    A reshape that a concat alone reads counts with the concat.
    """
    members: list[str | None] = []
    for node in graph.nodes:
        readers = [graph[name] for name in consumers[node.name] if name != _RETURN]
        if is_compute(node):
            members.append(point_of[node.name])
        elif node.traits.neutral is OpKind.RESHAPE and len(consumers[node.name]) == 1:
            members += [point_of[reader.name] for reader in readers if _joins_values(reader)]
    known = set(names)
    return [name for name in dict.fromkeys((*members, *names)) if name in known]


def _stands_late(name: str, graph: Graph, groups: Mapping[str, list[str]]) -> bool:
    """Say whether a point stands among those that follow the order of execution: it heads a group of its own."""
    node = graph[name]
    heads = groups[name][0] == name
    return heads and not node.is_input and (node.traits.point is Point.JOINS or _turns(node))


def _execution(
    name: str, graph: Graph, consumers: Mapping[str, list[str]], position: Mapping[str, int]
) -> tuple[int, int]:
    """Return a point's place in the order of execution; a constant stands right before its reader."""
    constant = graph[name].traits.group is Group.CONSTANT
    return (position[consumers[name][0]], 0) if constant else (position[name], 1)


def _turns(node: Node) -> bool:
    """Say whether a node is a transpose: the group of what multiplies by a matrix ends with it."""
    return node.traits.group is Group.MOVE and node.traits.point is Point.OWN and "dim0" in node.attributes


def place_typed_points(graph: Graph, every: bool) -> Points:
    """Decide the points of a run with float types: each operator's inputs and output, without groups.

    every: all operators count (activations are float), not only those that quantise integers.
    """
    inner = [node for node in graph.nodes if not node.is_input and node.in_scope]
    names = tuple(node.name for node in inner if every or is_compute(node))
    plain = place_points(graph)
    return Points(names, {node.name: node.name for node in graph.nodes}, plain.floating, names)


def _quantisable(node: Node) -> bool:
    return is_compute(node) or (node.traits.point in _FOLLOWING and node.in_scope)


def _moves(node: Node) -> bool:
    return node.traits.point is Point.MOVES


def _joins_values(node: Node) -> bool:
    """Say whether a node is a concat, whose parts share its fix position."""
    return node.traits.group is Group.JOIN


def _group(graph: Graph, consumers: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return each node's group (one shared list): compute node, activations and transparent nodes that follow it."""
    groups: dict[str, list[str]] = {}
    watched = graph.watched()
    for node in graph.nodes:
        parent = node.inputs[0].node if node.inputs else None
        alone = parent is not None and len(consumers[parent]) == 1 and parent not in watched
        group = groups[parent] if parent is not None and alone and _joins(node, graph[parent], graph, groups) else []
        group.append(node.name)
        groups[node.name] = group
    return groups


def _joins(node: Node, parent: Node, graph: Graph, groups: Mapping[str, list[str]]) -> bool:
    """Say whether a node belongs to the group of the node that it alone reads."""
    if parent.is_input or parent.begins_scope or not _quantisable(parent):
        return False
    if _turns(node):
        computing = [graph[name] for name in groups[parent.name] if not _moves(graph[name])]
        return bool(computing) and (computing[-1].traits.weighted or computing[-1].traits.group is Group.DENSE_OF_TWO)
    return node.traits.point in _FOLLOWING


def _group_points(graph: Graph, groups: Mapping[str, list[str]]) -> list[str]:
    """Return the point of every group that computes: its last node that is not transparent."""
    points = []
    for group in {id(group): group for group in groups.values()}.values():
        computing = [name for name in group if not _moves(graph[name]) and _quantisable(graph[name])]
        if computing:
            points.append(computing[-1])
    return points


def _only_feeds_concat(
    name: str, graph: Graph, consumers: Mapping[str, list[str]], groups: Mapping[str, list[str]]
) -> bool:
    """Say whether a group's value is read by one concat alone, whose fix position it then shares."""
    if _joins_values(graph[name]):
        return False
    readers = consumers[groups[name][-1]]
    return len(readers) == 1 and readers[0] != _RETURN and _joins_values(graph[readers[0]])


def _float_sources(graph: Graph, chosen: set[str], consumers: Mapping[str, list[str]]) -> set[str]:
    """Return float operators whose value a quantised operator reads."""
    found = set()
    for node in graph.nodes:
        if not is_compute(node) or node.begins_scope:  # what a QuantStub reads stays in float
            continue
        for name in node.input_names():
            source = graph[_value_source(graph, name)]
            shared = _joins_values(node) and _is_only_path(graph, name, source.name, consumers)
            if source.name not in chosen and not _quantisable(source) and source.floating and not shared:
                found.add(source.name)
    # A tuple, as attention returns it, has no step of its own.
    return found - {ref.node for node in graph.nodes for ref in node.inputs if ref.index is not None}


def _is_only_path(graph: Graph, name: str, source: str, consumers: Mapping[str, list[str]]) -> bool:
    """Say whether a value is read along one path alone: that from source to name."""
    while len(consumers[name]) == 1 and name != source:
        name = graph[name].inputs[0].node
    return len(consumers[name]) == 1


def _value_source(graph: Graph, name: str) -> str:
    """Walk back over transparent nodes to the one that computed the values."""
    while _moves(graph[name]) and graph[name].inputs:
        name = graph[name].inputs[0].node
    return name


def _map_points(
    graph: Graph, chosen: set[str], consumers: Mapping[str, list[str]], groups: Mapping[str, list[str]]
) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for node in reversed(graph.nodes):
        found[node.name] = _point_of(node.name, graph, chosen, consumers, groups, found)
    return found


def _point_of(
    name: str,
    graph: Graph,
    chosen: set[str],
    consumers: Mapping[str, list[str]],
    groups: Mapping[str, list[str]],
    found: Mapping[str, str | None],
) -> str | None:
    inside = [other for other in groups[name] if other in chosen]
    if inside:
        return inside[-1]
    readers = consumers[groups[name][-1]]
    if len(readers) == 1 and readers[0] in found and _joins_values(graph[readers[0]]):
        return found[readers[0]]
    source = _value_source(graph, name)
    if source != name and source in chosen:
        return source
    if source != name:
        return _group_choice(groups[source], chosen)
    return None


def _group_choice(group: list[str], chosen: set[str]) -> str | None:
    inside = [other for other in group if other in chosen]
    return inside[-1] if inside else None
