"""Functions that reduce axes or accumulate along them, and products of matrices."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from dpuforge.xmodel.integers.float_functions.arrays import Array, Function, axes_of, integers, keep_axes


def _reduce(function: Any, x: Array, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    result: Array = function(x, axis=axes_of(dim, x.ndim), keepdims=keepdim)
    return result


def _product(x: Array, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    return _reduce(np.prod, x, dim, keepdim)


def _variance(
    x: Array, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Array:
    count = np.prod([x.shape[axis] for axis in axes_of(dim, x.ndim)])
    lost = correction if correction is not None else 0 if unbiased is False else 1
    result: Array = np.var(x, axis=axes_of(dim, x.ndim), keepdims=keepdim) * (count / max(count - lost, 1e-30))
    return result


def _deviation(x: Array, *args: Any, **kwargs: Any) -> Array:
    return np.sqrt(_variance(x, *args, **kwargs))


def _extreme(function: Any, place: Any, x: Array, *args: Any, **kwargs: Any) -> Any:
    """torch's max and min: of everything, of two tensors, or (values, indices) along one axis."""
    other = kwargs.get("other", args[0] if args else None)
    if isinstance(other, np.ndarray):
        return np.maximum(x, other) if function is np.max else np.minimum(x, other)
    dim = kwargs.get("dim", args[0] if args else None)
    keepdim = bool(kwargs.get("keepdim", args[1] if len(args) > 1 else False))
    if dim is None:
        return function(x)
    return function(x, axis=dim, keepdims=keepdim), place(x, axis=dim, keepdims=keepdim).astype(np.float64)


def _place(function: Any, x: Array, dim: Any = None, keepdim: bool = False) -> Array:
    result: Array = function(x, axis=dim, keepdims=keepdim)
    return result


def _softmax(x: Array, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Array:
    axis = (0 if x.ndim in (0, 1, 3) else 1) if dim is None else dim
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    result: Array = powers / powers.sum(axis=axis, keepdims=True)
    return result


def _log_softmax(x: Array, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Array:
    axis = (0 if x.ndim in (0, 1, 3) else 1) if dim is None else dim
    shifted = x - x.max(axis=axis, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return result


def _logsumexp(x: Array, dim: Any, keepdim: bool = False) -> Array:
    axes = axes_of(dim, x.ndim)
    top = x.max(axis=axes, keepdims=True)
    return keep_axes(np.log(np.exp(x - top).sum(axis=axes, keepdims=True)) + top, axes, keepdim)


def _norm(x: Array, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, out: Any = None) -> Array:
    axes = axes_of(dim, x.ndim)
    if p in (None, "fro"):
        p = 2
    if float(p) == float("inf"):
        return _reduce(np.max, np.abs(x), dim, keepdim)
    result: Array = (np.abs(x) ** p).sum(axis=axes, keepdims=keepdim) ** (1 / p)
    return result


def _vector_norm(x: Array, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
    return _norm(x, ord, dim, keepdim)


def _cosine_similarity(one: Array, two: Array, dim: int = 1, eps: float = 1e-8) -> Array:
    sizes = [np.maximum(np.sqrt((x * x).sum(axis=dim)), eps) for x in (one, two)]
    result: Array = (one * two).sum(axis=dim) / (sizes[0] * sizes[1])
    return result


def _top(x: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Array, Array]:
    order = np.argsort(-x if largest else x, axis=dim, kind="stable")
    chosen = np.take(order, np.arange(int(k)), axis=dim)
    return np.take_along_axis(x, chosen, axis=dim), chosen.astype(np.float64)


def _sort(x: Array, dim: int = -1, descending: bool = False, stable: bool = False) -> tuple[Array, Array]:
    return _top(x, x.shape[dim], dim, descending)


def _einsum(equation: str, *operands: Any) -> Array:
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    result: Array = np.einsum(equation, *given, optimize=len(given) > 2)
    return result


def _baddbmm(x: Array, one: Array, two: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    result: Array = beta * x + alpha * (one @ two)
    return result


def _linear(x: Array, weight: Array, bias: Any = None) -> Array:
    result: Array = x @ weight.T
    return result if bias is None else result + bias


def _bilinear(one: Array, two: Array, weight: Array, bias: Any = None) -> Array:
    result: Array = np.einsum("...i,oij,...j->...o", one, weight, two, optimize=True)
    return result if bias is None else result + bias


def _cdist(one: Array, two: Array, p: float = 2.0, compute_mode: str = "") -> Array:
    return _norm(one[..., :, None, :] - two[..., None, :, :], p, -1)


def _one_hot(x: Array, num_classes: int = -1) -> Array:
    result: Array = np.eye(int(num_classes))[integers(x)]
    return result


REDUCTIONS: Mapping[str, Function] = {
    "mean": partial(_reduce, np.mean), "sum": partial(_reduce, np.sum), "prod": _product,
    "amax": partial(_reduce, np.max), "amin": partial(_reduce, np.min),
    "max": partial(_extreme, np.max, np.argmax), "min": partial(_extreme, np.min, np.argmin),
    "argmax": partial(_place, np.argmax), "argmin": partial(_place, np.argmin), "var": _variance, "std": _deviation,
    "softmax": _softmax, "softmin": lambda x, dim=None, _stacklevel=3, dtype=None: _softmax(-x, dim),
    "log_softmax": _log_softmax, "logsumexp": _logsumexp, "norm": _norm, "frobenius_norm": _norm,
    "vector_norm": _vector_norm, "linalg_vector_norm": _vector_norm, "cosine_similarity": _cosine_similarity,
    "cumsum": lambda x, dim, dtype=None: np.cumsum(x, axis=dim),
    "cumprod": lambda x, dim, dtype=None: np.cumprod(x, axis=dim), "topk": _top, "sort": _sort,
    "any": lambda x, dim=None, keepdim=False: _reduce(np.any, x, dim, keepdim),
    "all": lambda x, dim=None, keepdim=False: _reduce(np.all, x, dim, keepdim),
    "einsum": _einsum, "matmul": np.matmul, "bmm": np.matmul, "mm": np.matmul,
    "rmatmul": lambda x, other: np.matmul(other, x), "baddbmm": _baddbmm, "addmm": _baddbmm, "linear": _linear,
    "bilinear": _bilinear, "outer": np.outer, "cdist": _cdist, "one_hot": _one_hot,
}  # fmt: skip
