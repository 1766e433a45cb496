"""Float scales for CPU and GPU targets: maxmin, percentile, mse and entropy, and their statistics over batches.

Percentile, mse and entropy work on a histogram of |x| with 2048 bins from 0 to max|x|.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dpuforge.errors import UserError

Floats = npt.NDArray[Any]

BINS = 2048
_FIRST_BIN = 1536
_STRIDE = 16
_LANES = 8  # floats in one vector of the recorded machine: decides how the bin edges round


class UnsupportedScaleError(UserError):
    """The real tool stops on this combination of data and settings."""


@dataclass(frozen=True)
class Grid:
    """The integers a tensor may take: bit width, sign, symmetry, narrow range."""

    bits: int = 8
    symmetric: bool = True
    signed: bool = True
    narrow: bool = False

    @property
    def low(self) -> int:
        """The smallest integer (asymmetric tensors always count from 0)."""
        if not self.symmetric or not self.signed:
            return 0
        return int(-(2 ** (self.bits - 1))) + int(self.narrow)

    @property
    def high(self) -> int:
        """The largest integer."""
        if not self.symmetric or not self.signed:
            return int(2**self.bits - 1)
        return int(2 ** (self.bits - 1) - 1)


@dataclass(frozen=True)
class Scale:
    """A float scale, its zero point, and the largest float value that it represents."""

    scale: float
    zero_point: int
    maximum: float


def find_scale(values: torch.Tensor, method: str, grid: Grid, percentage: float = 99.99) -> Scale:
    """Return the scale of a tensor by maxmin, percentile, mse or entropy.

    Raises UnsupportedScaleError where the real tool stops (negative values on an unsigned grid, constant tensors).
    """
    if method == "maxmin":
        return _scale_from_range(values, grid)
    largest = {"percentile": _percentile, "mse": _mse, "entropy": _entropy}[method](values, grid, percentage)
    return Scale(largest / grid.high, 0, largest)


def _scale_from_range(values: torch.Tensor, grid: Grid) -> Scale:
    low, high = (float(bound) for bound in torch.aminmax(values))
    if grid.symmetric:
        if not grid.signed and low < 0:
            raise UnsupportedScaleError(
                "a symmetric unsigned scale met negative values",
                "set signed to true, or symmetry to false; the real tool stops here with a TypeError",
            )
        largest = max(abs(low), abs(high))
        return Scale(largest / grid.high, 0, largest)
    if high == low:
        raise UnsupportedScaleError(
            f"an asymmetric scale met a tensor that is {high} everywhere",
            "use a symmetric scale; the real tool stops here with a ZeroDivisionError",
        )
    scale = (high - low) / (grid.high - grid.low)
    return Scale(scale, round(-low / scale), high)


def _edges(largest: np.float32) -> Floats:
    """Return the 2049 bin edges, rounded as the recorded tool's vectorised linspace rounds them.

    Each vector of eight starts at start + step * index (first half) or end - step * rest (second half, fused).
    """
    step = largest / np.float32(BINS)
    starts = np.arange(0, BINS + 1, _LANES)
    forward = (step * starts.astype(np.float32)).astype(np.float32)
    backward = (np.float64(largest) - np.float64(step) * (BINS - starts)).astype(np.float32)
    base = np.where(starts < (BINS + 1) // 2, forward, backward).astype(np.float32)
    offsets = (np.arange(_LANES, dtype=np.float32) * step).astype(np.float32)
    lanes: Floats = (base[:, None] + offsets[None, :]).astype(np.float32).ravel()[: BINS + 1]
    return lanes


def _histogram(values: torch.Tensor) -> tuple[Floats, Floats]:
    """Return counts and edges of |values|."""
    magnitudes = values.detach().abs().reshape(-1).cpu().numpy()
    largest = magnitudes.max()
    counts, _ = np.histogram(magnitudes.astype(np.float64), bins=BINS, range=(0.0, float(largest) or 1.0))
    return counts, _edges(largest)


def _percentile(values: torch.Tensor, grid: Grid, percentage: float) -> float:
    counts, edges = _histogram(values)
    share = np.cumsum(counts / counts.sum())
    return float(edges[min(int(np.searchsorted(share, percentage / 100)), BINS)])


def _mse(values: torch.Tensor, grid: Grid, _: float) -> float:
    """Return the bin centre that loses least, over every 16th from bin 1536, rounding half to even."""
    counts, edges = _histogram(values)
    centres = torch.from_numpy((edges[1:] + edges[:-1]) / np.float32(2))
    weights = torch.from_numpy(counts.astype(np.float32))
    best, best_error = 0.0, float("inf")
    for position in range(_FIRST_BIN, BINS, _STRIDE):
        largest = centres[position]
        scale = largest / grid.high
        quantised = (centres / scale).round().clamp_(grid.low, grid.high) * scale
        error = float(((quantised - centres) ** 2 * weights).mean())
        if error < best_error:
            best, best_error = float(largest), error
    return best


def _entropy(values: torch.Tensor, grid: Grid, _: float) -> float:
    """Return the edge with the smallest Kullback-Leibler divergence; of equal ones the last."""
    counts, edges = _histogram(values)
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    levels = grid.high + 1
    best, best_divergence = BINS, float("inf")
    for stop in range(_FIRST_BIN, BINS + 1, _STRIDE):
        divergence = _divergence(counts, stop, levels)
        if divergence <= best_divergence:
            best, best_divergence = stop, divergence
    return float(edges[best])


def _divergence(counts: Floats, stop: int, levels: int) -> float:
    """Return KL(reference || quantised) of a histogram cut at stop and merged into this many levels."""
    level = np.digitize(np.arange(stop), np.linspace(0, stop, levels + 1)) - 1
    filled = counts[:stop] != 0
    sums = np.bincount(level[filled], weights=counts[:stop][filled], minlength=levels)
    members = np.bincount(level[filled], minlength=levels)
    average = sums / np.maximum(members, 1)
    merged = np.where(filled, average[np.minimum(level, levels - 1)], 0.0)
    reference = counts[:stop].copy()
    reference[-1] += counts[stop:].sum()
    if not merged.any():  # 0/0 in the real tool: its argmin takes the NaN for the smallest
        return float("-inf")
    reference, merged = reference / reference.sum(), merged / merged.sum()
    inside = reference > 0
    if np.any(merged[inside] == 0):
        return float("inf")
    return float(np.sum(reference[inside] * np.log(reference[inside] / merged[inside])))


def combine_scales(history: Sequence[Scale], statistic: str) -> Scale:
    """Combine the scales of several batches by max, mean, median or modal; the zero point is the most frequent."""
    scales = np.array([entry.scale for entry in history])
    points = np.array([entry.zero_point for entry in history])
    maxima = np.array([entry.maximum for entry in history])
    reduce = _STATISTICS[statistic]
    return Scale(float(reduce(scales)), int(_mode(points)), float(reduce(maxima)))


def _mode(values: Floats) -> Any:
    """Return the most frequent value, of equally frequent ones the smallest."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts.argmax()]


_STATISTICS: Mapping[str, Callable[[Floats], Any]] = {
    "max": np.max,
    "mean": np.mean,
    "median": np.median,
    "modal": _mode,
}
