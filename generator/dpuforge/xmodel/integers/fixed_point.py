"""Exact numbers of the integer interpreter: integers with a fix position and, where a pool or hard-sigmoid divides, a
divisor; rounding happens only in `quantise`, half up as on the DPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpuforge.errors import FormatError

Array = NDArray[Any]
MAX_SHIFT = 60  # a fix position beyond this is not a DPU's; 2**60 still fits int64
_INT32, _INT64 = 2**31, 2**62


@dataclass(frozen=True)
class Value:
    """A tensor equal to data * 2**-fix_point / divisor, exactly.

    data holds integers no larger than `bound` in magnitude; where exact is False, data are float64 real numbers and the
    other fields say nothing (sigmoid, tanh, softmax, uneven averages).
    """

    data: Array
    fix_point: int = 0
    divisor: int = 1
    bound: int = 0
    exact: bool = True

    @property
    def real(self) -> Array:
        """Return the numbers that the integers stand for, float64."""
        if not self.exact:
            return self.data
        return np.ldexp(self.data.astype(np.float64), -self.fix_point) / self.divisor

    def with_data(self, data: Array) -> Value:
        """Return the same scale and bound around moved or selected elements."""
        return Value(data, self.fix_point, self.divisor, self.bound, self.exact)


def real_value(data: Array) -> Value:
    """Wrap real numbers that no exact integers stand for."""
    return Value(data.astype(np.float64), exact=False)


def integer_dtype(bound: int) -> type[np.signedinteger[Any]]:
    """Return the narrowest accumulator that holds `bound`: int32 as on the DPU where it does."""
    if bound >= _INT64:
        raise FormatError(f"the sums of this graph may reach {bound}: more than 62 bits", "check its fix positions")
    return np.int32 if bound < _INT32 else np.int64


def exact_constant(data: Array) -> Value:
    """Return float32 constants as integers with the smallest fix position that holds them, else as real numbers."""
    with np.errstate(invalid="ignore"):  # a signalling NaN in a damaged file
        wide = data.astype(np.float64)
    if not np.isfinite(wide).all():
        raise FormatError("a constant holds NaN or infinity", "write the file again from a sound model")
    for fix_point in range(33):
        scaled = np.ldexp(wide, fix_point)
        if np.abs(scaled).max(initial=0.0) >= _INT32:
            break
        if (scaled == np.rint(scaled)).all():
            bound = int(np.abs(scaled).max(initial=0.0))
            return Value(scaled.astype(integer_dtype(bound)), fix_point, bound=bound)
    return real_value(wide)


def shift_left(value: Value, bits: int) -> Value:
    """Return the same numbers with `bits` more fraction bits (the DPU's shift_bias)."""
    if bits == 0:
        return value
    if bits > MAX_SHIFT:
        raise FormatError(f"a shift of {bits} bits", "check the fix positions of the file")
    bound = value.bound << bits
    data = value.data.astype(integer_dtype(bound))
    return Value(data << bits, value.fix_point + bits, value.divisor, bound)


def align(values: Sequence[Value]) -> tuple[Value, ...]:
    """Give all values one scale, that of the finest; real numbers where their divisors differ."""
    if any(not value.exact for value in values) or len({value.divisor for value in values}) > 1:
        return tuple(real_value(value.real) for value in values)
    finest = max(value.fix_point for value in values)
    return tuple(shift_left(value, finest - value.fix_point) for value in values)


def add(one: Value, two: Value, sign: int = 1) -> Value:
    """Return one + sign * two, broadcast."""
    one, two = align((one, two))
    if not one.exact:
        return real_value(one.data + sign * two.data)
    bound = one.bound + two.bound
    dtype = integer_dtype(bound)
    combine = np.add if sign > 0 else np.subtract
    data = combine(one.data.astype(dtype, copy=False), two.data.astype(dtype, copy=False))
    return Value(data, one.fix_point, one.divisor, bound)


def multiply(one: Value, two: Value) -> Value:
    """Return one * two, broadcast; a single constant cancels against the divisor (pool coefficients)."""
    if not (one.exact and two.exact) or one.bound * two.bound >= _INT64:
        return real_value(one.real * two.real)
    if two.data.size == 1:
        return scale_by(one, Fraction(int(two.data.flat[0]), two.divisor), two.fix_point)
    if one.data.size == 1:
        return scale_by(two, Fraction(int(one.data.flat[0]), one.divisor), one.fix_point)
    bound = one.bound * two.bound
    dtype = integer_dtype(bound)
    data = one.data.astype(dtype) * two.data.astype(dtype)
    return Value(data, one.fix_point + two.fix_point, one.divisor * two.divisor, bound)


def scale_by(value: Value, factor: Fraction, fix_point: int) -> Value:
    """Return value * factor * 2**-fix_point, the fraction in lowest terms, its powers of two in the fix position."""
    fraction = factor / value.divisor
    shift = (fraction.denominator & -fraction.denominator).bit_length() - 1
    bound = value.bound * abs(fraction.numerator)
    data = value.data.astype(integer_dtype(bound)) * fraction.numerator
    return Value(data, value.fix_point + fix_point + shift, fraction.denominator >> shift, bound)


def divide(value: Value, divisor: int) -> Value:
    """Return value / divisor without rounding."""
    if not value.exact:
        return real_value(value.data / divisor)
    common = gcd(divisor, 1 << 62)
    shift = common.bit_length() - 1
    return Value(value.data, value.fix_point + shift, value.divisor * (divisor >> shift), value.bound)


def quantise(value: Value, fix_point: int, bit_width: int, signed: bool) -> Value:
    """Round to `fix_point` half up and clamp to `bit_width` bits: out = floor(x * 2**fix_point + 1/2).

    Negative shifts (shift_cut < 0) move left. The result is int8 where 8 signed bits suffice.
    """
    low, high = (-(1 << (bit_width - 1)), (1 << (bit_width - 1)) - 1) if signed else (0, (1 << bit_width) - 1)
    if not value.exact:
        rounded = _round_half_up(np.ldexp(value.data, fix_point))
    elif value.divisor != 1:
        rounded = _divide_half_up(value, fix_point)
    else:
        rounded = _shift_half_up(value, fix_point, max(-low, high))
    bound = max(-low, high)
    np.clip(rounded, low, high, out=rounded)
    return Value(rounded.astype(np.int8 if signed and bit_width <= 8 else np.int32), fix_point, bound=bound)


def _round_half_up(scaled: Array) -> Array:
    """Round reals; x + 0.5 would lift 0.49999999999999994 to 1."""
    below = np.floor(scaled)
    return below + (scaled - below >= 0.5)


def _divide_half_up(value: Value, fix_point: int) -> Array:
    """Return floor(n * 2**k / d + 1/2) = floor((n * 2**(k+1) + d) / (2 * d)) on integers."""
    more = fix_point - value.fix_point + 1
    numerator, divisor = value.data.astype(np.int64), 2 * value.divisor
    if more >= 0:
        integer_dtype(value.bound << min(more, MAX_SHIFT))
        numerator = numerator << more
    else:
        divisor <<= -more
    result: Array = (numerator + divisor // 2) // divisor
    return result


def _shift_half_up(value: Value, fix_point: int, clamp: int) -> Array:
    cut = value.fix_point - fix_point
    if cut <= 0:
        if value.bound << min(-cut, MAX_SHIFT) >= _INT64:  # would be clamped anyway: clamp first
            return np.clip(value.data.astype(np.int64), -clamp - 1, clamp + 1) << min(-cut, 40)
        return shift_left(value, -cut).data.astype(integer_dtype(value.bound << -cut), copy=cut == 0)
    if cut > MAX_SHIFT:
        return np.zeros(value.data.shape, np.int32)
    half = 1 << (cut - 1)
    dtype = integer_dtype(max(value.bound + half, 1 << cut))
    rounded = value.data.astype(dtype)
    rounded += half
    rounded >>= cut
    return rounded
