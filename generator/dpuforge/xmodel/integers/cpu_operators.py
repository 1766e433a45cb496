"""Operators of XIR that no DPU computes, and calls that XIR does not know: float on the CPU, as VART's runner does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from dpuforge.errors import FormatError
from dpuforge.xmodel.integers.calls import Call, implied_call, run_call
from dpuforge.xmodel.integers.fixed_point import Array, Value, align, divide, integer_dtype, multiply, real_value
from dpuforge.xmodel.integers.float_functions import FLOAT_FUNCTIONS
from dpuforge.xmodel.integers.float_functions.elementwise import gelu, sigmoid
from dpuforge.xmodel.integers.operands import Inputs, Machine, attribute, pair, single, vector
from dpuforge.xmodel.nouns import Op

Operator = Callable[[Machine, Op, Inputs], Value]


def is_custom(op: Op) -> bool:
    """Tell an op type that XIR does not define: one of PyTorch's, or one of the quantizer's own."""
    return "::" in op.type or op.type.startswith("nndct_")


def run_custom(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Compute an op that XIR does not know, by the call its file carries or implies."""
    call = machine.calls.get(op.name) or implied_call(op, machine.exponent)
    values = [value for argument in op.args for value in inputs[argument.name]]
    if call.function in _CHOOSE and (len(values) == 1 or call.function in _JOIN) and all(v.exact for v in values):
        return _choose(call, align(values))
    return real_value(run_call(call, [value.real for value in values], batch=1))


# What they give is one of the numbers that they were given: integers stay what they are.
_JOIN = frozenset({"cat", "stack", "maximum", "minimum", "max", "min"})
_CHOOSE = _JOIN | frozenset({
    "reshape", "view", "flatten", "ravel", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t", "T", "mT",
    "movedim", "moveaxis", "expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave", "roll", "flip",
    "rot90", "getitem", "split", "chunk", "tensor_split", "unbind", "narrow", "select", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "diagonal", "clone", "detach", "contiguous", "dropout", "amax", "amin",
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
})  # fmt: skip


def _choose(call: Call, values: Sequence[Value]) -> Value:
    one = values[0]
    if not one.exact or call.result == 1:  # with other divisors; or the places that a maximum was found at
        return real_value(run_call(call, [value.real for value in values], batch=1))
    chosen = run_call(call, [value.data.astype(np.float64) for value in values], batch=1)
    bound = max(value.bound for value in values)
    return Value(np.rint(chosen).astype(integer_dtype(bound)), one.fix_point, one.divisor, bound)


def find_call(machine: Machine, op: Op) -> Call | None:
    """Return the call that the file carries for an op, if it does."""
    return machine.calls.get(op.name)


def _elementwise(function: Callable[[Array], Array]) -> Operator:
    """Make an operator of a function of one real number; an int8 input needs only 256 of them."""

    def operator(machine: Machine, op: Op, inputs: Inputs) -> Value:
        x = single(op, inputs)
        if not x.exact or x.data.dtype != np.int8:
            return real_value(function(x.real))
        with np.errstate(all="ignore"):
            table = function(x.with_data(np.arange(-128, 128, dtype=np.int16)).real)
        return real_value(table[x.data.astype(np.int16) + 128])

    return operator


def _softmax(machine: Machine, op: Op, inputs: Inputs) -> Value:
    x, axis = single(op, inputs).real, attribute(op, "axis", "int")
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return real_value(powers / powers.sum(axis=axis, keepdims=True))


def _gelu(machine: Machine, op: Op, inputs: Inputs) -> Value:
    approximate = attribute(op, "approximate", "string", "none").strip("'")
    return real_value(gelu(single(op, inputs).real, approximate))


def _div(machine: Machine, op: Op, inputs: Inputs) -> Value:
    one, two = pair(op, inputs)
    with np.errstate(all="ignore"):
        return real_value(one.real / two.real)


def _neg(machine: Machine, op: Op, inputs: Inputs) -> Value:
    x = single(op, inputs)
    dtype = integer_dtype(max(x.bound, 128) + 1) if x.exact else np.float64
    return x.with_data(-x.data.astype(dtype))


def _prelu(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Return x, times one slope or one per (last) channel below zero; exact on fixed inputs."""
    x, slope = single(op, inputs), single(op, inputs, "weight")
    if slope.data.size not in (1, x.data.shape[-1]):
        raise FormatError(f"op {op.name!r}: {slope.data.size} slopes for {x.data.shape[-1]} channels")
    flat = slope.data.reshape(-1) if slope.data.size > 1 else slope.data.reshape(())
    negative, positive = align((multiply(x, slope.with_data(flat)), x))
    data = np.where(x.data < 0, negative.data, positive.data)
    bound = max(negative.bound, positive.bound)
    return Value(data, positive.fix_point, positive.divisor, bound, positive.exact)


def _axes(op: Op, x: Value) -> tuple[int, ...]:
    return tuple(axis % x.data.ndim for axis in vector(op, "axis"))


def _reduction(function: Any) -> Operator:
    def operator(machine: Machine, op: Op, inputs: Inputs) -> Value:
        x, keep = single(op, inputs), attribute(op, "keep_dims", "bool")
        return real_value(function(x.real, axis=_axes(op, x), keepdims=keep))

    return operator


def _extreme(function: Any) -> Operator:
    def operator(machine: Machine, op: Op, inputs: Inputs) -> Value:
        x, keep = single(op, inputs), attribute(op, "keep_dims", "bool")
        return x.with_data(function(x.data, axis=_axes(op, x), keepdims=keep))

    return operator


def _mean(machine: Machine, op: Op, inputs: Inputs) -> Value:
    """Average the axes that the call names; a file without calls does not say which: its shape does."""
    x, call = single(op, inputs), find_call(machine, op)
    axes, keep = _mean_axes(op, x) if call is None else _called_axes(op, x, call)
    count = prod(x.data.shape[axis] for axis in axes)
    if not x.exact:
        return real_value(x.data.mean(axis=axes, keepdims=keep))
    total = x.data.astype(integer_dtype(x.bound * count)).sum(axis=axes, keepdims=keep)
    return divide(Value(total, x.fix_point, x.divisor, x.bound * count), count)


def _mean_axes(op: Op, x: Value) -> tuple[tuple[int, ...], bool]:
    shape, out = x.data.shape, op.dims
    if len(out) == len(shape):
        return tuple(axis for axis in range(1, len(shape)) if out[axis] == 1 != shape[axis]), True
    return tuple(range(len(out), len(shape))), False


def _called_axes(op: Op, x: Value, call: Call) -> tuple[tuple[int, ...], bool]:
    dim = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else None)
    given = dim.get("tuple", ()) if isinstance(dim, dict) else dim if isinstance(dim, list) else [dim]
    rank = x.data.ndim
    if dim is None or not all(isinstance(axis, int) for axis in given):
        return tuple(range(rank)), False
    keep = bool(call.kwargs.get("keepdim", call.args[2] if len(call.args) > 2 else False))
    return tuple(axis % rank for axis in given), keep


def _argmax(machine: Machine, op: Op, inputs: Inputs) -> Value:
    x, axis = single(op, inputs), attribute(op, "axis", "int")
    found = np.argmax(x.data, axis=axis)
    return real_value(np.expand_dims(found, axis) if len(op.dims) == x.data.ndim else found)


def _l2_normalize(machine: Machine, op: Op, inputs: Inputs) -> Value:
    x, small = single(op, inputs), attribute(op, "epsilon", "float", 1e-12)
    size = np.sqrt((x.real**2).sum(axis=_axes(op, x), keepdims=True))
    return real_value(x.real / np.maximum(size, small))


def _elu(machine: Machine, op: Op, inputs: Inputs) -> Value:
    alpha = attribute(op, "alpha", "float", 1.0)
    return real_value(FLOAT_FUNCTIONS["elu"](single(op, inputs).real, alpha))


def _either(function: Any) -> Operator:
    def operator(machine: Machine, op: Op, inputs: Inputs) -> Value:
        one, two = align(pair(op, inputs))
        bound = max(one.bound, two.bound)
        return Value(function(one.data, two.data), one.fix_point, one.divisor, bound, one.exact)

    return operator


CPU_OPERATORS: dict[str, Operator] = {
    "sigmoid": _elementwise(sigmoid),
    "tanh": _elementwise(np.tanh),
    "exp": _elementwise(np.exp),
    "gelu": _gelu,
    "elu": _elu,
    "selu": _elementwise(FLOAT_FUNCTIONS["selu"]),
    "mish": _elementwise(FLOAT_FUNCTIONS["mish"]),
    "swish": _elementwise(FLOAT_FUNCTIONS["silu"]),
    "aten::silu": _elementwise(FLOAT_FUNCTIONS["silu"]),
    "aten::mean": _mean,
    "softmax": _softmax,
    "prelu": _prelu,
    "div": _div,
    "neg": _neg,
    "argmax": _argmax,
    "l2_normalize": _l2_normalize,
    "reduction_mean": _reduction(np.mean),
    "reduction_sum": _reduction(np.sum),
    "reduction_product": _reduction(np.prod),
    "reduction_max": _extreme(np.max),
    "max": _either(np.maximum),
    "min": _either(np.minimum),
}
