"""Measures how far a quantised tensor is from its float original: the figures a diagnosis is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from dpuforge.emulator.arithmetic.fake_quantise import first_fix_position, squared_error
from dpuforge.emulator.quantise.steps import FixStep, ScaleStep, Step, TensorRule

CEILING_DB = 200.0  # stands for "no noise at all"; float32 itself ends near 150 dB
_CANDIDATES = 5
_SAMPLE = 262_144  # values per batch on which rival fix positions are compared


def decibels(signal: float, noise: float) -> float | None:
    """Return 10 log10(signal / noise), within -200..200 dB; None where there is neither, or a value is not finite.

    The signal-to-quantisation-noise ratio as in Lin, Talathi and Annapureddy, "Fixed Point Quantization of Deep
    Convolutional Networks", ICML 2016, section 3: power of the values over power of their rounding errors.
    """
    if not (math.isfinite(signal) and math.isfinite(noise)) or (signal <= 0 and noise <= 0):
        return None
    if noise <= 0 or signal <= 0:
        return CEILING_DB if noise <= 0 else -CEILING_DB
    return max(-CEILING_DB, min(CEILING_DB, 10.0 * math.log10(signal / noise)))


@dataclass
class Comparison:
    """Sums over an exact and a quantised tensor, batch after batch."""

    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    quantised: float = 0.0

    def add(self, exact: torch.Tensor, quantised: torch.Tensor) -> None:
        """Count one batch; both tensors have the same shape."""
        one, other = exact.flatten().float(), quantised.flatten().float()
        self.signal += float(torch.dot(one, one))
        self.quantised += float(torch.dot(other, other))
        self.product += float(torch.dot(one, other))
        error = other - one
        self.noise += float(torch.dot(error, error))

    @property
    def sqnr_db(self) -> float | None:
        """Signal-to-quantisation-noise ratio in dB (see decibels)."""
        return decibels(self.signal, self.noise)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between both tensors as vectors; None where one is zero."""
        lengths = math.sqrt(self.signal) * math.sqrt(self.quantised)
        return min(1.0, self.product / lengths) if lengths > 0 and math.isfinite(lengths) else None


@dataclass
class Saturation:
    """How many values lie beyond the integers, and how far the values reach."""

    count: int = 0
    total: int = 0
    peak: float = 0.0

    def add(self, values: torch.Tensor, step: Step, rule: TensorRule) -> None:
        """Count values that would round to an integer beyond the ends of the grid: those are clipped."""
        low, high = limits(step, rule, values)
        least, most = (float(end) for end in torch.aminmax(values))
        if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor) or least < low or most >= high:
            self.count += int(((values < low) | (values >= high)).sum())
        self.total += values.numel()
        self.peak = max(self.peak, -least, most)

    @property
    def share(self) -> float:
        """Clipped values per value, 0..1."""
        return self.count / self.total if self.total else 0.0


def limits(step: Step, rule: TensorRule, values: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    """Return the values at which clipping starts: half a step beyond the smallest and the largest integer."""
    if isinstance(step, FixStep):
        top, size = 2 ** (step.bits - 1), 2.0**-step.fix
        return (-top - 0.5) * size, (top - 0.5) * size
    if not isinstance(step, ScaleStep):
        return -math.inf, math.inf
    grid = rule.grid
    if not isinstance(step.scale, tuple):
        zero = float(step.zero_point)
        return (grid.low - zero - 0.5) * float(step.scale), (grid.high - zero + 0.5) * float(step.scale)
    shape = [1] * values.dim()
    shape[rule.axis] = -1
    scale, zeros = (torch.tensor(item, device=values.device).view(shape) for item in (step.scale, step.zero_point))
    return (grid.low - zeros - 0.5) * scale, (grid.high - zeros + 0.5) * scale


@dataclass
class Rivals:
    """The errors of the fix positions that the search compares, and of the one in force.

    The candidates are those of the search on the first batch: s0 .. s0 + 4, s0 being the largest fix position whose
    range holds every value (docs/quantizer.md, section 2). The errors are summed over all batches; of a large tensor
    262,144 evenly spaced values stand for all, which fixes an error to 0.02 dB, and to some tenths of a dB where it
    comes from few clipped values.
    """

    noise: dict[int, float] = field(default_factory=dict)
    signal: float = 0.0

    def add(self, values: torch.Tensor, step: FixStep, rule: TensorRule) -> None:
        """Count one batch of values before rounding."""
        if not self.noise:
            self.noise = dict.fromkeys(_candidates(values, step), 0.0)
        sample = values.flatten()[:: _stride(values.numel())]
        self.signal += float(torch.dot(sample, sample))
        for fix in self.noise:
            self.noise[fix] += squared_error(sample, step.bits, fix, rule.rounding)

    @property
    def best(self) -> int | None:
        """The fix position with the smallest error; a tie gives the smaller one."""
        return min(self.noise, key=lambda fix: (self.noise[fix], fix)) if self.noise else None

    def sqnr_db(self, fix: int) -> float | None:
        """Return the SQNR that a fix position gives."""
        return decibels(self.signal, self.noise[fix])


def _stride(count: int) -> int:
    """Return a stride for a sample that shares no factor with any dimension: it must not pick one column alone."""
    stride = max(1, count // _SAMPLE)
    while math.gcd(stride, count) != 1:
        stride += 1
    return stride


def _candidates(values: torch.Tensor, step: FixStep) -> list[int]:
    first = first_fix_position(values, step.bits)
    found = {step.fix}
    if math.isfinite(first):
        found.update(int(first) + offset for offset in range(_CANDIDATES))
    return sorted(found)


@dataclass(frozen=True)
class ChannelSpread:
    """How unequal the channels of a tensor are.

    ratio: the largest channel's peak over the median channel's; channel: that largest one; coarse: share of channels
    whose own SQNR is below 10 dB, that is, whose values take a handful of integers; worst_db: the lowest channel SQNR.
    """

    ratio: float | None
    channel: int
    coarse: float
    worst_db: float | None


_COARSE_DB = 10.0


def spread_channels(values: torch.Tensor, rounded: torch.Tensor, axis: int) -> ChannelSpread:
    """Compare the channels of a weight along axis, before and after rounding; channels of zeros are left out.

    Unequal channel ranges under one step for the whole tensor are what cross-layer equalisation mends: Nagel et al.,
    "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 3.1.
    """
    exact = values.transpose(0, axis).flatten(1) if values.dim() > 1 else values.view(-1, 1)
    rounded = rounded.transpose(0, axis).flatten(1) if values.dim() > 1 else rounded.view(-1, 1)
    peaks = exact.abs().amax(1)
    used = peaks > 0
    if not bool(used.any()):
        return ChannelSpread(None, 0, 0.0, None)
    signal, noise = exact.square().sum(1), (exact - rounded).square().sum(1)
    levels = [decibels(float(s), float(n)) for s, n in zip(signal[used], noise[used], strict=True)]
    known = [level for level in levels if level is not None]
    coarse = sum(level < _COARSE_DB for level in known) / len(known) if known else 0.0
    ratio = float(peaks.max() / peaks[used].median())
    return ChannelSpread(ratio, int(peaks.argmax()), coarse, min(known, default=None))
