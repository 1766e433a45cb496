"""What each op type of an uncompiled xmodel computes: one row per type in OPERATORS, on exact integers in NHWC."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import lcm, prod

import numpy as np

from dpuforge.errors import FormatError
from dpuforge.xmodel.integers import kernels
from dpuforge.xmodel.integers.cpu_operators import CPU_OPERATORS, is_custom, run_custom
from dpuforge.xmodel.integers.fixed_point import (
    Array,
    Value,
    add,
    align,
    divide,
    exact_constant,
    integer_dtype,
    multiply,
    quantise,
    real_value,
    scale_by,
    shift_left,
)
from dpuforge.xmodel.integers.kernels import Window
from dpuforge.xmodel.integers.moves import (
    run_concat,
    run_pad,
    run_pixel_shuffle,
    run_reshape,
    run_resize,
    run_stack,
    run_strided_slice,
    run_transpose,
)
from dpuforge.xmodel.integers.operands import (
    Inputs,
    Machine,
    attribute,
    check_size,
    four_dims,
    pair,
    single,
    vector,
    window_of,
)
from dpuforge.xmodel.nouns import Op

_CONST_TYPES = {"float32": "<f4", "float64": "<f8", "int32": "<i4", "int64": "<i8", "int8": "i1", "uint8": "u1"}


Operator = Callable[[Machine, Op, Inputs], Value]


def run_op(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Compute one op and check the result against the shape that the file declares. Raises FormatError."""
    operator = OPERATORS.get(op.type, run_custom if is_custom(op) else None)
    if operator is None:
        raise FormatError(
            f"op {op.name!r} of type {op.type!r} cannot be run on the integers",
            "run an uncompiled quantised xmodel"
            if op.type.endswith("-fix")
            else f"known types: {', '.join(OPERATORS)}",
        )
    try:
        value = operator(machine, op, inputs)
    except (ValueError, IndexError, OverflowError, ZeroDivisionError, MemoryError) as error:
        raise FormatError(f"op {op.name!r} of type {op.type!r} does not fit its inputs: {error}") from error
    if value.data.shape[1:] != op.dims[1:] or len(value.data.shape) != len(op.dims):
        found = list(value.data.shape)
        raise FormatError(f"op {op.name!r} gives a tensor of {found}, the file declares {list(op.dims)}")
    return value


def _const(machine: Machine, op: Op, inputs: Inputs) -> Value:
    name = str(attribute(op, "data_type", "string")).lower()
    if name not in _CONST_TYPES:
        raise FormatError(f"op {op.name!r}: constants of type {name!r} are not known", f"known: {list(_CONST_TYPES)}")
    data, shape = attribute(op, "data", "bytes"), vector(op, "shape", None, 0)
    dtype = np.dtype(_CONST_TYPES[name])
    if len(data) != prod(shape) * dtype.itemsize:
        raise FormatError(f"op {op.name!r}: {len(data)} bytes of data for shape {list(shape)} of {name}")
    return exact_constant(np.frombuffer(data, dtype).reshape(shape))


def _fix(machine: Machine, op: Op, inputs: Inputs) -> Value:
    fix_point, bits = attribute(op, "fix_point", "int"), attribute(op, "bit_width", "int")
    if not -64 <= fix_point <= 64 or not 2 <= bits <= 24:
        raise FormatError(f"op {op.name!r}: fix position {fix_point} or bit width {bits} out of range")
    mode = attribute(op, "round_mode", "string")
    if mode != "DPU_ROUND":
        raise FormatError(f"op {op.name!r}: round_mode {mode!r} is not known", "known: DPU_ROUND")
    return quantise(single(op, inputs), fix_point, bits, attribute(op, "if_signed", "bool"))


def _sums(machine: Machine, op: Op, x: Value, weights: Value, axis: tuple[int, ...]) -> int:
    """Return the largest sum that weights can give on inputs within their bound."""
    if op.name not in machine.weight_sums:
        totals = np.abs(weights.data.astype(np.int64)).sum(axis=axis)
        machine.weight_sums[op.name] = int(totals.max(initial=0))
    return machine.weight_sums[op.name] * x.bound


def _with_bias(sums: Array, bound: int, fix_point: int, inputs: Inputs) -> Value:
    """Turn sums into int32 (int64 where they need it) and add the bias, both on the finer scale (shift_bias)."""
    total = Value(sums.astype(integer_dtype(bound), copy=False), fix_point, bound=bound)
    return add(total, inputs["bias"][0]) if inputs.get("bias") else total


def _operands(op: Op, inputs: Inputs) -> tuple[Value, Value]:
    x, weights = single(op, inputs), single(op, inputs, "weights")
    if not (x.exact and weights.exact) or x.divisor != 1 or weights.divisor != 1:
        raise FormatError(f"op {op.name!r} wants fixed inputs", "quantise its input and weights first")
    if weights.data.ndim != 4 or weights.data.size == 0:
        raise FormatError(f"op {op.name!r} wants weights of four dimensions, got {list(weights.data.shape)}")
    return x, weights


def _conv2d(machine: Machine, op: Op, inputs: Inputs) -> Value:
    x, weights = _operands(op, inputs)
    window, groups = window_of(op), attribute(op, "group", "int", 1)
    shape = weights.data.shape
    if groups < 1 or shape[0] % groups or window.kernel != shape[1:3] or shape[3] * groups != x.data.shape[-1]:
        raise FormatError(f"op {op.name!r}: weights of {list(shape)} do not fit kernel, group or input")
    check_size(op, x, window)
    bound = _sums(machine, op, x, weights, (1, 2, 3))
    sums = kernels.convolve(four_dims(op, x), weights.data, window, groups, bound, machine.use_torch)
    return _with_bias(sums, bound, x.fix_point + weights.fix_point, inputs)


def _depthwise(machine: Machine, op: Op, inputs: Inputs) -> Value:
    x, weights = _operands(op, inputs)
    window = window_of(op)
    if window.kernel != weights.data.shape[1:3] or weights.data.shape[3] != x.data.shape[-1]:
        raise FormatError(f"op {op.name!r}: weights of {list(weights.data.shape)} do not fit kernel or input")
    check_size(op, x, window)
    bound = _sums(machine, op, x, weights, (1, 2))
    sums = kernels.convolve_depthwise(four_dims(op, x), weights.data, window, bound, machine.use_torch)
    return _with_bias(sums, bound, x.fix_point + weights.fix_point, inputs)


def _transposed(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Correlate the spread input with the weights, which the file holds flipped; pads shrink the full result."""
    x, weights = _operands(op, inputs)
    window, groups = window_of(op), attribute(op, "group", "int", 1)
    if window.kernel != weights.data.shape[1:3] or weights.data.shape[3] * groups != x.data.shape[-1]:
        raise FormatError(f"op {op.name!r}: weights of {list(weights.data.shape)} do not fit kernel or input")
    spread, inner = _spread(op, x)
    bound = _sums(machine, op, x, weights, (1, 2, 3))
    sums = kernels.convolve(spread, weights.data, inner, groups, bound, machine.use_torch)
    return _with_bias(sums, bound, x.fix_point + weights.fix_point, inputs)


def _transposed_depthwise(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """As `_transposed`, every channel with its own kernels [multiplier, kh, kw, C]."""
    x, weights = _operands(op, inputs)
    if window_of(op).kernel != weights.data.shape[1:3] or weights.data.shape[3] != x.data.shape[-1]:
        raise FormatError(f"op {op.name!r}: weights of {list(weights.data.shape)} do not fit kernel or input")
    spread, inner = _spread(op, x)
    bound = _sums(machine, op, x, weights, (1, 2))
    sums = kernels.convolve_depthwise(spread, weights.data, inner, bound, machine.use_torch)
    return _with_bias(sums, bound, x.fix_point + weights.fix_point, inputs)


def _spread(op: Op, x: Value) -> tuple[Array, Window]:
    """Return the input on the grid of the strides, and the window that correlates it; pads shrink the full result."""
    window = window_of(op)
    spread = kernels.insert_zeros(four_dims(op, x), window.stride)
    reach = [(k - 1) * d for k, d in zip(window.kernel, window.dilation, strict=True)]
    top, left = reach[0] - window.pad[0], reach[1] - window.pad[2]
    bottom = op.dims[1] + reach[0] - spread.shape[1] - top  # the declared size fixes the rest (output padding)
    right = op.dims[2] + reach[1] - spread.shape[2] - left
    return spread, Window(window.kernel, (1, 1), window.dilation, (top, bottom, left, right))


def _rows(op: Op, inputs: Inputs) -> tuple[Value, Value]:
    x, weights = single(op, inputs), single(op, inputs, "weights")
    if not (x.exact and weights.exact) or x.divisor != 1 or x.data.ndim != 3 or weights.data.ndim != 3:
        raise FormatError(f"op {op.name!r} wants fixed inputs of three dimensions")
    return x, weights


def _conv1d(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Correlate (N, W, C) with (O, k, C / groups): a convolution over an image of one row."""
    x, weights = _rows(op, inputs)
    (stride,), (left, right) = vector(op, "stride", 1, 1), vector(op, "pad", 2)
    (dilation,) = vector(op, "dilation", 1, 1) if "dilation" in op.attrs else (1,)
    groups, matrix = attribute(op, "group", "int", 1), weights.data[:, None]
    if groups < 1 or matrix.shape[0] % groups or matrix.shape[3] * groups != x.data.shape[-1]:
        raise FormatError(f"op {op.name!r}: weights of {list(weights.data.shape)} do not fit group or input")
    window = Window((1, matrix.shape[2]), (1, stride), (1, dilation), (0, 0, left, right))
    bound = _sums(machine, op, x, weights, (1, 2))
    sums = kernels.convolve(x.data[:, None], matrix, window, groups, bound, machine.use_torch)[:, 0]
    return _with_bias(sums, bound, x.fix_point + weights.fix_point, inputs)


def _matrices(op: Op, inputs: Inputs) -> tuple[Value, Value]:
    x, weights = pair(op, inputs)
    if not (x.exact and weights.exact) or weights.data.ndim != 2 or attribute(op, "transpose_a", "bool"):
        raise FormatError(f"op {op.name!r}: only x @ w on fixed tensors is known")
    return x, weights


def _matmul(machine: Machine, op: Op, inputs: Inputs) -> Value:
    x, weights = _matrices(op, inputs)
    matrix = weights.data.T if attribute(op, "transpose_b", "bool") else weights.data
    bound = _sums(machine, op, x, weights.with_data(matrix), (0,))
    sums = kernels.multiply_matrices(x.data, matrix, bound)
    total = Value(sums.astype(integer_dtype(bound)), x.fix_point + weights.fix_point, x.divisor, bound)
    return add(total, inputs["bias"][0]) if inputs.get("bias") else total


def _relu(machine: Machine, op: Op, inputs: Inputs) -> Value:
    x = single(op, inputs)
    return x.with_data(np.maximum(x.data, 0))


def _clamp(x: Value, low: int, high: int) -> Value:
    """Clamp the numbers (not the integers) of an undivided value to [low, high]."""
    if not x.exact or x.divisor != 1:
        return real_value(np.clip(x.real, low, high))
    x = shift_left(x, max(-x.fix_point, 0))
    limits = low << x.fix_point, high << x.fix_point
    dtype = integer_dtype(max(x.bound, abs(limits[0]), abs(limits[1])))
    return x.with_data(np.clip(x.data.astype(dtype), *limits))


def _relu6(machine: Machine, op: Op, inputs: Inputs) -> Value:
    return _clamp(single(op, inputs), 0, 6)


def _leaky_relu(machine: Machine, op: Op, inputs: Inputs) -> Value:
    x, slope = single(op, inputs), Fraction(attribute(op, "alpha", "float"))
    negative, positive = align((scale_by(x, slope, 0), x))
    return Value(
        np.where(x.data < 0, negative.data, positive.data),
        positive.fix_point,
        positive.divisor,
        max(negative.bound, positive.bound),
        positive.exact,
    )


def _hard_sigmoid(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Return clamp(x + 3, 0, 6) / 6; the division waits for the constant that follows."""
    shifted = add(single(op, inputs), Value(np.array(3, np.int32), bound=3))
    return divide(_clamp(shifted, 0, 6), 6)


def _hard_swish(machine: Machine, op: Op, inputs: Inputs) -> Value:
    return multiply(single(op, inputs), _hard_sigmoid(machine, op, inputs))


def _add(machine: Machine, op: Op, inputs: Inputs) -> Value:
    return add(*pair(op, inputs))


def _sub(machine: Machine, op: Op, inputs: Inputs) -> Value:
    return add(*pair(op, inputs), sign=-1)


def _mul(machine: Machine, op: Op, inputs: Inputs) -> Value:
    return multiply(*pair(op, inputs))


def _scale(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Return x * scale + bias along the last axis: batch norm with no convolution before it."""
    if attribute(op, "axis", "int", -1) != -1:
        raise FormatError(f"op {op.name!r}: only axis -1 is known")
    product = multiply(single(op, inputs), single(op, inputs, "scale"))
    return add(product, inputs["bias"][0]) if inputs.get("bias") else product


def _ceil_pad(op: Op, x: Array, window: Window) -> Window:
    """Grow the pad below and to the right so that the declared output fits (pad_mode CEIL)."""
    sizes = [
        (op.dims[axis] - 1) * window.stride[axis - 1] + (window.kernel[axis - 1] - 1) * window.dilation[axis - 1] + 1
        for axis in (1, 2)
    ]
    top, bottom, left, right = window.pad
    bottom = max(bottom, sizes[0] - x.shape[1] - top)
    right = max(right, sizes[1] - x.shape[2] - left)
    return window._replace(pad=(top, bottom, left, right))


def _pool_window(op: Op, x: Value) -> tuple[Array, Window]:
    image, window = four_dims(op, x), window_of(op)
    if attribute(op, "global", "bool", False):
        window = Window((image.shape[1], image.shape[2]), (1, 1))
    if len(op.dims) == 4 and attribute(op, "pad_mode", "string", "FLOOR") == "CEIL":
        window = _ceil_pad(op, image, window)
    check_size(op, x, window)
    return image, window


def _maxpool(machine: Machine, op: Op, inputs: Inputs) -> Value:
    x = single(op, inputs)
    image, window = _pool_window(op, x)
    return x.with_data(kernels.pool(image, window, np.maximum, np.iinfo(image.dtype).min))


def _avgpool(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Return the mean of each window, the division left for later: by what each window counts, on one divisor."""
    x = single(op, inputs)
    image, window = _pool_window(op, x)
    counts = _counts(op, image, window)
    common = lcm(*map(int, np.unique(counts)))
    bound = x.bound * window.kernel[0] * window.kernel[1] * common
    total = kernels.pool(image.astype(integer_dtype(bound)), window, np.add, 0)
    total = total * (common // counts).astype(total.dtype)
    return divide(Value(total, x.fix_point, x.divisor, bound), common)


def _counts(op: Op, image: Array, window: Window) -> Array:
    """Return how many elements each window averages: those on the image, with its padding unless that is left out.

    What a window reaches beyond both (pad_mode CEIL) never counts.
    """
    left, right, top, bottom = (max(side, 0) for side in vector(op, "pad", 4))
    whole = attribute(op, "global", "bool", False)
    height, width = image.shape[1:3]
    sizes = [size + window.pad[2 * i] + window.pad[2 * i + 1] for i, size in enumerate((height, width))]
    counted = np.zeros((1, *sizes, 1), np.int64)
    if whole or not attribute(op, "count_include_pad", "bool", True):
        counted[:, window.pad[0] : window.pad[0] + height, window.pad[2] : window.pad[2] + width] = 1
    else:
        counted[:, : height + top + bottom, : width + left + right] = 1
    return np.maximum(kernels.pool(counted, window._replace(pad=(0, 0, 0, 0)), np.add, 0), 1)


WEIGHTED = frozenset({
    "conv2d", "depthwise-conv2d", "transposed-conv2d", "transposed-depthwise-conv2d", "conv1d", "matmul",
})  # fmt: skip


def check_operands(op: Op, inputs: Inputs) -> None:
    """Raise FormatError where a convolution or product of matrices could not read its operands."""
    if op.type == "matmul":
        _matrices(op, inputs)
    elif op.type == "conv1d":
        _rows(op, inputs)
    else:
        _operands(op, inputs)


OPERATORS: dict[str, Operator] = {
    "const": _const,
    "fix": _fix,
    "conv2d": _conv2d,
    "depthwise-conv2d": _depthwise,
    "transposed-conv2d": _transposed,
    "transposed-depthwise-conv2d": _transposed_depthwise,
    "conv1d": _conv1d,
    "matmul": _matmul,
    "relu": _relu,
    "relu6": _relu6,
    "leaky-relu": _leaky_relu,
    "hard-sigmoid": _hard_sigmoid,
    "hard-swish": _hard_swish,
    "hard-tanh": lambda machine, op, inputs: _clamp(single(op, inputs), -1, 1),
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "scale": _scale,
    "pad": run_pad,
    "pixel-shuffle": run_pixel_shuffle,
    "maxpool2d": _maxpool,
    "avgpool2d": _avgpool,
    "concat": run_concat,
    "stack": run_stack,
    "reshape": run_reshape,
    "transpose": run_transpose,
    "resize": run_resize,
    "strided_slice": run_strided_slice,
    **CPU_OPERATORS,
}
