"""Sums of products on integers in NHWC, exact: float32 where no sum can reach 2**24, float64 up to 2**53.

torch runs the convolutions if it is there; the numpy path gives the same integers and needs nothing else.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dpuforge.errors import FormatError
from dpuforge.xmodel.integers.fixed_point import Array, integer_dtype

MAX_ELEMENTS = 2**27  # per image and tensor; the largest of vgg16 at 224x224 has 3.2 million
_GATHERED = 2**23  # elements of windows that the numpy path copies at once: 32 MB
_FLOAT32_EXACT, _FLOAT64_EXACT = 2**24, 2**53


class Window(NamedTuple):
    """Geometry of a convolution or pool: pairs are (height, width), pad is (top, bottom, left, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)


@cache
def load_torch() -> Any:
    """Return the torch module, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def exact_float(bound: int) -> type[np.floating[Any]]:
    """Return the float type in which sums up to `bound` are exact integers."""
    if bound >= _FLOAT64_EXACT:
        raise FormatError(f"sums may reach {bound}: more than 53 bits", "check the bit widths of the file")
    return np.float32 if bound < _FLOAT32_EXACT else np.float64


def check_window(shape: tuple[int, ...], window: Window) -> None:
    """Raise FormatError unless every window lies on the padded image, and the image has an honest size."""
    sizes = [shape[1 + i] + window.pad[2 * i] + window.pad[2 * i + 1] for i in (0, 1)]
    grown = [shape[1 + i] + max(window.pad[2 * i], 0) + max(window.pad[2 * i + 1], 0) for i in (0, 1)]
    cropped = any(-side >= shape[1 + i // 2] for i, side in enumerate(window.pad))  # negative pads crop
    if min(sizes) <= 0 or cropped or grown[0] * grown[1] * shape[3] > MAX_ELEMENTS:
        raise FormatError(f"padding gives an image of {sizes[0]}x{sizes[1]}x{shape[3]}", "check the pads of the file")
    reach = [(window.kernel[i] - 1) * window.dilation[i] + 1 for i in (0, 1)]
    if reach[0] > sizes[0] or reach[1] > sizes[1]:
        raise FormatError(f"a window of {reach} on an image of {sizes}", "check kernels and pads of the file")


def output_size(shape: tuple[int, ...], window: Window) -> tuple[int, int]:
    """Return (height, width) that sliding the window over an image gives. Raises FormatError as check_window."""
    check_window(shape, window)
    height, width = (
        (shape[1 + i] + window.pad[2 * i] + window.pad[2 * i + 1] - (window.kernel[i] - 1) * window.dilation[i] - 1)
        // window.stride[i]
        + 1
        for i in (0, 1)
    )
    return height, width


def pad_image(x: Array, pad: tuple[int, int, int, int], fill: float = 0) -> Array:
    """Pad (N, H, W, C) by (top, bottom, left, right); negative pads crop."""
    top, bottom, left, right = pad
    x = x[:, max(-top, 0) : x.shape[1] - max(-bottom, 0), max(-left, 0) : x.shape[2] - max(-right, 0)]
    grow = [max(side, 0) for side in pad]
    if not any(grow):
        return x
    return np.pad(x, ((0, 0), grow[:2], grow[2:], (0, 0)), constant_values=fill)


def windows(x: Array, window: Window) -> Array:
    """Return a view (N, outH, outW, C, kh, kw) of every window of a padded and checked image."""
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    reach = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    view = sliding_window_view(x, reach, axis=(1, 2))
    return view[:, ::sh, ::sw, :, ::dh, ::dw]


def convolve(x: Array, weights: Array, window: Window, groups: int, bound: int, use_torch: bool) -> Array:
    """Correlate integers (N, H, W, C) with weights (O, kh, kw, C / groups); sums no larger than `bound`.

    Returns integers (N, outH, outW, O). The sums are exact in the float type chosen from `bound`.
    """
    check_window(x.shape, window)
    dtype = exact_float(bound)
    torch = load_torch() if use_torch else None
    if torch is not None:
        return _convolve_torch(torch, x.astype(dtype), weights.astype(dtype), window, groups)
    x = pad_image(x, window.pad).astype(dtype)
    depth, out = weights.shape[3], weights.shape[0] // groups
    parts = [
        _convolve_group(x[..., g * depth : (g + 1) * depth], weights[g * out : (g + 1) * out].astype(dtype), window)
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=3) if groups > 1 else parts[0]


def _convolve_group(x: Array, weights: Array, window: Window) -> Array:
    """Multiply the gathered windows by the weights, some rows at a time so that the gathered copy stays small."""
    matrix = weights.transpose(3, 1, 2, 0).reshape(-1, weights.shape[0])
    view = windows(x, window)
    out = np.empty((*view.shape[:3], weights.shape[0]), x.dtype)
    rows = max(1, _GATHERED // (view.shape[2] * matrix.shape[0]))
    for image, result in zip(view, out, strict=True):
        for start in range(0, view.shape[1], rows):
            part = image[start : start + rows]
            columns = part.reshape(part.shape[0] * part.shape[1], -1)
            result[start : start + rows] = (columns @ matrix).reshape(part.shape[0], part.shape[1], -1)
    return out


def _convolve_torch(torch: Any, x: Array, weights: Array, window: Window, groups: int) -> Array:
    top, bottom, left, right = window.pad
    if top != bottom or left != right or min(window.pad) < 0:
        x, top, left = pad_image(x, window.pad), 0, 0
    with torch.inference_mode():
        out = torch.nn.functional.conv2d(
            torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2),
            torch.from_numpy(np.ascontiguousarray(weights)).permute(0, 3, 1, 2),
            stride=window.stride,
            padding=(top, left),
            dilation=window.dilation,
            groups=groups,
        )
        result: Array = out.permute(0, 2, 3, 1).contiguous().numpy()
    return result


def convolve_depthwise(x: Array, weights: Array, window: Window, bound: int, use_torch: bool) -> Array:
    """Correlate every channel with its own kernels (multiplier, kh, kw, C); output channel c * multiplier + m."""
    check_window(x.shape, window)
    multiplier, kh, kw, channels = weights.shape
    if use_torch and load_torch() is not None:
        grouped = weights.transpose(3, 0, 1, 2).reshape(channels * multiplier, kh, kw, 1)
        return convolve(x, grouped, window, channels, bound, use_torch)
    dtype = integer_dtype(bound)
    view = windows(pad_image(x, window.pad), window)
    total = np.zeros((*view.shape[:4], multiplier), dtype)
    for row in range(kh):
        for column in range(kw):
            total += view[..., row, column, None].astype(dtype) * weights[:, row, column].T.astype(dtype)
    return total.reshape(*view.shape[:3], channels * multiplier)


def insert_zeros(x: Array, stride: tuple[int, int]) -> Array:
    """Spread (N, H, W, C) to a grid of `stride`: the input of a transposed convolution."""
    height, width = (x.shape[1] - 1) * stride[0] + 1, (x.shape[2] - 1) * stride[1] + 1
    if height * width * x.shape[3] > MAX_ELEMENTS:
        raise FormatError(f"a stride of {stride} gives an image of {height}x{width}", "check the strides of the file")
    spread = np.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    spread[:, :: stride[0], :: stride[1]] = x
    return spread


def pool(x: Array, window: Window, reduce: np.ufunc, fill: int) -> Array:
    """Reduce every window with `reduce` (np.maximum, np.add); the padding counts as `fill`."""
    check_window(x.shape, window)
    view = windows(pad_image(x, window.pad, fill), window)
    total: Array = view[..., 0, 0].copy()
    for row in range(window.kernel[0]):
        for column in range(window.kernel[1]):
            if row or column:
                reduce(total, view[..., row, column], out=total)
    return total


def multiply_matrices(x: Array, weights: Array, bound: int) -> Array:
    """Return x @ weights on integers, exact for sums up to `bound`."""
    dtype = exact_float(bound)
    result: Array = x.astype(dtype) @ weights.astype(dtype)
    return result


def resize_nearest(x: Array, height: int, width: int) -> Array:
    """Return (N, height, width, C): out[i] = in[floor(i * in / out)]."""
    rows = np.arange(height) * x.shape[1] // height
    columns = np.arange(width) * x.shape[2] // width
    return x[:, rows][:, :, columns]


def resize_bilinear(x: Array, height: int, width: int, half_pixel: bool, align_corners: bool) -> Array:
    """Interpolate float64 (N, H, W, C); exact where the scale is a power of two."""
    low, high, part = _taps(x.shape[1], height, half_pixel, align_corners)
    part = part[:, None, None]
    x = x[:, low] * (1 - part) + x[:, high] * part
    low, high, part = _taps(x.shape[2], width, half_pixel, align_corners)
    part = part[:, None]
    result: Array = x[:, :, low] * (1 - part) + x[:, :, high] * part
    return result


def _taps(size: int, out: int, half_pixel: bool, align_corners: bool) -> tuple[Array, Array, Array]:
    """Return for each output the two inputs it lies between and the share of the second."""
    place = np.arange(out, dtype=np.float64)
    if align_corners:
        place = place * ((size - 1) / max(out - 1, 1))
    elif half_pixel:
        place = np.maximum((place + 0.5) * (size / out) - 0.5, 0.0)
    else:
        place = place * (size / out)
    low = np.minimum(np.floor(place).astype(np.int64), size - 1)
    return low, np.minimum(low + 1, size - 1), place - low
