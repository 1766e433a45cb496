"""How one tensor is quantised: the step (fix position or float scale), its search, its statistic and its use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dpuforge.emulator.arithmetic.fake_quantise import (
    ROUNDINGS,
    Rounding,
    fake_quantise,
    fake_quantise_scaled,
    limit_fix_position,
    most_frequent,
    search_fix_position,
)
from dpuforge.emulator.arithmetic.float_scales import Grid, Scale, UnsupportedScaleError, combine_scales, find_scale
from dpuforge.emulator.arithmetic.piecewise import is_large, quantise_large, search_large
from dpuforge.quant_config import TensorConfig


@dataclass(frozen=True)
class FixStep:
    """A power-of-two step of the DPU: the scale is 2**-fix."""

    bits: int
    fix: int

    def as_json(self) -> list[Any]:
        """Return quant_info.json's row."""
        return [self.bits, self.fix]


@dataclass(frozen=True)
class ScaleStep:
    """A scale of a CPU or GPU target; per channel where the fields are tuples."""

    bits: int
    scale: Any
    zero_point: Any
    maximum: Any

    def as_json(self) -> list[Any]:
        """Return quant_info.json's row."""
        fields = (self.scale, self.zero_point, self.maximum)
        return [self.bits, *(list(item) if isinstance(item, tuple) else item for item in fields)]


@dataclass(frozen=True)
class CastStep:
    """A tensor kept in a float type: bfloat16, float16 or float32."""

    datatype: str
    bits: int = 0

    def as_json(self) -> list[Any]:
        """Return the dtype table's row."""
        return [self.datatype]


Step = FixStep | ScaleStep | CastStep
_TORCH_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class TensorRule:
    """The settings of one tensor.

    role: input, weights, bias or activation; dpu: steps are fix positions; forced: the target dictates the rounding;
    limit: largest fix position; maxmin: search one candidate only; axis: channel axis of a weight.
    """

    role: str
    config: TensorConfig
    dpu: bool = True
    forced: bool = True
    limit: int | None = None
    maxmin: bool = False
    axis: int = 0

    @property
    def rounding(self) -> Rounding:
        """On a DPU activations round half up and parameters half away from zero, whatever the config names."""
        if self.forced:
            return Rounding.HALF_UP if self.role in ("input", "activation") else Rounding.STD_ROUND
        return ROUNDINGS[self.config.round_mode]

    @property
    def grid(self) -> Grid:
        """The integers that the tensor may take."""
        config = self.config
        return Grid(config.bit_width, config.symmetry, config.signed, config.narrow_range)


def read_step(row: Sequence[Any]) -> Step:
    """Return the step of a quant_info.json row."""
    if len(row) == 1:
        return CastStep(str(row[0]))
    if len(row) == 2:
        return FixStep(int(row[0]), int(row[1]))
    fields = (tuple(item) if isinstance(item, list) else item for item in row[1:])
    return ScaleStep(int(row[0]), *fields)


def search_step(values: torch.Tensor, rule: TensorRule) -> Step:
    """Return the step that suits one tensor."""
    config = rule.config
    if config.datatype != "int":
        return CastStep(config.datatype)
    if config.scale_type == "float":
        return _search_scale(values, rule)
    if config.per_channel:
        return _search_channels(values, rule)
    fix = _search_fix(values, rule)
    return FixStep(config.bit_width, fix) if rule.dpu else _power_step(config.bit_width, fix, rule)


def _search_fix(values: torch.Tensor, rule: TensorRule) -> int:
    bits = rule.config.bit_width
    single = rule.maxmin or rule.role == "input" or (not rule.dpu and rule.config.method == "maxmin")
    search = search_large if is_large(values) else search_fix_position
    return limit_fix_position(search(values, bits, rule.rounding, 1 if single else 5), bits, rule.limit)


def _power_step(bits: int, fix: int, rule: TensorRule) -> ScaleStep:
    scale = 2.0**-fix
    return ScaleStep(bits, scale, 0, scale * rule.grid.high)


def _search_scale(values: torch.Tensor, rule: TensorRule) -> ScaleStep:
    config = rule.config
    percentage = config.percentage if config.percentage is not None else 99.99
    if config.method == "mse" and config.round_mode != "half_even":
        raise UnsupportedScaleError(
            f"method mse with round_mode {config.round_mode}",
            "write round_mode: half_even; the real tool stops here with a TypeError",
        )
    if not config.per_channel:
        found = find_scale(values, config.method, rule.grid, percentage)
        maximum = found.maximum
        if config.method in ("percentile", "entropy") and rule.role in ("weights", "bias"):
            maximum = float(str(np.float32(maximum)))  # the tool writes these with the digits of a float32
        return ScaleStep(config.bit_width, found.scale, found.zero_point, maximum)
    channels = [find_scale(part, config.method, rule.grid, percentage) for part in values.unbind(rule.axis)]
    return ScaleStep(
        config.bit_width,
        tuple(float(torch.tensor(channel.scale, dtype=torch.float32)) for channel in channels),
        tuple(channel.zero_point for channel in channels),
        tuple(channel.maximum for channel in channels),
    )


def _search_channels(values: torch.Tensor, rule: TensorRule) -> ScaleStep:
    steps = [_power_step(rule.config.bit_width, _search_fix(part, rule), rule) for part in values.unbind(rule.axis)]
    scales, points, maxima = zip(*((step.scale, step.zero_point, step.maximum) for step in steps), strict=True)
    return ScaleStep(rule.config.bit_width, scales, points, maxima)


def combine_steps(history: Sequence[Step], rule: TensorRule) -> Step:
    """Return the step in force after these batches."""
    first = history[0]
    if isinstance(first, CastStep):
        return first
    if isinstance(first, FixStep):
        return FixStep(first.bits, most_frequent(step.fix for step in history if isinstance(step, FixStep)))
    scales = [Scale(step.scale, step.zero_point, step.maximum) for step in history if isinstance(step, ScaleStep)]
    combined = combine_scales(scales, rule.config.calib_statistic_method or "modal")
    return ScaleStep(first.bits, combined.scale, combined.zero_point, combined.maximum)


def apply_step(values: torch.Tensor, step: Step, rule: TensorRule, in_place: bool = False) -> torch.Tensor:
    """Return values on the step's grid; in_place may overwrite them."""
    if isinstance(step, CastStep):
        if rule.role in ("weights", "bias"):  # the real tool notes the type and computes with the float32 parameter
            return values
        return values.to(_TORCH_TYPES[step.datatype]).to(values.dtype)
    if isinstance(step, FixStep) and is_large(values):
        return quantise_large(values, step.bits, step.fix, rule.rounding, in_place)
    if isinstance(step, FixStep):
        return fake_quantise(values, step.bits, step.fix, rule.rounding)
    grid = rule.grid
    if isinstance(step.scale, tuple):
        shape = [1] * values.dim()
        shape[rule.axis] = -1
        scale = torch.tensor(step.scale, dtype=values.dtype, device=values.device).view(shape)
        point = torch.tensor(step.zero_point, dtype=values.dtype, device=values.device).view(shape)
        return fake_quantise_scaled(values, scale, point, grid.low, grid.high, rule.rounding)
    if _is_power_of_two(step.scale) and step.zero_point == 0:
        return fake_quantise(values, step.bits, -round(math.log2(step.scale)), rule.rounding)
    return fake_quantise_scaled(values, float(step.scale), step.zero_point, grid.low, grid.high, rule.rounding)


def _is_power_of_two(scale: float) -> bool:
    return scale > 0 and math.frexp(scale)[0] == 0.5
