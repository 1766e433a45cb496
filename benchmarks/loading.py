"""How fast the generated splits.py hands images to a network: as before, in processes, in threads, and kept.

Usage: python benchmarks/loading.py [--images N] [--repeats N]. JPEGs of 500 x 375 are made first; one epoch over the
training split in batches of 32 at 224 pixels, wall time and processor time (children included), medians.

  one process      decoded in the process that trains: the DataLoader's default, as before
  processes        as many DataLoader workers as cores
  threads          splits.load_batches without kept pictures
  first            deciding what to keep, decoding once in threads, writing build/pixels/
  kept             splits.load_batches over the kept pictures: every later epoch and stage
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

SPEC = """\
project: measured
model: {backbone: resnet18}
classes: 10
data: {train: data/train, validation: data/validation, test: data/test}
target: {boards: [KV260]}
"""
BATCH = 32


def write_pictures(root: Path, count: int) -> None:
    """Write JPEGs as cameras and ImageNet have them: 500 x 375, quality 90, detail at every scale."""
    rng = np.random.default_rng(0)
    for split, images in (("train", count), ("validation", 10), ("test", 10)):
        for number in range(images):
            small = Image.fromarray(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8))
            smooth = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
            pixels = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
            path = root / "data" / split / str(number % 10) / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=90)


def count_processor_seconds() -> float:
    """Return user and system time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def walk(batches: Iterator[Any]) -> Any:
    """Read an epoch; return the sum of all inputs, so that every way is seen to read the same."""
    total = 0.0
    for inputs, _ in batches:
        total += float(inputs.double().sum())
    return total


def list_ways(splits: Any, arguments: Any, cores: int) -> dict[str, Callable[[], Any]]:
    """Return {name: what reads one epoch}; those that must not find kept pictures remove them first."""
    from torch.utils.data import DataLoader

    def images(kept: bool) -> Any:
        if not kept:
            for path in (arguments.build / "pixels").glob("*.npy"):
                path.unlink()
        return splits.Images(splits.Split(arguments, "train"))

    return {
        "one process": lambda: walk(DataLoader(images(False), BATCH)),
        "processes": lambda: walk(DataLoader(images(False), BATCH, num_workers=cores)),
        "threads": lambda: walk(splits.load_batches(images(False), BATCH)),
        "first": lambda: images(False).keep() and None,
        "kept": lambda: walk(splits.load_batches(images(True).keep(), BATCH)),
        "kept, one thread": lambda: walk(DataLoader(images(True).keep(), BATCH)),
    }


def make_project(root: Path, count: int) -> Path:
    """Write pictures and a spec, generate, prepare; return the folder of the scripts."""
    write_pictures(root, count)
    spec = root / "spec" / "measured.yaml"
    spec.parent.mkdir()
    spec.write_text(SPEC, encoding="utf-8")
    scripts = root / "generated" / "measured"
    for command in (["-m", "dpuforge", "generate", str(spec)], [str(scripts / "prepare.py")]):
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return scripts


def main() -> None:
    """Print one line for each way to read an epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sys.path.insert(0, str(make_project(root, options.images)))
        import splits

        cores = splits.count_readers()
        ways = list_ways(splits, SimpleNamespace(root=root, build=root / "build" / "measured"), cores)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        sums = set()
        for _ in range(options.repeats):
            for name, read in ways.items():
                wall, used = time.perf_counter(), count_processor_seconds()
                found = read()
                times[name].append((time.perf_counter() - wall, count_processor_seconds() - used))
                sums |= {found} - {None}
        print(f"{options.images} images, {platform.machine()}, {cores} cores, {platform.python_version()}")
        for name, rows in times.items():
            wall, used = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"{name:18} {wall:7.2f} s  {used:7.2f} s of processor time  {options.images / wall:8.0f} images/s")
        print("all read the same" if len(sums) == 1 else f"they differ: {sums}")


if __name__ == "__main__":
    main()
