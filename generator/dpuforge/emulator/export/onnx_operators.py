"""How a node is written as ONNX operators, by the word in column `onnx` of kinds.py; without one it is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dpuforge.emulator.arithmetic import operations
from dpuforge.emulator.arithmetic.fake_quantise import average_pool_coefficient
from dpuforge.emulator.export.lower_moves import permutation_order
from dpuforge.emulator.export.onnx_builder import OnnxBuilder, trace_batch
from dpuforge.emulator.export.xmodel_builder import ExportError
from dpuforge.emulator.graph.nodes import Node
from dpuforge.emulator.quantise.steps import FixStep

Writer = Callable[[OnnxBuilder, Node], str | tuple[str, ...]]

_INT64_MAX = 2**63 - 1
_AXES_INPUT_OPSET, _LAYER_NORM_OPSET = 18, 17
_HSWISH_STEP = FixStep(8, 7)  # the DPU's own rounding inside hswish


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


def _first(builder: OnnxBuilder, node: Node) -> str:
    return builder.value(node.inputs[0])


def _input(builder: OnnxBuilder, node: Node) -> str:
    return builder.unique(node.name)


def one_operator(op: str) -> Writer:
    """Return the writer of one operator of one input, without attributes."""
    return lambda builder, node: builder.emit(op, [_first(builder, node)], node.name)


def _pads(node: Node) -> list[int]:
    given = node.attributes["padding"]
    if given != "same":
        return [*given, *given]
    pairs = zip(node.attributes["kernel"], node.attributes["dilation"], strict=True)
    totals = [dilation * (kernel - 1) for kernel, dilation in pairs]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def _convolution(builder: OnnxBuilder, node: Node) -> str:
    settings = node.attributes
    inputs = [_first(builder, node), builder.parameter(node, "weight")]
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
    source, weight = _first(builder, node), builder.parameter(node, "weight")
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
    product = builder.emit("Mul", [_first(builder, node), builder.parameter(node, "weight", shape)], f"{node.name}_mul")
    return builder.emit("Add", [product, builder.parameter(node, "bias", shape)], node.name)


def _clip(low: float | None, high: float | None) -> Writer:
    return lambda builder, node: _clipped(builder, _first(builder, node), node.name, low, high)


def _clipped(builder: OnnxBuilder, source: str, name: str, low: float | None, high: float | None) -> str:
    limits = [
        "" if limit is None else builder.constant(f"{name}_{role}", limit)
        for role, limit in (("min", low), ("max", high))
    ]
    return builder.emit("Clip", [source, *limits], name)


def _clamp(builder: OnnxBuilder, node: Node) -> str:
    return _clipped(builder, _first(builder, node), node.name, node.attributes.get("min"), node.attributes.get("max"))


def _leaky_relu(builder: OnnxBuilder, node: Node) -> str:
    return builder.emit("LeakyRelu", [_first(builder, node)], node.name, alpha=float(node.attributes["negative_slope"]))


def _gate(builder: OnnxBuilder, node: Node, name: str, dpu: bool) -> str:
    """Write relu6(x + 3) / 6, with the DPU's sixth where it computes."""
    three = builder.constant(f"{name}_three", 3.0)
    shifted = builder.emit("Add", [_first(builder, node), three], f"{name}_shifted")
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
    return builder.emit("Mul", [_first(builder, node), gate], node.name)


def _silu(builder: OnnxBuilder, node: Node) -> str:
    source = _first(builder, node)
    return builder.emit("Mul", [source, builder.emit("Sigmoid", [source], f"{node.name}_sigmoid")], node.name)


def _gelu(builder: OnnxBuilder, node: Node) -> str:
    """Write x * (1 + erf(x / sqrt(2))) / 2."""
    if node.attributes.get("approximate", "none") != "none":
        raise ExportError(f"{node.name}: the tanh form of gelu cannot be written to ONNX", "use export_torch_script")
    source = _first(builder, node)
    root, one, half = (builder.constant(f"{node.name}_c", value) for value in (np.sqrt(0.5), 1.0, 0.5))
    error = builder.emit("Erf", [builder.emit("Mul", [source, root], f"{node.name}_scaled")], f"{node.name}_erf")
    gate = builder.emit("Mul", [builder.emit("Add", [error, one], f"{node.name}_plus"), half], f"{node.name}_half")
    return builder.emit("Mul", [source, gate], node.name)


def _softmax(op: str) -> Writer:
    def write(builder: OnnxBuilder, node: Node) -> str:
        dim = node.attributes.get("dim")
        if dim is None:
            dim = 0 if len(node.shape) in (0, 1, 3) else 1
        return builder.emit(op, [_first(builder, node)], node.name, axis=int(dim))

    return write


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
    return builder.emit("MaxPool", [_first(builder, node)], node.name, dilations=dilations, **_pool_settings(node))


def _avgpool(builder: OnnxBuilder, node: Node) -> str:
    settings, source = node.attributes, _first(builder, node)
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


def _concat(builder: OnnxBuilder, node: Node) -> str:
    names = [builder.value(ref) for ref in node.inputs]
    return builder.emit("Concat", names, node.name, axis=int(node.attributes["dim"]))


def _reshape(builder: OnnxBuilder, node: Node) -> str:
    shape = builder.constant(f"{node.name}_shape", trace_batch(node.shape, builder.graph.batch), np.int64)
    return builder.emit("Reshape", [_first(builder, node), shape], node.name)


def _permute(builder: OnnxBuilder, node: Node) -> str:
    return builder.emit("Transpose", [_first(builder, node)], node.name, perm=permutation_order(node))


def _resize(builder: OnnxBuilder, node: Node) -> str:
    mode, corners = str(node.attributes["mode"]), bool(node.attributes["align_corners"])
    if mode not in ("nearest", "bilinear"):
        raise ExportError(f"{node.name}: resize mode {mode} cannot be written to ONNX", "use nearest or bilinear")
    where = "asymmetric" if mode == "nearest" else "align_corners" if corners else "half_pixel"
    scales = builder.constant(f"{node.name}_scales", [1.0, 1.0, *node.attributes["scale"]])
    return builder.emit(
        "Resize",
        [_first(builder, node), "", scales],
        node.name,
        mode="nearest" if mode == "nearest" else "linear",
        coordinate_transformation_mode=where,
        nearest_mode="floor",
    )


def _pad(builder: OnnxBuilder, node: Node) -> str:
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    mode = node.attributes.get("mode", "constant")
    if mode not in modes:
        raise ExportError(f"{node.name}: padding mode {mode} cannot be written to ONNX", "pad with a constant")
    sides, rank = [int(side) for side in node.attributes["pad"]], len(node.shape)
    befores, afters = sides[::2][::-1], sides[1::2][::-1]
    still = [0] * (rank - len(befores))
    pads = builder.constant(f"{node.name}_pads", [*still, *befores, *still, *afters], np.int64)
    value = builder.constant(f"{node.name}_value", node.attributes.get("value") or 0.0)
    return builder.emit("Pad", [_first(builder, node), pads, value], node.name, mode=modes[mode])


def _sliced(builder: OnnxBuilder, source: str, name: str, parts: Mapping[int, slice]) -> str:
    bounds = [
        (part.start or 0, _INT64_MAX if part.stop is None else part.stop, part.step or 1) for part in parts.values()
    ]
    columns = (*zip(*bounds, strict=True), tuple(parts))
    names = [builder.constant(f"{name}_slice", list(column), np.int64) for column in columns]
    return builder.emit("Slice", [source, *names], name)


def _strided_slice(builder: OnnxBuilder, node: Node) -> str:
    index = node.attributes["index"]
    given = list(index) if isinstance(index, tuple) else [index]
    rank = len(builder.shape(node.inputs[0]))
    if Ellipsis in given:
        place = given.index(Ellipsis)
        given[place : place + 1] = [slice(None)] * (rank - len(given) + 1)
    given = [builder.resolve(part) for part in given]
    if not all(isinstance(part, (slice, int)) for part in given):
        raise ExportError(f"{node.name}: this index cannot be written to ONNX", "use slices and integers")
    parts, dropped = {}, []
    for axis, part in enumerate(given):
        if isinstance(part, int):
            dropped.append(axis)
            part = slice(part, part + 1 or None)
        if part != slice(None):
            resolved = (builder.resolve(bound) for bound in (part.start, part.stop, part.step))
            parts[axis] = slice(*resolved)
    source = _first(builder, node)
    if parts:
        source = _sliced(builder, source, f"{node.name}_part" if dropped else node.name, parts)
    if not dropped:
        return source if parts else builder.emit("Identity", [source], node.name)
    axes = builder.constant(f"{node.name}_axes", dropped, np.int64)
    return builder.emit("Squeeze", [source, axes], node.name)


def _narrow(builder: OnnxBuilder, node: Node) -> str:
    start, length = (builder.resolve(node.attributes[key]) for key in ("start", "length"))
    axis = int(node.attributes["dim"]) % len(node.shape)
    return _sliced(builder, _first(builder, node), node.name, {axis: slice(start, start + length)})


def _split(builder: OnnxBuilder, node: Node) -> tuple[str, ...]:
    axis, start, names = int(node.attributes["dim"]) % len(node.shape), 0, []
    for index, shape in enumerate(node.shapes):
        part = {axis: slice(start, start + shape[axis])}
        names.append(_sliced(builder, _first(builder, node), f"{node.name}_{index}", part))
        start += shape[axis]
    return tuple(names)


def _mean(builder: OnnxBuilder, node: Node) -> str:
    args, settings = node.call.args, {**node.attributes, **node.call.kwargs}
    rank = len(builder.shape(node.inputs[0]))
    dims = settings.get("dim", args[1] if len(args) > 1 else None)
    keep = bool(settings.get("keepdim", args[2] if len(args) > 2 else False))
    axes = list(range(rank)) if dims is None else [dims] if isinstance(dims, int) else list(dims)
    axes = [int(axis) % rank for axis in axes]
    if builder.opset < _AXES_INPUT_OPSET:
        return builder.emit("ReduceMean", [_first(builder, node)], node.name, axes=axes, keepdims=int(keep))
    names = [_first(builder, node), builder.constant(f"{node.name}_axes", axes, np.int64)]
    return builder.emit("ReduceMean", names, node.name, keepdims=int(keep))


def _layer_norm(builder: OnnxBuilder, node: Node) -> str:
    if builder.opset < _LAYER_NORM_OPSET:
        message = f"{node.name}: a layer norm needs ONNX opset {_LAYER_NORM_OPSET}, got {builder.opset}"
        raise ExportError(message, f"pass opset_version={_LAYER_NORM_OPSET} or more")
    shape = node.attributes["normalized_shape"]
    axis = -(len(shape) if isinstance(shape, (tuple, list)) else 1)
    names = [_first(builder, node)]
    if "weight" in node.parameters:
        names += [builder.parameter(node, role) for role in ("weight", "bias") if role in node.parameters]
    else:
        names.append(builder.constant(f"{node.name}_ones", np.ones(node.shape[axis:])))
    epsilon = float(node.attributes["eps"])
    return builder.emit("LayerNormalization", names, node.name, axis=axis, epsilon=epsilon)


def _prelu(builder: OnnxBuilder, node: Node) -> str:
    slope = builder.parameter(node, "weight", (-1, *(1,) * (len(node.shape) - 2)))
    return builder.emit("PRelu", [_first(builder, node), slope], node.name)


def _pixel_shuffle(builder: OnnxBuilder, node: Node) -> str:
    size = int(node.attributes["factor"])
    return builder.emit("DepthToSpace", [_first(builder, node)], node.name, blocksize=size, mode="CRD")


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


def _select(builder: OnnxBuilder, node: Node) -> str:
    place = builder.constant(f"{node.name}_index", int(node.attributes["index"]), np.int64)
    return builder.emit("Gather", [_first(builder, node), place], node.name, axis=int(node.attributes["dim"]))


def _index(builder: OnnxBuilder, node: Node) -> str:
    given = node.attributes.get("index")
    if not isinstance(given, (list, tuple)):
        raise ExportError(f"{node.name}: an index tensor cannot be written to ONNX", "index with a list of integers")
    places = builder.constant(f"{node.name}_index", [int(place) for place in given], np.int64)
    return builder.emit("Gather", [_first(builder, node), places], node.name, axis=int(node.attributes["dim"]))


def _expand(builder: OnnxBuilder, node: Node) -> str:
    shape = builder.constant(f"{node.name}_shape", list(node.shape), np.int64)
    return builder.emit("Expand", [_first(builder, node), shape], node.name)


def _cast(builder: OnnxBuilder, node: Node) -> str:
    return builder.emit("Cast", [_first(builder, node)], node.name, to=1)


WRITERS: Mapping[str, Writer] = {
    "same": _first,
    **{op: one_operator(op) for op in ("Exp", "Sqrt", "Neg")},
    "Constant": _constant,
    "rsub": _rsub,
    "select": _select,
    "index": _index,
    "Expand": _expand,
    "Cast": _cast,
    **{op: one_operator(op) for op in ("Relu", "Sigmoid", "Tanh", "Elu", "Identity")},
    **{op: _arithmetic(op) for op in ("Add", "Sub", "Mul", "Div")},
    **{op: _softmax(op) for op in ("Softmax", "LogSoftmax")},
    "input": _input,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _dense,
    "MatMul": _matmul,
    "scale": _scale,
    "LayerNormalization": _layer_norm,
    "relu6": _clip(0.0, 6.0),
    "Clip": _clamp,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "gelu": _gelu,
    "silu": _silu,
    "hard_sigmoid": _hsigmoid,
    "hard_swish": _hswish,
    "MaxPool": _maxpool,
    "AveragePool": _avgpool,
    "ReduceMean": _mean,
    "Concat": _concat,
    "Reshape": _reshape,
    "Transpose": _permute,
    "Resize": _resize,
    "Pad": _pad,
    "Slice": _strided_slice,
    "narrow": _narrow,
    "Split": _split,
    "DepthToSpace": _pixel_shuffle,
}
