"""Activations as ONNX operators."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dpuforge.emulator.arithmetic import operations
from dpuforge.emulator.export.to_onnx.onnx_builder import OnnxBuilder, Writer, first_input, one_operator
from dpuforge.emulator.export.xmodel_builder import ExportError
from dpuforge.emulator.graph.nodes import Node
from dpuforge.emulator.quantise.steps import FixStep

_HSWISH_STEP = FixStep(8, 7)  # the DPU's own rounding inside hswish


def _clip(low: float | None, high: float | None) -> Writer:
    return lambda builder, node: _clipped(builder, first_input(builder, node), node.name, low, high)


def _clipped(builder: OnnxBuilder, source: str, name: str, low: float | None, high: float | None) -> str:
    limits = [
        "" if limit is None else builder.constant(f"{name}_{role}", limit)
        for role, limit in (("min", low), ("max", high))
    ]
    return builder.emit("Clip", [source, *limits], name)


def _clamp(builder: OnnxBuilder, node: Node) -> str:
    return _clipped(
        builder, first_input(builder, node), node.name, node.attributes.get("min"), node.attributes.get("max")
    )


def _leaky_relu(builder: OnnxBuilder, node: Node) -> str:
    return builder.emit(
        "LeakyRelu", [first_input(builder, node)], node.name, alpha=float(node.attributes["negative_slope"])
    )


def _gate(builder: OnnxBuilder, node: Node, name: str, dpu: bool) -> str:
    """Write relu6(x + 3) / 6, with the DPU's sixth where it computes."""
    three = builder.constant(f"{name}_three", 3.0)
    shifted = builder.emit("Add", [first_input(builder, node), three], f"{name}_shifted")
    clipped = _clipped(builder, shifted, f"{name}_relu6", 0.0, 6.0)
    factor = builder.constant(f"{name}_factor", operations.HSIGMOID_FACTOR if dpu else 1 / 6)
    return builder.emit("Mul", [clipped, factor], name)


def _hsigmoid(builder: OnnxBuilder, node: Node) -> str:
    return _gate(builder, node, node.name, node.call.function is operations.hard_sigmoid)


def _hswish(builder: OnnxBuilder, node: Node) -> str:
    dpu = node.call.function is operations.hard_swish
    gate = _gate(builder, node, f"{node.name}_gate", dpu)
    if dpu:
        gate = builder.quantise(gate, _HSWISH_STEP, builder.quantised.rule("activation", node))
    return builder.emit("Mul", [first_input(builder, node), gate], node.name)


def _silu(builder: OnnxBuilder, node: Node) -> str:
    source = first_input(builder, node)
    return builder.emit("Mul", [source, builder.emit("Sigmoid", [source], f"{node.name}_sigmoid")], node.name)


def _gelu(builder: OnnxBuilder, node: Node) -> str:
    """Write x * (1 + erf(x / sqrt(2))) / 2."""
    if node.attributes.get("approximate", "none") != "none":
        raise ExportError(f"{node.name}: the tanh form of gelu cannot be written to ONNX", "use export_torch_script")
    source = first_input(builder, node)
    root, one, half = (builder.constant(f"{node.name}_c", value) for value in (np.sqrt(0.5), 1.0, 0.5))
    error = builder.emit("Erf", [builder.emit("Mul", [source, root], f"{node.name}_scaled")], f"{node.name}_erf")
    gate = builder.emit("Mul", [builder.emit("Add", [error, one], f"{node.name}_plus"), half], f"{node.name}_half")
    return builder.emit("Mul", [source, gate], node.name)


def _softmax(op: str) -> Writer:
    def write(builder: OnnxBuilder, node: Node) -> str:
        dim = node.attributes.get("dim")
        if dim is None:
            dim = 0 if len(node.shape) in (0, 1, 3) else 1
        return builder.emit(op, [first_input(builder, node)], node.name, axis=int(dim))

    return write


def _prelu(builder: OnnxBuilder, node: Node) -> str:
    slope = builder.parameter(node, "weight", (-1, *(1,) * (len(node.shape) - 2)))
    return builder.emit("PRelu", [first_input(builder, node), slope], node.name)


def _mish(builder: OnnxBuilder, node: Node) -> str:
    source = first_input(builder, node)
    soft = builder.emit("Softplus", [source], f"{node.name}_softplus")
    return builder.emit("Mul", [source, builder.emit("Tanh", [soft], f"{node.name}_tanh")], node.name)


def _glu(builder: OnnxBuilder, node: Node) -> str:
    """Write the first half times the sigmoid of the second."""
    call = dict(zip(("input", "dim"), node.call.args, strict=False)) | dict(node.call.kwargs)
    axis = int(call.get("dim", -1)) % len(node.shape)
    half, source = node.shape[axis], first_input(builder, node)
    value = builder.sliced(source, f"{node.name}_value", {axis: slice(0, half)})
    gate = builder.sliced(source, f"{node.name}_gate", {axis: slice(half, 2 * half)})
    return builder.emit("Mul", [value, builder.emit("Sigmoid", [gate], f"{node.name}_sigmoid")], node.name)


ACTIVATIONS: Mapping[str, Writer] = {
    **{op: one_operator(op) for op in ("Relu", "Sigmoid", "Tanh", "Elu", "Exp", "Sqrt", "Neg", "Abs")},
    **{op: _softmax(op) for op in ("Softmax", "LogSoftmax")},
    "relu6": _clip(0.0, 6.0),
    "Clip": _clamp,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "gelu": _gelu,
    "silu": _silu,
    "mish": _mish,
    "glu": _glu,
    "hard_sigmoid": _hsigmoid,
    "hard_swish": _hswish,
}
