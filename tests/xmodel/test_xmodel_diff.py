"""The comparator: equal up to names is equal, and every kind of difference is found."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from recorded_xmodels import SMALL, small_graph

from dpuforge.xmodel.diff import Change, diff_xmodels
from dpuforge.xmodel.nouns import Argument, Attribute, Graph, Kind, Op, OpDefinition, SubGraph, Tensor
from dpuforge.xmodel.read import order_ops

Edit = Callable[[Graph], Graph]


def _change_op(name_part: str, edit: Callable[[Op], Op]) -> Edit:
    def change(graph: Graph) -> Graph:
        ops = list(graph.ops)
        index = next(index for index, op in enumerate(ops) if name_part in (op.name, op.type))
        ops[index] = edit(ops[index])
        return replace(graph, ops=tuple(ops))

    return change


def _set(key: str, kind: Kind, value: object) -> Callable[[Op], Op]:
    return lambda op: replace(op, attrs={**op.attrs, key: Attribute(kind, value)})


def _drop(key: str) -> Callable[[Op], Op]:
    return lambda op: replace(op, attrs={k: v for k, v in op.attrs.items() if k != key})


def _flip_bit(op: Op) -> Op:
    data = bytearray(op.attrs["data"].value)
    data[0] ^= 1
    return _set("data", Kind.BYTES, bytes(data))(op)


def _negate_zero(op: Op) -> Op:
    return _set("data", Kind.BYTES, op.attrs["data"].value[:-4] + b"\x00\x00\x00\x80")(op)


def _swap_inputs(op: Op) -> Op:
    arg = op.args[0]
    return replace(op, args=(Argument(arg.name, arg.ops[::-1]), *op.args[1:]))


def _rename_arg(op: Op) -> Op:
    return replace(op, args=(Argument("x", op.args[0].ops), *op.args[1:]))


def _drop_input(op: Op) -> Op:
    return replace(op, args=(Argument(op.args[0].name, op.args[0].ops[:1]), *op.args[1:]))


def _tensor(**changes: object) -> Callable[[Op], Op]:
    return lambda op: replace(op, tensor=replace(op.tensor or Tensor("", ()), **changes))  # type: ignore[arg-type]


def _reuse_input(graph: Graph) -> Graph:
    """Let conv2 read the network's input where it read the pool."""
    convs = [op for op in graph.ops if op.type == "conv2d"]
    wrong = convs[0].inputs()[0]
    edit = _change_op(convs[1].name, lambda op: replace(op, args=(Argument("input", (wrong,)), *op.args[1:])))
    return edit(graph)


def _add_op(graph: Graph) -> Graph:
    last = graph.outputs[0].name
    return replace(graph, ops=(*graph.ops, Op("extra", "relu", args=(Argument("input", (last,)),))))


def _add_branch(graph: Graph) -> Graph:
    inner = next(op for op in graph.ops if op.type == "maxpool2d")
    return replace(graph, ops=(*graph.ops, Op("extra", "relu", args=(Argument("input", (inner.name,)),))))


def _change_definition(graph: Graph) -> Graph:
    rows = [OpDefinition("relu") if row.name == "relu" else row for row in graph.definitions]
    return replace(graph, definitions=tuple(rows))


EDITS: list[tuple[str, Edit, Change]] = [
    ("fix position", _change_op("fix", _set("fix_point", Kind.INT32, 99)), Change.FIX_POSITION),
    ("one bit of a weight", _change_op("Tiny__conv1_weight", _flip_bit), Change.CONSTANT),
    ("sign of a zero", _change_op("Tiny__Tiny_ret_15_shape_attr_0_", _negate_zero), Change.CONSTANT),
    ("stride", _change_op("conv2d", _set("stride", Kind.INT32_VEC, (2, 2))), Change.ATTRIBUTE_VALUE),
    ("type of an attribute", _change_op("conv2d", _set("group", Kind.UINT32, 1)), Change.ATTRIBUTE_TYPE),
    ("attribute left out", _change_op("conv2d", _drop("in_dim")), Change.ATTRIBUTE),
    ("attribute added", _change_op("relu", _set("alpha", Kind.FLOAT, 0.5)), Change.ATTRIBUTE),
    ("op type", _change_op("relu", lambda op: replace(op, type="relu6")), Change.OP_TYPE),
    ("argument name", _change_op("relu", _rename_arg), Change.ARGUMENT),
    ("order of inputs", _change_op("matmul", _swap_inputs), Change.OP_TYPE),
    ("input left out", _change_op("add", _drop_input), Change.ARGUMENT_COUNT),
    ("edge", _reuse_input, Change.EDGE),
    ("shape of a tensor", _change_op("relu", _tensor(dims=(1, 2, 3, 4))), Change.TENSOR),
    ("data type of a tensor", _change_op("relu", _tensor(data_type=2)), Change.TENSOR),
    ("bit width of a tensor", _change_op("relu", _tensor(bit_width=8)), Change.TENSOR),
    ("no tensor", _change_op("relu", lambda op: replace(op, tensor=None)), Change.TENSOR),
    ("attribute of a tensor", _change_op("stack", _tensor(attrs={})), Change.ATTRIBUTE),
    ("op added behind the output", _add_op, Change.OP_EXTRA),
    ("branch added", _add_branch, Change.OUTPUTS),
    ("graph attribute", lambda graph: replace(graph, attrs={"a": Attribute(Kind.BOOL, True)}), Change.ATTRIBUTE),
    ("root left out", lambda graph: replace(graph, root=None), Change.SUBGRAPH),
    ("op not in the root", lambda graph: replace(graph, root=SubGraph("root")), Change.SUBGRAPH),
    ("child of the root", lambda graph: replace(graph, root=_with_child(graph)), Change.SUBGRAPH),
    ("dictionary left out", lambda graph: replace(graph, definitions=()), Change.DEFINITION),
    ("definition changed", _change_definition, Change.DEFINITION),
]


def _with_child(graph: Graph) -> SubGraph:
    assert graph.root is not None
    return replace(graph.root, children=(SubGraph("child"),))


@pytest.mark.parametrize(("edit", "change"), [row[1:] for row in EDITS], ids=[row[0] for row in EDITS])
def test_each_kind_of_difference_is_found_both_ways(edit: Edit, change: Change) -> None:
    """An edit of one thing is reported as what it is, whichever file comes first."""
    graph = small_graph("tiny")
    edited = edit(graph)
    mirrored = {Change.OP_EXTRA: Change.OP_MISSING}.get(change, change)
    assert change in {difference.change for difference in diff_xmodels(graph, edited)}
    assert mirrored in {difference.change for difference in diff_xmodels(edited, graph)}


def test_one_fix_position_is_one_difference() -> None:
    """A single wrong fix position gives a single line that names the op and both values."""
    graph = small_graph("tiny")
    name = "Tiny__Tiny_ReLU_relu1__ret_7_fix"
    edited = _change_op(name, _set("fix_point", Kind.INT32, 6))(graph)
    (difference,) = diff_xmodels(graph, edited)
    assert str(difference) == f"fix position: {name}: fix_point: 4 against 6"


def test_every_kind_of_change_is_tested() -> None:
    """No kind of difference is left without an edit that provokes it."""
    assert {row[2] for row in EDITS} | {Change.OP_MISSING} == set(Change)


@pytest.mark.parametrize("net", SMALL)
def test_names_and_order_do_not_count(net: str) -> None:
    """A file with every op renamed and the ops shuffled is no different."""
    graph = small_graph(net)
    names = {op.name: f"op{index}" for index, op in enumerate(graph.ops)}
    ops = [
        replace(
            op,
            name=names[op.name],
            args=tuple(replace(arg, ops=tuple(names[name] for name in arg.ops)) for arg in op.args),
            tensor=replace(op.tensor or Tensor("", ()), name=names[op.name]),
        )
        for op in graph.ops
    ]
    random.Random(0).shuffle(ops)
    root = SubGraph("root", tuple(op.name for op in ops))
    assert diff_xmodels(graph, replace(graph, name="other", ops=tuple(ops), root=root)) == ()


def test_order_of_several_outputs_does_not_count() -> None:
    """Outputs are matched by what they compute before their place in the file."""
    source = Op("in", "data")
    arms = [Op(kind, kind, args=(Argument("input", ("in",)),)) for kind in ("relu", "tanh", "sigmoid")]
    first, second = Graph("net", (source, *arms)), Graph("net", (source, *arms[::-1]))
    assert [op.name for op in order_ops(first)] != [op.name for op in order_ops(second)]
    assert diff_xmodels(first, second) == ()


@pytest.mark.parametrize("other", SMALL[1:])
def test_different_networks_differ(other: str) -> None:
    """Comparing two networks ends, and not with nothing."""
    assert diff_xmodels(small_graph("tiny"), small_graph(other))
