"""Integer kernels of the fast test path: 8-bit activations as uint8 (zero point 128), exact to the bit, or not offered.

Convolutions and dense layers run in oneDNN's int8 kernels. They round half to even; adding half a unit to the bias, in
accumulator units, makes that half up: an integer accumulator is then never on a tie, and crosses none
(docs/quantizer.md, section 11). `integer_support` tries the kernels on this machine before anything relies on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from dpuforge.emulator.arithmetic.scratch import PIECE, pieces

ZERO = 128
_LOW, _HIGH = -128, 127
_FRACTION_BITS = 16
_COARSEST_CUT = 30
_INT16_ROOM = 2**15 - 1
_INT32_ROOM = 2**31 - 1
EXACT_FLOAT = 2**24  # float32 holds every integer up to here


class UnrepresentableError(Exception):
    """A value is not finite or beyond 32 bits: the float path must treat this batch."""


@dataclass(frozen=True)
class Support:
    """Whether this machine and this torch compute the integer kernels exactly; if not, why."""

    available: bool
    reason: str


@cache
def integer_support() -> Support:
    """Try the integer kernels on extreme values and on ties, once per process."""
    names = ("qconv_prepack", "qconv2d_pointwise", "qlinear_prepack", "qlinear_pointwise")
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return Support(False, "this torch was built without oneDNN")
    missing = [name for name in names if not hasattr(torch.ops.onednn, name)]
    if missing or not hasattr(torch.ops.quantized, "max_pool2d"):
        return Support(False, f"this torch has no {', '.join(missing) or 'quantized.max_pool2d'}")
    try:
        exact = _convolution_is_exact() and _dense_is_exact() and _pool_is_exact()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return Support(False, f"an integer kernel failed: {str(error).splitlines()[0]}")
    if not exact:
        return Support(False, "this processor's int8 kernels saturate or round otherwise")
    return Support(True, f"oneDNN int8 kernels, {torch.backends.cpu.get_cpu_capability()}")


# -- convolution and dense ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Requantisation:
    """How an accumulator becomes the output integer: divided by 2**cut after adding offset."""

    cut: int
    offset: float

    @property
    def scale(self) -> float:
        """The divisor."""
        return 2.0**self.cut


def plan_requantisation(weight_fix: int, input_fix: int, bias_fix: int | None, output_fix: int) -> Requantisation:
    """Return the division by 2**cut and the offset that turns half-to-even into half-up.

    The accumulator counts units of 2**-(weight_fix + input_fix); a finer bias makes its multiples of 2**-n. Half such a
    multiple lifts every tie and crosses none; where the result needs no rounding, nothing is added.
    """
    accumulator = weight_fix + input_fix
    finest = min(0, accumulator - bias_fix) if bias_fix is not None else 0
    cut = accumulator - output_fix
    return Requantisation(cut, 2.0 ** (finest - 1) if finest < cut else 0.0)


def largest_partial_sum(weight: torch.Tensor, bias: torch.Tensor | None, low: int, high: int, finest: int) -> float:
    """Bound every partial sum of a layer, in its finest unit 2**finest (finest <= 0) of the accumulator.

    weight (O, ...) integers, bias (O,) in accumulator units, inputs within low..high.
    """
    rows = weight.reshape(weight.shape[0], -1).to(torch.float64)
    positive, negative = rows.clamp(min=0).sum(1), (-rows).clamp(min=0).sum(1)
    largest = torch.maximum(high * positive - low * negative, high * negative - low * positive)
    if bias is not None:
        largest = largest + bias.abs()
    return float(largest.max()) * 2.0**-finest


def holds_exactly(bias: torch.Tensor, how: Requantisation, finest: int) -> bool:
    """Say whether the kernels' float32 arithmetic after the accumulator loses nothing.

    The bias with its offset must be a float32. The zero point is added before rounding, and floats in 128..256 are
    multiples of 2**-16: half a unit of the accumulator must not be finer. Beyond -30 there is nothing to gain.
    """
    if how.cut < -_COARSEST_CUT:
        return False
    if how.offset and how.cut - finest + 1 > _FRACTION_BITS:
        return False
    shifted = bias + how.offset
    return torch.equal(shifted.to(torch.float32).to(torch.float64), shifted)


class Convolution:
    """A convolution of uint8 activations; weight int8 (O, I/groups, kh, kw), bias in accumulator units."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        how: Requantisation,
        geometry: tuple[list[int], list[int], list[int], int],
        shape: list[int],
        relu: bool,
    ) -> None:
        self._stride, self._padding, self._dilation, self._groups = geometry
        self._units = torch.ones(weight.shape[0])
        self._zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
        self._bias = (bias.to(torch.float64) + how.offset).to(torch.float32)
        self._scale = how.scale
        self._relu = "relu" if relu else "none"
        self._packed = torch.ops.onednn.qconv_prepack(weight, self._units, 1.0, ZERO, *geometry, shape)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return the uint8 result, channels last."""
        result: torch.Tensor = torch.ops.onednn.qconv2d_pointwise(
            values, 1.0, ZERO, self._packed, self._units, self._zeros, self._bias,
            self._stride, self._padding, self._dilation, self._groups,
            self._scale, ZERO, torch.uint8, self._relu, [], "",
        )  # fmt: skip
        return result


class Dense:
    """A dense layer of uint8 activations; weight int8 (O, I), bias in accumulator units."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, how: Requantisation, batch: int, relu: bool) -> None:
        self._units = torch.ones(weight.shape[0])
        self._zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
        self._bias = (bias.to(torch.float64) + how.offset).to(torch.float32)
        self._scale = how.scale
        self._relu = "relu" if relu else "none"
        self._packed = torch.ops.onednn.qlinear_prepack(weight, [batch, weight.shape[1]])

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return the uint8 result."""
        result: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            values.contiguous(), 1.0, ZERO, self._packed, self._units, self._zeros, self._bias,
            self._scale, ZERO, torch.uint8, self._relu, [], "",
        )  # fmt: skip
        return result


# -- elementwise and pooling -------------------------------------------------------------------------------------


def max_pool(values: torch.Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
             ceil_mode: bool) -> torch.Tensor:  # fmt: skip
    """Return the maximum pool of uint8 activations; padding never wins."""
    result: torch.Tensor = torch.ops.quantized.max_pool2d(
        _dense_layout(values), kernel, stride, padding, dilation, ceil_mode
    )
    return result


def clamp_integers(values: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Return activations limited to the integers low..high."""
    return values.clamp(low + ZERO, high + ZERO)


def sum_width(fixes: tuple[int, ...], output_fix: int) -> torch.dtype | None:
    """Return the integer type that a sum of activations at these fix positions needs; None if none is wide enough."""
    finest = max(fixes)
    cut = finest - output_fix
    room = 256 * sum(2 ** (finest - fix) for fix in fixes) + (2 ** max(cut, 1)) * 257
    if max(abs(cut), finest - min(fixes)) > 15:
        return None
    largest = room * 2 ** max(0, -cut)
    return torch.int16 if largest <= _INT16_ROOM else torch.int32 if largest <= _INT32_ROOM else None


def add_integers(
    operands: tuple[torch.Tensor, ...], fixes: tuple[int, ...], output_fix: int, relu: bool = False
) -> torch.Tensor:
    """Return the sum of one or more uint8 tensors of equal shape, rounded half up to output_fix; with relu on request.

    With one operand this moves an activation to another fix position.
    """
    finest = max(fixes)
    cut = finest - output_fix
    shifts = [finest - fix for fix in fixes]
    zeros = ZERO * sum(1 << shift for shift in shifts)
    rounding = (1 << (cut - 1)) + (ZERO << cut) if cut > 0 else 0
    dtype = sum_width(fixes, output_fix)
    if dtype is None:
        raise ValueError(f"no integer type holds a sum at fix positions {fixes} for {output_fix}")
    first = _dense_layout(operands[0])
    result = torch.empty_like(first)
    parts = [_flat(_like(operand, first)) for operand in operands]
    low = ZERO if relu else 0
    for piece, buffer, other in pieces(parts[0].numel(), dtype):
        buffer.copy_(parts[0][piece])
        _shift_left(buffer, shifts[0])
        for part, shift in zip(parts[1:], shifts[1:], strict=True):
            _shift_left(other.copy_(part[piece]), shift)
            buffer.add_(other)
        buffer.add_(rounding - zeros)
        if cut > 0:
            buffer.bitwise_right_shift_(cut)
        else:
            _shift_left(buffer, -cut)
            buffer.add_(ZERO)
        _flat(result)[piece].copy_(buffer.clamp_(low, 255))
    return result


def quantise_floats(values: torch.Tensor, fix: int) -> torch.Tensor:
    """Return float activations as uint8 at a fix position, rounded half up, channels last.

    Raises UnrepresentableError for values that are not finite or exceed 2**31 after scaling.
    """
    source = values if is_channels_last(values) else values.contiguous()
    result = torch.empty_like(source, dtype=torch.uint8)
    given, made = _memory(source), _memory(result)
    largest = []
    for piece, low, rest in pieces(given.numel(), torch.float32):
        torch.mul(given[piece], 2.0**fix, out=rest)
        largest.append(torch.stack(torch.aminmax(rest)))
        torch.floor(rest, out=low)
        low.add_(rest.sub_(low).ge_(0.5)).clamp_(_LOW, _HIGH).add_(ZERO)
        made[piece].copy_(low)
    if largest and not bool((torch.stack(largest).abs() <= 2.0**31).all()):
        raise UnrepresentableError
    return _dense_layout(result)


def dequantise(values: torch.Tensor, fix: int, channels_last: bool = False) -> torch.Tensor:
    """Return uint8 activations as floats, contiguous or, on request and in four dimensions, channels last."""
    layout = torch.channels_last if channels_last and values.dim() == 4 else torch.contiguous_format
    floats = torch.empty(values.shape, dtype=torch.float32, memory_format=layout)
    return floats.copy_(values).sub_(ZERO).mul_(2.0**-fix)


def is_channels_last(values: torch.Tensor) -> bool:
    """Say whether a tensor of four dimensions lies densely in memory, channels last."""
    return values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)


def product_width(cut: int) -> torch.dtype | None:
    """Return the integer type that a product of two activations needs to be divided by 2**cut; None if none does."""
    if not -15 <= cut <= 29:
        return None
    return torch.int16 if 0 < cut <= 14 else torch.int32


def multiply_integers(first: torch.Tensor, second: torch.Tensor, cut: int) -> torch.Tensor:
    """Return the product of uint8 activations divided by 2**cut and rounded half up.

    first (N, C, H, W); second of the same shape, or (N, C, 1, 1), which scales whole channels.
    """
    dtype = product_width(cut)
    if dtype is None:
        raise ValueError(f"no integer type holds a product divided by 2**{cut}")
    left = _dense_layout(first)
    result = torch.empty_like(left)
    channels = left.shape[1]
    rows, made = (_memory(part).view(left.shape[0], -1, channels) for part in (left, result))
    factors = _memory(_dense_layout(second)).view(left.shape[0], -1, channels).to(dtype).sub_(ZERO)
    step = max(1, PIECE // channels)
    for image in range(left.shape[0]):
        for start in range(0, rows.shape[1], step):
            part = rows[image, start : start + step].to(dtype).sub_(ZERO)
            part.mul_(factors[image] if factors.shape[1] == 1 else factors[image, start : start + step])
            if cut > 0:
                part.add_(1 << (cut - 1)).bitwise_right_shift_(cut)
            else:
                _shift_left(part, -cut)
            made[image, start : start + step].copy_(part.clamp_(_LOW, _HIGH).add_(ZERO))
    return result


def look_up(values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return table[value] for every uint8 value; table has 256 entries."""
    source = _dense_layout(values)
    result = torch.empty_like(source, dtype=table.dtype)
    for piece, index, _ in pieces(source.numel(), torch.int32):
        index.copy_(_flat(source)[piece])
        torch.index_select(table, 0, index, out=_flat(result)[piece])
    return result


def _dense_layout(values: torch.Tensor) -> torch.Tensor:
    """Return four-dimensional tensors channels last, others contiguous."""
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values.contiguous()


def _like(values: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return values in the memory layout of other (both of one shape)."""
    return values if values.stride() == other.stride() else torch.empty_like(other).copy_(values)


def _memory(values: torch.Tensor) -> torch.Tensor:
    """Return a dense tensor's memory as one dimension, whichever of the two layouts it has."""
    return _flat(values) if is_channels_last(values) else values.view(-1)


def _flat(values: torch.Tensor) -> torch.Tensor:
    """Return a dense tensor's memory as one dimension."""
    return values.permute(0, 2, 3, 1).view(-1) if values.dim() == 4 else values.view(-1)


def _shift_left(values: torch.Tensor, by: int) -> None:
    if by:
        values.mul_(1 << by)


# -- the trial -----------------------------------------------------------------------------------------------------


def _trial_values(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return reproducible bytes with many extremes, independent of torch's random state."""
    count = 1
    for size in shape:
        count *= size
    mixed = (torch.arange(count, dtype=torch.int64) + seed) * 2654435761 % 4294967291
    values = mixed // 7 % 256
    return torch.where(mixed % 5 == 0, torch.where(mixed % 2 == 0, 0, 255), values).view(shape)


def _expected(sums: torch.Tensor, how: Requantisation, relu: bool) -> torch.Tensor:
    """Return what the kernels must give for int64 sums."""
    rounded = (sums + (1 << (how.cut - 1))) >> how.cut if how.cut > 0 else sums << -how.cut
    return (rounded.clamp(0 if relu else _LOW, _HIGH) + ZERO).to(torch.uint8)


def _convolution_is_exact() -> bool:
    for groups, channels, kernel in ((1, 32, 3), (16, 16, 3), (1, 64, 1)):
        values = _trial_values((2, channels, 9, 9), kernel + groups).to(torch.uint8)
        weight = (_trial_values((16, channels // groups, kernel, kernel), 11) - ZERO).to(torch.int8)
        bias = (_trial_values((16,), 5) - ZERO) * 37
        pad = kernel // 2
        sums = torch.nn.functional.conv2d(
            (values.double() - ZERO), weight.double(), bias.double(), 1, pad, 1, groups
        ).to(torch.int64)
        for cut, relu in ((0, False), (1, True), (9, False), (12, True), (15, False)):
            how = Requantisation(cut, 0.5 if cut else 0.0)
            layer = Convolution(weight, bias, how, ([1, 1], [pad, pad], [1, 1], groups), list(values.shape), relu)
            if not torch.equal(layer(_dense_layout(values)), _expected(sums, how, relu)):
                return False
    return True


def _dense_is_exact() -> bool:
    values = _trial_values((3, 64), 1).to(torch.uint8)
    weight = (_trial_values((16, 64), 2) - ZERO).to(torch.int8)
    bias = (_trial_values((16,), 3) - ZERO) * 37
    sums = (values.double() - ZERO).matmul(weight.double().t()).add(bias).to(torch.int64)
    for cut, relu in ((0, False), (1, False), (10, True)):
        how = Requantisation(cut, 0.5 if cut else 0.0)
        if not torch.equal(Dense(weight, bias, how, 3, relu)(values), _expected(sums, how, relu)):
            return False
    return True


def _pool_is_exact() -> bool:
    values = _trial_values((2, 16, 9, 9), 4).to(torch.uint8)
    found = max_pool(_dense_layout(values), [3, 3], [2, 2], [1, 1], [1, 1], False)
    return torch.equal(found.float(), torch.nn.functional.max_pool2d(values.float(), 3, 2, 1))
