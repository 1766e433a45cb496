"""The first look through the public doors: run, estimate and plan on networks as people bring them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpuforge.execute.toolchain import OLDEST_TORCH
from dpuforge.paths import emulator_path
from tests.conftest import REPO

SPEC = """\
spec_version: 1
project: squares
model: {backbone: "BACKBONE", weights: "none", input: {height: 16, width: 16}}
classes: [dark, light]
data:
  train: images/train
  validation: images/validation
  test: images/test
  preprocess: {resize: 16, crop: 16, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], color: RGB}
  augment: []
transfer: {method: fine_tuning}
train: {epochs: 1, batch_size: 8, workers: 0, optimizer: {name: adam, lr: 0.01}}
quantization: {calibration: {images: 16, batch_size: 8, from: train}, max_accuracy_drop: 100.0}
target: {vitis_ai: "3.0", boards: [KV260], dpu_subgraphs: 1, net_name: squares}
run: {toolchain: emulator}
"""
BLOCKS = """\
from torch import nn

WIDTH = 8


def block():
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
"""
NET = """\
from torch import nn
from blocks import WIDTH, block


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = block(), nn.Linear(WIDTH, 10)

    def forward(self, x):
        return self.fc(self.body(x).flatten(1))


class Branch(Net):
    def forward(self, x):
        y = self.body(x).flatten(1)
        return self.fc(y if y.sum() > 1e9 else y)


def make():
    return Net()


def branch():
    return Branch()


def fails():
    raise ValueError("no stem")
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project in a folder with a space and an umlaut in its name, with a network of two files."""
    root = tmp_path / "my pröject"
    for name, text in {"nets/net.py": NET, "nets/blocks.py": BLOCKS}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    random = np.random.default_rng(0)
    for split, count in (("train", 9), ("validation", 4), ("test", 4)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(random.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def dpuforge(root: Path, *args: str, backbone: str = "nets/net.py:make") -> subprocess.CompletedProcess[str]:
    """Run a command on the project's spec."""
    (root / "spec").mkdir(exist_ok=True)
    (root / "spec/squares.yaml").write_text(SPEC.replace("BACKBONE", backbone))
    command = [sys.executable, "-m", "dpuforge", args[0], "spec/squares.yaml", *args[1:]]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=600)


def find_stale(root: Path) -> dict[str, str]:
    """Return why each stage must run."""
    stages = json.loads(dpuforge(root, "plan", "--json").stdout)["stages"]
    return {row["stage"]: row["why"] for row in stages}


def test_a_changed_file_that_the_network_imported_makes_its_stages_stale(root: Path) -> None:
    """plan and run see a change in blocks.py, which only net.py names; the data need no new look."""
    done = dpuforge(root, "run", "--until", "train")
    assert done.returncode == 0, done.stderr
    assert find_stale(root)["train"] == ""
    (root / "nets/blocks.py").write_text(BLOCKS.replace("WIDTH = 8", "WIDTH = 16"))
    stale = find_stale(root)
    assert stale["prepare"] == ""
    assert "changed" in stale["train"]
    done = dpuforge(root, "run", "--until", "train")
    assert done.returncode == 0, done.stderr
    assert "fresh     prepare" in done.stderr
    assert "done      train" in done.stderr
    assert set(find_stale(root).values()) - {"never run", ""} <= {"after calibrate", "after deploy", "after train"}


@pytest.mark.parametrize("command", ["run", "estimate"])
def test_an_error_of_the_network_is_one_line_before_anything_runs(root: Path, command: str) -> None:
    """The line has key, file, line and function; status 2, nothing generated, the traceback in the log."""
    done = dpuforge(root, command, backbone="nets/net.py:fails")
    assert done.returncode == 2, done.stderr
    assert "error: model.backbone: nets/net.py:29: fails: ValueError: no stem\n" in done.stderr
    assert "Traceback" not in done.stderr
    log = root / "build/squares/check_model/log.txt"
    assert f"log is {log.relative_to(root)}" in done.stderr
    assert "Traceback" in log.read_text()
    assert not (root / "generated").exists()
    assert not (root / "build/squares/prepare").exists()


def test_a_branch_on_data_is_frozen_with_a_warning_in_an_estimate(root: Path) -> None:
    """Tensor.item() on meta tensors is no error: the network runs on zeros and the line is named."""
    done = dpuforge(root, "estimate", "--board", "KV260", "--json", backbone="nets/net.py:branch")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dpu_subgraphs"] == 1
    assert "warning: model.backbone: Python reads a tensor's value at nets/net.py:17" in done.stderr


def test_a_branch_on_data_is_frozen_with_a_warning_by_the_inspector(root: Path) -> None:
    """The Inspector's stand-in goes the same way."""
    script = (
        "import torch, net\nfrom pytorch_nndct.apis import Inspector\n"
        "Inspector('DPUCZDX8G_ISA1_B4096').inspect(net.branch(), (torch.zeros(1, 3, 16, 16),), 'cpu')\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{emulator_path()}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=root / "nets", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "net.py:17: what it decided is frozen" in done.stdout


def test_an_estimate_leaves_nothing_of_the_users_code_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's modules and folders never enter this process."""
    from dpuforge.estimating import estimate_spec

    (root / "spec").mkdir()
    (root / "spec/squares.yaml").write_text(SPEC.replace("BACKBONE", "nets/net.py:make"))
    path, modules = list(sys.path), set(sys.modules)
    assert estimate_spec(root / "spec/squares.yaml", ("KV260",), "")
    assert sys.path == path
    assert {"net", "nets", "nets.net", "blocks", "model", "check_model"} & (set(sys.modules) - modules) == set()


OLD = {
    "python": "import sys; sys.version_info = (3, 8, 10, 'final', 0)",
    "torch": "import torch; torch.__version__ = '1.12.0+cpu'",
}


@pytest.mark.parametrize("package", ["pytorch_nndct", "pytorch_nndct.apis", "nndct_shared"])
@pytest.mark.parametrize("what", OLD)
def test_an_old_python_or_torch_is_one_line(what: str, package: str) -> None:
    """Under versions that are too old for the emulator one line says which it needs; status 4, no traceback."""
    env = {**os.environ, "PYTHONPATH": str(emulator_path())}
    command = [sys.executable, "-c", f"{OLD[what]}; import {package}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    found = {"python": "Python 3.8.10", "torch": "torch 1.12.0+cpu"}[what]
    needs = "dpuforge's emulator needs Python 3.10 or newer and torch 2.4 or newer"
    assert (done.returncode, done.stderr) == (4, f"{needs}; this is {found}\n")


def test_run_and_estimate_refuse_an_old_torch_in_one_line(root: Path) -> None:
    """Where torch is too old for the emulator, both say which version is needed; exit code 4."""
    away = root / "site-packages"
    (away / "torch-1.12.0.dist-info").mkdir(parents=True)
    (away / "torch-1.12.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.12.0\n")
    (away / "torch").mkdir()
    (away / "torch" / "__init__.py").touch()
    (root / "spec").mkdir()
    (root / "spec/squares.yaml").write_text(SPEC.replace("BACKBONE", "nets/net.py:make"))
    env = {**os.environ, "PYTHONPATH": f"{away}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    for command in ("run", "estimate"):
        argv = [sys.executable, "-m", "dpuforge", command, "spec/squares.yaml"]
        done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 4, done.stderr
        assert "error: dpuforge's emulator needs torch 2.4 or newer; this is torch 1.12.0\n" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_oldest_versions_are_said_once() -> None:
    """The drop-in, the toolchain and pyproject.toml name the same oldest Python and torch."""
    scope: dict[str, tuple[int, ...]] = {}
    lines = (emulator_path() / "dpuforge_dropin.py").read_text().splitlines()
    exec(next(line for line in lines if line.startswith("PYTHON, TORCH")), scope)
    project = (REPO / "pyproject.toml").read_text()
    assert scope["TORCH"] == OLDEST_TORCH
    assert f'"torch>={scope["TORCH"][0]}.{scope["TORCH"][1]},' in project
    assert f'requires-python = ">={scope["PYTHON"][0]}.{scope["PYTHON"][1]}"' in project


def test_a_stage_that_lacks_a_package_ends_the_run_with_status_4(root: Path) -> None:
    """prepare's data set is in a package: without it the run ends with one line, the command, and exit code 4."""
    away = root / "away" / "site-packages"
    away.mkdir(parents=True)
    (away / "mlxtend.py").write_text("raise ModuleNotFoundError('No module', name='mlxtend')\n")
    (root / "spec").mkdir()
    spec = SPEC.replace("BACKBONE", "nets/net.py:make").replace("classes: [dark, light]", "classes: 10")
    start, end = spec.index("  train: images"), spec.index("  preprocess")
    (root / "spec/digits.yaml").write_text(spec[:start] + "  source: mnist5k\n" + spec[end:])
    env = {**os.environ, "PYTHONPATH": f"{away}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "dpuforge", "run", "spec/digits.yaml", "--until", "prepare"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "stage prepare failed: the package mlxtend is not installed: " in done.stderr
    assert "-m pip install mlxtend" in done.stderr
    assert "Traceback" not in done.stderr
