"""Checks an xmodel against the tensors that the quantizer dumped beside it (deploy_check_data_int)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpuforge.errors import FormatError
from dpuforge.xmodel.integers.fixed_point import Value
from dpuforge.xmodel.integers.run import run_outputs
from dpuforge.xmodel.nouns import Graph, Op


@dataclass(frozen=True)
class DumpComparison:
    """How many dumped tensors the integer run was compared with, and the names of those that differ."""

    tensors: int
    values: int
    different: tuple[str, ...]


def compare_with_dump(graph: Graph, folder: Path) -> DumpComparison:
    """Run an uncompiled xmodel on integers with the dumped input and compare every `fix` with its dumped integers.

    folder holds <op name>.bin (NHWC, int8) per fix and <input name>.bin (NHWC, float32) for the network's input, as
    the quantizer's deploy_check option writes them. Raises FormatError where the input or all fixes are missing.
    """
    source = next((op for op in graph.ops if op.type == "data"), None)
    if source is None:
        raise FormatError("the graph has no input", "give the uncompiled xmodel that the quantizer wrote")
    image = _read(folder / f"{source.name}.bin", np.float32).reshape(1, *source.dims[1:])
    different: list[str] = []
    counted = [0, 0]

    def watch(op: Op, value: Value) -> None:
        path = folder / f"{op.name}.bin"
        if op.type != "fix" or not path.is_file():
            return
        dumped = _read(path, np.int8)
        counted[0] += 1
        counted[1] += dumped.size
        if not np.array_equal(value.data.ravel(), dumped):
            different.append(op.name)

    run_outputs(graph, image, watch=watch)
    if not counted[0]:
        raise FormatError(f"{folder}: no dumped tensor belongs to the xmodel", "run the deploy stage again")
    return DumpComparison(counted[0], counted[1], tuple(different))


def _read(path: Path, dtype: type[np.generic]) -> NDArray[np.generic]:
    try:
        return np.fromfile(path, dtype=dtype)
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}", "run the deploy stage again") from error
