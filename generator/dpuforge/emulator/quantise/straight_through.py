"""Quantisation that gradients pass through: rounding counts as the identity, saturation cuts the gradient."""

from __future__ import annotations

import torch

from dpuforge.emulator.quantise.steps import FixStep, ScaleStep, Step, TensorRule, apply_step


def quantise_through(values: torch.Tensor, step: Step, rule: TensorRule) -> torch.Tensor:
    """Return values on the step's grid; the gradient is 1 inside the range and 0 where values saturate."""
    with torch.no_grad():
        rounded = apply_step(values.detach(), step, rule)
        low, high = _range(step, rule)
    inside = values.clamp(low, high)
    return inside + (rounded - inside).detach()


def _range(step: Step, rule: TensorRule) -> tuple[float, float]:
    """Return the smallest and largest float on the grid."""
    if isinstance(step, FixStep):
        top = 2 ** (step.bits - 1)
        return -top * 2.0**-step.fix, (top - 1) * 2.0**-step.fix
    if isinstance(step, ScaleStep) and not isinstance(step.scale, tuple):
        grid = rule.grid
        return (grid.low - step.zero_point) * step.scale, (grid.high - step.zero_point) * step.scale
    return float("-inf"), float("inf")
