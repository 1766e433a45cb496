"""A project as a run leaves it, made in a second: the recorded network tiny, eight images, the splits."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from dpuforge.xmodel.nouns import Attribute, Kind
from dpuforge.xmodel.read import read_xmodel
from dpuforge.xmodel.write import write_xmodel
from tests.conftest import REPO

TINY = REPO / "tests/golden_data/xmodel/tiny.xmodel.gz"
SPEC = """\
spec_version: 1
project: small
model: {backbone: resnet18, weights: none, input: {height: 32, width: 32}}
classes: [a, b, c, d, e, f, g, h, i, j]
data:
  train: data/train
  validation: data/validation
  test: data/test
  preprocess: {resize: 36, crop: 32}
transfer: {method: fine_tuning, freeze: {layers: none, batchnorm: trainable}}
target: {vitis_ai: "3.0", boards: [KV260, ZCU104], net_name: small_net}
"""
BOARD_ENV = """\
BOARD='KV260'
FINGERPRINT='0x101000056010407'
RELEASE='3.0'
SD_IMAGE='kv260.img.gz'
THREADS='2'
"""
IMAGES = 8
FILLER_MB = 40


def make_project(root: Path, filler: bool = False) -> None:
    """Write the project; filler makes model.json tens of megabytes, so that a copy takes a while."""
    (root / "spec").mkdir(parents=True)
    (root / "spec/small.yaml").write_text(SPEC, encoding="utf-8")
    command = [sys.executable, "-m", "dpuforge", "generate"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    build = root / "build/small"
    for name in ("deploy", "train", "prepare"):
        (build / name).mkdir(parents=True)
    (build / "deploy/small_net_int.xmodel").write_bytes(gzip.decompress(TINY.read_bytes()))
    card = {"classes": list("abcdefghij")}
    if filler:
        card["filler"] = [np.random.default_rng(0).bytes(FILLER_MB * 500_000).hex()]
    (build / "train/model.json").write_text(json.dumps(card), encoding="utf-8")
    files = {path: number for number, path in enumerate(write_images(root))}
    (build / "prepare/data.json").write_text(json.dumps({"test": {"files": files}}), encoding="utf-8")


def write_images(root: Path) -> list[str]:
    """Write noise pictures and return their paths relative to the root."""
    (root / "data/test").mkdir(parents=True)
    paths = [f"data/test/{number}.png" for number in range(IMAGES)]
    for number, path in enumerate(paths):
        coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((47, 41), Image.Resampling.BILINEAR).save(root / path)
    return paths


def change_one_weight(source: Path, destination: Path) -> None:
    """Write an xmodel that differs from another in one weight of its first convolution."""
    graph = read_xmodel(source)
    readers = {name: op for op in graph.ops if op.type == "conv2d" for name in op.inputs("weights")}
    fixes = {op.inputs()[0]: op for op in graph.ops if op.type == "fix" and op.name in readers}
    place = next(index for index, op in enumerate(graph.ops) if op.type == "const" and op.name in fixes)
    op = graph.ops[place]
    weights = np.frombuffer(op.attrs["data"].value, np.float32).copy()
    weights[len(weights) // 2] += np.float32(np.abs(weights).max())
    changed = replace(op, attrs={**op.attrs, "data": Attribute(Kind.BYTES, weights.tobytes())})
    write_xmodel(replace(graph, ops=(*graph.ops[:place], changed, *graph.ops[place + 1 :])), destination)
