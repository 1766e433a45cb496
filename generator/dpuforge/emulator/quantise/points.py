"""Where tensors are quantised: one point per group of operators, on the last that computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dpuforge.emulator.graph.nodes import Graph, Node


def _kinds(text: str) -> frozenset[str]:
    return frozenset(f"nndct_{word}" for word in text.split())


PARAMETRIC = _kinds(
    "conv1d conv2d conv3d depthwise_conv2d conv_transpose_1d conv_transpose_2d conv_transpose_3d "
    "depthwise_conv_transpose_2d dense batch_norm"
)
# Quantised on their own.
COMPUTE = PARAMETRIC | _kinds(
    "input elemwise_add elementwise_sub elemwise_mul maxpool maxpool1d avgpool adaptive_avg_pool2d concat resize "
    "hswish hsigmoid softmax transpose"
)
# Part of what comes before when that has no other reader; with several readers, a group of their own.
ACTIVATIONS = _kinds("relu relu6 reluk leaky_relu hardtanh clamp prelu")
# Move values without changing them: never a point; what they move carries it.
TRANSPARENT = _kinds(
    "flatten reshape squeeze unsqueeze strided_slice split chunk unbind permute pixel_shuffle pixel_unshuffle "
    "channel_shuffle narrow unflatten clone expand"
)
_RETURN = "return"


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
    if not node.floating:
        return False
    if node.kind == "nndct_adaptive_avg_pool2d":
        return node.attributes["kernel"] is not None
    if "constant" in node.attributes and node.kind.startswith("nndct_elem"):
        return False
    return node.kind in COMPUTE


def place_points(graph: Graph) -> Points:
    """Decide which node outputs are quantised (docs/quantizer.md, section 4)."""
    consumers = graph.consumers()
    groups = _group(graph, consumers)
    own = [name for name in _group_points(graph, groups) if not _only_feeds_concat(name, graph, consumers, groups)]
    position = {node.name: index for index, node in enumerate(graph.nodes)}
    own.sort(key=position.__getitem__)
    chosen = set(own)
    extra = sorted(_float_sources(graph, chosen, consumers, groups), key=position.__getitem__)
    outputs = (*own, *extra)
    known = COMPUTE | ACTIVATIONS | TRANSPARENT
    floating = dict.fromkeys(node.kind for node in graph.nodes if node.kind not in known or not _quantisable(node))
    return Points(outputs, _map_points(graph, set(outputs), consumers, groups), tuple(floating))


def place_typed_points(graph: Graph, every: bool) -> Points:
    """Decide the points of a run with float types: each operator's inputs and output, without groups.

    every: all operators count (activations are float), not only those that quantise integers.
    """
    inner = [node for node in graph.nodes if node.kind != "nndct_input"]
    names = tuple(node.name for node in inner if every or is_compute(node))
    plain = place_points(graph)
    return Points(names, {node.name: node.name for node in graph.nodes}, plain.floating, names)


def _quantisable(node: Node) -> bool:
    return is_compute(node) or node.kind in ACTIVATIONS or node.kind in TRANSPARENT


def _group(graph: Graph, consumers: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return each node's group (one shared list): compute node, activations and transparent nodes that follow it."""
    groups: dict[str, list[str]] = {}
    for node in graph.nodes:
        joins = node.kind in ACTIVATIONS or node.kind in TRANSPARENT
        parent = node.inputs[0].node if node.inputs else None
        if joins and parent is not None and len(consumers[parent]) == 1 and _can_be_joined(graph[parent]):
            group = groups[parent]
        else:
            group = []
        group.append(node.name)
        groups[node.name] = group
    return groups


def _can_be_joined(parent: Node) -> bool:
    return parent.kind != "nndct_input" and _quantisable(parent)


def _group_points(graph: Graph, groups: Mapping[str, list[str]]) -> list[str]:
    """Return the point of every group that computes: its last node that is not transparent."""
    points = []
    for group in {id(group): group for group in groups.values()}.values():
        computing = [name for name in group if graph[name].kind not in TRANSPARENT and _quantisable(graph[name])]
        if computing:
            points.append(computing[-1])
    return points


def _only_feeds_concat(
    name: str, graph: Graph, consumers: Mapping[str, list[str]], groups: Mapping[str, list[str]]
) -> bool:
    """Say whether a group's value is read by one concat alone, whose fix position it then shares."""
    readers = consumers[groups[name][-1]]
    return len(readers) == 1 and readers[0] != _RETURN and graph[readers[0]].kind == "nndct_concat"


def _float_sources(
    graph: Graph, chosen: set[str], consumers: Mapping[str, list[str]], groups: Mapping[str, list[str]]
) -> set[str]:
    """Return float operators whose value a quantised operator reads."""
    found = set()
    for node in graph.nodes:
        if not is_compute(node):
            continue
        for name in node.input_names():
            source = graph[_value_source(graph, name)]
            if source.name not in chosen and not _quantisable(source) and source.floating:
                found.add(source.name)
    # A tuple, as attention returns it, has no step of its own.
    return found - {ref.node for node in graph.nodes for ref in node.inputs if ref.index is not None}


def _value_source(graph: Graph, name: str) -> str:
    """Walk back over transparent nodes to the one that computed the values."""
    while graph[name].kind in TRANSPARENT and graph[name].inputs:
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
    if len(readers) == 1 and readers[0] in found and graph[readers[0]].kind == "nndct_concat":
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
