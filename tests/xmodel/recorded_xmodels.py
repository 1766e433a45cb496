"""The recorded xmodels that the xmodel tests share: five small ones travel with the tests, three large ones do not."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpuforge.xmodel.nouns import Graph
from dpuforge.xmodel.read import parse_xmodel

DATA = Path(__file__).resolve().parent.parent / "golden_data" / "xmodel"
SMALL = ("tiny", "ops_a", "ops_b", "ops_c", "ops_e")
LARGE = ("vgg_small", "mobilenet_v2", "resnet18")
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


@cache
def small_bytes(net: str) -> bytes:
    """Return the .xmodel of a small network as the real tool wrote it."""
    return gzip.decompress((DATA / f"{net}.xmodel.gz").read_bytes())


@cache
def small_graph(net: str) -> Graph:
    """Return the parsed .xmodel of a small network."""
    return parse_xmodel(small_bytes(net), net)


def read_golden(folder: Path) -> Graph:
    """Parse the one .xmodel (plain or gzipped) of a golden network's folder."""
    path = next(iter(sorted(folder.glob("*.xmodel*"))))
    data = path.read_bytes()
    return parse_xmodel(gzip.decompress(data) if path.suffix == ".gz" else data, path.name)


def normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn uint8 (N, 3, H, W) into the float32 (N, H, W, 3) that the networks were recorded with."""
    scaled = images.transpose(0, 2, 3, 1).astype(np.float32) / np.float32(255)
    return ((scaled - MEAN) / STD).astype(np.float32)


def small_images(graph: Graph) -> NDArray[np.float32]:
    """Return the recorded test image that fits a small network, (1, H, W, 3)."""
    size = next(op for op in graph.ops if op.type == "data").dims[1]
    return normalise(np.load(DATA / "images.npz")[f"hw{size}"])


def to_nchw(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring an NHWC output into PyTorch's order; vectors stay."""
    return output.transpose(0, 3, 1, 2) if output.ndim == 4 else output
