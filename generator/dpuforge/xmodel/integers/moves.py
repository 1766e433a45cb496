"""The operators that move values without computing: joins, reshapes, slices, pads and resizes."""

from __future__ import annotations

from math import prod

import numpy as np

from dpuforge.errors import FormatError
from dpuforge.xmodel.integers import kernels
from dpuforge.xmodel.integers.fixed_point import Value, align, exact_constant, real_value
from dpuforge.xmodel.integers.operands import Inputs, Machine, attribute, four_dims, single, vector
from dpuforge.xmodel.nouns import Op


def run_concat(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Join along an axis on one scale."""
    values = align(inputs.get("input", ()))
    data = np.concatenate([value.data for value in values], axis=attribute(op, "axis", "int"))
    return Value(data, values[0].fix_point, values[0].divisor, max(v.bound for v in values), values[0].exact)


def run_stack(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Join along a new axis on one scale."""
    values = align(inputs.get("input", ()))
    data = np.stack([value.data for value in values], axis=attribute(op, "axis", "int"))
    return Value(data, values[0].fix_point, values[0].divisor, max(v.bound for v in values), values[0].exact)


def run_reshape(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Give the declared shape, which the `shape` input must repeat; the first dimension is the batch."""
    x = single(op, inputs)
    if inputs.get("shape"):
        told = [int(size) for size in inputs["shape"][0].real.flat]
        if len(told) != len(op.dims) or any(t not in (-1, d) for t, d in zip(told[1:], op.dims[1:], strict=True)):
            raise FormatError(f"op {op.name!r}: the shape input says {told}, the file declares {list(op.dims)}")
    images = x.data.size // max(1, prod(op.dims))
    return x.with_data(x.data.reshape(images * op.dims[0], *op.dims[1:]) if op.dims else x.data.reshape(()))


def run_transpose(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Reorder the axes."""
    x, order = single(op, inputs), vector(op, "order")
    if sorted(order) != list(range(x.data.ndim)):
        raise FormatError(f"op {op.name!r}: order {list(order)} on a tensor of {list(x.data.shape)}")
    return x.with_data(x.data.transpose(order))


def run_strided_slice(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Take a part of each axis; a shrink mask drops axes."""
    x = single(op, inputs)
    begin, end, strides = (vector(op, key, x.data.ndim) for key in ("begin", "end", "strides"))
    if any(attribute(op, mask, "int", 0) for mask in ("ellipsis_mask", "new_axis_mask")):
        raise FormatError(f"op {op.name!r}: only begin, end and shrink masks are known")
    dropped = attribute(op, "shrink_axis_mask", "int", 0)
    masks = attribute(op, "begin_mask", "int", 0), attribute(op, "end_mask", "int", 0)
    parts = [
        slice(None if masks[0] >> i & 1 else begin[i], None if masks[1] >> i & 1 else end[i], strides[i])
        for i in range(x.data.ndim)
    ]
    if op.dims[:1] == (1,) and not dropped & 1:
        parts[0] = slice(None)  # the batch, whatever its size
    data = x.data[tuple(parts)]
    return x.with_data(data.squeeze(tuple(i for i in range(x.data.ndim) if dropped >> i & 1)))


_PAD_MODES = {"CONSTANT": "constant", "REFLECT": "reflect", "SYMMETRIC": "symmetric"}


def run_pad(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Pad with one constant number or with what lies at the border: `paddings` holds a pair for each axis."""
    x, sides, mode = single(op, inputs), vector(op, "paddings", None, 0), attribute(op, "mode", "string")
    numbers = set(vector(op, "constant_values")) if "constant_values" in op.attrs else {0.0}
    if mode not in _PAD_MODES or len(numbers) != 1 or len(sides) != 2 * x.data.ndim or any(sides[:2]):
        raise FormatError(f"op {op.name!r}: only padding outside the batch, of mode {list(_PAD_MODES)}, is known")
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    if prod(size + sum(pair) for size, pair in zip(x.data.shape[1:], pairs[1:], strict=True)) > kernels.MAX_ELEMENTS:
        raise FormatError(f"op {op.name!r}: pads of {list(sides)}")
    if mode != "CONSTANT":
        return x.with_data(np.pad(x.data, pairs, mode=_PAD_MODES[mode]))  # type: ignore[call-overload]
    filled, number = align((x, exact_constant(np.array(numbers.pop(), np.float32))))
    data = np.pad(filled.data, pairs, constant_values=number.data.item())
    return Value(data, filled.fix_point, filled.divisor, max(filled.bound, number.bound), filled.exact)


def run_pixel_shuffle(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Move channels to space in PyTorch's order: channel c * r * r + i * r + j goes to row i, column j."""
    x, r = single(op, inputs), attribute(op, "scale", "int")
    n, height, width, channels = four_dims(op, x).shape
    if r < 1:
        raise FormatError(f"op {op.name!r}: scale {r}")
    if attribute(op, "upscale", "bool"):
        data = x.data.reshape(n, height, width, channels // (r * r), r, r).transpose(0, 1, 4, 2, 5, 3)
        return x.with_data(data.reshape(n, height * r, width * r, -1))
    data = x.data.reshape(n, height // r, r, width // r, r, channels).transpose(0, 1, 3, 5, 2, 4)
    return x.with_data(data.reshape(n, height // r, width // r, -1))


def _scales(shape: tuple[int, ...], scale: tuple[float, ...], dims: tuple[int, ...]) -> bool:
    """Tell whether a scale gives the declared size; torch cuts a broken number of pixels."""
    exact = shape[1] * scale[1], shape[2] * scale[0]
    return all(abs(size - wanted) < 1 for size, wanted in zip(exact, dims[1:3], strict=True))


def run_resize(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Enlarge or shrink an image, nearest or bilinear."""
    x, mode = single(op, inputs), attribute(op, "mode", "string")
    data = four_dims(op, x)
    if len(op.dims) != 4 or prod(op.dims[1:]) > kernels.MAX_ELEMENTS:
        raise FormatError(f"op {op.name!r}: a resize to {list(op.dims)}")
    scale = vector(op, "scale")
    if len(scale) == 0 and inputs.get("size"):  # the size is an input, and the declared shape repeats it
        scale = (op.dims[2] / data.shape[2], op.dims[1] / data.shape[1])
    if len(scale) != 2 or not _scales(data.shape, scale, op.dims):
        raise FormatError(f"op {op.name!r}: scale {list(scale)} of {list(data.shape)} is not {list(op.dims)}")
    if mode == "NEAREST":
        return x.with_data(kernels.resize_nearest(data, op.dims[1], op.dims[2]))
    if mode != "BILINEAR":
        raise FormatError(f"op {op.name!r}: mode {mode!r} is not known", "known: NEAREST, BILINEAR")
    half, corners = attribute(op, "half_pixel_centers", "bool"), attribute(op, "align_corners", "bool")
    return real_value(kernels.resize_bilinear(x.real, op.dims[1], op.dims[2], half, corners))
