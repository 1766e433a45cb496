"""How long the generated prepare.py takes on N images: the first time, and again with nothing changed.

Usage: python benchmarks/prepare.py [--images N] [--size PX] [--format PNG|JPEG] [--workers W]. Wall time of the whole
script, start of Python included; goal: the second run on 20,000 images takes seconds.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SPEC = """\
project: measured
model: {backbone: resnet18}
classes: 10
data: {train: data/train, validation: data/validation, test: data/test}
target: {boards: [KV260]}
"""
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def write_images(root: Path, count: int, size_px: int, kind: str) -> int:
    """Write a data set of noise over a slope, ten classes in three splits; return its bytes."""
    rng, written = np.random.default_rng(0), 0
    slope = np.linspace(0, 160, size_px)[:, None, None]
    for split, share in SHARES.items():
        for number in range(round(count * share)):
            coarse = rng.integers(0, 90, (size_px // 8 + 1, size_px // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
            pixels = slope + coarse[:size_px, :size_px] + rng.integers(0, 6, (size_px, size_px, 3))
            stream = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(stream, kind)
            path = root / "data" / split / str(number % 10) / f"{number:06d}.{kind.lower()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(stream.getvalue())
            written += path.stat().st_size
    return written


def measure(root: Path, workers: int) -> float:
    """Return the wall time of one run of prepare.py in seconds."""
    command = [sys.executable, "generated/measured/prepare.py", *(["--workers", str(workers)] if workers else [])]
    begun = time.perf_counter()
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    """Print one line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--format", choices=("PNG", "JPEG"), default="PNG")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: as many as there are processors")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "spec").mkdir()
        (root / "spec/measured.yaml").write_text(SPEC, encoding="utf-8")
        command = [sys.executable, "-m", "dpuforge", "generate", "spec/measured.yaml"]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        written = write_images(root, arguments.images, arguments.size, arguments.format)
        kind = f"{arguments.images} {arguments.format} files of {arguments.size} px, {written / 1e6:.0f} MB"
        print(f"{kind}, {os.cpu_count()} processors")
        for name in ("first run", "second run", "third run"):
            seconds = measure(root, arguments.workers)
            print(f"{name:<11} {seconds:6.2f} s, {arguments.images / seconds:7.0f} images a second", flush=True)


if __name__ == "__main__":
    main()
