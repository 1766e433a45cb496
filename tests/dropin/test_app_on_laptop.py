"""The generated board application, run unchanged on this machine against a recorded, uncompiled xmodel."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from recorded_images import DATA

from dpuforge.paths import emulator_path
from dpuforge.xmodel.integers.run import run_xmodel
from dpuforge.xmodel.read import read_xmodel

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
    app, board = root / "generated/small/deploy/app.py", root / "generated/small/boards/KV260/board.env"
    return subprocess.run(
        [sys.executable, str(app), "--board", str(board), *arguments],
        env={**os.environ, "PYTHONPATH": str(emulator_path()), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def load_module(path: Path) -> Any:
    """Import a generated script by its path."""
    spec = importlib.util.spec_from_file_location(f"generated_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def predict(root: Path) -> Any:
    """Return the class probabilities of every image: training's preprocessing, the integer interpreter, softmax."""
    module = load_module(root / "generated/small/preprocess.py")
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


CPP_MAIN = """
#include <cstdlib>
#include <iostream>
#include <iterator>
#include "preprocess.hpp"

int main(int, char** words) {
  preprocess::Image image{std::atoi(words[1]), std::atoi(words[2]), {}};
  image.rgb.assign(std::istreambuf_iterator<char>(std::cin), {});
  for (auto value : preprocess::prepare(image, std::atoi(words[3]))) std::cout.put(value);
}
"""


def prepare_in_cpp(folder: Path, pixels: NDArray[np.uint8], fix_point: int) -> NDArray[np.int8]:
    """Return what the generated C++ header makes of an image (height, width, 3); skip without a compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler here")
    program = folder / "prepare"
    if not program.exists():
        (folder / "main.cpp").write_text(CPP_MAIN, encoding="utf-8")
        command = [compiler, "-std=c++14", "-O2", "-ffp-contract=off", "main.cpp", "-o", "prepare"]
        subprocess.run(command, cwd=folder, check=True)
    command = [str(program), str(pixels.shape[0]), str(pixels.shape[1]), str(fix_point)]
    made = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=True).stdout
    return np.frombuffer(made, np.int8).reshape(32, 32, 3)


def check_integers(root: Path, deploy: Path, monkeypatch: pytest.MonkeyPatch, archives: Iterable[Path]) -> int:
    """Hold the tensor that reaches vart against training's and the C++ header's, and return the number of images."""
    import vart
    import xir

    shutil.copytree(root / "generated/small/deploy", deploy)
    monkeypatch.syspath_prepend(str(deploy))
    app, training = load_module(deploy / "app.py"), load_module(root / "generated/small/preprocess.py")
    board = app.read_board(root / "generated/small/boards/KV260/board.env")
    network = app.Network(vart, app.find_subgraph(xir, root / "small_net_int.xmodel", board))
    seen: list[NDArray[np.int8]] = []
    start = network.runner.execute_async
    network.runner.execute_async = lambda inputs, outputs: seen.append(inputs[0].copy()) or start(inputs, outputs)
    for image in (image for path in archives for images in np.load(path).values() for image in images):
        pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
        picture = Image.fromarray(pixels)
        network.run([app.prepare(picture, network.input_fix)])
        values = training.to_input(training.resize_and_crop(picture))
        np.testing.assert_array_equal(seen[-1][0], training.to_int8(values, network.input_fix).transpose(1, 2, 0))
        np.testing.assert_array_equal(seen[-1][0], prepare_in_cpp(deploy, pixels, network.input_fix))
    return len(seen)


def test_the_runner_gets_the_integers_of_training_and_cpp(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The int8 tensor that reaches vart is training's and the C++ header's, bit for bit, on the recorded images."""
    assert check_integers(root, tmp_path / "deploy", monkeypatch, [DATA / "images.npz"]) == 2


def test_the_runner_gets_the_integers_of_training_and_cpp_for_golden_images(
    root: Path, tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for all golden images, of every size."""
    archives = sorted((golden / "inputs").glob("images_u8_*.npz"))
    assert check_integers(root, tmp_path / "deploy", monkeypatch, archives) == 11 * len(archives) > 11


@pytest.mark.parametrize(
    ("fingerprints", "words"),
    [
        (
            ("0x101000016010407", "0x0"),
            "compiled for the DPU 0x101000056010407, this board carries 0x101000016010407: ",
        ),
        (("0x0", "0x101000056010407"), "run it on the board"),  # that DPU: as far as the drop-in goes
        ((), "run it on the board"),
    ],
)
def test_the_application_compares_the_board_s_dpu_first(
    root: Path, tmp_path: Path, compiled: Path, fingerprints: tuple[str, ...], words: str
) -> None:
    """Where xdputil shows another DPU the application names it, the release and its image; otherwise it goes on."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin/xdputil"
    lines = "".join(f'        "fingerprint":"{text}",\n' for text in fingerprints)
    tool.write_text(
        f"#!/bin/sh\n[ \"$*\" = query ] || exit 1\ncat <<'END'\nWARNING: {{\n{lines}}}\nEND\n", encoding="utf-8"
    )
    tool.chmod(0o755)
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    done = run_app(root, "--xmodel", str(compiled), str(root / "images"), PATH=path)
    assert done.returncode == 3
    assert words in done.stderr
    assert ("Vitis AI 3.0 (xilinx-kv260-dpu-v2022.2-v3.0.0.img.gz)" in done.stderr) == ("this board" in words)
