"""The layers of a quantised network as a diagnosis sees them: what is quantised together, under the user's names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dpuforge.emulator.graph.kinds import Point, plain_name
from dpuforge.emulator.graph.nodes import Node
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.errors import UsageError


@dataclass(frozen=True)
class Layer:
    """One operator with all that quantisation does to it.

    name, kind: the node that computes and its kind without the prefix "nndct_"; module: its path in the user's
    network; point: the node whose result is rounded (a relu after it, say), None where a later concat rounds it;
    parameters: (role, key) of its rounded parameters.
    """

    name: str
    kind: str
    module: str
    point: str | None
    parameters: tuple[tuple[str, str], ...]

    @property
    def label(self) -> str:
        """What a person calls it: the module's path, or the node's own name where a function made it."""
        return self.module or self.name.rpartition("::")[2]


def list_layers(network: QuantisedGraph) -> tuple[Layer, ...]:
    """Return the layers of a calibrated network in execution order."""
    owners = {_owner(network, point): point for point in network.points.outputs if point in network.steps.output}
    layers = (_describe(network, node, owners.get(node.name)) for node in network.graph.nodes)
    return tuple(
        layer for layer in layers if layer.point is not None or layer.parameters or layer.name in network.steps.input
    )


def _owner(network: QuantisedGraph, point: str) -> str:
    """Walk back from a point over the activations of its group to the operator that computes."""
    graph, point_of = network.graph, network.points.point_of
    node = graph[point]
    joined = (Point.JOINS, Point.MOVES)
    while node.traits.point in joined and node.inputs and point_of[node.inputs[0].node] == point:
        node = graph[node.inputs[0].node]
    return node.name


def _describe(network: QuantisedGraph, node: Node, point: str | None) -> Layer:
    rounded = tuple((role, key) for role, key in node.parameters.items() if key in network.steps.param)
    return Layer(node.name, plain_name(node.kind), node.module_path, point, rounded)


def choose_layers(layers: Sequence[Layer], wanted: Iterable[str]) -> tuple[Layer, ...]:
    """Return the layers with these names or module paths, in execution order; a name that fits none is an error."""
    names = tuple(wanted)
    for name in names:
        if not any(name in (layer.name, layer.module) for layer in layers):
            known = ", ".join(layer.label for layer in layers)
            raise UsageError(f"no quantised layer is called {name!r}", f"choose among: {known}")
    return tuple(layer for layer in layers if layer.name in names or layer.module in names)
