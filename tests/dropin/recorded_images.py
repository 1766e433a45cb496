"""What the tests of the drop-ins do with images: the recorded ones normalised, integers made, xmodels opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parent.parent / "golden_data" / "xmodel"
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn uint8 (N, 3, H, W) into the float32 (N, H, W, 3) that the networks were recorded with."""
    scaled = images.transpose(0, 2, 3, 1).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((scaled - MEAN) / STD, np.float32)


def to_int8(values: NDArray[np.float32], fix_point: int) -> NDArray[np.int8]:
    """Round half up to the fix position, as the DPU's input is prepared."""
    return np.clip(np.floor(np.ldexp(values, fix_point) + 0.5), -128, 127).astype(np.int8)


def find_dpu(path: Path) -> Any:
    """Return the DPU subgraph of an xmodel, found as board applications find it."""
    import xir

    root = xir.Graph.deserialize(str(path)).get_root_subgraph()
    children = root.toposort_child_subgraph()
    return next(c for c in children if c.has_attr("device") and c.get_attr("device").upper() == "DPU")


def run(runner: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run float images through a runner in its batches and return the first output as real numbers."""
    source, target = runner.get_input_tensors()[0], runner.get_output_tensors()[0]
    integers, rows = to_int8(images, source.get_attr("fix_point")), []
    for start in range(0, len(integers), source.dims[0]):
        part = integers[start : start + source.dims[0]]
        data, scores = np.zeros(source.dims, np.int8), np.zeros(target.dims, np.int8)
        data[: len(part)] = part
        assert runner.wait(runner.execute_async([data], [scores])) == 0
        rows.append(scores[: len(part)])
    return np.ldexp(np.concatenate(rows).astype(np.float32), -target.get_attr("fix_point"))


def to_nchw(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring an NHWC output into PyTorch's order; vectors stay."""
    return output.transpose(0, 3, 1, 2) if output.ndim == 4 else output
