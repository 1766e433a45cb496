"""TQTQuantizer: rounds a tensor to a power-of-two grid whose threshold is trained (arXiv 1903.08066)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.arithmetic.fake_quantise import Rounding, fake_quantise, round_tensor
from dpuforge.emulator.qat.thresholds import distribution_threshold, fix_position, spread_threshold


class _RoundToThreshold(torch.autograd.Function):
    """Rounds forward as the DPU does; backward gives the gradients of the values and of the threshold's logarithm."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, log_threshold: torch.Tensor, bits: int, way: Rounding) -> torch.Tensor:
        fix = fix_position(float(log_threshold), bits)
        ctx.save_for_backward(values)
        ctx.bits, ctx.fix = bits, fix
        return fake_quantise(values, bits, fix, way)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        (values,) = ctx.saved_tensors
        (gradient,) = gradients
        top = 2 ** (ctx.bits - 1)
        scaled = values * 2.0**ctx.fix
        rounded = round_tensor(scaled, Rounding.HALF_UP_BELOW_ZERO)
        inside = (rounded >= -top) & (rounded <= top - 1)
        slope = torch.where(inside, rounded - scaled, rounded.clamp(-top, top - 1))
        of_values = torch.where(inside, gradient, torch.zeros_like(gradient))
        of_threshold = (gradient * slope).sum().reshape(1) * (2.0**-ctx.fix * math.log(2))
        return of_values, of_threshold, None, None


class TQTQuantizer(nn.Module):
    """One tensor's quantizer: log_threshold is trained; the first tensor seen sets it while warmup_enabled is 1."""

    def __init__(self, bits: int, rounding: Rounding, of_parameter: bool) -> None:
        super().__init__()
        self.log_threshold = nn.Parameter(torch.zeros(1))
        self.register_buffer("bitwidth", torch.tensor([bits], dtype=torch.uint8))
        self.register_buffer("warmup_enabled", torch.tensor([1], dtype=torch.uint8))
        self.bitwidth: torch.Tensor
        self.warmup_enabled: torch.Tensor
        self.quant_enabled = True
        self._rounding = rounding
        self._of_parameter = of_parameter

    @property
    def fix(self) -> int:
        """The fix position that the threshold stands for."""
        return fix_position(float(self.log_threshold.detach()), int(self.bitwidth))

    def start_from(self, fix: int) -> None:
        """Begin with the threshold of a fix position, without a warm-up."""
        with torch.no_grad():
            self.log_threshold.fill_(float(int(self.bitwidth) - 1 - fix))
            self.warmup_enabled.fill_(0)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return values on the grid; values themselves where quantisation is off."""
        if not self.quant_enabled:
            return values
        if bool(self.warmup_enabled):
            self._warm_up(values.detach())
        rounded: torch.Tensor = _RoundToThreshold.apply(values, self.log_threshold, int(self.bitwidth), self._rounding)
        return rounded

    def _warm_up(self, values: torch.Tensor) -> None:
        if self._of_parameter:
            threshold = spread_threshold(values)
        else:
            threshold = distribution_threshold(values, int(self.bitwidth))
        with torch.no_grad():
            self.log_threshold.fill_(math.log2(threshold))
            self.warmup_enabled.fill_(0)
