"""Two Graphs -> every difference between them except names and the order of ops.

Ops are paired by structure: the outputs in order, then from each pair backwards along the same argument and place.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import zip_longest
from typing import Any

from dpuforge.xmodel.forward_outputs import OUTPUTS
from dpuforge.xmodel.integers.calls import CALLS, read_calls
from dpuforge.xmodel.nouns import Attribute, Attributes, Graph, Kind, Op, OpDefinition, SubGraph, Tensor
from dpuforge.xmodel.read import order_ops


class Change(str, Enum):
    """In what two graphs differ."""

    OUTPUTS = "number of outputs"
    OP_TYPE = "op type"
    ATTRIBUTE = "attribute present"
    ATTRIBUTE_TYPE = "attribute type"
    ATTRIBUTE_VALUE = "attribute value"
    FIX_POSITION = "fix position"
    CONSTANT = "constant"
    ARGUMENT = "argument names"
    ARGUMENT_COUNT = "number of inputs"
    EDGE = "edge"
    TENSOR = "tensor"
    OP_MISSING = "op only in the first"
    OP_EXTRA = "op only in the second"
    SUBGRAPH = "subgraph"
    DEFINITION = "op definition"


@dataclass(frozen=True)
class Difference:
    """One difference: what kind, which op (or attribute owner) in each graph, and the two values as text."""

    change: Change
    first: str
    second: str
    detail: str

    def __str__(self) -> str:
        where = self.first if self.first == self.second else f"{self.first or '-'} | {self.second or '-'}"
        return f"{self.change.value}: {where}: {self.detail}"


@dataclass
class _Pairing:
    """Which op of the second graph stands for which of the first, and what differed on the way."""

    first: Graph
    second: Graph
    forward: dict[str, str] = field(default_factory=dict)
    backward: dict[str, str] = field(default_factory=dict)
    found: list[Difference] = field(default_factory=list)

    def add(self, change: Change, first: str, second: str, detail: str) -> None:
        self.found.append(Difference(change, first, second, detail))


def diff_xmodels(first: Graph, second: Graph) -> tuple[Difference, ...]:
    """Compare structure, op types, attributes and their types, argument names, edges, tensors, constants (bit by bit),
    fix positions, subgraphs and the definitions of the ops in use; names, order and annotations do not count.

    Returns () where the graphs are equal up to names.
    """
    pairing = _Pairing(first, second)
    _pair_outputs(pairing)
    _report_unpaired(pairing)
    ones, twos = (
        {key: graph.attrs[key] for key in graph.attrs if key not in (CALLS, OUTPUTS)} for graph in (first, second)
    )
    _compare_attributes(pairing, ones, twos, "graph", "graph", "")
    _compare_calls(pairing)
    _compare_subgraphs(pairing, first.root, second.root)
    _compare_definitions(pairing)
    return tuple(pairing.found)


def _pair_outputs(pairing: _Pairing) -> None:
    ones, twos = pairing.first.outputs, pairing.second.outputs
    if len(ones) != len(twos):
        pairing.add(Change.OUTPUTS, pairing.first.name, pairing.second.name, f"{len(ones)} against {len(twos)}")
    todo = _match_outputs(pairing)[::-1]
    while todo:
        one, two = todo.pop()
        if _pair(pairing, one, two):
            _compare_op(pairing, one, two)
            todo.extend(reversed(list(_input_pairs(pairing, one, two))))


def _match_outputs(pairing: _Pairing) -> list[tuple[Op, Op]]:
    """Match the outputs that everything above them makes equal first, so that their order does not count."""
    ones, twos = list(pairing.first.outputs), list(pairing.second.outputs)
    if len(ones) == len(twos) == 1:
        return [(ones[0], twos[0])]
    digests, matched = (_digests(pairing.first), _digests(pairing.second)), []
    for one in tuple(ones):
        two = next((two for two in twos if digests[1][two.name] == digests[0][one.name]), None)
        if two is not None:
            matched.append((one, two))
            ones.remove(one)
            twos.remove(two)
    return matched + list(zip(ones, twos, strict=False))


def _digests(graph: Graph) -> dict[str, bytes]:
    """Return for each op a digest of itself and of all that it is computed from, names left out."""
    digests: dict[str, bytes] = {}
    for op in order_ops(graph):
        parts = hashlib.sha256(repr((op.type, op.dims, sorted(op.attrs))).encode())
        for key in sorted(op.attrs):
            parts.update(repr((op.attrs[key].kind.value, _bits(op.attrs[key]))).encode())
        for arg in op.args:
            parts.update(repr((arg.name, [digests[name] for name in arg.ops])).encode())
        digests[op.name] = parts.digest()
    return digests


def _pair(pairing: _Pairing, one: Op, two: Op) -> bool:
    """Pair two ops; return False where they are paired already (with each other, or wrongly: a difference)."""
    if pairing.forward.get(one.name) == two.name:
        return False
    if one.name in pairing.forward or two.name in pairing.backward:
        earlier = pairing.forward.get(one.name, "nothing"), pairing.backward.get(two.name, "nothing")
        detail = f"the first stands for {earlier[0]} elsewhere, the second for {earlier[1]}"
        pairing.add(Change.EDGE, one.name, two.name, detail)
        return False
    pairing.forward[one.name], pairing.backward[two.name] = two.name, one.name
    return True


def _input_pairs(pairing: _Pairing, one: Op, two: Op) -> Iterator[tuple[Op, Op]]:
    others = {arg.name: arg.ops for arg in two.args}
    for arg in one.args:
        for left, right in zip(arg.ops, others.get(arg.name, ()), strict=False):
            yield pairing.first.by_name[left], pairing.second.by_name[right]


def _compare_op(pairing: _Pairing, one: Op, two: Op) -> None:
    if one.type != two.type:
        pairing.add(Change.OP_TYPE, one.name, two.name, f"{one.type} against {two.type}")
    _compare_attributes(pairing, one.attrs, two.attrs, one.name, two.name, one.type)
    names = [arg.name for arg in one.args], [arg.name for arg in two.args]
    if names[0] != names[1]:
        pairing.add(Change.ARGUMENT, one.name, two.name, f"{names[0]} against {names[1]}")
    others = {arg.name: len(arg.ops) for arg in two.args}
    for arg in one.args:
        if len(arg.ops) != others.get(arg.name, len(arg.ops)):
            detail = f"{arg.name}: {len(arg.ops)} against {others[arg.name]}"
            pairing.add(Change.ARGUMENT_COUNT, one.name, two.name, detail)
    _compare_tensors(pairing, one, two)


def _compare_tensors(pairing: _Pairing, one: Op, two: Op) -> None:
    left, right = one.tensor, two.tensor
    if left is None or right is None:
        if left is not right:
            pairing.add(Change.TENSOR, one.name, two.name, f"{_tensor_text(left)} against {_tensor_text(right)}")
        return
    if (left.dims, left.data_type, left.bit_width) != (right.dims, right.data_type, right.bit_width):
        pairing.add(Change.TENSOR, one.name, two.name, f"{_tensor_text(left)} against {_tensor_text(right)}")
    _compare_attributes(pairing, left.attrs, right.attrs, one.name, two.name, "tensor")


def _tensor_text(tensor: Tensor | None) -> str:
    if tensor is None:
        return "no tensor"
    return f"{list(tensor.dims)} of type {int(tensor.data_type)}, {tensor.bit_width} bits"


def _compare_calls(pairing: _Pairing) -> None:
    """Compare what ops that XIR does not know call, where both files say it: AMD's do not."""
    ones, twos = read_calls(pairing.first), read_calls(pairing.second)
    for first, second in pairing.forward.items():
        one, two = ones.get(first), twos.get(second)
        if one is not None and two is not None and one != two:
            detail = f"call: {one.to_json()} against {two.to_json()}"
            pairing.add(Change.ATTRIBUTE_VALUE, first, second, detail)


def _compare_attributes(
    pairing: _Pairing, ones: Attributes, twos: Attributes, first: str, second: str, owner: str
) -> None:
    for key in sorted(set(ones) | set(twos)):
        one, two = ones.get(key), twos.get(key)
        if one is None or two is None:
            detail = f"{key} only in the {'first' if two is None else 'second'}"
            pairing.add(Change.ATTRIBUTE, first, second, detail)
        elif one.kind is not two.kind:
            pairing.add(Change.ATTRIBUTE_TYPE, first, second, f"{key}: {one.kind.value} against {two.kind.value}")
        elif _bits(one) != _bits(two):
            change = {("fix", "fix_point"): Change.FIX_POSITION, ("const", "data"): Change.CONSTANT}.get(
                (owner, key), Change.ATTRIBUTE_VALUE
            )
            pairing.add(change, first, second, f"{key}: {_values_text(one, two)}")


def _bits(attribute: Attribute) -> Any:
    """Return a value that is equal exactly where the bits are: -0.0 differs from 0.0, a NaN equals itself."""
    if attribute.kind in (Kind.FLOAT, Kind.DOUBLE):
        return struct.pack("<d", attribute.value)
    if attribute.kind in (Kind.FLOAT_VEC, Kind.DOUBLE_VEC):
        return struct.pack(f"<{len(attribute.value)}d", *attribute.value)
    return attribute.value


def _values_text(one: Attribute, two: Attribute) -> str:
    if one.kind is not Kind.BYTES:
        return f"{one.value!r} against {two.value!r}"
    if len(one.value) != len(two.value):
        return f"{len(one.value)} against {len(two.value)} bytes"
    places = [index for index, (left, right) in enumerate(zip(one.value, two.value, strict=True)) if left != right]
    return f"{len(places)} of {len(one.value)} bytes differ, the first at byte {places[0]}"


def _report_unpaired(pairing: _Pairing) -> None:
    for op in pairing.first.ops:
        if op.name not in pairing.forward:
            pairing.add(Change.OP_MISSING, op.name, "", op.type)
    for op in pairing.second.ops:
        if op.name not in pairing.backward:
            pairing.add(Change.OP_EXTRA, "", op.name, op.type)


def _compare_subgraphs(pairing: _Pairing, one: SubGraph | None, two: SubGraph | None) -> None:
    todo = [(one, two)]
    while todo:
        left, right = todo.pop()
        if left is None or right is None:
            if left is not right:
                present = left or right
                detail = f"only in the {'first' if right is None else 'second'}"
                pairing.add(Change.SUBGRAPH, present.name if present else "", "", detail)
            continue
        _compare_attributes(pairing, left.attrs, right.attrs, left.name, right.name, "subgraph")
        mapped = {pairing.forward.get(name, name) for name in left.ops}
        if mapped != set(right.ops):
            detail = (
                f"{len(mapped - set(right.ops))} ops only in the first, {len(set(right.ops) - mapped)} in the second"
            )
            pairing.add(Change.SUBGRAPH, left.name, right.name, detail)
        todo.extend(zip_longest(left.children, right.children))


def _compare_definitions(pairing: _Pairing) -> None:
    ones = {definition.name: definition for definition in pairing.first.definitions}
    twos = {definition.name: definition for definition in pairing.second.definitions}
    used = {op.type for op in pairing.first.ops} & {op.type for op in pairing.second.ops}
    for name in sorted(used):
        one, two = ones.get(name), twos.get(name)
        if one is None or two is None:
            if one is not two:
                detail = f"only in the {'first' if two is None else 'second'}"
                pairing.add(Change.DEFINITION, name, name, detail)
        elif _signature(one) != _signature(two):
            pairing.add(Change.DEFINITION, name, name, f"{_signature(one)} against {_signature(two)}")


def _signature(definition: OpDefinition) -> tuple[Any, ...]:
    """Return what a definition says, without its prose."""
    args = tuple((arg.name, arg.occurs, arg.data_type) for arg in definition.args)
    attrs = tuple((attr.name, attr.occurs, attr.default, attr.list_length) for attr in definition.attrs)
    return args, tuple(sorted(attrs, key=lambda attr: attr[0]))
