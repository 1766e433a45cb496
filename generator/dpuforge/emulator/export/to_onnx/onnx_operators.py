"""How a node is written as ONNX operators, by the word in column `onnx` of kinds.py; without one it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpuforge.emulator.arithmetic import operations
from dpuforge.emulator.arithmetic.fake_quantise import average_pool_coefficient
from dpuforge.emulator.export.to_onnx.onnx_activations import ACTIVATIONS
from dpuforge.emulator.export.to_onnx.onnx_builder import OnnxBuilder, Writer, first_input, trace_batch
from dpuforge.emulator.export.to_onnx.onnx_moves import MOVES
from dpuforge.emulator.export.xmodel_builder import ExportError
from dpuforge.emulator.graph.nodes import Node, Ref

_AXES_INPUT_OPSET, _LAYER_NORM_OPSET = 18, 17


def write_node(builder: OnnxBuilder, node: Node) -> None:
    """Add the operators of one node; nodes must come in order. Raises ExportError for kinds that are not known."""
    if not node.traits.onnx:
        message = f"{node.name}: operators of kind {node.kind} cannot be written to ONNX"
        raise ExportError(message, "use export_torch_script, or replace the operator")
    written = WRITERS[node.traits.onnx](builder, node)
    if isinstance(written, str):
        builder.values[node.name, None] = written
    else:
        builder.values.update({(node.name, index): name for index, name in enumerate(written)})


def _input(builder: OnnxBuilder, node: Node) -> str:
    return builder.unique(node.name)


def _pads(node: Node) -> list[int]:
    given = node.attributes["padding"]
    if given != "same":
        return [*given, *given]
    pairs = zip(node.attributes["kernel"], node.attributes["dilation"], strict=True)
    totals = [dilation * (kernel - 1) for kernel, dilation in pairs]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def _convolution(builder: OnnxBuilder, node: Node) -> str:
    settings = node.attributes
    inputs = [first_input(builder, node), builder.parameter(node, "weight")]
    if "bias" in node.parameters:
        inputs.append(builder.parameter(node, "bias"))
    transposed = "output_padding" in settings
    return builder.emit(
        "ConvTranspose" if transposed else "Conv",
        inputs,
        node.name,
        kernel_shape=list(settings["kernel"]),
        strides=list(settings["stride"]),
        pads=_pads(node),
        dilations=list(settings["dilation"]),
        group=settings["groups"],
        output_padding=list(settings["output_padding"]) if transposed and any(settings["output_padding"]) else None,
    )


def _dense(builder: OnnxBuilder, node: Node) -> str:
    source, weight = first_input(builder, node), builder.parameter(node, "weight")
    bias = [builder.parameter(node, "bias")] if "bias" in node.parameters else []
    if len(node.shape) == 2:
        return builder.emit("Gemm", [source, weight, *bias], node.name, transB=1)
    turned = builder.emit("Transpose", [weight], f"{node.name}_weight", perm=[1, 0])
    if not bias:
        return builder.emit("MatMul", [source, turned], node.name)
    product = builder.emit("MatMul", [source, turned], f"{node.name}_product")
    return builder.emit("Add", [product, *bias], node.name)


def _scale(builder: OnnxBuilder, node: Node) -> str:
    shape = (-1, *(1,) * (len(node.shape) - 2))
    product = builder.emit(
        "Mul", [first_input(builder, node), builder.parameter(node, "weight", shape)], f"{node.name}_mul"
    )
    return builder.emit("Add", [product, builder.parameter(node, "bias", shape)], node.name)


def _arithmetic(op: str) -> Writer:
    def write(builder: OnnxBuilder, node: Node) -> str:
        alpha = node.attributes.get("alpha", 1)
        if alpha != 1:
            raise ExportError(f"{node.name}: alpha={alpha} cannot be written to ONNX", "multiply before adding")
        names = [builder.value(ref) for ref in node.inputs]
        if "constant" in node.attributes:
            side = node.attributes["constant_side"]
            constant = builder.operand(node, node.attributes["constant"], side)
            names = [constant, *names] if side == "input" else [*names, constant]
        return builder.emit(op, names, node.name)

    return write


def _pool_settings(node: Node) -> dict[str, Any]:
    settings = node.attributes
    return {
        "kernel_shape": list(settings["kernel"]),
        "strides": list(settings["stride"]),
        "pads": _pads(node) if "padding" in settings else [0] * 4,
        "ceil_mode": int(settings.get("ceil_mode", False)),
    }


def _maxpool(builder: OnnxBuilder, node: Node) -> str:
    dilations = list(node.attributes["dilation"])
    return builder.emit("MaxPool", [first_input(builder, node)], node.name, dilations=dilations, **_pool_settings(node))


def _adaptive_maxpool(builder: OnnxBuilder, node: Node) -> str:
    if node.attributes["kernel"] is None or len(node.shapes) != 1:
        message = f"{node.name}: an adaptive pool of uneven windows cannot be written to ONNX"
        raise ExportError(message, "use an output size that divides the image")
    return builder.emit("MaxPool", [first_input(builder, node)], node.name, **_pool_settings(node))


def _avgpool(builder: OnnxBuilder, node: Node) -> str:
    settings, source = node.attributes, first_input(builder, node)
    if settings["kernel"] is None or settings.get("divisor_override") is not None:
        message = f"{node.name}: an average pool of uneven windows or an own divisor cannot be written to ONNX"
        raise ExportError(message, "use a kernel that divides the image, or export_torch_script")
    exact = node.call.function not in (operations.average_pool, operations.adaptive_average_pool)
    name = node.name if exact else f"{node.name}_pool"
    if "output_size" in settings and tuple(node.shape[2:]) == (1, 1):
        pooled = builder.emit("GlobalAveragePool", [source], name)
    else:
        include = int(settings.get("count_include_pad", True))
        pooled = builder.emit("AveragePool", [source], name, count_include_pad=include, **_pool_settings(node))
    if exact:
        return pooled
    factor = builder.constant(f"{node.name}_factor", average_pool_coefficient(*settings["kernel"]))
    return builder.emit("Mul", [pooled, factor], node.name)


def _layer_norm(builder: OnnxBuilder, node: Node) -> str:
    if builder.opset < _LAYER_NORM_OPSET:
        message = f"{node.name}: a layer norm needs ONNX opset {_LAYER_NORM_OPSET}, got {builder.opset}"
        raise ExportError(message, f"pass opset_version={_LAYER_NORM_OPSET} or more")
    shape = node.attributes["normalized_shape"]
    axis = -(len(shape) if isinstance(shape, (tuple, list)) else 1)
    names = [first_input(builder, node)]
    if "weight" in node.parameters:
        names += [builder.parameter(node, role) for role in ("weight", "bias") if role in node.parameters]
    else:
        names.append(builder.constant(f"{node.name}_ones", np.ones(node.shape[axis:])))
    epsilon = float(node.attributes["eps"])
    return builder.emit("LayerNormalization", names, node.name, axis=axis, epsilon=epsilon)


def _matmul(builder: OnnxBuilder, node: Node) -> str:
    if len(node.inputs) != 2:
        raise ExportError(f"{node.name}: a product with a constant cannot be written to ONNX", "use nn.Linear")
    return builder.emit("MatMul", [builder.value(ref) for ref in node.inputs], node.name)


def _constant(builder: OnnxBuilder, node: Node) -> str:
    (param,) = node.call.args
    return builder.constant(node.name, builder.graph.tensors[param.key].detach().cpu().numpy())


def _rsub(builder: OnnxBuilder, node: Node) -> str:
    first, second = (builder.value(ref) for ref in node.inputs)
    return builder.emit("Sub", [second, first], node.name)


def _reduced(builder: OnnxBuilder, node: Node) -> tuple[list[int], int]:
    """Return the axes of a reduction, none negative, and whether they stay."""
    call = dict(zip(("input", "dim", "keepdim"), node.call.args, strict=False)) | {
        **node.attributes,
        **node.call.kwargs,
    }
    rank, dims = len(builder.shape(node.inputs[0])), call.get("dim")
    axes = list(range(rank)) if dims is None or dims == () else [dims] if isinstance(dims, int) else list(dims)
    return [int(axis) % rank for axis in axes], int(bool(call.get("keepdim", False)))


def _reduce(op: str, axes_input: int) -> Writer:
    """Return the writer of a reduction, whose axes are an input from an opset on."""

    def write(builder: OnnxBuilder, node: Node) -> str:
        axes, keep = _reduced(builder, node)
        return _reduction(builder, node, op, axes, keep, builder.opset >= axes_input)

    return write


def _reduction(builder: OnnxBuilder, node: Node, op: str, axes: list[int], keep: int, as_input: bool) -> str:
    source = first_input(builder, node)
    if not as_input:
        return builder.emit(op, [source], node.name, axes=axes, keepdims=keep)
    return builder.emit(op, [source, builder.constant(f"{node.name}_axes", axes, np.int64)], node.name, keepdims=keep)


def _extreme(of_two: str, along: str, place: str) -> Writer:
    """Return the writer of the larger (or smaller) of two values, or of the largest along an axis and its place."""

    def write(builder: OnnxBuilder, node: Node) -> str | tuple[str, ...]:
        if len(node.shapes) == 1 and len(node.inputs) == 2:
            return builder.emit(of_two, [builder.value(ref) for ref in node.inputs], node.name)
        axes, keep = _reduced(builder, node)
        if len(node.shapes) != 2 or len(axes) != 1:
            raise ExportError(f"{node.name}: this form of {node.kind} cannot be written to ONNX", "name one dimension")
        largest = _reduction(builder, node, along, axes, keep, builder.opset >= _AXES_INPUT_OPSET)
        found = builder.emit(place, [first_input(builder, node)], f"{node.name}_place", axis=axes[0], keepdims=keep)
        return largest, found

    return write


def _operands(builder: OnnxBuilder, node: Node) -> list[str]:
    """Return the names of a call's positional arguments, numbers as constants."""
    return [
        builder.value(leaf) if isinstance(leaf, Ref) else builder.operand(node, leaf, "constant")
        for leaf in node.call.args
    ]


def _call(op: str, count: int) -> Writer:
    """Return the writer of one operator of so many tensors or numbers."""

    def write(builder: OnnxBuilder, node: Node) -> str:
        names = _operands(builder, node)
        if len(names) != count or len(node.shapes) != 1:
            raise ExportError(
                f"{node.name}: this form of {node.kind} cannot be written to ONNX", "pass plain arguments"
            )
        return builder.emit(op, names, node.name)

    return write


def _norm(builder: OnnxBuilder, node: Node) -> str:
    """Write the 1-norm or 2-norm along one dimension, which stays."""
    _, p, dim, _ = node.call.args
    kinds = {1.0: "ReduceL1", 2.0: "ReduceL2"}
    if float(p) not in kinds:
        raise ExportError(f"{node.name}: a {p}-norm cannot be written to ONNX", "use p=1 or p=2")
    axes = [int(dim) % len(node.shape)]
    return _reduction(builder, node, kinds[float(p)], axes, 1, builder.opset >= _AXES_INPUT_OPSET)


def _instance_norm(builder: OnnxBuilder, node: Node) -> str:
    """Write the norm of each channel of an image."""
    if "running_mean" in node.parameters or not node.shape[1:]:
        raise ExportError(f"{node.name}: this instance norm cannot be written to ONNX", "without running statistics")
    return _normalised(builder, node, node.shape[1])


def _group_norm(builder: OnnxBuilder, node: Node) -> str:
    return _normalised(builder, node, int(node.attributes["num_groups"]))


def _normalised(builder: OnnxBuilder, node: Node, groups: int) -> str:
    """Write the norm over groups of channels as one over instances, then the weights of the channels."""
    shape, batch, name = node.shape, builder.graph.batch, node.name
    into = builder.constant(f"{name}_groups", trace_batch((shape[0], groups, -1), batch), np.int64)
    if shape[0] == batch:
        into = builder.constant(f"{name}_groups", [0, groups, -1], np.int64)
    grouped = builder.emit("Reshape", [first_input(builder, node), into], f"{name}_grouped")
    units = builder.constant(f"{name}_ones", np.ones(groups)), builder.constant(f"{name}_zeros", np.zeros(groups))
    epsilon = float(node.attributes["eps"])
    made = builder.emit("InstanceNormalization", [grouped, *units], f"{name}_normalised", epsilon=epsilon)
    back = builder.constant(f"{name}_shape", trace_batch(shape, batch), np.int64)
    made = builder.emit("Reshape", [made, back], name)
    sides = (-1, *(1,) * (len(shape) - 2))
    for role, op in (("weight", "Mul"), ("bias", "Add")):
        if role in node.parameters:
            made = builder.emit(op, [made, builder.parameter(node, role, sides)], f"{name}_{role}")
    return made


WRITERS: Mapping[str, Writer] = {
    **ACTIVATIONS,
    **MOVES,
    "Constant": _constant,
    "rsub": _rsub,
    **{op: _arithmetic(op) for op in ("Add", "Sub", "Mul", "Div")},
    **{op: _call(op, 2) for op in ("Pow", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")},
    "Where": _call("Where", 3),
    "input": _input,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _dense,
    "MatMul": _matmul,
    "scale": _scale,
    "LayerNormalization": _layer_norm,
    "group_norm": _group_norm,
    "InstanceNormalization": _instance_norm,
    "norm": _norm,
    "MaxPool": _maxpool,
    "adaptive_max_pool": _adaptive_maxpool,
    "AveragePool": _avgpool,
    "ReduceMean": _reduce("ReduceMean", _AXES_INPUT_OPSET),
    "ReduceSum": _reduce("ReduceSum", 13),
    "max": _extreme("Max", "ReduceMax", "ArgMax"),
    "min": _extreme("Min", "ReduceMin", "ArgMin"),
}
