"""A whole native run, with stand-ins for AMD's quantizer and compiler: scripts, stages, results, report, staleness."""

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
from tests.test_compile_script import FAKE

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
quantization: {calibration: {images: 16, batch_size: 8, from: train}, max_accuracy_drop: 10.0}
target: {vitis_ai: "3.0", boards: [KV260, ZCU102], dpu_subgraphs: 1, net_name: squares}
run: {toolchain: emulator}
"""
NET = """\
import os
import sys

from torch import nn


def make_net():
    if os.environ.get("BREAK_QUANTIZE") and sys.argv[0].endswith("quantize.py"):
        raise RuntimeError("broken on purpose")
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own: spec, network, images, and a stand-in compiler in bin/."""
    root = tmp_path_factory.mktemp("project")
    (root / "spec").mkdir()
    (root / "spec/squares.yaml").write_text(SPEC)
    (root / "net.py").write_text(NET)
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 8), ("test", 8)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(random.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (root / "bin").mkdir()
    (root / "bin/vai_c_xir").write_text(FAKE)
    (root / "bin/vai_c_xir").chmod(0o755)
    return root


def run(root: Path, *args: str, compiler: bool = False) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if compiler:
        env["PATH"] = f"{root / 'bin'}:{env['PATH']}"
    command = [sys.executable, "-m", "dpuforge", "run", "spec/squares.yaml", *args]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=600)


def read_report(root: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((root / "build/squares/report.json").read_text())
    return found


def test_a_run_goes_from_images_to_a_report(root: Path) -> None:
    """Every stage but compiling is done under the emulator, and the report says what was emulated."""
    done = run(root)
    assert done.returncode == 0, done.stderr
    report = read_report(root)
    assert report["toolchain"] == "emulator"
    assert report["emulated"] is True
    stages = {(stage["stage"], stage.get("board")): stage["status"] for stage in report["stages"]}  # type: ignore[attr-defined]
    skipped = {key for key, status in stages.items() if status != "done"}
    assert skipped <= {("compile", "KV260"), ("compile", "ZCU102"), ("inspect", None)}, done.stderr
    metrics = report["metrics"]
    assert metrics["float_accuracy"] > 90  # type: ignore[index]
    assert metrics["test_images"] == 16  # type: ignore[index]
    board = report["boards"]["KV260"]  # type: ignore[index]
    assert board["target"] == "DPUCZDX8G_ISA1_B4096"
    assert board["fingerprint"] == "0x101000056010407"
    assert board["dpu_subgraphs"] == 1
    assert board["compiled"] is False
    assert "vai_c_xir" in board["reason"]
    low, mid, high = board["fps_estimate"]
    assert low < mid < high
    assert "Emulated" in (root / "build/squares/report.html").read_text()


def test_a_second_run_does_nothing(root: Path) -> None:
    """All results still stand; the plan agrees with exit code 0."""
    run(root)
    done = run(root)
    assert done.returncode == 0
    assert "run  " not in done.stderr
    plan = [sys.executable, "-m", "dpuforge", "plan", "spec/squares.yaml", "--json"]
    planned = subprocess.run(plan, cwd=root, capture_output=True, text=True, check=False)
    assert planned.returncode == 0, planned.stdout


def test_compiling_runs_where_the_compiler_is(root: Path) -> None:
    """With vai_c_xir on PATH both boards compile; the report stays an emulated one, since the xmodel was."""
    run(root)
    done = run(root, "--jobs", "2", compiler=True)
    assert done.returncode == 0, done.stderr
    report = read_report(root)
    assert report["toolchain"] == "emulator"
    assert all(board["compiled"] for board in report["boards"].values())  # type: ignore[attr-defined]
    assert (root / "build/squares/compile/ZCU102/squares.xmodel").is_file()


def test_the_native_toolchain_finds_the_quantizer_on_the_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch_nndct and vai_c_xir from the environment make a native run; an emulator found there is called one."""
    monkeypatch.setenv("PYTHONPATH", str(emulator_path()))
    done = run(root, "--toolchain", "native", "--until", "evaluate", compiler=True)
    assert done.returncode == 0, done.stderr
    assert read_report(root)["toolchain"] == "emulator"


def test_a_missed_gate_exits_3_and_names_the_log(root: Path) -> None:
    """A leak between splits fails the run at its first stage."""
    copied = root / "images/test/dark/leak.png"
    copied.write_bytes((root / "images/train/dark/0.png").read_bytes())
    try:
        done = run(root)
    finally:
        copied.unlink()
    assert done.returncode == 3
    assert "prepare" in done.stderr
    assert "log.txt" in done.stderr


def report(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dpuforge", "report", "spec/squares.yaml"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
def test_an_older_configurations_accuracy_is_never_shown(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a changed spec, and after a calibration that failed, neither run nor report shows the earlier figures."""
    assert run(root).returncode == 0
    spec = root / "spec/squares.yaml"
    try:
        spec.write_text(SPEC.replace("max_accuracy_drop: 10.0", "max_accuracy_drop: 20.0"))
        reported = report(root)
        assert "int8" not in reported.stdout
        assert "the spec now says otherwise in evaluate.py" in reported.stderr
        spec.write_text(SPEC.replace("images: 16,", "images: 17,"))
        monkeypatch.setenv("BREAK_QUANTIZE", "1")
        failed = run(root)
        assert failed.returncode == 3
        assert "stage calibrate failed" in failed.stderr
        for shown in (failed, report(root)):
            assert "int8" not in shown.stdout
            assert "what evaluate left is of an earlier configuration and is not shown" in shown.stderr
            assert "calibrate failed since" in shown.stderr
        assert read_report(root)["metrics"]["int8_accuracy"] is None  # type: ignore[index]
    finally:
        monkeypatch.delenv("BREAK_QUANTIZE", raising=False)
        spec.write_text(SPEC)
    assert run(root).returncode == 0
    assert "emulated int8" in report(root).stdout
    assert "OUT_OF_DATE" not in (root / "build/squares/report.md").read_text()
