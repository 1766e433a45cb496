"""Functions that move, select or repeat elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpuforge.xmodel.integers.float_functions.arrays import Array, Function, integers, spread

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _sizes(given: tuple[Any, ...]) -> tuple[int, ...]:
    """Return sizes that torch takes as one list or one by one."""
    flat = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
    return tuple(int(size) for size in flat)


def _reshape(x: Array, *sizes: Any, shape: Any = None) -> Array:
    return x.reshape(_sizes(sizes) if shape is None else tuple(shape))


def _flatten(x: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    start, end = start_dim % x.ndim, end_dim % x.ndim
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


def _unflatten(x: Array, dim: int, sizes: Any) -> Array:
    axis = dim % x.ndim
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def _squeeze(x: Array, dim: Any = None) -> Array:
    axes = range(x.ndim) if dim is None else (dim if isinstance(dim, (tuple, list)) else (dim,))
    return x.squeeze(tuple(axis % x.ndim for axis in axes if x.shape[axis] == 1))


def _permute(x: Array, *order: Any, dims: Any = None) -> Array:
    return x.transpose(_sizes(order) if dims is None else tuple(dims))


def _expand(x: Array, *sizes: Any) -> Array:
    given = _sizes(sizes)
    old = (1,) * (len(given) - x.ndim) + x.shape
    return np.broadcast_to(x, tuple(o if size == -1 else size for size, o in zip(given, old, strict=True)))


def _repeat(x: Array, *times: Any) -> Array:
    return np.tile(x, _sizes(times))


def _index(x: Array, index: Any) -> Array:
    """Index as torch does: arrays of numbers index, arrays from comparisons are refused (their count is data)."""
    parts = index if isinstance(index, tuple) else (index,)
    result: Array = x[tuple(integers(part) if isinstance(part, np.ndarray) else part for part in parts)]
    return result


def _assign_item(base: Array, index: Any, value: Any) -> Array:
    result = np.array(base, np.float64)
    parts = index if isinstance(index, tuple) else (index,)
    result[tuple(integers(part) if isinstance(part, np.ndarray) else part for part in parts)] = value
    return result


def _split(x: Array, split_size_or_sections: Any, dim: int = 0) -> tuple[Array, ...]:
    total = x.shape[dim]
    if isinstance(split_size_or_sections, (tuple, list)):
        cuts = np.cumsum(split_size_or_sections)[:-1]
    else:
        cuts = np.arange(int(split_size_or_sections), total, int(split_size_or_sections))
    return tuple(np.split(x, cuts, axis=dim))


def _chunk(x: Array, chunks: int, dim: int = 0) -> tuple[Array, ...]:
    return _split(x, -(-x.shape[dim] // int(chunks)), dim)


def _unbind(x: Array, dim: int = 0) -> tuple[Array, ...]:
    return tuple(np.moveaxis(x, dim, 0))


def _narrow(x: Array, dim: int, start: int, length: int) -> Array:
    return np.take(x, np.arange(int(start), int(start) + int(length)), axis=dim)


def _select(x: Array, dim: int, index: int) -> Array:
    return np.take(x, int(index), axis=dim)


def _index_select(x: Array, dim: int, index: Array) -> Array:
    return np.take(x, integers(index), axis=dim)


def _gather(x: Array, dim: int, index: Array, *, sparse_grad: bool = False) -> Array:
    return np.take_along_axis(x, integers(index), axis=dim)


def _pad(x: Array, pad: Any, mode: str = "constant", value: Any = None) -> Array:
    if mode not in _MODES:
        raise ValueError(f"paddings of mode {mode!r} are not known")
    pairs = [(int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad), 2)][::-1]
    sides = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    parts = [slice(max(-low, 0), size - max(-high, 0)) for (low, high), size in zip(sides, x.shape, strict=True)]
    grow = [(max(low, 0), max(high, 0)) for low, high in sides]
    extra: dict[str, Any] = {"constant_values": value or 0} if mode == "constant" else {}
    result: Array = np.pad(x[tuple(parts)], grow, mode=_MODES[mode], **extra)  # type: ignore[call-overload]
    return result


def _pixel_shuffle(x: Array, upscale_factor: int) -> Array:
    n, channels, height, width = x.shape
    r = int(upscale_factor)
    parts = x.reshape(n, channels // (r * r), r, r, height, width).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, -1, height * r, width * r)


def _pixel_unshuffle(x: Array, downscale_factor: int) -> Array:
    n, channels, height, width = x.shape
    r = int(downscale_factor)
    parts = x.reshape(n, channels, height // r, r, width // r, r).transpose(0, 1, 3, 5, 2, 4)
    return parts.reshape(n, -1, height // r, width // r)


def _channel_shuffle(x: Array, groups: int) -> Array:
    parts = x.reshape(x.shape[0], int(groups), -1, *x.shape[2:])
    return parts.swapaxes(1, 2).reshape(x.shape)


def _roll(x: Array, shifts: Any, dims: Any = None) -> Array:
    if dims is None or dims == []:
        return np.roll(x, shifts)
    axes = dims if isinstance(dims, (tuple, list)) else (dims,)
    return np.roll(x, spread(shifts, len(axes)), tuple(axes))


def _flip(x: Array, *dims: Any) -> Array:
    return np.flip(x, _sizes(dims))


def _rot90(x: Array, k: int = 1, dims: Any = (0, 1)) -> Array:
    return np.rot90(x, k, tuple(dims))


def _join(function: Any, tensors: Any, dim: int = 0) -> Array:
    result: Array = function([np.asarray(tensor) for tensor in tensors], axis=dim)
    return result


MOVES: Mapping[str, Function] = {
    "reshape": _reshape, "view": _reshape, "flatten": _flatten, "ravel": np.ravel, "unflatten": _unflatten,
    "squeeze": _squeeze, "unsqueeze": lambda x, dim: np.expand_dims(x, dim if dim >= 0 else dim + x.ndim + 1),
    "permute": _permute, "transpose": lambda x, dim0, dim1: np.swapaxes(x, dim0, dim1), "t": np.transpose,
    "T": np.transpose, "mT": lambda x: np.swapaxes(x, -1, -2), "movedim": np.moveaxis, "moveaxis": np.moveaxis,
    "expand": _expand, "expand_as": lambda x, other: np.broadcast_to(x, other.shape),
    "broadcast_to": lambda x, size: _expand(x, size), "view_as": lambda x, other: x.reshape(other.shape),
    "reshape_as": lambda x, other: x.reshape(other.shape), "repeat": _repeat, "tile": _repeat,
    "repeat_interleave": lambda x, repeats, dim=None: np.repeat(x, repeats, axis=dim), "roll": _roll, "flip": _flip,
    "rot90": _rot90, "getitem": _index, "assign_item": _assign_item, "split": _split, "chunk": _chunk,
    "tensor_split": lambda x, parts, dim=0: tuple(np.array_split(x, parts, axis=dim)), "unbind": _unbind,
    "narrow": _narrow, "select": _select, "index_select": _index_select, "gather": _gather, "pad": _pad,
    "pixel_shuffle": _pixel_shuffle, "pixel_unshuffle": _pixel_unshuffle, "channel_shuffle": _channel_shuffle,
    "cat": lambda tensors, dim=0: _join(np.concatenate, tensors, dim),
    "stack": lambda tensors, dim=0: _join(np.stack, tensors, dim), "triu": lambda x, diagonal=0: np.triu(x, diagonal),
    "tril": lambda x, diagonal=0: np.tril(x, diagonal),
    "diagonal": lambda x, offset=0, dim1=0, dim2=1: np.diagonal(x, offset, dim1, dim2),
}  # fmt: skip
