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
    """How many dumped tensors the integer run was compared with, and the names of those that differ.

    rounded counts the values of CPU operators, which compute in float, that fell on the other side of a border.
    """

    tensors: int
    values: int
    different: tuple[str, ...]
    rounded: int = 0


# How near to a border between two integers, in their steps, a float must lie to be rounded either way: torch's float32
# sums of a CPU operator and the float64 ones here differ in the last bits.
_BORDER = 2**-8
_FLOATS = 1e-4  # by how much float outputs may differ, in parts of the largest


def compare_with_dump(graph: Graph, folder: Path) -> DumpComparison:
    """Run an uncompiled xmodel on integers with the dumped input and compare every `fix` with its dumped integers.

    Outputs that a CPU operator leaves in float are compared with their dumped floats. folder holds <op name>.bin (int8)
    per fix, and float32 for the others, the network's input among them, as the quantizer's deploy_check option writes
    them. Raises FormatError where the input or all fixes are missing.
    """
    source = next((op for op in graph.ops if op.type == "data"), None)
    if source is None:
        raise FormatError("the graph has no input", "give the uncompiled xmodel that the quantizer wrote")
    image = _read(folder / f"{source.name}.bin", np.float32).reshape(1, *source.dims[1:])
    watch = _Watch(folder, frozenset(op.name for op in graph.outputs))
    run_outputs(graph, image, watch=watch.see)
    if not watch.tensors:
        raise FormatError(f"{folder}: no dumped tensor belongs to the xmodel", "run the deploy stage again")
    return DumpComparison(watch.tensors, watch.values, tuple(watch.different), watch.rounded)


class _Watch:
    """Compares each `fix` as it is computed; the run goes on with the dumped integers where a border explains all."""

    def __init__(self, folder: Path, outputs: frozenset[str]) -> None:
        self.tensors = self.values = self.rounded = 0
        self.different: list[str] = []
        self._folder, self._outputs = folder, outputs
        self._floats: dict[str, Value] = {}

    def see(self, op: Op, value: Value) -> Value | None:
        """Take note of one tensor of the run."""
        if not value.exact:
            self._floats[op.name] = value
        path = self._folder / f"{op.name}.bin"
        if op.type != "fix" and op.name in self._outputs and path.is_file():
            self._compare_floats(op, value, path)
        if op.type != "fix" or not path.is_file():
            return None
        dumped = _read(path, np.int8)
        self.tensors += 1
        self.values += dumped.size
        if np.array_equal(value.data.ravel(), dumped):
            return None
        source = self._floats.get(op.inputs()[0])
        if source is None or not _on_a_border(source, value, dumped):
            self.different.append(op.name)
            return None
        self.rounded += int((value.data.ravel() != dumped).sum())
        return value.with_data(dumped.astype(value.data.dtype).reshape(value.data.shape))

    def _compare_floats(self, op: Op, value: Value, path: Path) -> None:
        dumped, mine = _read(path, np.float32).astype(np.float64), value.real.ravel()
        self.tensors += 1
        self.values += dumped.size
        room = _FLOATS * max(1.0, float(np.abs(dumped).max(initial=0.0)))
        if mine.size != dumped.size or not np.allclose(mine, dumped, rtol=0.0, atol=room, equal_nan=True):
            self.different.append(op.name)


def _on_a_border(source: Value, value: Value, dumped: NDArray[np.generic]) -> bool:
    """Tell whether every value that differs does so by one, and lies between the two integers."""
    if value.data.size != dumped.size:
        return False
    mine, theirs = value.data.ravel().astype(np.int64), dumped.astype(np.int64)
    differ = mine != theirs
    border = (mine[differ] + theirs[differ]) / 2
    exact = np.ldexp(source.real.ravel()[differ], value.fix_point)
    near = np.abs(exact - border) <= _BORDER
    return bool((np.abs(mine - theirs)[differ] == 1).all() and near.all())


def _read(path: Path, dtype: type[np.generic]) -> NDArray[np.generic]:
    try:
        return np.fromfile(path, dtype=dtype)
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}", "run the deploy stage again") from error
