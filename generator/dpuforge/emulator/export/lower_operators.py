"""How a node becomes ops of an xmodel, by the word in column `xmodel` of kinds.py; "custom" makes an op of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
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
from dpuforge.emulator.export.lower_weighted import WEIGHTED, padding_of
from dpuforge.emulator.export.xmodel_builder import (
    Builder,
    Layout,
    flag,
    image_dims,
    integer,
    ints,
    text,
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


def follow(kind: str) -> Lowering:
    """Return the lowering to one op of one input that works in any layout."""
    return lambda builder, node: builder.follow(node, kind)


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
    top, bottom, left, right = padding_of(node) if "padding" in settings else (0, 0, 0, 0)
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
        if len(node.shapes) > 1:
            builder.held[-1] = replace(builder.held[-1], index=0)

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
    **WEIGHTED,
    **{kind: follow(kind) for kind in ("relu", "relu6", "sigmoid", "tanh", "neg")},
    "gelu": _gelu,
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
