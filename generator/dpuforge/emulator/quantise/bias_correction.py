"""Bias correction: moves each bias against the mean error of quantised weights (docs/quantizer.md, section 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from dpuforge.emulator.arithmetic.piecewise import error_moments, is_large

_RATE = 0.05
# How far corrections were seen to differ between torch 1.13.1 and 2.14.1 (docs/quantizer.md, section 9).
_SUM_ERROR, _SUM_ERROR_SHARE = 4e-6, 1e-4
_EFFICIENT = 4.0
_ENOUGH = 4.3
_STEADY = 0.05


@dataclass
class BiasCorrector:
    """The state of one layer: its bias, the moving efficiency and deviation, and whether it has stopped."""

    bias: torch.Tensor
    efficiency: float = 0.0
    deviation: float = 0.0
    stopped: bool = False

    def observe(self, quantised: torch.Tensor, exact: torch.Tensor, channel: int | None) -> None:
        """Update the bias from one batch: quantised is the layer's result, exact that of its float parameters.

        Each channel is moved by its own mean error, or all by the mean of everything (channel None). exact may be
        overwritten.
        """
        if self.stopped:
            return
        error, found = _efficiency(quantised, exact)
        if found is None:
            self.stopped = True
            return
        change = abs(found - self.efficiency)
        if not change > 0:
            self.stopped = True
            return
        self.efficiency = (self.efficiency * 4 + found) * 0.2
        self.deviation = (self.deviation * 4 + change) * 0.2
        rate = _RATE * 0.5 if self.efficiency > _EFFICIENT else _RATE
        if self._is_done(change):
            self.stopped = True
            return
        others = [axis for axis in range(error.dim()) if axis != channel]
        self.bias = torch.sub(self.bias, error.mean(dim=others), alpha=rate)

    def _is_done(self, change: float) -> bool:
        settled = self.efficiency != 0 and self.deviation / self.efficiency < _STEADY
        return self.efficiency > _ENOUGH or settled or abs(change - self.deviation / change) < _STEADY


def _efficiency(quantised: torch.Tensor, exact: torch.Tensor) -> tuple[torch.Tensor, float | None]:
    """Return quantised - exact and 1.25 * log10(signal / noise); None where there is no noise."""
    if is_large(exact) and is_large(quantised):
        noise, signal = error_moments(quantised, exact)
        found = 1.25 * math.log10(signal / noise) if noise > 0 and signal > 0 else -math.inf
        return exact, found if noise > 0 else None
    error = quantised - exact
    power = torch.square(error).mean()
    ratio = torch.square(exact).mean().div(power)
    return error, float(1.25 * ratio.log10()) if float(power) > 0 else None


def count_near_border(bias: torch.Tensor, correction: torch.Tensor, fix: int) -> int:
    """Count the biases that sums taken in another order could round to the neighbouring integer.

    bias is the corrected one, (channels,), fix its position: the border lies half a step between two integers.
    """
    steps = bias.double() * 2.0**fix
    distance = (steps - steps.floor() - 0.5).abs()
    doubt = (correction.double().abs() * _SUM_ERROR_SHARE).clamp(min=_SUM_ERROR) * 2.0**fix
    return int((distance <= doubt).sum())
