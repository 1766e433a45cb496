"""How nodes that move or select values become ops of an xmodel: reshapes, permutations, slices, pads, resizes."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from dpuforge.emulator.export.lower_custom import lower_custom
from dpuforge.emulator.export.xmodel_builder import (
    NHWC_AXIS,
    Builder,
    Held,
    Layout,
    flag,
    image_dims,
    integer,
    ints,
    text,
    with_pad,
)
from dpuforge.emulator.graph.kinds import Fact, Group
from dpuforge.emulator.graph.nodes import Node, Ref
from dpuforge.xmodel.nouns import Attribute, Kind

_INT32_MAX = 2**31 - 1


def layout_axis(builder: Builder, node: Node, dim: int, ref: Ref, layout: Layout) -> int:
    """Return where a PyTorch axis of `ref`'s value lies in a layout."""
    dim = dim % len(builder.operand(ref).dims)
    return NHWC_AXIS[dim] if layout is Layout.NHWC else dim


def lower_concat(builder: Builder, node: Node) -> None:
    """Lower a concatenation along one axis of the common layout."""
    operands, layout = builder.same_layout(node.inputs)
    axis = layout_axis(builder, node, node.attributes["dim"], node.inputs[0], layout)
    dims = image_dims(node.shape) if layout is Layout.NHWC else tuple(node.shape)
    name = builder.emit(node.name, "concat", dims, {"axis": integer(axis)}, [operand.op for operand in operands])
    builder.finish(node, name, layout)


def lower_reshape(builder: Builder, node: Node) -> None:
    """Lower flatten, view and the like; an image flattened for dense layers alone keeps its channels last."""
    source = builder.operand(node.inputs[0])
    image = builder.graph[node.inputs[0].node].shape
    flattened: tuple[int, ...] = ()
    if source.layout is Layout.NHWC:
        readers = builder.consumers[node.name]
        nodes = builder.graph.index
        dense = all(reader in nodes and nodes[reader].traits.group is Group.DENSE for reader in readers)
        dense &= prod(source.dims[1:3]) > 1  # else nothing moves
        if dense and len(node.shape) == 2 and node.shape[0] == source.dims[0]:
            flattened = tuple(image[1:])
        else:
            source = builder.operand(node.inputs[0], Layout.NATIVE)
    sizes = builder.sizes(f"{node.name}_shape", _asked_shape(builder, node))
    builder.add_extras(*sizes)
    more = [("shape", (sizes[-1].name,))]
    name = builder.emit(node.name, "reshape", tuple(node.shape), {"shape": ints(0)}, source.op, more)
    builder.finish(node, name, Layout.NATIVE, flattened=flattened)


def _asked_shape(builder: Builder, node: Node) -> tuple[int, ...]:
    """Return the shape that the network asked for, its -1 kept."""
    given = [builder.resolve(size) for size in node.attributes.get("shape", ())]
    asked = all(isinstance(size, int) for size in given) and len(given) == len(node.shape)
    return tuple(map(int, given)) if asked else tuple(node.shape)


def permutation_order(node: Node) -> list[int]:
    """Return which input axis each output axis of a transpose or permute takes, none negative."""
    rank = len(node.shape)
    if "dim0" in node.attributes:
        one, two = int(node.attributes["dim0"]) % rank, int(node.attributes["dim1"]) % rank
        return [two if axis == one else one if axis == two else axis for axis in range(rank)]
    return [int(axis) % rank for axis in node.attributes["order"]]


def lower_permute(builder: Builder, node: Node) -> None:
    """Lower a permutation of axes; one that gives what the layout already is moves nothing."""
    order = permutation_order(node)
    source = builder.operand(node.inputs[0])
    if source.layout is Layout.NHWC:
        order = [NHWC_AXIS[axis] for axis in order]
    if order == list(range(len(order))) and node.name not in builder.fix.output:
        builder.alias(node, type(source)(source.op, source.dims))
        return
    name = builder.emit(node.name, "transpose", tuple(node.shape), {"order": ints(*order)}, source.op)
    builder.finish(node, name, Layout.NATIVE)


def lower_same(builder: Builder, node: Node) -> None:
    """Lower what changes nothing to nothing: contiguous, detach, a cast to the same type."""
    builder.alias(node, builder.source(node))


def lower_resize(builder: Builder, node: Node) -> None:
    """Lower nearest and bilinear resizes; other modes are custom."""
    modes = {"nearest": "NEAREST", "bilinear": "BILINEAR"}
    mode, corners = str(node.attributes["mode"]), bool(node.attributes["align_corners"])
    if mode not in modes or len(node.shape) != 4:
        lower_custom(builder, node)
        return
    source = builder.operand(node.inputs[0], Layout.NHWC)
    height, width = node.attributes["scale"]
    sizes = builder.sizes(f"{node.name}_size", node.attributes["size"]) if node.attributes["by_size"] else []
    builder.add_extras(*sizes)
    attrs = {
        "scale": Attribute(Kind.FLOAT_VEC, () if sizes else (float(width), float(height))),
        "mode": text(modes[mode]),
        "align_corners": flag(corners),
        "half_pixel_centers": flag(mode == "bilinear" and not corners),
    }
    name = builder.emit(
        node.name, "resize", image_dims(node.shape), attrs, source.op, [("size", [op.name for op in sizes[-1:]])]
    )
    builder.finish(node, name, Layout.NHWC)


def lower_pad(builder: Builder, node: Node) -> None:
    """Lower a padding with zeros before convolutions into their own pad, other constant or reflecting ones to `pad`."""
    sides, value = [int(side) for side in node.attributes["pad"]], node.attributes.get("value") or 0
    mode = node.attributes.get("mode", "constant")
    if mode not in ("constant", "reflect"):
        lower_custom(builder, node)
        return
    source = builder.operand(node.inputs[0], Layout.NHWC)
    readers = builder.consumers[node.name]
    nodes = builder.graph.index
    joins = all(reader in nodes and Fact.TAKES_PAD in nodes[reader].traits.facts for reader in readers)
    if joins and value == 0 and mode == "constant" and len(sides) <= 4 and len(node.shape) == 4 and min(sides) >= 0:
        left, right, top, bottom = (*sides, 0, 0)[:4]
        builder.alias(node, with_pad(source, (top, bottom, left, right)))
        return
    pairs = [tuple(sides[2 * i : 2 * i + 2]) for i in range(len(sides) // 2)]
    native = [(0, 0)] * (len(node.shape) - len(pairs)) + pairs[::-1]
    ordered = [native[axis] for axis in (0, 2, 3, 1)] if source.layout is Layout.NHWC else native
    attrs = {
        "paddings": ints(*(side for pair in ordered for side in pair)),
        "mode": text(mode.upper()),
        "constant_values": Attribute(Kind.FLOAT_VEC, (float(value),) * (2 * len(ordered))),
    }
    dims = image_dims(node.shape) if source.layout is Layout.NHWC else tuple(node.shape)
    builder.finish(node, builder.emit(node.name, "pad", dims, attrs, source.op), source.layout)


def _slice_op(builder: Builder, node: Node, name: str, parts: list[slice | int], dims: tuple[int, ...]) -> str:
    """Add a `strided_slice`; bounds that are left open have mask bits, an integer drops its axis."""
    source = builder.source(node)
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


def lower_strided_slice(builder: Builder, node: Node) -> None:
    """Lower an index made of slices, integers and an ellipsis; any other is custom."""
    index = node.attributes["index"]
    given = list(index) if isinstance(index, tuple) else [index]
    rank = len(builder.operand(node.inputs[0]).dims)
    if Ellipsis in given:
        place = given.index(Ellipsis)
        given[place : place + 1] = [slice(None)] * (rank - len(given) + 1)
    parts = [builder.resolve(part) for part in given] + [slice(None)] * (rank - len(given))
    if len(parts) != rank or not all(isinstance(part, (slice, int)) for part in parts):
        lower_custom(builder, node)
        return
    alone = _is_alone_behind_ellipsis(index) and builder.source(node).layout is Layout.NATIVE
    name = _slice_op(builder, node, node.name, parts, tuple(node.shape))
    if alone:
        open_end = isinstance(parts[-1], slice) and parts[-1].stop is None
        attrs = {**builder.body[-1].attrs, "end_mask": integer(int(open_end))}
        builder.body[-1] = replace(builder.body[-1], attrs=attrs)
    native = any(isinstance(part, int) for part in parts)
    builder.finish(node, name, Layout.NATIVE if native else builder.source(node).layout)


def _is_alone_behind_ellipsis(index: object) -> bool:
    """Say whether an index is x[..., a:b]: the real tool then masks the end of no other axis, which changes nothing."""
    return isinstance(index, tuple) and len(index) == 2 and index[0] is Ellipsis and isinstance(index[1], slice)


def lower_select(builder: Builder, node: Node) -> None:
    """Lower one place of an axis, which goes."""
    settings, rank = node.attributes, len(builder.operand(node.inputs[0]).dims)
    parts: list[slice | int] = [slice(None)] * rank
    parts[int(settings["dim"]) % rank] = int(builder.resolve(settings["index"]))
    builder.finish(node, _slice_op(builder, node, node.name, parts, tuple(node.shape)), Layout.NATIVE)


def lower_narrow(builder: Builder, node: Node) -> None:
    """Lower a part of one axis."""
    rank, settings = len(node.shape), node.attributes
    start = builder.resolve(settings["start"])
    parts: list[slice | int] = [slice(None)] * rank
    parts[settings["dim"] % rank] = slice(start, start + builder.resolve(settings["length"]))
    name = _slice_op(builder, node, node.name, parts, tuple(node.shape))
    builder.finish(node, name, builder.source(node).layout)


def lower_split(builder: Builder, node: Node) -> None:
    """Lower chunk and split to one slice for each part."""
    rank, dim = len(node.shape), int(node.attributes["dim"])
    layout, start = builder.source(node).layout, 0
    for index, shape in enumerate(node.shapes):
        parts: list[slice | int] = [slice(None)] * rank
        stop = start + shape[dim % rank]
        parts[dim % rank] = slice(start or None, stop)
        start = stop
        name = _slice_op(builder, node, f"{node.name}_{index}", parts, tuple(shape))
        builder.held.append(Held(f"{node.name}_{index}", name, node.name, layout, index))
        dims = image_dims(shape) if layout is Layout.NHWC else tuple(shape)
        builder.operands[node.name, index] = type(builder.operand(node.inputs[0]))(name, dims, layout)


def lower_pixel_shuffle(builder: Builder, node: Node, upscale: bool) -> None:
    """Lower the moves between channels and space."""
    source = builder.operand(node.inputs[0], Layout.NHWC)
    attrs = {
        "scale": integer(node.attributes["factor"]),
        "upscale": flag(upscale),
    }
    name = builder.emit(node.name, "pixel-shuffle", image_dims(node.shape), attrs, source.op)
    builder.finish(node, name, Layout.NHWC)
