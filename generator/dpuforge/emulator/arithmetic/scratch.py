"""Two scratch tensors per type and thread that stay allocated: fresh memory costs more than the work done in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch

PIECE = 1 << 18  # elements: a piece of a tensor and its scratch stay in the processor's caches
_held = threading.local()


def pieces(count: int, dtype: torch.dtype, piece: int = PIECE) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yield slices of at most piece of count elements, each with two scratch tensors of its length.

    The scratch is valid until the next step of any such iteration in this thread.
    """
    first, second = _scratch(dtype, piece)
    for start in range(0, count, piece):
        length = min(piece, count - start)
        yield slice(start, start + length), first[:length], second[:length]


def _scratch(dtype: torch.dtype, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    table: dict[tuple[torch.dtype, int], tuple[torch.Tensor, torch.Tensor]] = _held.__dict__.setdefault("table", {})
    key = (dtype, size)
    if key not in table:
        with torch.inference_mode(False):  # so that it may be written to outside that mode, too
            table[key] = (torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype))
    return table[key]
