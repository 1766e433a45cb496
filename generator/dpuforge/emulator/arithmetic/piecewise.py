"""The fix-position search and fake quantisation for large tensors: cache-sized pieces, and the same results to the bit.

The search's five errors are summed piece by piece in one pass. The real tool decides by float32 sums over the whole
tensor; the two sums differ by rounding only, so where two candidates lie closer than that, the reference decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from dpuforge.emulator.arithmetic.fake_quantise import Rounding, fake_quantise, first_fix_position, search_fix_position
from dpuforge.emulator.arithmetic.scratch import PIECE, pieces

_PIECE = PIECE
_SAMPLE = 32  # every so many pieces guess the favourite
_LARGE = 1 << 12  # smaller tensors are not worth the pieces
_CLEAR_LEAD = 1e-3  # of an error; float32 sums of up to 2**31 squares, in vector lanes, are good to 1e-5
_UNDERFLOW = 1e-30  # float32 squares below it may vanish from the reference's sums
_INT32_LIMIT = 2.0**31
_NEAREST = frozenset({Rounding.HALF_UP, Rounding.STD_ROUND, Rounding.HALF_DOWN, Rounding.HALF_EVEN})

_Piece = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # of the tensor; two scratch tensors of its length


def is_large(values: torch.Tensor) -> bool:
    """Say whether a tensor is worth the pieces: float32 in the processor's memory, dense, not tiny."""
    plain = values.dtype == torch.float32 and values.device.type == "cpu" and values.is_contiguous()
    return plain and values.numel() >= _LARGE and not (values.requires_grad and torch.is_grad_enabled())


def search_large(values: torch.Tensor, bits: int, rounding: Rounding, candidates: int) -> float:
    """Return what search_fix_position does, for a large tensor."""
    first = first_fix_position(values, bits)
    if candidates == 1 or math.isinf(first):
        return first
    if rounding not in _NEAREST:
        return search_fix_position(values, bits, rounding, candidates)
    errors = _errors(values, bits, int(first), candidates)
    chosen = _clear_winner(errors)
    return search_fix_position(values, bits, rounding, candidates) if chosen is None else int(first) + chosen


def _errors(values: torch.Tensor, bits: int, first: int, candidates: int) -> list[float]:
    """Return the summed squared errors of the candidates; of clear losers only as much as it takes to see that.

    How ties round does not matter here: both neighbours of a tie, and both saturated ends, are equally far.
    """
    sums = dict.fromkeys(range(first, first + candidates), 0.0)
    for piece in list(_pieces(values))[::_SAMPLE]:
        _add_errors(piece, bits, sums)
    if values.numel() <= _PIECE:
        return [sums[fix] * 4.0**-fix for fix in sorted(sums)]
    favourite = min(sums, key=lambda fix: sums[fix] * 4.0**-fix)
    leading = {favourite: 0.0}
    for piece in _pieces(values):
        _add_errors(piece, bits, leading)
    enough = leading[favourite] * 4.0**-favourite * (1.0 + _CLEAR_LEAD)
    sums = {fix: 0.0 for fix in sums if fix != favourite}
    racing = dict(sums)
    for piece in _pieces(values):
        _add_errors(piece, bits, racing)
        sums.update(racing)
        racing = {fix: total for fix, total in racing.items() if total * 4.0**-fix <= enough}
        if not racing:
            break
    sums.update(leading)
    return [sums[fix] * 4.0**-fix for fix in sorted(sums)]


def _add_errors(piece: _Piece, bits: int, sums: dict[int, float]) -> None:
    """Add a piece's squared errors, in units of each grid, to the sums by fix position."""
    top = 2 ** (bits - 1)
    values, scaled, rounded = piece
    for fix in sums:
        torch.mul(values, 2.0**fix, out=scaled)
        torch.round(scaled, out=rounded)
        rounded.clamp_(-top, top - 1).sub_(scaled)
        sums[fix] += float(torch.dot(rounded, rounded))


def _clear_winner(errors: list[float]) -> int | None:
    """Return the index of the smallest error if no float32 summation could put another first, else None."""
    best = min(errors)
    if not math.isfinite(sum(errors)):
        return None
    chosen = errors.index(best)
    if best == 0.0:  # every value lies on this grid; the coarser grids must err visibly in float32, too
        return chosen if all(error > _UNDERFLOW for error in errors[:chosen]) else None
    rivals = [error for position, error in enumerate(errors) if position != chosen]
    clear = best > _UNDERFLOW and all(error > best * (1.0 + _CLEAR_LEAD) for error in rivals)
    return chosen if clear else None


def quantise_large(values: torch.Tensor, bits: int, fix: int, rounding: Rounding, in_place: bool) -> torch.Tensor:
    """Return what fake_quantise does, for a large tensor; in_place overwrites values."""
    if rounding != Rounding.HALF_UP or not _is_small(values, fix):
        return fake_quantise(values, bits, fix, rounding)
    top = 2 ** (bits - 1)
    result = values if in_place else torch.empty_like(values)
    target = result.view(-1)
    start = 0
    for piece, rest, low in _pieces(values):
        torch.mul(piece, 2.0**fix, out=rest)
        torch.floor(rest, out=low)
        low.add_(rest.sub_(low).ge_(0.5)).clamp_(-top, top - 1)
        torch.mul(low, 2.0**-fix, out=target[start : start + piece.numel()])
        start += piece.numel()
    return result


def _is_small(values: torch.Tensor, fix: int) -> bool:
    """Say whether no value exceeds 2**31 after scaling, where the tool's conversion wraps."""
    return float(values.max()) * 2.0**fix <= _INT32_LIMIT


def error_moments(quantised: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """Return mean((quantised - exact)**2) and mean(exact**2); exact is overwritten with quantised - exact."""
    noise = signal = 0.0
    observed = quantised.view(-1)
    start = 0
    for piece, _, _ in _pieces(exact):
        signal += float(torch.dot(piece, piece))
        torch.sub(observed[start : start + piece.numel()], piece, out=piece)
        noise += float(torch.dot(piece, piece))
        start += piece.numel()
    return noise / exact.numel(), signal / exact.numel()


def _pieces(values: torch.Tensor) -> Iterator[_Piece]:
    """Yield consecutive pieces of a contiguous tensor, each with two scratch tensors of its length."""
    flat = values.view(-1)
    for part, first, second in pieces(flat.numel(), torch.float32, _PIECE):
        yield flat[part], first, second
