"""How a node that XIR has no operator for becomes custom ops, with the call that the graph carries for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from dpuforge.emulator.export.custom_calls import describe_custom
from dpuforge.emulator.export.xmodel_builder import (
    Attributes,
    Builder,
    ExportError,
    Held,
    Layout,
    Operand,
    flag,
    image_dims,
    integer,
    ints,
    text,
)
from dpuforge.emulator.graph.evaluate import call_node
from dpuforge.emulator.graph.listing import tool_type
from dpuforge.emulator.graph.nodes import Node, Param, Ref, leaves
from dpuforge.xmodel.nouns import Attribute, Kind


def lower_elementwise(builder: Builder, node: Node) -> None:
    """Lower to a custom op that works in any layout: the tool's own kinds that compute value by value or by channel."""
    if len(node.shapes) != 1 or any(isinstance(leaf, Param) for leaf in _other_params(node)):
        lower_custom(builder, node)
        return
    layout = builder.source(node).layout
    builder.finish(node, _custom_op(builder, node, node.name, None, layout), layout)


def _other_params(node: Node) -> list[Any]:
    known = set(node.parameters.values())
    given = leaves((node.call.args, dict(node.call.kwargs)))
    return [leaf for leaf in given if isinstance(leaf, Param) and leaf.key not in known]


def lower_custom(builder: Builder, node: Node) -> None:
    """Lower to custom ops of the tool's type with shape and data type, in PyTorch's layout: CPU ops after compiling.

    One op per result that is read; the graph carries the call, which AMD's files do not.
    """
    if not node.inputs:
        _constant(builder, node)
        return
    read = results_read(builder, node)
    if read == [None]:
        builder.finish(node, _custom_op(builder, node, node.name, None), Layout.NATIVE)
        return
    for index in read:
        name = f"{node.name}_{index}"
        op = _custom_op(builder, node, name, index)
        builder.held.append(Held(name, op, node.name, Layout.NATIVE, index))
        builder.operands[node.name, index] = Operand(op, tuple(node.shapes[index or 0]))


def _constant(builder: Builder, node: Node) -> None:
    """Lower what depends on the batch's size alone, as torch.zeros(x.size(0), 4), to a constant."""
    with torch.no_grad():
        value = call_node(node, {}, builder.graph.tensors, 1)
    if not isinstance(value, torch.Tensor):
        raise ExportError(f"{node.name} of kind {node.kind} is no tensor", "compute it once, outside the network")
    ops = [builder.make_const(node.name, value)]
    builder.finish(node, ops[0].name, Layout.NATIVE, ops)
    builder.add_extras(*ops)


def results_read(builder: Builder, node: Node) -> list[int | None]:
    """Return which results of a tuple the network reads or returns, in order; [None] for a value of one tensor."""
    readers = [builder.graph[name] for name in builder.consumers[node.name] if name in builder.graph.index]
    refs = (*builder.graph.output_refs, *(ref for reader in readers for ref in reader.inputs))
    found = {ref.index for ref in refs if ref.node == node.name}
    if None in found and len(node.shapes) > 1:
        raise ExportError(
            f"{node.name} of kind {node.kind} has {len(node.shapes)} results and is used as a whole",
            "keep it out of the quantised network, or export to ONNX or TorchScript",
        )
    if None in found or not found:
        return [None]
    return [index for index in range(len(node.shapes)) if index in found]


def _custom_op(builder: Builder, node: Node, name: str, result: int | None, layout: Layout = Layout.NATIVE) -> str:
    custom = describe_custom(node, builder.graph.tensors, result)
    keys = set(node.parameters.values())
    inputs = list[str]()
    for tensor in custom.tensors:
        if isinstance(tensor, Param) and tensor.key in keys:
            inputs.append(builder.parameter(tensor.key, builder.quantised.quantised_parameter(tensor.key)))
        else:
            inputs.append(_custom_input(builder, tensor, layout))
    shape = tuple(node.shape if result is None else node.shapes[result])
    dims = image_dims(shape) if layout is Layout.NHWC else shape
    attrs = {"data_type": text("FLOAT32"), "shape": ints(*dims), **TOLD[node.traits.told](builder, node)}
    op = builder.emit(name, tool_type(node), dims, attrs, inputs)
    builder.calls[op] = replace(custom.call, nhwc=layout is Layout.NHWC)
    return op


def _told_group_norm(builder: Builder, node: Node) -> Attributes:
    channels, groups = builder.graph[node.inputs[0].node].shape[1], node.attributes["num_groups"]
    return {**_affine(node, "affine"), "num_channels": integer(channels), "num_groups": integer(groups)}


def _told_layer_norm(_: Builder, node: Node) -> Attributes:
    shape = node.attributes["normalized_shape"]
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    return {**_affine(node, "elementwise_affine"), "normalized_shape": ints(*sizes)}


def _told_norm(_: Builder, node: Node) -> Attributes:
    p, dim, keep = node.call.args[1:]
    return {"p": Attribute(Kind.DOUBLE, float(p)), "dim": ints(dim), "keepdim": flag(keep)}


def _affine(node: Node, word: str) -> Attributes:
    return {word: flag("weight" in node.parameters), "eps": Attribute(Kind.DOUBLE, float(node.attributes["eps"]))}


# What the tool's files say of a custom op beside its shape, as recorded, by the word in column `told` of kinds.py.
TOLD: Mapping[str, Callable[[Builder, Node], Attributes]] = {
    "": lambda _, __: {},
    "truth": lambda _, __: {"data_type": text("bool")},
    "group_norm": _told_group_norm,
    "layer_norm": _told_layer_norm,
    "norm": _told_norm,
}


def _custom_input(builder: Builder, tensor: Ref | Param, layout: Layout) -> str:
    if isinstance(tensor, Ref):
        return builder.operand(tensor, layout).op
    const = builder.make_const(tensor.key, builder.graph.tensors[tensor.key])
    builder.add_extras(const)
    return const.name
