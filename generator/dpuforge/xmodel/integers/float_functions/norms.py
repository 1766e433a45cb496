"""Normalisations of a single image: layer, group, instance, RMS, local response, L2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpuforge.xmodel.integers.float_functions.arrays import Array, Function


def _standardise(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True)
    result: Array = centred / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + eps)
    return result


def _per_channel(values: Any, rank: int) -> Any:
    return values if values is None else np.asarray(values).reshape(-1, *(1,) * (rank - 2))


def _scale(x: Array, weight: Any, bias: Any) -> Array:
    scaled = x if weight is None else x * weight
    return scaled if bias is None else scaled + bias


def _layer_norm(x: Array, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Array:
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    return _scale(_standardise(x, axes, eps), weight, bias)


def _rms_norm(x: Array, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Array:
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    small = float(np.finfo(np.float32).eps) if eps is None else eps
    return _scale(x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + small), weight, None)


def _group_norm(x: Array, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Array:
    grouped = x.reshape(x.shape[0], int(num_groups), -1)
    done = _standardise(grouped, (2,), eps).reshape(x.shape)
    return _scale(done, _per_channel(weight, x.ndim), _per_channel(bias, x.ndim))


def _instance_norm(
    x: Array,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    if not use_input_stats:
        return _batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    done = _standardise(x, tuple(range(2, x.ndim)), eps)
    return _scale(done, _per_channel(weight, x.ndim), _per_channel(bias, x.ndim))


def _batch_norm(
    x: Array,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    mean, variance = _per_channel(running_mean, x.ndim), _per_channel(running_var, x.ndim)
    done = (x - mean) / np.sqrt(variance + eps)
    return _scale(done, _per_channel(weight, x.ndim), _per_channel(bias, x.ndim))


def _channel_scale(x: Array, scale: Array, shift: Array) -> Array:
    return _scale(x, _per_channel(scale, x.ndim), _per_channel(shift, x.ndim))


def _normalize(x: Array, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Array:
    size = (np.abs(x) ** p).sum(axis=dim, keepdims=True) ** (1 / p)
    result: Array = x / np.maximum(size, eps)
    return result


def _local_response_norm(x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    sides = [(0, 0)] * x.ndim
    sides[1] = (int(size) // 2, (int(size) - 1) // 2)
    squares = np.pad(x * x, sides)
    total = sum(squares[:, start : start + x.shape[1]] for start in range(int(size)))
    result: Array = x / (total / int(size) * alpha + k) ** beta
    return result


NORMS: Mapping[str, Function] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "batch_norm": _batch_norm,
    "channel_scale": _channel_scale,
    "normalize": _normalize,
    "local_response_norm": _local_response_norm,
}
