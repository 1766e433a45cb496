"""Pools, convolutions and resizes of one to three axes, channels first as in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dpuforge.xmodel.integers.float_functions.arrays import Array, Function, spread


def _views(x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """Return (N, C, *out, *kernel) of a padded array."""
    count = len(kernel)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = sliding_window_view(x, reach, axis=tuple(range(2, 2 + count)))
    steps = tuple(slice(None, None, s) for s in stride)
    parts = tuple(slice(None, None, d) for d in dilation)
    result: Array = view[_behind_channels(*steps, *parts)]
    return result


def _behind_channels(*parts: slice) -> Any:
    """Return the index that takes these parts of the spatial axes."""
    return (slice(None), slice(None), *parts)


def _last(parts: tuple[Any, ...]) -> Any:
    """Return the index that takes these parts of the last axes."""
    return (..., *parts)


def _extra(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil: bool) -> int:
    """Return how far the last window of a pool reaches beyond the padded input (0 without ceil_mode)."""
    reach = (kernel - 1) * dilation + 1
    room = size + 2 * pad - reach
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= size + pad:  # torch: the last window starts inside the input or its left pad
        count -= 1
    return max(0, (count - 1) * stride + reach - size - 2 * pad)


def _pad_for_pool(
    x: Array, kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], dilation: Any, ceil: bool, fill: float
) -> Array:
    geometry = zip(x.shape[2:], kernel, stride, pad, dilation, strict=True)
    more = [_extra(*item, ceil) for item in geometry]
    sides = [(0, 0), (0, 0), *((p, p + e) for p, e in zip(pad, more, strict=True))]
    return np.pad(x, sides, constant_values=fill)


def _max_pool(
    count: int,
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array:
    return _max_pool_with_indices(count, x, kernel_size, stride, padding, dilation, ceil_mode)[0]


def _max_pool_with_indices(
    count: int,
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = True,
) -> tuple[Array, Array]:
    kernel = spread(kernel_size, count)
    steps = kernel if stride is None or stride == [] else spread(stride, count)
    apart = spread(dilation, count)
    padded = _pad_for_pool(x, kernel, steps, spread(padding, count), apart, ceil_mode, -np.inf)
    views = _views(padded, kernel, steps, apart)
    flat = views.reshape(*views.shape[:-count], -1)
    place = flat.argmax(axis=-1)[..., None]
    numbers = np.arange(prod(x.shape[2:]), dtype=np.float64).reshape(1, 1, *x.shape[2:])
    numbered = _pad_for_pool(numbers, kernel, steps, spread(padding, count), apart, ceil_mode, -1)
    where = _views(numbered, kernel, steps, apart).reshape(1, 1, *flat.shape[2:])
    places = np.take_along_axis(np.broadcast_to(where, flat.shape), place, axis=-1)
    return np.take_along_axis(flat, place, axis=-1)[..., 0], places[..., 0]


def _average_pool(
    count: int,
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Array:
    kernel, one = spread(kernel_size, count), (1,) * count
    steps = kernel if stride is None or stride == [] else spread(stride, count)
    pad, last = spread(padding, count), tuple(range(-count, 0))
    sums = _views(_pad_for_pool(x, kernel, steps, pad, one, ceil_mode, 0.0), kernel, steps, one).sum(axis=last)
    if divisor_override is not None:
        result: Array = sums / divisor_override
        return result
    left = (0,) * count if count_include_pad else pad
    sizes = [s + 2 * p for s, p in zip(x.shape[2:], pad, strict=True)]
    counted = np.zeros((1, 1, *sizes))
    inside = tuple(slice(p, size - p) for p, size in zip(left, sizes, strict=True))
    counted[_behind_channels(*inside)] = 1
    geometry = zip(x.shape[2:], kernel, steps, pad, one, strict=True)
    counted = np.pad(counted, [(0, 0), (0, 0), *((0, _extra(*item, ceil_mode)) for item in geometry)])
    averaged: Array = sums / _views(counted, kernel, steps, one).sum(axis=last)
    return averaged


def _scaled_average_pool(x: Array, coefficient: float, **settings: Any) -> Array:
    return _average_pool(2, x, **settings) * coefficient


def _adaptive_pool(function: Any, count: int, x: Array, output_size: Any, return_indices: bool = False) -> Array:
    if return_indices:
        raise ValueError("max pools that return indices are not known")
    asked = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * count
    given = x.shape[-count:]
    sizes = [old if new is None else int(new) for new, old in zip(asked, given, strict=True)]
    bounds = [
        [(i * old // new, -(-(i + 1) * old // new)) for i in range(new)] for new, old in zip(sizes, given, strict=True)
    ]
    result = np.empty((*x.shape[:-count], *sizes))
    axes = tuple(range(-count, 0))
    for place in product(*(range(size) for size in sizes)):
        inside = tuple(slice(*bounds[axis][i]) for axis, i in enumerate(place))
        result[_last(place)] = function(x[_last(inside)], axis=axes)
    return result


def _lp_pool(
    count: int, x: Array, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Array:
    means = _average_pool(count, x**norm_type, kernel_size, stride, 0, ceil_mode)
    result: Array = (np.sign(means) * np.abs(means) * prod(spread(kernel_size, count))) ** (1 / norm_type)
    return result


def _same(kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [(extra // 2, extra - extra // 2) for extra in total]


def _convolve(
    count: int,
    x: Array,
    weight: Array,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    kernel, apart = weight.shape[2:], spread(dilation, count)
    if padding == "same":
        sides = _same(kernel, apart)
    else:
        sides = [(p, p) for p in spread(0 if padding == "valid" else padding, count)]
    view = _views(np.pad(x, [(0, 0), (0, 0), *sides]), kernel, spread(stride, count), apart)
    depth, outputs = weight.shape[1], weight.shape[0] // groups
    axes = [1, *range(2 + count, 2 + 2 * count)], [1, *range(2, 2 + count)]
    parts = [
        np.tensordot(view[:, g * depth : (g + 1) * depth], weight[g * outputs : (g + 1) * outputs], axes=axes)
        for g in range(groups)
    ]
    result = np.moveaxis(np.concatenate(parts, axis=-1), -1, 1)
    return result if bias is None else result + np.asarray(bias).reshape(-1, *(1,) * count)


def _convolve_transposed(
    count: int,
    x: Array,
    weight: Array,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    steps, pad, more, apart = (spread(value, count) for value in (stride, padding, output_padding, dilation))
    grid = np.zeros((*x.shape[:2], *((size - 1) * step + 1 for size, step in zip(x.shape[2:], steps, strict=True))))
    grid[_behind_channels(*(slice(None, None, step) for step in steps))] = x
    reach = [(k - 1) * d for k, d in zip(weight.shape[2:], apart, strict=True)]
    grid = np.pad(grid, [(0, 0), (0, 0), *((r, r + e) for r, e in zip(reach, more, strict=True))])
    cut = tuple(slice(p, size - p) for p, size in zip(pad, grid.shape[2:], strict=True))
    split = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    turned = np.flip(split.reshape(-1, *split.shape[2:]), tuple(range(2, 2 + count)))
    return _convolve(count, grid[_behind_channels(*cut)], turned, bias, 1, 0, dilation, groups)


def _unfold(x: Array, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Array:
    kernel, pad = spread(kernel_size, 2), spread(padding, 2)
    padded = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in pad)])
    view = _views(padded, kernel, spread(stride, 2), spread(dilation, 2))
    return view.transpose(0, 1, 4, 5, 2, 3).reshape(x.shape[0], x.shape[1] * prod(kernel), -1)


def _interpolate(
    x: Array,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: bool = False,
) -> Array:
    count = x.ndim - 2
    if mode == "area":
        return _adaptive_pool(np.mean, count, x, size or [int(s * scale_factor) for s in x.shape[2:]])
    if antialias or mode not in _WEIGHTS:
        raise ValueError(f"resizes of mode {mode!r} are not known")
    given = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * count
    sizes = (
        spread(size, count)
        if size is not None
        else [int(np.floor(old * factor)) for old, factor in zip(x.shape[2:], given, strict=True)]
    )
    for axis, new in enumerate(sizes, 2):
        factor = given[axis - 2] if size is None and not recompute_scale_factor else None
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ _WEIGHTS[mode](x.shape[axis], new, align_corners, factor), -1, axis)
    return x


def _place(old: int, new: int, corners: Any, factor: Any) -> Array:
    """Return where each of the new samples lies among the old ones."""
    if corners:
        return np.arange(new) * ((old - 1) / max(new - 1, 1))
    result: Array = (np.arange(new) + 0.5) * (1 / factor if factor else old / new) - 0.5
    return result


def _nearest_weights(old: int, new: int, corners: Any, factor: Any) -> Array:
    ratio = 1 / factor if factor else old / new
    places = np.minimum(np.floor(np.arange(new) * ratio).astype(int), old - 1)
    return np.eye(old)[:, places]


def _nearest_exact_weights(old: int, new: int, corners: Any, factor: Any) -> Array:
    ratio = 1 / factor if factor else old / new
    places = np.minimum(np.floor((np.arange(new) + 0.5) * ratio).astype(int), old - 1)
    return np.eye(old)[:, places]


def _linear_weights(old: int, new: int, corners: Any, factor: Any) -> Array:
    places = np.maximum(_place(old, new, corners, factor), 0.0)
    low = np.minimum(np.floor(places).astype(int), old - 1)
    share = places - low
    return np.eye(old)[:, low] * (1 - share) + np.eye(old)[:, np.minimum(low + 1, old - 1)] * share


def _cubic_weights(old: int, new: int, corners: Any, factor: Any) -> Array:
    places = _place(old, new, corners, factor)
    low, result = np.floor(places).astype(int), np.zeros((old, new))
    for tap in range(-1, 3):
        np.add.at(result, (np.clip(low + tap, 0, old - 1), np.arange(new)), _cubic(np.abs(places - (low + tap))))
    return result


def _cubic(x: Array, a: float = -0.75) -> Array:
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)


_WEIGHTS: Mapping[str, Function] = {
    "nearest": _nearest_weights,
    "nearest-exact": _nearest_exact_weights,
    "linear": _linear_weights,
    "bilinear": _linear_weights,
    "trilinear": _linear_weights,
    "bicubic": _cubic_weights,
}

WINDOWS: Mapping[str, Function] = {
    **{f"max_pool{n}d": partial(_max_pool, n) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": partial(_max_pool_with_indices, n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": partial(_average_pool, n) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": partial(_adaptive_pool, np.max, n) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": partial(_adaptive_pool, np.mean, n) for n in (1, 2, 3)},
    **{f"lp_pool{n}d": partial(_lp_pool, n) for n in (1, 2)},
    **{f"conv{n}d": partial(_convolve, n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": partial(_convolve_transposed, n) for n in (1, 2, 3)},
    "average_pool": _scaled_average_pool,
    "unfold": _unfold,
    "interpolate": _interpolate,
}
