"""Whether a board computed what the xmodel says: its raw int8 outputs against the integer run here, bit for bit."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpuforge.errors import FormatError, StageError
from dpuforge.xmodel.integers.fixed_point import Value
from dpuforge.xmodel.integers.run import prepare, run_batch
from dpuforge.xmodel.nouns import Graph, Op

Rows = NDArray[np.int8]
_BATCH = 16


@dataclass(frozen=True)
class Raw:
    """What app.py --raw left: digests of the int8 inputs, the int8 outputs, and their fix positions."""

    inputs: tuple[str, ...]
    rows: Rows
    input_fix: int
    output_fix: int


@dataclass(frozen=True)
class Expected:
    """What the integer run of the quantised xmodel gives for the same images."""

    inputs: tuple[str, ...]
    rows: Rows
    output_fix: int


@dataclass(frozen=True)
class Agreement:
    """How many images are equal bit for bit; what differs first is named by its place in the order of the images.

    inputs counts the images that the board prepared otherwise: their outputs say nothing about the DPU.
    """

    images: int
    equal: int
    first: int | None
    inputs: int
    values: int
    largest: int

    @property
    def exact(self) -> bool:
        """Whether all outputs are equal."""
        return self.equal == self.images


def read_raw(path: Path, images: int) -> Raw:
    """Read the file that app.py wrote; raise FormatError where it is not that of so many images."""
    try:
        with np.load(path, allow_pickle=False) as found:
            raw = Raw(
                tuple(str(digest) for digest in found["inputs"]),
                np.asarray(found["rows"]),
                int(found["input_fix"]),
                int(found["output_fix"]),
            )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise FormatError(f"{path}: not what app.py --raw writes: {error}") from error
    if len(raw.rows) != images or len(raw.inputs) != images or raw.rows.dtype != np.int8 or raw.rows.ndim != 2:
        raise FormatError(f"{path}: outputs of {images} images are expected, got {raw.rows.dtype} {raw.rows.shape}")
    return raw


def run_on_integers(graph: Graph, preprocess: Path, files: Sequence[Path], input_fix: int) -> Expected:
    """Prepare images with the project's own preprocess.py and run the quantised xmodel on integers.

    Raises StageError where the DPU part of the network has not exactly one output.
    """
    module, last = load_preprocess(preprocess), _find_output(graph)
    program, digests, rows, fix = prepare(graph), [], [], 0
    for start in range(0, len(files), _BATCH):
        batch = [module.to_int8(module.prepare_file(path), input_fix) for path in files[start : start + _BATCH]]
        data = np.stack(batch).transpose(0, 2, 3, 1)
        digests += [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in data]
        found: list[Value] = []

        def keep(op: Op, value: Value, found: list[Value] = found) -> None:
            if op.name == last:
                found.append(value)

        run_batch(program, np.ldexp(data.astype(np.float32), -input_fix), keep)
        fix = found[0].fix_point
        rows.append(found[0].data.astype(np.int8).reshape(len(batch), -1))
    return Expected(tuple(digests), np.concatenate(rows), fix)


def load_preprocess(path: Path) -> Any:
    """Return the module of a project's own preprocess.py; raise StageError where there is none."""
    spec = importlib.util.spec_from_file_location("dpuforge_board_preprocess", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise StageError(f"{path} does not exist", "run `dpuforge generate`")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _find_output(graph: Graph) -> str:
    """Return the last `fix` above the network's one output: what leaves the DPU."""
    found, waiting = set(), [op.name for op in graph.outputs]
    while waiting:
        op = graph.by_name[waiting.pop()]
        if op.type == "fix":
            found.add(op.name)
        else:
            waiting += [name for name in op.all_inputs if graph.by_name[name].type != "const"]
    if len(found) != 1:
        raise StageError(f"the network has {len(found)} outputs that leave the DPU", "one can be compared")
    return found.pop()


def compare_rows(raw: Raw, expected: Expected) -> Agreement:
    """Compare image by image; raise StageError where shapes or fix positions differ: that is another network."""
    if raw.rows.shape != expected.rows.shape or raw.output_fix != expected.output_fix:
        raise StageError(
            f"the board's outputs are {raw.rows.shape[1]} values at fix position {raw.output_fix}, those of the xmodel "
            f"here {expected.rows.shape[1]} at {expected.output_fix}: another network ran",
            "push again; compile again where the network on the board is not of this quantisation",
        )
    differ = (raw.rows != expected.rows).any(axis=1)
    inputs = sum(a != b for a, b in zip(raw.inputs, expected.inputs, strict=True))
    distance = np.abs(raw.rows.astype(np.int32) - expected.rows.astype(np.int32))
    first = int(np.argmax(differ)) if differ.any() else None
    return Agreement(
        len(differ), int((~differ).sum()), first, inputs, int((distance > 0).sum()), int(distance.max(initial=0))
    )


def compare_answers(labels: Sequence[int], here: Rows, board: Rows) -> Mapping[str, Any]:
    """Return accuracies in percent with 95 % intervals, and McNemar's exact test between here and the board."""
    from dpuforge.emulator.diagnosis.paired import luck

    answers = [[int(index) for index in np.argmax(rows, axis=1)] for rows in (here, board)]
    right = [[a == b for a, b in zip(row, labels, strict=True)] for row in answers]
    lost = sum(a and not b for a, b in zip(*right, strict=True))
    gained = sum(b and not a for a, b in zip(*right, strict=True))
    count = len(labels)
    return {
        "images": count,
        "accuracy": 100.0 * sum(right[1]) / count,
        "interval": [100.0 * bound for bound in wilson(sum(right[1]), count)],
        "accuracy_here": 100.0 * sum(right[0]) / count,
        "agreement": 100.0 * sum(a == b for a, b in zip(*answers, strict=True)) / count,
        "mcnemar": {"lost": lost, "gained": gained, "p": min(1.0, 2.0 * luck(max(lost, gained), min(lost, gained)))},
    }


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the Wilson 95 % interval of a share, 0 to 1 (Wilson 1927)."""
    z = 1.959963984540054
    share, square = right / count, z * z / count
    centre, spread = share + square / 2, z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return (centre - spread) / (1 + square), (centre + spread) / (1 + square)
