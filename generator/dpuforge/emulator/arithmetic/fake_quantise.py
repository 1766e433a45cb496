"""Fake quantisation and the search for fix positions: the arithmetic on which every stage of the emulator stands."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import IntEnum

import numpy as np
import torch

_INT32_LIMIT = 2.0**31
_SMALLEST_STEP = 2.2e-308  # below it the step counts as zero (docs/quantizer.md, section 2)
_FIX_OF_ZERO = 18
_CANDIDATES = 5


class Rounding(IntEnum):
    """How ties (and other fractions) are rounded; the numbers are the real tool's codes."""

    HALF_UP = 2
    STD_ROUND = 3
    FLOOR = 4
    HALF_UP_BELOW_ZERO = 5
    HALF_DOWN = 6
    CEIL = 7
    HALF_EVEN = 8


ROUNDINGS = {
    "half_up": Rounding.HALF_UP,
    "std_round": Rounding.STD_ROUND,
    "half_down": Rounding.HALF_DOWN,
    "half_even": Rounding.HALF_EVEN,
}


def round_tensor(values: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    """Round float values to integers; 0.49999997 rounds to 0 in every nearest mode (no 0.5 is added)."""
    if rounding == Rounding.HALF_EVEN:
        return values.round()
    if rounding == Rounding.FLOOR:
        return values.floor()
    if rounding == Rounding.CEIL:
        return values.ceil()
    if rounding == Rounding.HALF_UP:
        low = values.floor()
        return low.add_(values.sub(low).ge_(0.5))
    if rounding == Rounding.HALF_UP_BELOW_ZERO:
        return torch.where(values < 0, round_tensor(values, Rounding.HALF_UP), values.round())
    whole = values.trunc()
    rest = (values - whole).abs_()
    away = rest.ge_(0.5) if rounding == Rounding.STD_ROUND else rest.gt_(0.5)
    return whole.add_(away.mul_(values.sign()))


def quantise_integers(values: torch.Tensor, bits: int, fix: int, rounding: Rounding) -> torch.Tensor:
    """Return the integers (as floats) that values take at a fix position (scale 2**-fix) and bit width.

    Values beyond 2**31 after scaling give the minimum, also positive ones, as the CPU tool's int conversion does.
    """
    top = 2 ** (bits - 1)
    scaled = values * 2.0**fix
    rounded = round_tensor(scaled, rounding).clamp_(-top, top - 1)
    overflow = scaled > _INT32_LIMIT
    return torch.where(overflow, -float(top), rounded) if bool(overflow.any()) else rounded


def fake_quantise(values: torch.Tensor, bits: int, fix: int, rounding: Rounding) -> torch.Tensor:
    """Return values rounded to multiples of 2**-fix and saturated to a signed integer of this many bits."""
    return quantise_integers(values, bits, fix, rounding).mul_(2.0**-fix)


def fake_quantise_scaled(
    values: torch.Tensor,
    scale: torch.Tensor | float,
    zero_point: torch.Tensor | float,
    low: float,
    high: float,
    rounding: Rounding,
) -> torch.Tensor:
    """Return values on the grid scale * (integer - zero_point), integers within low..high (CPU and GPU targets)."""
    if isinstance(scale, float):  # the tool's kernel is handed the inverse, in float32
        scale = 1.0 / torch.tensor(1.0 / scale, dtype=torch.float32, device=values.device)
    rounded = round_tensor(values / scale, rounding) + zero_point
    return (rounded.clamp_(low, high) - zero_point) * scale


def first_fix_position(values: torch.Tensor, bits: int) -> float:
    """Return the coarsest candidate: the largest fix position whose range holds min and max; inf for denormals."""
    top = 2 ** (bits - 1)
    low, high = torch.aminmax(values)
    step = torch.maximum(low / (-top - 0.5), high / (top - 0.5))
    if float(step) <= _SMALLEST_STEP:
        return _FIX_OF_ZERO
    return float(torch.floor(torch.log2(1.0 / step)))


def square_root(values: torch.Tensor) -> torch.Tensor:
    """Return the correctly rounded float32 square root (torch's vectorised one may be an ulp off)."""
    if values.is_meta:
        return torch.sqrt(values)
    roots = np.sqrt(values.detach().cpu().numpy())
    return torch.from_numpy(np.asarray(roots)).to(values.device)


def squared_error(values: torch.Tensor, bits: int, fix: int, rounding: Rounding) -> float:
    """Return the sum of squared rounding errors at a fix position."""
    difference = fake_quantise(values, bits, fix, rounding).sub_(values)
    return float(difference.square_().sum())


def search_fix_position(values: torch.Tensor, bits: int, rounding: Rounding, candidates: int = _CANDIDATES) -> float:
    """Return the fix position with the smallest squared error among candidates; a tie keeps the smaller one.

    candidates=1 is the tool's "maxmin" scope. inf where 1/step overflows (denormal tensors).
    """
    first = first_fix_position(values, bits)
    if candidates == 1 or math.isinf(first):
        return first
    positions = [int(first) + offset for offset in range(candidates)]
    errors = [squared_error(values, bits, fix, rounding) for fix in positions]
    return positions[errors.index(min(errors))]


def limit_fix_position(fix: float, bits: int, limit: int | None = None) -> int:
    """Apply the upper limit: 12 up to 8 bits, 15 beyond (or the option's own limit)."""
    return int(min(fix, limit if limit is not None else 12 if bits <= 8 else 15))


def most_frequent(history: Iterable[int]) -> int:
    """Return the most frequent fix position; a tie gives the smallest."""
    counts: dict[int, int] = {}
    for fix in history:
        counts[fix] = counts.get(fix, 0) + 1
    best = max(counts.values())
    return min(fix for fix, count in counts.items() if count == best)


# Kernel sizes whose coefficient the hardware fixes: numerator and shift (docs/quantizer.md, section 4).
_POOL_FACTORS: dict[tuple[int, int], tuple[int, int]] = {
    (3, 3): (9 * 7, 6), (5, 5): (25 * 10, 8), (6, 6): (36 * 7, 8), (3, 6): (36 * 7, 8), (6, 3): (36 * 7, 8),
    (7, 7): (49 * 21, 10), (14, 14): (196 * 21, 12),
}  # fmt: skip


def average_pool_coefficient(height: int, width: int) -> float:
    """Return the factor by which the DPU's shifted reciprocal differs from a true average over height x width."""
    if (height, width) in _POOL_FACTORS:
        numerator, shift = _POOL_FACTORS[height, width]
        return float(numerator / 2**shift)
    area = height * width
    best_error, best = math.inf, (1, 0)
    for shift in range(math.ceil(math.log2(128 * area))):
        factor = round(2**shift / area)
        error = abs(factor / 2**shift - 1 / area)
        if error < best_error:
            best_error, best = error, (factor, shift)
    return float(area * best[0] / 2 ** best[1])
