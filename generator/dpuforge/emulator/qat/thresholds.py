"""Where a trained threshold starts: from the spread of a parameter, or from the distribution of an activation."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

_SHIFT = 1e-6
_DEVIATIONS = 3.0
_SMALLEST = 1e-12  # a tensor of zeros has no threshold of its own

Array = NDArray[np.float64]


def spread_threshold(values: torch.Tensor) -> float:
    """Return |mean| plus three standard deviations of the whole tensor: how parameters start."""
    shifted = values.double() + _SHIFT
    return float(shifted.mean().abs() + _DEVIATIONS * shifted.std(unbiased=False))


def distribution_threshold(values: torch.Tensor, bits: int) -> float:
    """Return the threshold whose cumulative distribution differs least in 2**(bits-1) steps (arXiv 1805.07941).

    Of the histogram of |x|, with the square root of the number of values as the number of bins; where that gives no
    more bins than steps, the largest value.
    """
    magnitudes = values.abs().flatten().cpu().numpy()
    largest = float(magnitudes.max(initial=0.0))
    if largest == 0.0:
        return _SMALLEST
    counts, edges = np.histogram(magnitudes, bins="sqrt", range=(0.0, largest))
    cumulative = np.cumsum(counts / counts.sum())
    steps = 2 ** (bits - 1)
    candidates = range(steps + 1, len(edges))
    if not candidates:
        return largest
    divergences = [_divergence(cumulative, kept, steps) for kept in candidates]
    return float((candidates[int(np.argmin(divergences))] + 0.5) * (edges[1] - edges[0]))


def _divergence(cumulative: Array, kept: int, steps: int) -> float:
    """Return how much a distribution cut at `kept` bins and told in `steps` differs from the whole one."""
    cut = cumulative.copy()
    cut[kept - 1 :] = 1.0
    fine, coarse = np.linspace(0.0, 1.0, kept), np.linspace(0.0, 1.0, steps)
    cut[:kept] = np.interp(fine, coarse, np.interp(coarse, fine, cut[:kept]))
    both = (cumulative != 0) & (cut != 0)
    whole, told = cumulative[both], cut[both]
    return float(np.sum((whole - told) * np.log2(whole / told)))


def fix_position(log_threshold: float, bits: int) -> int:
    """Return the fix position that a threshold, given as its logarithm, stands for."""
    return bits - 1 - math.ceil(log_threshold)
