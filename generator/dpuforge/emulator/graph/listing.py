"""A graph as the real tool lists it: its nodes in topological order, their types, names and numbers, and the digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dpuforge.emulator.graph.kinds import CONST, INPLACE_TYPES, OPAQUE_TYPES, Fact
from dpuforge.emulator.graph.shadows import Shadow

Node = Any  # a node of the graph below


class Graph(Protocol):
    """What is listed of a network: its name, its executed nodes, its shadows, and what it returns."""

    @property
    def name(self) -> str: ...

    @property
    def nodes(self) -> tuple[Any, ...]: ...

    @property
    def shadows(self) -> tuple[Shadow, ...]: ...

    @property
    def output_refs(self) -> tuple[Any, ...]: ...

    @property
    def constants(self) -> tuple[str, ...]: ...


RETURN = "nndct_return"


@dataclass(frozen=True)
class Listed:
    """One node of the tool's graph: its name, its type there, and the names of what it reads, in order."""

    name: str
    type: str
    inputs: tuple[str, ...]


def tool_type(node: Node) -> str:
    """Return a node's type in the tool's files."""
    kind: str = node.traits.tool or OPAQUE_TYPES.get(node.kind, node.kind)
    if len(node.shapes) > 1 and Fact.EXTREME in node.traits.facts:  # over a dimension: values and indices
        return kind.replace("aten::", "nndct_")
    if node.inplace:
        return f"{kind}_" if "::" in kind else INPLACE_TYPES.get(kind, kind)
    return kind


def list_nodes(graph: Graph) -> tuple[Listed, ...]:
    """Return every node of the tool's graph in the order of its numbers: constants, inputs, operators, the return."""
    shadows = _read_shadows(graph)
    constants = [
        *(
            (node.trace_index, node.attributes.get("tensor", False), node.name)
            for node in graph.nodes
            if _is_const(node)
        ),
        *((shadow.position, bool(shadow.before), shadow.name) for shadow in shadows if shadow.kind == CONST),
    ]
    ranks = {name: rank for rank, name in enumerate(graph.constants)}
    in_order = sorted(constants, key=lambda row: (ranks.get(row[2], 0), row[1], row[0]))
    first = [Listed(name, CONST, ()) for _, _, name in in_order]
    body = _merge([node for node in graph.nodes if not _is_const(node)], [s for s in shadows if s.kind != CONST])
    last = Listed(f"{graph.name}::return_0", RETURN, tuple(ref.node for ref in graph.output_refs))
    return (*first, *body, last)


def order_constants(graph: Graph, rows: Iterable[str]) -> tuple[str, ...]:
    """Return the graph's constants in the order in which another calibration of the same network numbered them.

    rows: the names of a quant_info.json's table output. They stand in the order of execution, so that the first
    constant among them is the first that is read here. Empty where that says nothing new. (The real tool numbers
    scalar constants in an order that no recording explains beyond two of them: docs/quantizer.md, section 15.)
    """
    names = number_names(graph)
    theirs = [name for name in rows if name.startswith(f"{graph.name}::{CONST}_")]
    read = [node.name for node in graph.nodes if _is_const(node) and names[node.name] in theirs]
    if len(read) != len(theirs) or [names[name] for name in read] == theirs:
        return ()
    renamed = dict(zip(read, theirs, strict=True))
    all_constants = [listed.name for listed in list_nodes(graph) if listed.type == CONST]
    return tuple(sorted(all_constants, key=lambda name: _read_number(renamed.get(name, names[name]))))


def count_scalars(graph: Graph) -> int:
    """Return how many scalar constants the graph has."""
    return sum(_is_const(node) and not node.attributes.get("tensor", False) for node in graph.nodes)


def _read_number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _is_const(node: Node) -> bool:
    return bool(node.kind == CONST)


def _read_shadows(graph: Graph) -> list[Shadow]:
    """Return the shadows that something reads, in the order in which they were made."""
    wanted = {name for node in graph.nodes for name in node.shadow_inputs}
    kept = []
    for shadow in reversed(graph.shadows):
        if shadow.name in wanted:
            wanted.update(shadow.inputs)
            kept.append(shadow)
    return kept[::-1]


def watched_nodes(graph: Graph) -> frozenset[str]:
    """Return the names of what the shadows that are read themselves read."""
    return frozenset(name for shadow in _read_shadows(graph) for name in shadow.inputs)


def _merge(nodes: Iterable[Node], shadows: Iterable[Shadow]) -> Iterator[Listed]:
    """Put each shadow before the operator that was recorded after it."""
    waiting = list(shadows)
    for node in nodes:
        due = [shadow for shadow in waiting if _is_due(shadow, node)]
        waiting = [shadow for shadow in waiting if shadow not in due]
        yield from (Listed(shadow.name, shadow.kind, shadow.inputs) for shadow in due)
        yield Listed(node.name, tool_type(node), (*node.input_names(), *node.shadow_inputs))
    yield from (Listed(shadow.name, shadow.kind, shadow.inputs) for shadow in waiting)


def _is_due(shadow: Shadow, node: Node) -> bool:
    if shadow.before:
        return bool(shadow.before == node.name)
    return bool(not node.is_input and node.trace_index >= shadow.position)


def number_names(graph: Graph) -> dict[str, str]:
    """Return quant_info.json's name per node, "<Net>::<type>_<number>", shadows and the return node included."""
    return {
        listed.name: f"{graph.name}::{re.sub('[^0-9A-Za-z_]+', '_', listed.type)}_{number}"
        for number, listed in enumerate(list_nodes(graph))
    }


def graph_digest(graph: Graph) -> str:
    """Return graph_md5: the digest of the types of all nodes and of what each reads and is read by."""
    listed = list_nodes(graph)
    types = {node.name: node.type for node in listed}
    readers: dict[str, list[str]] = {node.name: [] for node in listed}
    for node in (listed[-1], *listed[:-1]):  # as recorded, an output's return comes before its other readers
        for name in node.inputs:
            readers[name].append(node.type)
    nodes = [
        {"op": node.type, "input_ops": [types[name] for name in node.inputs], "output_ops": readers[node.name]}
        for node in listed
    ]
    text = json.dumps({"nodes": nodes}, indent=2, separators=(",", ": "))
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def describe_types(graph: Graph) -> Mapping[str, str]:
    """Return the tool's type of every node by name."""
    return {listed.name: listed.type for listed in list_nodes(graph)}
