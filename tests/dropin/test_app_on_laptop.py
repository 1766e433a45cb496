"""The generated board application, run unchanged on this machine against a recorded, uncompiled xmodel."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recorded_images import DATA

from dpuforge.paths import emulator_path
from dpuforge.xmodel.read import read_xmodel
from dpuforge.xmodel.run import run_xmodel

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
target: {vitis_ai: "3.0", boards: [KV260], net_name: small_net}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a generated project with the xmodel of the network tiny and five photographs of noise."""
    root = tmp_path_factory.mktemp("project")
    (root / "spec").mkdir()
    (root / "spec/small.yaml").write_text(SPEC, encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "dpuforge", "generate"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (root / "small_net_int.xmodel").write_bytes(gzip.decompress((DATA / "tiny.xmodel.gz").read_bytes()))
    (root / "images").mkdir()
    for number in range(5):
        random = np.random.default_rng(number)
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3)).astype(np.uint8))
        coarse.resize((47, 41), Image.Resampling.BILINEAR).save(root / "images" / f"{number}.png")
    return root


def run_app(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run app.py as its README says: with the emulator's folder on PYTHONPATH."""
    app = root / "generated/small/boards/KV260/deploy/app.py"
    return subprocess.run(
        [sys.executable, str(app), *arguments],
        env={**os.environ, "PYTHONPATH": str(emulator_path()), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def predict(root: Path) -> Any:
    """Return the class probabilities of every image: training's preprocessing, the integer interpreter, softmax."""
    spec = importlib.util.spec_from_file_location("training_preprocess", root / "generated/small/preprocess.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images = [module.prepare_file(path) for path in sorted((root / "images").iterdir())]
    scores = run_xmodel(read_xmodel(root / "small_net_int.xmodel"), np.stack(images).transpose(0, 2, 3, 1))
    powers = np.exp(scores.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_application_predicts_what_the_quantised_network_does(root: Path) -> None:
    """Five images in batches of two on three threads get the probabilities that preprocessing and integers give."""
    arguments = ("--xmodel", str(root / "small_net_int.xmodel"), "--json", "--top", "10", str(root / "images"))
    done = run_app(root, *arguments, "--threads", "3", DPUFORGE_VART_BATCH="2")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = np.zeros((5, 10))
    for row, image in enumerate(report["images"]):
        for item in image["top"]:
            found[row, item["index"]] = item["probability"]
    np.testing.assert_allclose(found, predict(root), rtol=1e-12)
    assert len(np.unique(found, axis=0)) == 5
    assert (report["emulated"], report["batch"], report["threads"]) == (True, 2, 3)
    assert "dpuforge: EMULATION" in done.stderr


def test_the_application_refuses_a_compiled_xmodel_here(root: Path, compiled: Path) -> None:
    """On the laptop a compiled xmodel, and a file that is none, end the application with the reason."""
    done = run_app(root, "--xmodel", str(compiled), str(root / "images"))
    assert done.returncode == 3
    assert "run it on the board" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_app(root, "--xmodel", str(root / "images/0.png"), str(root / "images"))
    assert done.returncode == 3
    assert "0.png: not an .xmodel" in done.stderr
    assert "Traceback" not in done.stderr
