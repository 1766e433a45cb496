"""How long twenty epochs of a new head take: the article's loop, a frozen loop, the generated train.py, and one pass.

Usage: python benchmarks/training.py [--images N] [--size PX] [--measured E] [--backbone NAME]. All in one process, wall
time, images decoded from their files; train.py's time holds its features, validation and checkpoints, the others' the
training images alone. The two slow loops are measured for E epochs and multiplied: the table says so.
Goal: train.py's 20 epochs in 0.6 of one eager pass over the training images, and 50 times faster than the article.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

EPOCHS, BATCH, RATE = 20, 32, 1e-3
CLASSES = 10
MOST_PASSES, LEAST_GAIN = 0.6, 50.0  # the goal
PRODUCT = 1536  # rows and columns of the matrix product that shows what the processor can do
SPEC = """\
project: measured
model: {{backbone: {backbone}, weights: weights/start.pth, input: {{height: {size}, width: {size}}}}}
classes: 10
data: {{train: data/train, validation: data/validation, test: data/test, augment: []}}
train: {{epochs: 20, batch_size: 32, optimizer: {{name: adam, lr: 1.0e-3}}, early_stopping: null, device: cpu}}
quantization: {{calibration: {{images: 32}}}}
target: {{boards: [KV260]}}
"""


def write_images(root: Path, count: int, size_px: int) -> None:
    """Write noisy waves of ten directions as JPEG files: `count` for training, a quarter each for the other splits."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size_px, 0:size_px] * (224 / size_px)
    for split, images in {"train": count, "validation": count // 4, "test": count // 2}.items():
        for number in range(images):
            kind = number % CLASSES
            angle = np.pi * (kind + rng.normal(0, 0.12)) / CLASSES
            wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.25 + rng.uniform(0, 6))
            noisy = 127 + 60 * wave[..., None] + rng.normal(0, 60, (size_px, size_px, 3))
            path = root / "data" / split / str(kind) / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=90)


def write_project(root: Path, backbone: str, images: int, size_px: int) -> Path:
    """Write spec, data and start weights, generate the scripts and prepare the data; return the scripts' folder."""
    import torchvision

    (root / "spec").mkdir()
    (root / "weights").mkdir()
    (root / "spec/measured.yaml").write_text(SPEC.format(backbone=backbone, size=size_px), encoding="utf-8")
    write_images(root, images, size_px)
    torch.manual_seed(0)
    network = torchvision.models.get_model(backbone)
    with torch.no_grad():  # batch-norm statistics that suit the weights
        for _ in range(3):
            network.train()(torch.randn(16, 3, size_px, size_px))
    torch.save(network.state_dict(), root / "weights/start.pth")
    generate = [sys.executable, "-m", "dpuforge", "generate", "spec/measured.yaml"]
    subprocess.run(generate, cwd=root, check=True, capture_output=True)
    scripts = root / "generated/measured"
    subprocess.run([sys.executable, str(scripts / "prepare.py")], check=True, capture_output=True)
    return scripts


class Bench:
    """The generated scripts as modules, and the loops that are compared on their data."""

    def __init__(self, root: Path, scripts: Path) -> None:
        sys.path.insert(0, str(scripts))
        self.train = importlib.import_module("train")
        self.arguments = Namespace(root=root, build=root / "build/measured", workers=0, device="cpu")
        self.stage = SimpleNamespace(folder=self.arguments.build / "train", inputs={}, outputs=[], metrics={})
        self.stage.name_path = str
        splits = importlib.import_module("splits")
        self.images = {n: splits.Images(splits.Split(self.arguments, n)) for n in ("train", "validation", "test")}

    def build(self) -> Any:
        """Return the network with a new head, the same each time."""
        torch.manual_seed(0)
        return self.train.build_model(self.arguments.root)

    def batches(self, shuffle: bool) -> Iterator[Any]:
        """Return the training images in batches, decoded from their files."""
        return iter(DataLoader(self.images["train"], BATCH, shuffle=shuffle))

    @torch.no_grad()
    def pass_once(self) -> None:
        """Run the network over the training images once, as it was written."""
        network = self.build().eval()
        for images, _ in self.batches(shuffle=False):
            network(images)

    def loop(self, network: Any, epochs: int, enter: Callable[[], object]) -> Any:
        """Train the parameters of the head for some epochs; `enter` sets the mode at the start of each."""
        learning = list(self.train.find_head(network))
        parameters = [p for n, p in network.named_parameters() if n.rpartition(".")[0] in learning]
        optimizer = torch.optim.Adam(parameters, RATE)
        for _ in range(epochs):
            enter()
            for images, labels in self.batches(shuffle=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images), labels).backward()
                optimizer.step()
        return network

    def follow_article(self, epochs: int) -> Any:
        """Train as the article does: gradients through everything, batch-norm in training."""
        network = self.build()
        return self.loop(network, epochs, network.train)

    def freeze_plainly(self, epochs: int) -> Any:
        """Train with the backbone frozen and in evaluation, forward through everything in each epoch."""
        network = self.build()
        self.train.freeze(network)
        return self.loop(network, epochs, lambda: self.train.set_training_mode(network))

    def run_train(self) -> Any:
        """Train all epochs as the generated train.py does, features and checkpoints included."""
        network = self.build()
        run = self.train.make_run(self.stage, self.arguments)
        self.train.freeze(network)
        self.train.fit(self.train.learn_on_features(network, run), "model", run)
        return network

    @torch.no_grad()
    def validate(self, network: Any, split: str = "validation") -> float:
        """Return the accuracy on a split in percent."""
        network.eval()
        right = 0
        for images, labels in DataLoader(self.images[split], BATCH):
            right += int((network(images).argmax(1) == labels).sum())
        return 100.0 * right / len(self.images[split])


def measure(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return wall seconds and what the work returned."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def compare(bench: Bench, measured: int) -> None:
    """Print the table and the verdict."""
    bench.pass_once()  # warm: files in memory, kernels chosen
    single, _ = measure(bench.pass_once)
    rows = [("one eager pass", single, 1, None)]
    for name, work in (("the article's loop", bench.follow_article), ("frozen loop", bench.freeze_plainly)):
        seconds, network = measure(lambda work=work: work(measured))  # type: ignore[misc]
        rows.append((name, seconds * EPOCHS / measured, measured, network))
    seconds, network = measure(bench.run_train)
    rows.append(("train.py", seconds, EPOCHS, network))
    images = len(bench.images["test"])
    print(f"{'':<20}{'20 epochs, s':>14}{'passes':>9}   test accuracy")
    for name, seconds, epochs, network in rows:
        note = "" if network is None else f"{bench.validate(network, 'test'):6.2f} % of {images} after {epochs} epochs"
        note += f", time extrapolated from {epochs}" if network is not None and epochs < EPOCHS else ""
        print(f"{name:<20}{seconds:>14.1f}{seconds / single:>9.2f}   {note}")
    passes, gain = rows[3][1] / single, rows[1][1] / rows[3][1]
    met = "met" if passes <= MOST_PASSES and gain >= LEAST_GAIN else "not met"
    print(
        f"goal {met}: {passes:.2f} passes (at most {MOST_PASSES}), {gain:.0f} times the article's speed (at least 50)"
    )
    print_ceiling(bench, single)


def print_ceiling(bench: Bench, single: float) -> None:
    """Print the rate of arithmetic that MOST_PASSES asks for, beside that of the pass and of a large matrix product."""
    from torch.utils.flop_counter import FlopCounterMode

    counted, network = (len(bench.images[name]) for name in ("train", "validation")), bench.build().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(bench.images["train"][0][0].unsqueeze(0))
    train, validation = (counter.get_total_flops() * count / 1e9 for count in counted)
    side = torch.rand(PRODUCT, PRODUCT)
    best = min(measure(lambda: side @ side)[0] for _ in range(20))
    print(
        f"arithmetic in float32, GFLOP/s: the eager pass {train / single:.0f}, a matrix product "
        f"{2 * PRODUCT**3 / best / 1e9:.0f}; the goal, validation images included, needs "
        f"{(train + validation) / (MOST_PASSES * single):.0f}"
    )


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="training images")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--measured", type=int, default=2, help="epochs of the slow loops that are really run")
    parser.add_argument("--backbone", default="resnet18")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scripts = write_project(Path(folder), arguments.backbone, arguments.images, arguments.size)
        load = f"load {os.getloadavg()[0]:.1f} of {os.cpu_count()} processors, {torch.get_num_threads()} threads"
        print(f"{arguments.backbone}, {arguments.images} images of {arguments.size} px, {platform.machine()}, {load}")
        compare(Bench(Path(folder), scripts), arguments.measured)


if __name__ == "__main__":
    main()
