"""A captured network -> the operators that its xmodel will hold, without weights and before anything is quantised.

The network goes the way of every export, on shapes alone, so that what is foreseen is what will be written: the same
preparation, points and lowering, and the same reader that preflight puts between the file and the hardware model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from dpuforge.emulator.export.lower_network import Lowered, lower_graph
from dpuforge.emulator.graph.kinds import Group, Point
from dpuforge.emulator.graph.nodes import Graph, Node
from dpuforge.emulator.prepare.passes import PrepareOptions, prepare_graph
from dpuforge.emulator.quantise.points import place_points
from dpuforge.records.operator import Operator, OpKind
from dpuforge.xmodel.integers.stand_ins import find_stops
from dpuforge.xmodel.neutral import Translated, translate


@dataclass(frozen=True)
class _Foreseen:
    """A network of which only shapes are known, as the exporter sees it: every point is there, its position is not."""

    graph: Graph
    param: Mapping[str, tuple[int, int]]
    output: Mapping[str, tuple[int, int]]

    @property
    def fix(self) -> _Foreseen:
        """The positions, all of them 0."""
        return self

    def quantised_parameter(self, key: str) -> torch.Tensor:
        """Return a parameter without its data."""
        return self.graph.tensors[key]


def foresee_operators(graph: Graph, options: PrepareOptions | None = None) -> tuple[Operator, ...]:
    """Return the operators of the xmodel that a captured network will be written to, in execution order.

    options say what the quantizer rewrites on the way (default: what every network goes through). What preparation
    drops (a batch norm that is folded, dropout) is listed where it stood. `stop` is set where a run would stop.
    """
    meta = replace(graph, batch=1, tensors={key: tensor.to("meta") for key, tensor in graph.tensors.items()})
    with torch.no_grad():
        prepared = prepare_graph(meta, _without_values(options or PrepareOptions(equalisation=False)))
        lowered = lower_graph(_stand_in(prepared), collect=True)
    return _Naming(graph, prepared, lowered).run()


def _without_values(options: PrepareOptions) -> PrepareOptions:
    """Equalisation changes values alone; of its effects only the relus that it converts can be seen."""
    converts = options.relu6_to_relu or options.equalisation
    return replace(options, equalisation=False, relu6_to_relu=converts)


def _stand_in(graph: Graph) -> _Foreseen:
    keys = (key for node in graph.nodes if node.traits.parametric for key in node.parameters.values())
    points = place_points(graph)
    return _Foreseen(graph, dict.fromkeys(keys, (8, 0)), dict.fromkeys(points.outputs, (8, 0)))


class _Naming:
    """Gives the operators of the xmodel the names, modules and lines of the network, and puts back what was dropped."""

    def __init__(self, captured: Graph, prepared: Graph, lowered: Lowered) -> None:
        self._captured, self._prepared, self._lowered = captured, prepared, lowered
        self._translated: Translated = translate(lowered.graph)
        self._names = _operator_names(self._translated, lowered)
        self._stops = find_stops(lowered.graph)
        self._nodes = {**captured.index, **prepared.index}
        self._readers = captured.consumers()

    def run(self) -> tuple[Operator, ...]:
        """Return all operators."""
        found = {self._names[operator.name]: self._named(operator) for operator in self._translated.operators}
        dropped: dict[str, list[str]] = {}
        for node in self._captured.nodes:
            if node.name not in self._prepared.index and _vanishes(node):
                self._put_back(found, dropped, node)
        return tuple(_in_order(found, dropped))

    def _named(self, operator: Operator) -> Operator:
        node = self._nodes[self._lowered.origins[operator.name][0]]
        refusal = self._lowered.refusals.get(node.name)
        stop = refusal.message if refusal is not None else self._stop(operator.name)
        name = self._names[operator.name]
        return replace(
            operator,
            name=name,
            inputs=tuple(self._names[source] for source in operator.inputs),
            label=node.kind if name == node.name else operator.label,
            module=node.module_path,
            source=node.source,
            stop=stop,
        )

    def _stop(self, name: str) -> str:
        """Return why an operator, or an op that it stands for, could not be run."""
        if not self._stops:
            return ""
        aliases = [op for op, source in self._translated.alias.items() if source == name]
        return next((self._stops[op] for op in (name, *aliases) if op in self._stops), "")

    def _standing(self, name: str) -> str:
        """Return the name of the operator that holds a node's value."""
        op = self._lowered.values.get(name, "")
        return self._names.get(self._translated.alias.get(op, op), name)

    def _put_back(self, found: dict[str, Operator], dropped: dict[str, list[str]], node: Node) -> None:
        """List a dropped node behind the operator whose value it passed on; its readers read it again."""
        given = node.inputs[0].node if node.inputs else ""
        source = given if given in found else self._standing(given)
        if source not in found:
            return
        shape = found[source].out_shape
        operator = Operator(node.name, OpKind.IDENTITY, (source,), (shape,), shape, label=node.kind)
        for reader in self._readers[node.name]:
            if reader in found:
                found[reader] = _reading(found[reader], source, node.name)
        found[node.name] = replace(operator, module=node.module_path, source=node.source)
        dropped.setdefault(source, []).append(node.name)


def _in_order(found: Mapping[str, Operator], dropped: Mapping[str, list[str]]) -> Iterator[Operator]:
    """Yield the operators, what was dropped behind each right after it."""
    behind = {name for names in dropped.values() for name in names}
    waiting = [name for name in found if name not in behind][::-1]
    while waiting:
        name = waiting.pop()
        yield found[name]
        waiting += dropped.get(name, [])[::-1]


def _vanishes(node: Node) -> bool:
    folded = node.traits.group is Group.NORMALISATION and node.traits.parametric
    return node.traits.point is Point.DROPPED or folded


def _reading(operator: Operator, old: str, new: str) -> Operator:
    return replace(operator, inputs=tuple(new if name == old else name for name in operator.inputs))


def _operator_names(translated: Translated, lowered: Lowered) -> dict[str, str]:
    """Return the operators' names: the node's for the one operator that a node became, else that before spelling."""
    names = [operator.name for operator in translated.operators]
    count = Counter(lowered.origins[name][0] for name in names)
    chosen = dict(_choose(names, count, lowered))
    taken = Counter(chosen.values())
    return {name: (plain if taken[plain] == 1 else name) for name, plain in chosen.items()}


def _choose(names: list[str], count: Mapping[str, int], lowered: Lowered) -> Iterator[tuple[str, str]]:
    for name in names:
        node, plain = lowered.origins[name]
        yield name, node if count[node] == 1 else plain
