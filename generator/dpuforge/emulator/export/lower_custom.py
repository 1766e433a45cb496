"""How a node that XIR has no operator for becomes custom ops, with the call that the graph carries for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dpuforge.emulator.export.custom_calls import describe_custom
from dpuforge.emulator.export.xmodel_builder import Builder, ExportError, Held, Layout, Operand, ints, text
from dpuforge.emulator.graph.evaluate import call_node
from dpuforge.emulator.graph.kinds import plain_name
from dpuforge.emulator.graph.nodes import Node, Param, Ref


def lower_custom(builder: Builder, node: Node) -> None:
    """Lower to custom ops `aten::<name>` with shape and data type, in PyTorch's layout: CPU ops after compiling.

    One op per result that is read; the graph carries the call, which AMD's files do not.
    """
    if not node.inputs:
        _constant(builder, node)
        return
    read = _results_read(builder, node)
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


def _results_read(builder: Builder, node: Node) -> list[int | None]:
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


def _custom_op(builder: Builder, node: Node, name: str, result: int | None) -> str:
    custom = describe_custom(node, builder.graph.tensors, result)
    keys = {key: role for role, key in node.parameters.items()}
    inputs, more, order = list[str](), list[tuple[str, tuple[str, ...]]](), list[int]()
    for position, tensor in enumerate(custom.tensors):
        if isinstance(tensor, Param) and tensor.key in keys:
            parameter = builder.parameter(tensor.key, builder.quantised.quantised_parameter(tensor.key))
            more.append((keys[tensor.key], (parameter,)))
            continue
        order.append(position)
        inputs.append(_custom_input(builder, tensor))
    order += [position for position in range(len(custom.tensors)) if position not in order]
    kind = node.kind if "::" in node.kind else f"aten::{plain_name(node.kind)}"
    dims = tuple(node.shape if result is None else node.shapes[result])
    attrs: Mapping[str, Any] = {"data_type": text("FLOAT32"), "shape": ints(*dims)}
    op = builder.emit(name, kind, dims, attrs, inputs, more)
    builder.calls[op] = custom.call.renumbered({old: new for new, old in enumerate(order)})
    return op


def _custom_input(builder: Builder, tensor: Ref | Param) -> str:
    if isinstance(tensor, Ref):
        return builder.operand(tensor, Layout.NATIVE).op
    const = builder.make_const(tensor.key, builder.graph.tensors[tensor.key])
    builder.add_extras(const)
    return const.name
