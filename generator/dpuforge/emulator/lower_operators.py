"""How each kind of node becomes ops of an xmodel: one row per kind in LOWERINGS; others become custom `aten::` ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import torch

from dpuforge.emulator.graph import Node, Ref
from dpuforge.emulator.kernels import average_pool_coefficient
from dpuforge.emulator.lower_xmodel import (
    Attributes,
    Builder,
    ExportError,
    Held,
    Layout,
    flag,
    image_dims,
    integer,
    ints,
    text,
    with_pad,
)
from dpuforge.emulator.operations import HSIGMOID_FACTOR
from dpuforge.xmodel.nouns import Attribute, Kind

Lowering = Callable[[Builder, Node], None]
Arrange = Callable[[torch.Tensor, Node], torch.Tensor]

_NHWC_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}  # PyTorch axis -> axis of an image with channels last
_INT32_MAX = 2**31 - 1
_HSWISH_BITS, _HSWISH_FIX = 8, 7  # the DPU's own rounding inside hswish (quantizer.md, section 4)


def lower_node(builder: Builder, node: Node) -> None:
    """Add the ops of one node; nodes must come in order."""
    LOWERINGS.get(node.kind, _custom)(builder, node)


def _axis(builder: Builder, node: Node, dim: int, ref: Ref, layout: Layout) -> int:
    dim = dim % len(builder.operand(ref).dims)
    return _NHWC_AXIS[dim] if layout is Layout.NHWC else dim


def _input(builder: Builder, node: Node) -> None:
    dims = image_dims(node.shape)
    op = builder.make(node.name, "data", dims, {"data_type": text("FLOAT32"), "shape": ints(*dims)})
    builder.inputs.append(op)
    builder.finish(node, op.name, Layout.NHWC if len(dims) == 4 else Layout.NATIVE, builder.inputs)


def _geometry(node: Node, pad: tuple[int, int, int, int]) -> Attributes:
    """Return the attributes that convolutions share: [w, h] pairs, pad [left, right, top, bottom]."""
    settings = node.attributes
    top, bottom, left, right = pad
    return {
        "kernel": ints(*settings["kernel"][::-1]),
        "stride": ints(*settings["stride"][::-1]),
        "dilation": ints(*settings["dilation"][::-1]),
        "pad": ints(left, right, top, bottom),
        "pad_mode": text("FLOOR"),
        "group": integer(settings["groups"]),
        "in_dim": integer(settings["in_channels"]),
        "out_dim": integer(settings["out_channels"]),
        "bias_term": flag("bias" in node.parameters),
    }


def _padding(node: Node) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of a convolution or pool; an odd "same" puts the rest below and right."""
    given = node.attributes["padding"]
    if given != "same":
        return given[0], given[0], given[1], given[1]
    pairs = zip(node.attributes["kernel"], node.attributes["dilation"], strict=True)
    (height, width) = (dilation * (kernel - 1) for kernel, dilation in pairs)
    return height // 2, height - height // 2, width // 2, width - width // 2


def _convolution(
    builder: Builder, node: Node, kind: str, arrange: Callable[[torch.Tensor, Node], torch.Tensor]
) -> None:
    source = builder.operand(node.inputs[0], Layout.NHWC)
    pad = with_pad(source, _padding(node)).pad
    if "output_padding" in node.attributes:  # rows and columns that the plain formula lacks
        extra = node.attributes["output_padding"]
        pad = (pad[0], pad[1] - extra[0], pad[2], pad[3] - extra[1])
    weight = builder.quantised.quantised_parameter(node.parameters["weight"])
    more = [("weights", (builder.parameter(node.parameters["weight"], arrange(weight, node)),))]
    if "bias" in node.parameters:
        key = node.parameters["bias"]
        more.append(("bias", (builder.parameter(key, builder.quantised.quantised_parameter(key)),)))
    name = builder.emit(node.name, kind, image_dims(node.shape), _geometry(node, pad), source.op, more)
    builder.finish(node, name, Layout.NHWC)


def _arrange_conv(weight: torch.Tensor, _: Node) -> torch.Tensor:
    """OIHW -> OHWI."""
    return weight.permute(0, 2, 3, 1)


def _arrange_depthwise(weight: torch.Tensor, node: Node) -> torch.Tensor:
    """[C * m, 1, kh, kw] -> [m, kh, kw, C]."""
    channels = node.attributes["in_channels"]
    return weight.reshape(channels, -1, *weight.shape[2:]).permute(1, 2, 3, 0)


def _arrange_transposed(weight: torch.Tensor, node: Node) -> torch.Tensor:
    """[I, O / g, kh, kw] -> [O, kh, kw, I / g], turned by half a circle."""
    groups = node.attributes["groups"]
    split = weight.reshape(groups, -1, *weight.shape[1:]).permute(0, 2, 3, 4, 1)
    return split.reshape(-1, *split.shape[2:]).flip(1, 2)


def _arrange_transposed_depthwise(weight: torch.Tensor, node: Node) -> torch.Tensor:
    """[C, m, kh, kw] -> [m, kh, kw, C], turned by half a circle."""
    return weight.permute(1, 2, 3, 0).flip(1, 2)


def _dense(builder: Builder, node: Node) -> None:
    source = builder.operand(node.inputs[0], Layout.NATIVE)
    key = node.parameters["weight"]
    weight = builder.quantised.quantised_parameter(key)
    if source.flattened:
        weight = weight.reshape(-1, *source.flattened).permute(0, 2, 3, 1).reshape(weight.shape)
    inputs = (source.op, builder.parameter(key, weight))
    more = []
    if "bias" in node.parameters:
        bias = node.parameters["bias"]
        more = [("bias", (builder.parameter(bias, builder.quantised.quantised_parameter(bias)),))]
    attrs = {"transpose_a": flag(False), "transpose_b": flag(True)}
    builder.finish(node, builder.emit(node.name, "matmul", tuple(node.shape), attrs, inputs, more), Layout.NATIVE)


def _scale(builder: Builder, node: Node) -> None:
    """Lower a batch norm with no convolution before it."""
    source = builder.operand(node.inputs[0], Layout.NHWC)
    parameter = builder.quantised.quantised_parameter
    keys = node.parameters["weight"], node.parameters["bias"]
    names = [builder.parameter(key, parameter(key)) for key in keys]
    more = [("scale", (names[0],)), ("bias", (names[1],))]
    name = builder.emit(node.name, "scale", source.dims, {"axis": integer(-1)}, source.op, more)
    builder.finish(node, name, source.layout)


def _follow(kind: str) -> Lowering:
    return lambda builder, node: builder.follow(node, kind)


def _leaky_relu(builder: Builder, node: Node) -> None:
    alpha = float(torch.tensor(node.attributes["negative_slope"], dtype=torch.float32))
    builder.follow(node, "leaky-relu", {"alpha": Attribute(Kind.FLOAT, alpha)})


def _hsigmoid(builder: Builder, node: Node) -> None:
    source = builder.operand(node.inputs[0])
    inner = builder.emit(f"{node.name}_i0", "hard-sigmoid", source.dims, {}, source.op)
    factor = builder.extra(f"{node.name}_i1", 6 * HSIGMOID_FACTOR)
    builder.finish(node, builder.emit(node.name, "mul", source.dims, {}, (inner, factor)), source.layout)


def _hswish(builder: Builder, node: Node) -> None:
    """hard-sigmoid -> mul with 6 * 2731 / 16384 -> fix -> mul with the input; two names keep the debug spelling."""
    source = builder.operand(node.inputs[0])
    inner = builder.emit(f"{node.name}_i0", "hard-sigmoid", source.dims, {}, source.op)
    factor = builder.extra(f"{node.name}_i1", 6 * HSIGMOID_FACTOR, spelled=False)
    args = [("input", (inner, factor))]
    gate = builder.make(f"{node.name}_mul", "mul", source.dims, {}, args, spelled=False)
    fixed = builder.make_fix(f"{gate.name}_fix", gate, _HSWISH_BITS, _HSWISH_FIX, spelled=False)
    builder.body += [gate, fixed]
    name = builder.emit(node.name, "mul", source.dims, {}, (fixed.name, source.op))
    builder.finish(node, name, source.layout)


def _softmax(builder: Builder, node: Node) -> None:
    source, dim = builder.operand(node.inputs[0]), node.attributes.get("dim")
    if dim is None:
        dim = 0 if len(node.shape) in (0, 1, 3) else 1
    axis = _axis(builder, node, dim, node.inputs[0], source.layout)
    builder.follow(node, "softmax", {"axis": integer(axis)})


def _arithmetic(kind: str) -> Lowering:
    def lower(builder: Builder, node: Node) -> None:
        if node.attributes.get("alpha", 1) != 1:
            _custom(builder, node)
        elif "constant" in node.attributes:
            _with_constant(builder, node, kind)
        else:
            operands, layout = builder.same_layout(node.inputs)
            dims = image_dims(node.shape) if layout is Layout.NHWC else tuple(node.shape)
            name = builder.emit(node.name, kind, dims, {}, [operand.op for operand in operands])
            builder.finish(node, name, layout)

    return lower


def _with_constant(builder: Builder, node: Node, kind: str) -> None:
    data = builder.constant(node.attributes["constant"])
    source = builder.operand(node.inputs[0])
    if data.numel() == 1:
        data = data.reshape(1)
    elif source.layout is Layout.NHWC:
        data = data.reshape(*(1,) * (4 - data.dim()), *data.shape).permute(0, 2, 3, 1)
    const = builder.make_const(f"{node.name}_const", data)
    builder.add_extras(const)
    pair = (source.op, const.name)
    if node.attributes["constant_side"] == "input":
        pair = pair[::-1]
    dims = image_dims(node.shape) if source.layout is Layout.NHWC else tuple(node.shape)
    builder.finish(node, builder.emit(node.name, kind, dims, {}, pair), source.layout)


def _pool_attributes(node: Node, whole: bool) -> dict[str, Attribute]:
    settings = node.attributes
    top, bottom, left, right = _padding(node) if "padding" in settings else (0, 0, 0, 0)
    return {
        "kernel": ints(*settings["kernel"][::-1]),
        "stride": ints(*settings["stride"][::-1]),
        "pad": ints(left, right, top, bottom),
        "pad_mode": text("CEIL" if settings.get("ceil_mode") else "FLOOR"),
        "global": flag(whole),
    }


def _maxpool(builder: Builder, node: Node) -> None:
    if tuple(node.attributes["dilation"]) != (1, 1):
        _custom(builder, node)
        return
    source = builder.operand(node.inputs[0], Layout.NHWC)
    attrs = _pool_attributes(node, whole=False)
    builder.finish(node, builder.emit(node.name, "maxpool2d", image_dims(node.shape), attrs, source.op), Layout.NHWC)


def _avgpool(builder: Builder, node: Node) -> None:
    """Lower to `avgpool2d` and a `mul` with the factor by which the DPU's reciprocal differs."""
    settings = node.attributes
    if settings["kernel"] is None or settings.get("divisor_override") is not None:
        _custom(builder, node)
        return
    source = builder.operand(node.inputs[0], Layout.NHWC)
    whole = "output_size" in settings and tuple(node.shape[2:]) == (1, 1)
    attrs = {
        **_pool_attributes(node, whole),
        "count_include_pad": flag(settings.get("count_include_pad", True)),
        "count_include_invalid": flag(True),
    }
    dims = image_dims(node.shape)
    if node.call.function in (torch.nn.functional.avg_pool2d, torch.nn.functional.adaptive_avg_pool2d):
        name = builder.emit(node.name, "avgpool2d", dims, attrs, source.op)  # exact averages were asked for
    else:
        inner = builder.emit(f"{node.name}_i0", "avgpool2d", dims, attrs, source.op)
        factor = builder.extra(f"{node.name}_i1", average_pool_coefficient(*settings["kernel"]))
        name = builder.emit(node.name, "mul", dims, {}, (inner, factor))
    builder.finish(node, name, Layout.NHWC)


def _concat(builder: Builder, node: Node) -> None:
    operands, layout = builder.same_layout(node.inputs)
    axis = _axis(builder, node, node.attributes["dim"], node.inputs[0], layout)
    dims = image_dims(node.shape) if layout is Layout.NHWC else tuple(node.shape)
    name = builder.emit(node.name, "concat", dims, {"axis": integer(axis)}, [operand.op for operand in operands])
    builder.finish(node, name, layout)


def _reshape(builder: Builder, node: Node) -> None:
    """Lower flatten, view and the like; an image flattened for dense layers alone keeps its channels last."""
    source = builder.operand(node.inputs[0])
    image = builder.graph[node.inputs[0].node].shape
    flattened: tuple[int, ...] = ()
    if source.layout is Layout.NHWC and prod(source.dims[1:3]) > 1:
        readers = builder.consumers[node.name]
        dense = all(reader in builder.graph.index and builder.graph[reader].kind == "nndct_dense" for reader in readers)
        if dense and len(node.shape) == 2 and node.shape[0] == source.dims[0]:
            flattened = tuple(image[1:])
        else:
            source = builder.operand(node.inputs[0], Layout.NATIVE)
    sizes = [
        builder.make_const(f"{node.name}_shape_attr_{index}_", torch.tensor([float(size)]))
        for index, size in enumerate(node.shape)
    ]
    shape = builder.make(
        f"{node.name}_shape_i0",
        "stack",
        (len(sizes), 1),
        {"axis": integer(0)},
        [("input", [size.name for size in sizes])],
    )
    assert shape.tensor is not None
    shape.tensor.attrs["shape_info"] = ints(*node.shape)  # type: ignore[index]
    builder.add_extras(*sizes[::-1], shape)
    more = [("shape", (shape.name,))]
    name = builder.emit(node.name, "reshape", tuple(node.shape), {"shape": ints(0)}, source.op, more)
    builder.finish(node, name, Layout.NATIVE, flattened=flattened)


def _permute(builder: Builder, node: Node) -> None:
    """Lower a permutation of axes; one that gives what the layout already is moves nothing."""
    rank = len(node.shape)
    if node.kind == "nndct_transpose":
        one, two = int(node.attributes["dim0"]) % rank, int(node.attributes["dim1"]) % rank
        order = [two if axis == one else one if axis == two else axis for axis in range(rank)]
    else:
        order = [int(axis) % rank for axis in node.attributes["order"]]
    source = builder.operand(node.inputs[0])
    if source.layout is Layout.NHWC:
        order = [_NHWC_AXIS[axis] for axis in order]
    if order == list(range(rank)) and node.name not in builder.fix.output:
        builder.alias(node, type(source)(source.op, source.dims))
        return
    name = builder.emit(node.name, "transpose", tuple(node.shape), {"order": ints(*order)}, source.op)
    builder.finish(node, name, Layout.NATIVE)


def _resize(builder: Builder, node: Node) -> None:
    modes = {"nearest": "NEAREST", "bilinear": "BILINEAR"}
    mode, corners = str(node.attributes["mode"]), bool(node.attributes["align_corners"])
    if mode not in modes or len(node.shape) != 4:
        _custom(builder, node)
        return
    source = builder.operand(node.inputs[0], Layout.NHWC)
    height, width = node.attributes["scale"]
    attrs = {
        "scale": Attribute(Kind.FLOAT_VEC, (float(width), float(height))),
        "mode": text(modes[mode]),
        "align_corners": flag(corners),
        "half_pixel_centers": flag(mode == "bilinear" and not corners),
    }
    name = builder.emit(node.name, "resize", image_dims(node.shape), attrs, source.op, [("size", ())])
    builder.finish(node, name, Layout.NHWC)


def _pad(builder: Builder, node: Node) -> None:
    """Lower a padding with zeros before convolutions into their own pad, any other constant one to `pad`."""
    sides, value = [int(side) for side in node.attributes["pad"]], node.attributes.get("value") or 0
    if node.attributes.get("mode", "constant") != "constant":
        _custom(builder, node)
        return
    source = builder.operand(node.inputs[0], Layout.NHWC)
    readers = builder.consumers[node.name]
    joins = all(reader in builder.graph.index and builder.graph[reader].kind in _PADDED for reader in readers)
    if joins and value == 0 and len(sides) <= 4 and len(node.shape) == 4 and min(sides) >= 0:
        left, right, top, bottom = (*sides, 0, 0)[:4]
        builder.alias(node, with_pad(source, (top, bottom, left, right)))
        return
    pairs = [tuple(sides[2 * i : 2 * i + 2]) for i in range(len(sides) // 2)]
    native = [(0, 0)] * (len(node.shape) - len(pairs)) + pairs[::-1]
    ordered = [native[axis] for axis in (0, 2, 3, 1)] if source.layout is Layout.NHWC else native
    attrs = {
        "paddings": ints(*(side for pair in ordered for side in pair)),
        "mode": text("CONSTANT"),
        "constant_values": Attribute(Kind.FLOAT_VEC, (float(value),) * (2 * len(ordered))),
    }
    dims = image_dims(node.shape) if source.layout is Layout.NHWC else tuple(node.shape)
    builder.finish(node, builder.emit(node.name, "pad", dims, attrs, source.op), source.layout)


def _slice_op(builder: Builder, node: Node, name: str, parts: list[slice | int], dims: tuple[int, ...]) -> str:
    """Add a `strided_slice`; bounds that are left open have mask bits, an integer drops its axis."""
    source = builder.operand(node.inputs[0])
    if any(isinstance(part, int) for part in parts):
        source = builder.operand(node.inputs[0], Layout.NATIVE)
    if source.layout is Layout.NHWC:
        parts = [parts[axis] for axis in (0, 2, 3, 1)]
    slices = [part if isinstance(part, slice) else slice(part, part + 1 or None) for part in parts]
    begins = [builder.resolve(part.start) for part in slices]
    ends = [builder.resolve(part.stop) for part in slices]
    attrs = {
        "begin": ints(*(begin or 0 for begin in begins)),
        "end": ints(*(_INT32_MAX if end is None else min(end, _INT32_MAX) for end in ends)),
        "strides": ints(*(builder.resolve(part.step) or 1 for part in slices)),
        "begin_mask": integer(sum(1 << i for i, begin in enumerate(begins) if not begin)),
        "end_mask": integer(sum(1 << i for i, end in enumerate(ends) if end is None or end >= _INT32_MAX)),
        "ellipsis_mask": integer(0),
        "new_axis_mask": integer(0),
        "shrink_axis_mask": integer(sum(1 << i for i, part in enumerate(parts) if isinstance(part, int))),
    }
    shape = image_dims(dims) if source.layout is Layout.NHWC else dims
    return builder.emit(name, "strided_slice", shape, attrs, source.op)


def _strided_slice(builder: Builder, node: Node) -> None:
    index = node.attributes["index"]
    given = list(index) if isinstance(index, tuple) else [index]
    rank = len(builder.operand(node.inputs[0]).dims)
    if Ellipsis in given:
        place = given.index(Ellipsis)
        given[place : place + 1] = [slice(None)] * (rank - len(given) + 1)
    parts = [builder.resolve(part) for part in given] + [slice(None)] * (rank - len(given))
    if len(parts) != rank or not all(isinstance(part, (slice, int)) for part in parts):
        _custom(builder, node)
        return
    name = _slice_op(builder, node, node.name, parts, tuple(node.shape))
    native = any(isinstance(part, int) for part in parts)
    builder.finish(node, name, Layout.NATIVE if native else builder.operand(node.inputs[0]).layout)


def _narrow(builder: Builder, node: Node) -> None:
    rank, settings = len(node.shape), node.attributes
    start = builder.resolve(settings["start"])
    parts: list[slice | int] = [slice(None)] * rank
    parts[settings["dim"] % rank] = slice(start, start + builder.resolve(settings["length"]))
    name = _slice_op(builder, node, node.name, parts, tuple(node.shape))
    builder.finish(node, name, builder.operand(node.inputs[0]).layout)


def _split(builder: Builder, node: Node) -> None:
    """Lower chunk and split to one slice for each part."""
    rank, dim = len(node.shape), int(node.attributes["dim"])
    layout, start = builder.operand(node.inputs[0]).layout, 0
    for index, shape in enumerate(node.shapes):
        parts: list[slice | int] = [slice(None)] * rank
        stop = start + shape[dim % rank]
        parts[dim % rank] = slice(start or None, stop)
        start = stop
        name = _slice_op(builder, node, f"{node.name}_{index}", parts, tuple(shape))
        builder.held.append(Held(f"{node.name}_{index}", name, node.name, layout, index))
        dims = image_dims(shape) if layout is Layout.NHWC else tuple(shape)
        builder.operands[node.name, index] = type(builder.operand(node.inputs[0]))(name, dims, layout)


def _clamp(builder: Builder, node: Node) -> None:
    limits = node.attributes.get("min"), node.attributes.get("max")
    known = {(0, 6): "relu6", (-1, 1): "hard-tanh", (0, None): "relu"}
    if limits in known:
        builder.follow(node, known[limits])
    else:
        _custom(builder, node)


def _pixel_shuffle(builder: Builder, node: Node) -> None:
    source = builder.operand(node.inputs[0], Layout.NHWC)
    attrs = {
        "scale": integer(node.attributes["factor"]),
        "upscale": flag(node.kind == "nndct_pixel_shuffle"),
    }
    name = builder.emit(node.name, "pixel-shuffle", image_dims(node.shape), attrs, source.op)
    builder.finish(node, name, Layout.NHWC)


def _custom(builder: Builder, node: Node) -> None:
    """Lower to a custom op `aten::<name>` with shape and data type, in PyTorch's layout: a CPU op after compiling."""
    if len(node.shapes) != 1 or not node.inputs:
        raise ExportError(
            f"{node.name} of kind {node.kind} has {len(node.shapes)} results and cannot be written to an xmodel",
            "keep it out of the quantised network, or export to ONNX or TorchScript",
        )
    kind = node.kind if "::" in node.kind else f"aten::{node.kind.removeprefix('nndct_')}"
    inputs = [builder.operand(ref, Layout.NATIVE).op for ref in node.inputs]
    parameter = builder.quantised.quantised_parameter
    more = [(role, (builder.parameter(key, parameter(key)),)) for role, key in node.parameters.items()]
    attrs: Mapping[str, Any] = {"data_type": text("FLOAT32"), "shape": ints(*node.shape)}
    builder.finish(node, builder.emit(node.name, kind, tuple(node.shape), attrs, inputs, more), Layout.NATIVE)


_PADDED = frozenset({"nndct_conv2d", "nndct_depthwise_conv2d"})

LOWERINGS: Mapping[str, Lowering] = {
    "nndct_input": _input,
    "nndct_conv2d": partial(_convolution, kind="conv2d", arrange=_arrange_conv),
    "nndct_depthwise_conv2d": partial(_convolution, kind="depthwise-conv2d", arrange=_arrange_depthwise),
    "nndct_conv_transpose_2d": partial(_convolution, kind="transposed-conv2d", arrange=_arrange_transposed),
    "nndct_depthwise_conv_transpose_2d": partial(
        _convolution, kind="transposed-depthwise-conv2d", arrange=_arrange_transposed_depthwise
    ),
    "nndct_dense": _dense,
    "nndct_batch_norm": _scale,
    "nndct_relu": _follow("relu"),
    "nndct_relu6": _follow("relu6"),
    "nndct_leaky_relu": _leaky_relu,
    "nndct_sigmoid": _follow("sigmoid"),
    "nndct_tanh": _follow("tanh"),
    "nndct_gelu": _follow("gelu"),
    "nndct_hsigmoid": _hsigmoid,
    "nndct_hswish": _hswish,
    "nndct_hardtanh": _clamp,
    "nndct_clamp": _clamp,
    "nndct_softmax": _softmax,
    "nndct_elemwise_add": _arithmetic("add"),
    "nndct_elementwise_sub": _arithmetic("sub"),
    "nndct_elemwise_mul": _arithmetic("mul"),
    "nndct_elemwise_div": _arithmetic("div"),
    "nndct_maxpool": _maxpool,
    "nndct_avgpool": _avgpool,
    "nndct_adaptive_avg_pool2d": _avgpool,
    "nndct_concat": _concat,
    "nndct_flatten": _reshape,
    "nndct_reshape": _reshape,
    "nndct_squeeze": _reshape,
    "nndct_unsqueeze": _reshape,
    "nndct_unflatten": _reshape,
    "nndct_permute": _permute,
    "nndct_transpose": _permute,
    "nndct_resize": _resize,
    "nndct_pad_nd": _pad,
    "nndct_strided_slice": _strided_slice,
    "nndct_narrow": _narrow,
    "nndct_chunk": _split,
    "nndct_split": _split,
    "nndct_pixel_shuffle": _pixel_shuffle,
    "nndct_pixel_unshuffle": _pixel_shuffle,
}
