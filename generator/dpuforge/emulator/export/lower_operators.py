"""How a node becomes ops of an xmodel, by the word in column `xmodel` of kinds.py; "custom" makes an op of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from dpuforge.emulator.arithmetic.fake_quantise import average_pool_coefficient
from dpuforge.emulator.arithmetic.operations import HSIGMOID_FACTOR
from dpuforge.emulator.export.lower_custom import lower_custom, lower_elementwise, results_read
from dpuforge.emulator.export.lower_moves import (
    layout_axis,
    lower_concat,
    lower_narrow,
    lower_pad,
    lower_permute,
    lower_pixel_shuffle,
    lower_reshape,
    lower_resize,
    lower_same,
    lower_select,
    lower_split,
    lower_strided_slice,
)
from dpuforge.emulator.export.xmodel_builder import (
    Attributes,
    Builder,
    Held,
    Layout,
    Operand,
    flag,
    image_dims,
    integer,
    ints,
    text,
    with_pad,
)
from dpuforge.emulator.graph.kinds import Group
from dpuforge.emulator.graph.nodes import Node
from dpuforge.xmodel.nouns import Attribute, Kind

Lowering = Callable[[Builder, Node], None]
Arrange = Callable[[torch.Tensor, Node], torch.Tensor]

_HSWISH_BITS, _HSWISH_FIX = 8, 7  # the DPU's own rounding inside hswish (docs/quantizer.md, section 4)


def lower_node(builder: Builder, node: Node) -> None:
    """Add the ops of one node; nodes must come in order."""
    LOWERINGS[node.traits.xmodel](builder, node)


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
    key = node.parameters.get("bias")
    bias = (builder.parameter(key, builder.quantised.quantised_parameter(key)),) if key else ()
    more.append(("bias", bias))  # the real tool writes the argument even where there is no bias
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


def follow(kind: str) -> Lowering:
    """Return the lowering to one op of one input that works in any layout."""
    return lambda builder, node: builder.follow(node, kind)


def _conv1d(builder: Builder, node: Node) -> None:
    """Lower to `conv1d` between transposes: XIR's has its channels last, [O, k, I / groups]."""
    source, settings = builder.operand(node.inputs[0]), node.attributes
    given = settings["padding"]
    (kernel,), (dilation,) = settings["kernel"], settings["dilation"]
    left = dilation * (kernel - 1) // 2 if given == "same" else given[0]
    right = dilation * (kernel - 1) - left if given == "same" else given[0]
    n, channels, length = source.dims
    order = {"order": ints(0, 2, 1)}
    last = builder.emit(f"{node.inputs[0].node}_swim_transpose_1", "transpose", (n, length, channels), order, source.op)
    parameter = builder.quantised.quantised_parameter
    keys = node.parameters
    more = [("weights", (builder.parameter(keys["weight"], parameter(keys["weight"]).permute(0, 2, 1)),))]
    if "bias" in keys:
        more.append(("bias", (builder.parameter(keys["bias"], parameter(keys["bias"])),)))
    attrs = {
        **{name: ints(*settings[name]) for name in ("kernel", "stride", "dilation")},
        "pad": ints(left, right),
        "pad_mode": text("FLOOR"),
        "group": integer(settings["groups"]),
        "in_dim": integer(settings["in_channels"]),
        "out_dim": integer(settings["out_channels"]),
        "bias_term": flag("bias" in keys),
    }
    dims = (n, node.shape[2], node.shape[1])
    builder.finish(node, builder.emit(node.name, "conv1d", dims, attrs, last, more), Layout.NWC)
    made = builder.operands[node.name, None]
    name = f"{node.name}_sink_transpose_1"
    native = builder.emit(name, "transpose", tuple(node.shape), order, made.op)
    builder.held.append(Held(name, native, node.name, Layout.NATIVE))
    builder.alias(node, Operand(native, tuple(node.shape)))


def _gelu(builder: Builder, node: Node) -> None:
    """Lower to `gelu`, which says in the tool's spelling which approximation was asked for."""
    builder.follow(node, "gelu", {"approximate": text(repr(str(node.attributes.get("approximate", "none"))))})


def _prelu(builder: Builder, node: Node) -> None:
    """Lower to `prelu` with one slope, or one per channel, which lies last."""
    images = len(node.shape) == 4
    source = builder.operand(node.inputs[0], Layout.NHWC if images else None)
    key = node.parameters["weight"]
    weight = builder.quantised.quantised_parameter(key)
    if not images and weight.numel() > 1 and len(node.shape) != 2:
        lower_custom(builder, node)
        return
    more = [("weight", (builder.parameter(key, weight),))]
    attrs = {"num_parameters": integer(weight.numel())}
    builder.finish(node, builder.emit(node.name, "prelu", source.dims, attrs, source.op, more), source.layout)


def _leaky_relu(builder: Builder, node: Node) -> None:
    alpha = float(torch.tensor(node.attributes["negative_slope"], dtype=torch.float32))
    builder.follow(node, "leaky-relu", {"alpha": Attribute(Kind.FLOAT, alpha)})


def _hsigmoid(builder: Builder, node: Node) -> None:
    source = builder.source(node)
    inner = builder.emit(f"{node.name}_i0", "hard-sigmoid", source.dims, {}, source.op)
    factor = builder.extra(f"{node.name}_i1", 6 * HSIGMOID_FACTOR)
    builder.finish(node, builder.emit(node.name, "mul", source.dims, {}, (inner, factor)), source.layout)


def _hswish(builder: Builder, node: Node) -> None:
    """hard-sigmoid -> mul with 6 * 2731 / 16384 -> fix -> mul with the input; two names keep the debug spelling."""
    source = builder.source(node)
    inner = builder.emit(f"{node.name}_i0", "hard-sigmoid", source.dims, {}, source.op)
    factor = builder.extra(f"{node.name}_i1", 6 * HSIGMOID_FACTOR, spelled=False)
    args = [("input", (inner, factor))]
    gate = builder.make(f"{node.name}_mul", "mul", source.dims, {}, args, spelled=False)
    fixed = builder.make_fix(f"{gate.name}_fix", gate, _HSWISH_BITS, _HSWISH_FIX, spelled=False)
    builder.body += [gate, fixed]
    name = builder.emit(node.name, "mul", source.dims, {}, (fixed.name, source.op))
    builder.finish(node, name, source.layout, position=_joined_position(builder, node))


def _joined_position(builder: Builder, node: Node) -> tuple[int, int] | None:
    """Return the position of the concat that alone reads a value: the real tool writes it after a hard swish, too."""
    (name,) = builder.consumers[node.name] if len(builder.consumers[node.name]) == 1 else ("",)
    reader = builder.graph.index.get(name)
    return builder.fix.output.get(name) if reader is not None and reader.traits.group is Group.JOIN else None


def _softmax(builder: Builder, node: Node) -> None:
    source, dim = builder.source(node), node.attributes.get("dim")
    if dim is None:
        dim = 0 if len(node.shape) in (0, 1, 3) else 1
    axis = layout_axis(builder, node, dim, node.inputs[0], source.layout)
    builder.follow(node, "softmax", {"axis": integer(axis)})


def _arithmetic(kind: str) -> Lowering:
    def lower(builder: Builder, node: Node) -> None:
        if node.attributes.get("alpha", 1) != 1:
            lower_custom(builder, node)
        elif "constant" in node.attributes:
            _with_constant(builder, node, kind)
        else:
            operands, layout = builder.same_layout(node.inputs, tuple(node.shape))
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
        lower_custom(builder, node)
        return
    source = builder.operand(node.inputs[0], Layout.NHWC)
    attrs = _pool_attributes(node, whole=False)
    builder.finish(node, builder.emit(node.name, "maxpool2d", image_dims(node.shape), attrs, source.op), Layout.NHWC)


def _avgpool(builder: Builder, node: Node) -> None:
    """Lower to `avgpool2d` and a `mul` with the factor by which the DPU's reciprocal differs."""
    settings = node.attributes
    if settings["kernel"] is None or settings.get("divisor_override") is not None:
        lower_custom(builder, node)
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


def _reversed_difference(builder: Builder, node: Node) -> None:
    """Lower `constant - value` to `sub` of the constant and the value."""
    if node.attributes.get("alpha", 1) != 1 or len(node.inputs) != 2:
        lower_custom(builder, node)
        return
    operands, layout = builder.same_layout(node.inputs[::-1], tuple(node.shape))
    dims = image_dims(node.shape) if layout is Layout.NHWC else tuple(node.shape)
    builder.finish(node, builder.emit(node.name, "sub", dims, {}, [operand.op for operand in operands]), layout)


def _const(builder: Builder, node: Node) -> None:
    """Lower a number or buffer of arithmetic when it is read: its reader says which shape it fills."""
    builder.leave_unfilled(node)


def _reduction(kind: str) -> Lowering:
    """Return the lowering to a reduction along axes that stay or go; several results (places, too) are custom."""

    def lower(builder: Builder, node: Node) -> None:
        dim, keep = reduced_axes(builder, node)
        if not dim or (len(node.shapes) > 1 and results_read(builder, node) != [0]):
            lower_custom(builder, node)
            return
        source = builder.operand(node.inputs[0], None if keep else Layout.NATIVE)
        axes = [layout_axis(builder, node, axis, node.inputs[0], source.layout) for axis in dim]
        dims = image_dims(node.shape) if source.layout is Layout.NHWC else tuple(node.shape)
        attrs = {"axis": ints(*axes), "keep_dims": flag(keep)}
        builder.finish(node, builder.emit(node.name, kind, dims, attrs, source.op), source.layout)

    return lower


def reduced_axes(builder: Builder, node: Node) -> tuple[tuple[int, ...], bool]:
    """Return the axes of a sum or maximum as its call names them, and whether they stay; () where there are none."""
    call = dict(zip(("input", "dim", "keepdim"), node.call.args, strict=False)) | dict(node.call.kwargs)
    dim = call.get("dim", call.get("axis", ()))
    given = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    known = all(isinstance(axis, int) and not isinstance(axis, bool) for axis in given)
    return (given if known else ()), bool(call.get("keepdim", False))


LOWERINGS: Mapping[str, Lowering] = {
    "custom": lower_custom,
    "elementwise": lower_elementwise,
    "data": _input,
    "conv2d": partial(_convolution, kind="conv2d", arrange=_arrange_conv),
    "depthwise-conv2d": partial(_convolution, kind="depthwise-conv2d", arrange=_arrange_depthwise),
    "transposed-conv2d": partial(_convolution, kind="transposed-conv2d", arrange=_arrange_transposed),
    "transposed-depthwise-conv2d": partial(
        _convolution, kind="transposed-depthwise-conv2d", arrange=_arrange_transposed_depthwise
    ),
    "matmul": _dense,
    "scale": _scale,
    **{kind: follow(kind) for kind in ("relu", "relu6", "sigmoid", "tanh", "neg")},
    "gelu": _gelu,
    "conv1d": _conv1d,
    "prelu": _prelu,
    "leaky-relu": _leaky_relu,
    "hard-sigmoid": _hsigmoid,
    "hard-swish": _hswish,
    "softmax": _softmax,
    **{kind: _arithmetic(kind) for kind in ("add", "sub", "mul", "div")},
    "maxpool2d": _maxpool,
    "avgpool2d": _avgpool,
    "concat": lower_concat,
    "reshape": lower_reshape,
    "transpose": lower_permute,
    "resize": lower_resize,
    "pad": lower_pad,
    "strided_slice": lower_strided_slice,
    "narrow": lower_narrow,
    "split": lower_split,
    "select": lower_select,
    "same": lower_same,
    "const": _const,
    "rsub": _reversed_difference,
    "reduction_sum": _reduction("reduction_sum"),
    "reduction_max": _reduction("reduction_max"),
    "pixel-shuffle": partial(lower_pixel_shuffle, upscale=True),
    "pixel-unshuffle": partial(lower_pixel_shuffle, upscale=False),
}
