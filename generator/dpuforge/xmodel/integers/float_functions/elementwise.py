"""Functions element by element: activations, arithmetic, comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from math import erf, pi, sqrt
from typing import Any

import numpy as np

from dpuforge.xmodel.integers.float_functions.arrays import Array, Function

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
_erf = np.vectorize(erf, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    result: Array = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return result


def gelu(x: Array, approximate: str = "none") -> Array:
    """Return x times the normal distribution's integral, or its approximation by tanh."""
    if approximate == "tanh":
        inner = sqrt(2 / pi) * (x + 0.044715 * x**3)
        result: Array = 0.5 * x * (1 + np.tanh(inner))
        return result
    # int8 inputs hold at most 256 numbers: the slow scalar function sees each of them once.
    numbers, places = np.unique(x, return_inverse=True)
    return (numbers * 0.5 * (1 + _erf(numbers * sqrt(0.5))))[places].reshape(x.shape)


def _softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    scaled = x * beta
    return np.where(scaled > threshold, x, np.logaddexp(0.0, np.minimum(scaled, threshold)) / beta)


def _mish(x: Array, inplace: bool = False) -> Array:
    result: Array = x * np.tanh(_softplus(x))
    return result


def _elu(x: Array, alpha: float = 1.0, inplace: bool = False, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    below = alpha * np.expm1(np.minimum(x, 0) * input_scale)
    return scale * np.where(x > 0, x, below)


def _celu(x: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _prelu(x: Array, weight: Array) -> Array:
    shape = (-1, *(1,) * (x.ndim - 2)) if weight.size > 1 and x.ndim > 1 else (1,) * x.ndim
    return np.where(x >= 0, x, x * weight.reshape(shape))


def _clamp(x: Array, min: Any = None, max: Any = None, inplace: bool = False) -> Array:
    low = x if min is None else np.maximum(x, min)
    return low if max is None else np.minimum(low, max)


def _clamp_between(x: Array, limit: Array) -> Array:
    return np.clip(x, 0, limit.reshape(-1, *(1,) * (x.ndim - 2)))


def _hardtanh(x: Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Array:
    return _clamp(x, min_val, max_val)


def _leaky_relu(x: Array, negative_slope: float = 0.01, inplace: bool = False) -> Array:
    return np.where(x >= 0, x, x * negative_slope)


def _relu(x: Array, inplace: bool = False) -> Array:
    return np.maximum(x, 0)


def _relu6(x: Array, inplace: bool = False) -> Array:
    return np.clip(x, 0, 6)


def _hardsigmoid(x: Array, inplace: bool = False) -> Array:
    return np.clip(x + 3, 0, 6) / 6


def _hardswish(x: Array, inplace: bool = False) -> Array:
    return x * _hardsigmoid(x)


def _silu(x: Array, inplace: bool = False) -> Array:
    return x * sigmoid(x)


def _threshold(x: Array, threshold: float, value: float, inplace: bool = False) -> Array:
    return np.where(x > threshold, x, value)


def _hardshrink(x: Array, lambd: float = 0.5) -> Array:
    return np.where(np.abs(x) > lambd, x, 0.0)


def _softshrink(x: Array, lambd: float = 0.5) -> Array:
    return np.sign(x) * np.maximum(np.abs(x) - lambd, 0)


def _glu(x: Array, dim: int = -1) -> Array:
    one, two = np.split(x, 2, axis=dim)
    return one * sigmoid(two)


def _add(x: Any, other: Any, *, alpha: float = 1) -> Any:
    return x + alpha * other


def _sub(x: Any, other: Any, *, alpha: float = 1) -> Any:
    return x - alpha * other


def _rsub(x: Any, other: Any, *, alpha: float = 1) -> Any:
    return other - alpha * x


def _div(x: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    quotient = np.asarray(x) / other
    if rounding_mode is None:
        return quotient
    return np.floor(quotient) if rounding_mode == "floor" else np.trunc(quotient)


def _rdiv(x: Any, other: Any) -> Any:
    return other / np.asarray(x)


def _where(condition: Array, x: Any, other: Any) -> Array:
    return np.where(condition != 0, x, other)


def _masked_fill(x: Array, mask: Array, value: Any) -> Array:
    return np.where(mask != 0, value, x)


def _lerp(start: Array, end: Array, weight: Any) -> Array:
    result: Array = start + weight * (end - start)
    return result


def _addcmul(x: Array, one: Array, two: Array, *, value: float = 1) -> Array:
    result: Array = x + value * one * two
    return result


def _addcdiv(x: Array, one: Array, two: Array, *, value: float = 1) -> Array:
    result: Array = x + value * one / two
    return result


def _round(x: Array, *, decimals: int = 0) -> Array:
    return np.round(x, decimals)


def _cast(x: Array, *_: Any, **__: Any) -> Array:
    """Casts between float types; one to integers cuts, and the calls that do so carry "integer"."""
    return x


def _to_integer(x: Array, *_: Any, **__: Any) -> Array:
    return np.trunc(x)


def _to_bool(x: Array) -> Array:
    return x != 0


def _filled(value: float) -> Function:
    return lambda x, *_, **__: np.full(x.shape, value)


def _full_like(x: Array, fill_value: float, **_: Any) -> Array:
    return np.full(x.shape, float(fill_value))


def _logical(function: Any) -> Function:
    return lambda *operands: function(*(operand != 0 for operand in operands))


_SAME_NAME = (
    "abs", "exp", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "sign",
    "square", "floor", "ceil", "trunc", "reciprocal", "maximum", "minimum", "isnan", "isinf", "isfinite",
)  # fmt: skip

ELEMENTWISE: Mapping[str, Function] = {
    **{name: getattr(np, name) for name in _SAME_NAME},
    "absolute": np.abs, "arctan": np.arctan, "atan": np.arctan, "asin": np.arcsin, "acos": np.arccos,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "atan2": np.arctan2, "hypot": np.hypot,
    "neg": np.negative, "negative": np.negative, "pos": np.positive, "rsqrt": lambda x: 1 / np.sqrt(x), "erf": _erf,
    "exp2": np.exp2, "sigmoid": sigmoid, "logit": lambda x, eps=None: np.log(x / (1 - x)),
    "frac": lambda x: x - np.trunc(x), "round": _round, "fix": np.trunc,
    "clamp_between": _clamp_between,
    "relu": _relu, "relu6": _relu6, "leaky_relu": _leaky_relu, "prelu": _prelu, "elu": _elu, "celu": _celu,
    "selu": lambda x, inplace=False: _elu(x, _SELU_ALPHA, scale=_SELU_SCALE), "gelu": gelu, "silu": _silu,
    "mish": _mish, "softplus": _softplus, "softsign": lambda x: x / (1 + np.abs(x)),
    "logsigmoid": lambda x: -_softplus(-x), "log_sigmoid": lambda x: -_softplus(-x),
    "tanhshrink": lambda x: x - np.tanh(x), "softshrink": _softshrink, "hardshrink": _hardshrink,
    "threshold": _threshold, "hardtanh": _hardtanh, "hardsigmoid": _hardsigmoid, "hardswish": _hardswish, "glu": _glu,
    "clamp": _clamp, "clamp_min": lambda x, min: np.maximum(x, min), "clamp_max": lambda x, max: np.minimum(x, max),
    "add": _add, "sub": _sub, "rsub": _rsub, "mul": lambda x, other: x * other, "div": _div, "rdiv": _rdiv,
    "rtruediv": _rdiv, "floor_divide": lambda x, other: np.floor(np.asarray(x) / other),
    "floordiv": lambda x, other: np.floor(np.asarray(x) / other), "remainder": np.mod, "mod": np.mod, "fmod": np.fmod,
    "pow": lambda x, exponent: np.power(np.asarray(x, np.float64), exponent),
    "rpow": lambda x, other: np.power(np.float64(other), x), "square_": np.square,
    "gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal,
    "logical_not": _logical(np.logical_not), "logical_and": _logical(np.logical_and),
    "logical_or": _logical(np.logical_or), "logical_xor": _logical(np.logical_xor),
    "bitwise_not": _logical(np.logical_not), "invert": _logical(np.logical_not),
    "bitwise_and": _logical(np.logical_and), "bitwise_or": _logical(np.logical_or),
    "and": _logical(np.logical_and), "or": _logical(np.logical_or), "where": _where, "masked_fill": _masked_fill,
    "lerp": _lerp, "addcmul": _addcmul, "addcdiv": _addcdiv, "zeros_like": _filled(0.0), "ones_like": _filled(1.0),
    "full_like": _full_like, "to": _cast, "float": _cast, "half": _cast, "double": _cast, "bfloat16": _cast,
    "type_as": _cast, "type": _cast, "cast_integer": _to_integer, "long": _to_integer, "int": _to_integer,
    "bool": _to_bool, "clone": _cast, "detach": _cast, "contiguous": _cast, "dropout": _cast, "alpha_dropout": _cast,
    "nan_to_num": lambda x, nan=0.0, posinf=None, neginf=None: np.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf),
}  # fmt: skip
