"""A tiny project that goes through every stage in seconds: dark and light squares, and a network of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SPEC = """\
spec_version: 1
project: squares
model: {backbone: "net.py:make_net", weights: none, input: {height: 16, width: 16}}
classes: [dark, light]
data:
  train: images/train
  validation: images/validation
  test: images/test
  preprocess: {resize: 16, crop: 16, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], color: RGB}
  augment: []
transfer: {method: fine_tuning}
train: {epochs: 2, batch_size: 8, workers: 0, optimizer: {name: adam, lr: 0.01}}
quantization: {calibration: {images: 16, batch_size: 8, from: train}, max_accuracy_drop: 60.0}
target: {vitis_ai: "3.0", boards: [KV260], dpu_subgraphs: 1, net_name: squares}
run: {toolchain: emulator}
"""
NET = """\
from torch import nn


def make_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
"""


def write_project(root: Path, spec: str = SPEC) -> None:
    """Write spec, network and images."""
    (root / "spec").mkdir(parents=True)
    (root / "spec/squares.yaml").write_text(spec)
    (root / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("validation", 4), ("test", 6)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(random.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def dpuforge(
    root: Path, *args: str, environment: dict[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a command of dpuforge in the project's root; args[0] is the command, the spec follows it."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    command = [sys.executable, "-m", "dpuforge", args[0], "spec/squares.yaml", *args[1:]]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=timeout)


def plan_stages(root: Path, *args: str, environment: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Return the rows of `dpuforge plan` by stage."""
    done = dpuforge(root, "plan", "--json", *args, environment=environment)
    assert done.returncode in (0, 1), done.stderr
    return {row["stage"]: row for row in json.loads(done.stdout)["stages"]}


def started(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the stages that a run executed."""
    return {line.split()[1] for line in done.stderr.splitlines() if line.startswith("run  ")}
