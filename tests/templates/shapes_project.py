"""A small project, synthetic images, and a way to render and run its scripts: shared by the tests of the templates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dpuforge.plan.make_plan import make_plan
from dpuforge.records import hardware, run_settings
from dpuforge.records import project as records
from dpuforge.records.hardware import BoardTarget, Environment, Release
from dpuforge.records.plan import Plan
from dpuforge.render.environment import make_environment
from dpuforge.render.render import render_plan

NOTHING_FROZEN = records.FrozenLayers("none")
HERE = Path(__file__).resolve().parent
TARGETS = (
    BoardTarget("KV260", "3.0", "DPUCZDX8G_ISA1_B4096", "DPUCZDX8G", 0x101000056010407, {}, "B4096", True, "", ""),
)
RELEASE = Release(
    "3.0",
    "supported",
    "3.0",
    (hardware.Image("example/cpu:1", "cpu", True, ""),),
    Environment("vitis-ai-pytorch", "3.7", "1.12", "", ""),
    {},
    {},
    {},
    {"KV260": "kv260.img.gz"},
    "",
)


def plan_project(project: records.Project, board: BoardTarget = TARGETS[0]) -> Plan:
    """Return the plan of a project for one board."""
    return make_plan(project, (board,), RELEASE)


def render_files(project: records.Project, board: BoardTarget = TARGETS[0]) -> dict[str, str]:
    """Return {path: text} of everything generated."""
    return {file.path: file.text for file in render_plan(plan_project(project, board), make_environment())}


def render_scripts(project: records.Project) -> dict[str, str]:
    """Return {file name: text} of every Python script that a stage runs or imports."""
    files = render_files(project).items()
    return {path: text for path, text in files if path.endswith(".py") and "/" not in path}


def write_scripts(project: records.Project, root: Path) -> Path:
    """Write the scripts to root/generated/<project>/ and return that folder."""
    folder = root / "generated" / project.project
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in render_scripts(project).items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "int8_config.json").write_text(json.dumps(project.quantization.int8_config), encoding="utf-8")
    return folder


def write_stripes(root: Path, counts: dict[str, int] | None = None, side: int = 40) -> None:
    """Write noisy stripes of three directions as an ImageFolder; counts are images per class and split."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:side, 0:side]
    phases = {"across": y, "diagonal": x + y, "upright": x}
    for split, count in (counts or {"train": 12, "val": 4, "test": 6}).items():
        for name, phase in phases.items():
            folder = root / "data" / "shapes" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                wave = 127 + 90 * np.sin(phase * 0.7 + rng.uniform(0, 6))
                noisy = wave[..., None] + rng.normal(0, 20, (side, side, 3))
                Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{number:02d}.png")


class Ran(NamedTuple):
    """How a script ended and all it printed."""

    status: int
    output: str


@lru_cache(maxsize=1)
def start_zygote() -> subprocess.Popen[str]:
    """Start the process that forks for every script, with one thread."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "shapes_zygote.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def stop_zygote() -> None:
    """End the process that forks for every script."""
    zygote = start_zygote()
    zygote.kill()
    zygote.communicate()


def ask_zygote(**request: object) -> int:
    """Send one request and return the answer."""
    zygote = start_zygote()
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    zygote.stdin.write(json.dumps(request) + "\n")
    zygote.stdin.flush()
    return int(zygote.stdout.readline())


class Running(NamedTuple):
    """A script at work."""

    pid: int
    path: Path

    def wait_for(self, text: str) -> None:
        """Return once the script has printed a text; fail after a minute."""
        for _ in range(6000):
            if text in self.path.read_text(encoding="utf-8"):
                return
            time.sleep(0.01)
        raise AssertionError(self.path.read_text(encoding="utf-8"))

    def finish(self) -> Ran:
        """Return the exit status and the output."""
        return Ran(ask_zygote(wait=self.pid), self.path.read_text(encoding="utf-8"))


def start_script(root: Path, name: str, *arguments: str, **environment: str) -> Running:
    """Start a generated script of the project shapes as a user would."""
    output = root / "output.txt"
    output.write_text("", encoding="utf-8")
    script = str(root / "generated" / "shapes" / name)
    pid = ask_zygote(script=script, arguments=arguments, environment=environment, output=str(output))
    return Running(pid, output)


def run_script(root: Path, name: str, *arguments: str, **environment: str) -> Ran:
    """Run a generated script of the project shapes, and return its exit status and output."""
    return start_script(root, name, *arguments, **environment).finish()


def read_result(root: Path, stage: str) -> dict[str, Any]:
    """Return the result.json of a stage of the project shapes."""
    path = root / "build" / "shapes" / stage / "result.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def make_project(**changes: object) -> records.Project:
    """Return a complete small project; keyword arguments replace whole sections."""
    sections: dict[str, object] = {
        "spec_version": 1,
        "project": "shapes",
        "description": "three kinds of stripes",
        "model": records.Model("nets/tiny.py:make", "none", records.InputSize(32, 32)),
        "classes": records.Classes(3),
        "data": make_data(),
        "transfer": make_transfer(),
        "train": make_train(),
        "quantization": make_quantization(),
        "target": records.Target("3.0", (records.BoardChoice("KV260"),), 1, "shapes_net"),
        "run": run_settings.Run(run_settings.Toolchain.EMULATOR),
        "spec": records.SourceFile("spec/shapes.yaml", "0" * 64),
    }
    return records.Project(**{**sections, **changes})  # type: ignore[arg-type]


def make_data(
    augment: tuple[str, ...] = ("horizontal_flip",), source: str | None = None, **preprocess: object
) -> records.Data:
    """Return three splits below data/shapes with 32 x 32 inputs."""
    values: dict[str, object] = {
        "resize": 36,
        "crop": (32, 32),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "color": "RGB",
    }
    chosen = records.Preprocess(**{**values, **preprocess})  # type: ignore[arg-type]
    folders = ("data/shapes/train", "data/shapes/val", "data/shapes/test")
    return records.Data(*folders, source, chosen, augment)


def make_transfer(
    method: records.Method = records.Method.FINE_TUNING,
    layers: records.FrozenLayers = NOTHING_FROZEN,
    batchnorm: str = "trainable",
    teacher: records.Teacher | None = None,
) -> records.Transfer:
    """Return a transfer section; by default everything learns."""
    return records.Transfer(method, records.Freeze(layers, batchnorm), teacher)


def make_train(epochs: int = 2, **changes: object) -> records.Train:
    """Return a short training on the CPU without data-loader processes."""
    values: dict[str, object] = {
        "epochs": epochs,
        "batch_size": 8,
        "optimizer": records.Optimizer("adam", 1e-3, 0.0, 0.9),
        "scheduler": records.Scheduler("cosine", 10, 0.1),
        "seed": 0,
        "early_stopping": records.EarlyStopping("val_accuracy", 5),
        "workers": 0,
        "device": "cpu",
    }
    return records.Train(**{**values, **changes})  # type: ignore[arg-type]


def make_quantization(**changes: object) -> records.Quantization:
    """Return the default quantisation with a small calibration set."""
    values: dict[str, object] = {
        "convert_relu6_to_relu": False,
        "convert_silu_to_hswish": False,
        "include_cle": True,
        "include_bias_corr": True,
        "keep_first_last_layer_accuracy": False,
        "keep_add_layer_accuracy": False,
        "change_concat_input_fix": False,
        "change_pool_input_fix": False,
        "onnx_opset_version": None,
        "target_device": "DPU",
        "quantizable_data_type": ("input", "weights", "bias", "activation"),
        "overall": {},
        "tensors": {},
        "layers": (),
        "calibration": records.Calibration(12, 4, "train"),
        "fast_finetune": records.FastFinetune(False, 0),
        "max_accuracy_drop": 100.0,
        "int8_config": {"target_device": "DPU"},
    }
    return records.Quantization(**{**values, **changes})  # type: ignore[arg-type]
