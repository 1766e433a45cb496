"""Calls that the real tool's graph holds as several operators: what they are made of, step by step.

A step is (torch function, arguments after the value of the step before, keyword arguments).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

Run = Callable[..., Any]  # run(function, *args, **kwargs) records one call and returns its result


def split_index(rank: int, index: Any) -> tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...] | None:
    """Return the steps of x[index]: one slice for all slices, then select, unsqueeze and index; None as it is.

    A boolean mask, or several index lists at once, stay one call.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    lists = [part for part in parts if isinstance(part, (list, torch.Tensor))]
    if len(lists) > 1 or any(isinstance(part, bool) or _is_mask(part) for part in parts):
        return None
    slices = any(isinstance(part, slice) for part in parts)
    if slices and all(isinstance(part, slice) or part is Ellipsis for part in parts):
        return None
    spread = _without_ellipsis(parts, rank)
    steps: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    if slices:
        kept = (part if isinstance(part, slice) else slice(None) for part in spread if part is not None)
        steps.append((torch.Tensor.__getitem__, (tuple(kept),)))
    axis = 0
    for part in spread:
        if part is None:
            steps.append((torch.unsqueeze, (axis,)))
        elif isinstance(part, (list, torch.Tensor)):
            steps.append((take_index, (axis, part)))
        elif not isinstance(part, slice):
            steps.append((torch.select, (axis, int(part))))
            continue
        axis += 1
    return tuple(steps)


def take_index(values: torch.Tensor, axis: int, index: Any) -> torch.Tensor:
    """Return values at the places of an index list along one axis."""
    place = (*(slice(None),) * axis, index)
    return values[place]


def _is_mask(part: Any) -> bool:
    return isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8)


def _without_ellipsis(parts: list[Any], rank: int) -> list[Any]:
    rest = rank - sum(part is not None and part is not Ellipsis for part in parts)
    if any(part is Ellipsis for part in parts):
        place = next(place for place, part in enumerate(parts) if part is Ellipsis)
        return [*parts[:place], *(slice(None),) * rest, *parts[place + 1 :]]
    return [*parts, *(slice(None),) * rest]


def _normalize(run: Run, input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Any:
    norm = run(vector_norm, input, p, dim, True)
    return run(torch.div, input, run(torch.Tensor.expand_as, run(torch.clamp, norm, eps), input))


def vector_norm(values: torch.Tensor, p: float, dim: int, keepdim: bool) -> torch.Tensor:
    """Return the p-norm along one dimension, as F.normalize computes it."""
    result: torch.Tensor = values.norm(p, dim, keepdim=keepdim)
    return result


def _softsign(run: Run, input: Any) -> Any:
    return run(torch.div, input, run(torch.add, run(torch.abs, input), 1))


def _tanhshrink(run: Run, input: Any) -> Any:
    return run(torch.sub, input, run(torch.tanh, input))


def _softmin(run: Run, input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    return run(F.softmax, run(torch.neg, input), dim)


def _rtruediv(run: Run, input: Any, other: Any) -> Any:
    return run(torch.mul, run(torch.reciprocal, input), other)


EXPANSIONS: Mapping[str, Callable[..., Any]] = {
    "normalize": _normalize,
    "softsign": _softsign,
    "tanhshrink": _tanhshrink,
    "softmin": _softmin,
    "rtruediv": _rtruediv,
    "rdiv": _rtruediv,
}


def operands_of(function_name: str, args: Sequence[Any]) -> bool:
    """Say whether a call is expanded: its first argument is a float tensor."""
    return function_name in EXPANSIONS and bool(args) and isinstance(args[0], torch.Tensor)
