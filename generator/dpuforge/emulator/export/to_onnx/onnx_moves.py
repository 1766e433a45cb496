"""What moves, joins or selects values as ONNX operators."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dpuforge.emulator.export.lower_moves import permutation_order
from dpuforge.emulator.export.to_onnx.onnx_builder import OnnxBuilder, Writer, first_input, one_operator, trace_batch
from dpuforge.emulator.export.xmodel_builder import ExportError
from dpuforge.emulator.graph.nodes import Node


def _concat(builder: OnnxBuilder, node: Node) -> str:
    names = [builder.value(ref) for ref in node.inputs]
    return builder.emit("Concat", names, node.name, axis=int(node.attributes["dim"]))


def _reshape(builder: OnnxBuilder, node: Node) -> str:
    shape = builder.constant(f"{node.name}_shape", trace_batch(node.shape, builder.graph.batch), np.int64)
    return builder.emit("Reshape", [first_input(builder, node), shape], node.name)


def _permute(builder: OnnxBuilder, node: Node) -> str:
    return builder.emit("Transpose", [first_input(builder, node)], node.name, perm=permutation_order(node))


def _resize(builder: OnnxBuilder, node: Node) -> str:
    mode, corners = str(node.attributes["mode"]), bool(node.attributes["align_corners"])
    if mode not in ("nearest", "bilinear"):
        raise ExportError(f"{node.name}: resize mode {mode} cannot be written to ONNX", "use nearest or bilinear")
    where = "asymmetric" if mode == "nearest" else "align_corners" if corners else "half_pixel"
    scales = builder.constant(f"{node.name}_scales", [1.0, 1.0, *node.attributes["scale"]])
    return builder.emit(
        "Resize",
        [first_input(builder, node), "", scales],
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
    return builder.emit("Pad", [first_input(builder, node), pads, value], node.name, mode=modes[mode])


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
    source = first_input(builder, node)
    if parts:
        source = builder.sliced(source, f"{node.name}_part" if dropped else node.name, parts)
    if not dropped:
        return source if parts else builder.emit("Identity", [source], node.name)
    axes = builder.constant(f"{node.name}_axes", dropped, np.int64)
    return builder.emit("Squeeze", [source, axes], node.name)


def _narrow(builder: OnnxBuilder, node: Node) -> str:
    start, length = (builder.resolve(node.attributes[key]) for key in ("start", "length"))
    axis = int(node.attributes["dim"]) % len(node.shape)
    return builder.sliced(first_input(builder, node), node.name, {axis: slice(start, start + length)})


def _split(builder: OnnxBuilder, node: Node) -> tuple[str, ...]:
    axis, start, names = int(node.attributes["dim"]) % len(node.shape), 0, []
    for index, shape in enumerate(node.shapes):
        part = {axis: slice(start, start + shape[axis])}
        names.append(builder.sliced(first_input(builder, node), f"{node.name}_{index}", part))
        start += shape[axis]
    return tuple(names)


def _pixel_shuffle(builder: OnnxBuilder, node: Node) -> str:
    size = int(node.attributes["factor"])
    return builder.emit("DepthToSpace", [first_input(builder, node)], node.name, blocksize=size, mode="CRD")


def _select(builder: OnnxBuilder, node: Node) -> str:
    place = builder.constant(f"{node.name}_index", int(node.attributes["index"]), np.int64)
    return builder.emit("Gather", [first_input(builder, node), place], node.name, axis=int(node.attributes["dim"]))


def _index(builder: OnnxBuilder, node: Node) -> str:
    given = node.attributes.get("index")
    if not isinstance(given, (list, tuple)):
        raise ExportError(f"{node.name}: an index tensor cannot be written to ONNX", "index with a list of integers")
    places = builder.constant(f"{node.name}_index", [int(place) for place in given], np.int64)
    return builder.emit("Gather", [first_input(builder, node), places], node.name, axis=int(node.attributes["dim"]))


def _expand(builder: OnnxBuilder, node: Node) -> str:
    shape = builder.constant(f"{node.name}_shape", list(node.shape), np.int64)
    return builder.emit("Expand", [first_input(builder, node), shape], node.name)


def _cast(builder: OnnxBuilder, node: Node) -> str:
    return builder.emit("Cast", [first_input(builder, node)], node.name, to=1)


def _pixel_unshuffle(builder: OnnxBuilder, node: Node) -> str:
    """Write torch's order of channels, which SpaceToDepth does not have: reshape, transpose, reshape."""
    size, (n, channels, height, width) = int(node.attributes["factor"]), builder.shape(node.inputs[0])
    split = [n, channels, height // size, size, width // size, size]
    shapes = [trace_batch(shape, builder.graph.batch) for shape in (split, node.shape)]
    names = [builder.constant(f"{node.name}_shape", shape, np.int64) for shape in shapes]
    apart = builder.emit("Reshape", [first_input(builder, node), names[0]], f"{node.name}_apart")
    turned = builder.emit("Transpose", [apart], f"{node.name}_turned", perm=[0, 1, 3, 5, 2, 4])
    return builder.emit("Reshape", [turned, names[1]], node.name)


def _stack(builder: OnnxBuilder, node: Node) -> str:
    call = dict(zip(("tensors", "dim"), node.call.args, strict=False)) | dict(node.call.kwargs)
    axis = int(call.get("dim", 0)) % len(node.shape)
    axes = builder.constant(f"{node.name}_axes", [axis], np.int64)
    parts = [builder.emit("Unsqueeze", [builder.value(ref), axes], f"{node.name}_part") for ref in node.inputs]
    return builder.emit("Concat", parts, node.name, axis=axis)


MOVES: Mapping[str, Writer] = {
    "same": first_input,
    "Identity": one_operator("Identity"),
    "select": _select,
    "index": _index,
    "Expand": _expand,
    "Cast": _cast,
    "Concat": _concat,
    "stack": _stack,
    "Reshape": _reshape,
    "Transpose": _permute,
    "Resize": _resize,
    "Pad": _pad,
    "Slice": _strided_slice,
    "narrow": _narrow,
    "Split": _split,
    "DepthToSpace": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
}
