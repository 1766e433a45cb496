"""A project trained, quantised and evaluated here: the board application predicts what evaluate.py measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpuforge.paths import emulator_path

SPEC = """\
spec_version: 1
project: stripes
model: {backbone: resnet18, weights: none, input: {height: 32, width: 32}}
classes: [across, diagonal, upright]
data:
  train: data/train
  validation: data/val
  test: data/test
  preprocess: {resize: 36, crop: 32}
  augment: []
transfer: {method: fine_tuning, freeze: {layers: none, batchnorm: trainable}}
train: {epochs: 1, batch_size: 8, seed: 0}
quantization:
  calibration: {images: 24, batch_size: 8, from: train}
  max_accuracy_drop: 100
target: {vitis_ai: "3.0", boards: [KV260], net_name: stripes_net}
"""


def write_images(root: Path) -> None:
    """Write noisy stripes of three directions as PNG files, in three splits."""
    random, (y, x) = np.random.default_rng(7), np.mgrid[0:40, 0:44]
    for split, count in (("train", 12), ("val", 4), ("test", 8)):
        for name, phase in (("across", y), ("diagonal", x + y), ("upright", x)):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                wave = 127 + 90 * np.sin(phase * 0.7 + random.uniform(0, 6))
                noisy = wave[..., None] + random.normal(0, 40, (*phase.shape, 3))
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02d}.png")


@pytest.mark.slow
def test_the_application_predicts_what_evaluate_measured(tmp_path: Path) -> None:
    """For every test image the class that app.py prints is the int8 prediction in evaluate's predictions.json."""
    write_images(tmp_path)
    (tmp_path / "spec").mkdir()
    (tmp_path / "spec/stripes.yaml").write_text(SPEC, encoding="utf-8")
    command = [sys.executable, "-m", "dpuforge", "run", "spec/stripes.yaml", "--until", "deploy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    evaluated = json.loads((tmp_path / "build/stripes/evaluate/predictions.json").read_text(encoding="utf-8"))
    app, xmodel = "generated/stripes/deploy/app.py", "build/stripes/deploy/stripes_net_int.xmodel"
    board = "generated/stripes/boards/KV260/board.env"
    done = subprocess.run(
        [sys.executable, app, "--board", board, "--xmodel", xmodel, "--json", *evaluated["files"]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(emulator_path()), "DPUFORGE_VART_BATCH": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    images = json.loads(done.stdout)["images"]
    assert [image["name"] for image in images] == evaluated["files"]
    assert [image["top"][0]["index"] for image in images] == evaluated["int8"]
    assert len(set(evaluated["int8"])) > 1
