"""Ops -> whole Graph: adds the root subgraph and the dictionary of op definitions that AMD's tools write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

from dpuforge.xmodel.nouns import (
    ArgumentDefinition,
    Attribute,
    AttributeDefinition,
    Attributes,
    DataType,
    Graph,
    Kind,
    Op,
    OpDefinition,
    SubGraph,
)
from dpuforge.xmodel.read import check_graph

REPEATED = 2


def assemble_graph(name: str, ops: Iterable[Op], attrs: Attributes | None = None) -> Graph:
    """Return a Graph of `ops` with the root subgraph that lists them and the definitions of every op type.

    Raises FormatError where names repeat, an input does not exist or ops wait for each other.
    """
    ops = tuple(ops)
    custom = sorted({op.type for op in ops} - {definition.name for definition in known_definitions()})
    inputs = {op.type: tuple(arg.name for arg in op.args) for op in ops}
    graph = Graph(
        name=name,
        ops=ops,
        root=SubGraph("root", tuple(op.name for op in ops)),
        attrs=attrs or {},
        definitions=known_definitions() + tuple(_custom_definition(kind, inputs[kind]) for kind in custom),
    )
    check_graph(graph)
    return graph


@cache
def known_definitions() -> tuple[OpDefinition, ...]:
    """Return the 106 definitions of XIR 3.5, in its order, without their prose."""
    text = resources.files(__package__).joinpath("op_definitions.json").read_text(encoding="utf-8")
    return tuple(_definition(row) for row in json.loads(text))


def _definition(row: dict[str, Any]) -> OpDefinition:
    args = tuple(ArgumentDefinition(name, occurs, data_type) for name, occurs, data_type in row["args"])
    attrs = tuple(
        AttributeDefinition(name, occurs, _default(Kind(kind), value), length)
        for name, occurs, length, kind, value in row["attrs"]
    )
    return OpDefinition(row["name"], args, attrs)


def _default(kind: Kind, value: Any) -> Attribute:
    if kind is Kind.BYTES:
        return Attribute(kind, b"")
    return Attribute(kind, tuple(value) if kind.is_vector else value)


def _custom_definition(kind: str, inputs: tuple[str, ...]) -> OpDefinition:
    """Return the definition of an op that XIR does not know: repeated float inputs, a shape and a data type."""
    args = tuple(ArgumentDefinition(name, REPEATED, DataType.FLOAT) for name in inputs)
    shape = AttributeDefinition("shape", 0, Attribute(Kind.INT32_VEC, ()), 0)
    data_type = AttributeDefinition("data_type", 0, Attribute(Kind.STRING, ""), 1)
    return OpDefinition(kind, args, (shape, data_type))
