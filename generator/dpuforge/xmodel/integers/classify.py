"""Images -> the classes that the network of an xmodel prefers on integers: what an accuracy of the file is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dpuforge.errors import StageError
from dpuforge.xmodel.integers.run import Images, prepare, run_batch
from dpuforge.xmodel.nouns import Graph


def rank_classes(graph: Graph, batches: Iterator[Images], top: int) -> Iterator[Sequence[Sequence[int]]]:
    """Yield, for each batch of float32 images (N, H, W, C), the `top` best classes of every image, the best first.

    A tie goes to the smaller class, as on the board. Raises StageError where the network has not one output of classes,
    or where that holds NaN.
    """
    program = prepare(graph)
    for batch in batches:
        found = tuple(run_batch(program, batch).values())
        if len(found) != 1:
            raise StageError(f"the network has {len(found)} outputs, not one of classes")
        yield _best(found[0].real.reshape(len(batch), -1), top)


def _best(scores: NDArray[np.generic], top: int) -> list[list[int]]:
    if not np.isfinite(scores).all():
        raise StageError("the network yields NaN or infinity on integers")
    order: list[list[int]] = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :top].tolist()
    return order
