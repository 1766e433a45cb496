"""Arrays and axes as torch spells them: what the float functions share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any  # numpy arrays of float64 and numbers: what arithmetic on them gives is Any to a type checker
Function = Callable[..., Any]


def axes_of(dim: Any, rank: int) -> tuple[int, ...]:
    """Return torch's dim (None or empty: all of them) as axes from 0."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(rank))
    given = dim if isinstance(dim, (tuple, list)) else (dim,)
    return tuple(int(axis) % rank for axis in given)


def integers(values: Any) -> NDArray[np.int64]:
    """Return numbers that count or index as int64."""
    counts: NDArray[np.int64] = np.rint(np.asarray(values)).astype(np.int64)
    return counts


def spread(value: Any, count: int) -> tuple[int, ...]:
    """Return a number, or a sequence of them, once per spatial axis."""
    given = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return tuple(int(item) for item in (given * count if len(given) == 1 else given))


def keep_axes(values: Array, axes: tuple[int, ...], keepdim: bool) -> Array:
    """Drop reduced axes of size one unless they are to be kept."""
    return values if keepdim else values.squeeze(axes)
