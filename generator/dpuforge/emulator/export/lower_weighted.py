"""How convolutions, dense layers and batch norms become ops of an xmodel: their weights lie with channels last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

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
from dpuforge.emulator.graph.nodes import Node


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


def padding_of(node: Node) -> tuple[int, int, int, int]:
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
    pad = with_pad(source, padding_of(node)).pad
    if "output_padding" in node.attributes:  # rows and columns that the plain formula lacks
        extra = node.attributes["output_padding"]
        pad = (pad[0], pad[1] - extra[0], pad[2], pad[3] - extra[1])
    weight = builder.quantised.quantised_parameter(node.parameters["weight"])
    weights = (builder.parameter(node.parameters["weight"], arrange(weight, node)),)
    more: list[tuple[str, tuple[str, ...]]] = [("weights", weights)]
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


WEIGHTED: Mapping[str, Callable[[Builder, Node], None]] = {
    "conv2d": partial(_convolution, kind="conv2d", arrange=_arrange_conv),
    "depthwise-conv2d": partial(_convolution, kind="depthwise-conv2d", arrange=_arrange_depthwise),
    "transposed-conv2d": partial(_convolution, kind="transposed-conv2d", arrange=_arrange_transposed),
    "transposed-depthwise-conv2d": partial(
        _convolution, kind="transposed-depthwise-conv2d", arrange=_arrange_transposed_depthwise
    ),
    "matmul": _dense,
    "scale": _scale,
    "conv1d": _conv1d,
}
