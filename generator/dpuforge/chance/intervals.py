"""Intervals of shares and of means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

Z = 1.959963984540054  # 95 % of a normal distribution lie within this many standard deviations


def wilson(right: float, count: int) -> tuple[float, float]:
    """Return the Wilson 95 % interval of a share, 0 to 1 (Wilson 1927); right may be a mean over trainings."""
    share, square = right / count, Z * Z / count
    centre, spread = share + square / 2, Z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return (centre - spread) / (1 + square), (centre + spread) / (1 + square)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation of values; of a single one the spread is not known."""
    return fmean(values), stdev(values) if len(values) > 1 else None
