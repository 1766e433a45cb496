"""What the settings of malloc change for the stages that compute: side by side in one run, medians, results compared.

Usage: python benchmarks/stage_memory.py [--network quickstart|mobilenet_v2] [--repeats N] [--settings NAME...]

Train, calibrate and evaluate of one project, each in a process of its own as `dpuforge run` starts it. "libc" is
glibc's own way (every large tensor is mapped, zeroed page by page and unmapped again), "dpuforge" what the generated
results.py sets; the others are given as GLIBC_TUNABLES or what the name says, and results.py then keeps its hands off.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
LARGE = 1 << 40
SETTINGS: dict[str, dict[str, str]] = {
    "libc": {"GLIBC_TUNABLES": "glibc.malloc.arena_test=8"},  # its own default: changes nothing
    "dpuforge": {},
    "threshold 32 MiB": {
        "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={1 << 25}:glibc.malloc.trim_threshold={LARGE}"
    },
    "threshold 1 GiB": {"GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={1 << 30}:glibc.malloc.trim_threshold={LARGE}"},
    "threshold 1 GiB, pad 64 MiB": {
        "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={1 << 30}:glibc.malloc.trim_threshold={LARGE}"
        f":glibc.malloc.top_pad={1 << 26}"
    },
    "threshold 1 GiB, one arena": {
        "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={1 << 30}:glibc.malloc.trim_threshold={LARGE}"
        ":glibc.malloc.arena_max=1"
    },
    "never mapped": {"GLIBC_TUNABLES": f"glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={LARGE}"},
    "one arena": {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.arena_test=8"},
    "huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "torch's huge pages": {"THP_MEM_ALLOC_ENABLE": "1", "GLIBC_TUNABLES": "glibc.malloc.arena_test=8"},
}
STAGES = {
    "train": ("train.py",),
    "calibrate": ("quantize.py", "--mode", "calib"),
    "evaluate": ("evaluate.py",),
}
PICTURES = {"train": 64, "validation": 8, "test": 48}
SPEC = {
    "project": "measured",
    "model": {"backbone": "mobilenet_v2", "weights": "none"},
    "classes": 4,
    "data": {split: f"data/{split}" for split in PICTURES},
    "transfer": {"method": "fine_tuning", "freeze": {"layers": "none"}},
    "train": {"epochs": 1, "batch_size": 32},
    "quantization": {"calibration": {"images": 32, "batch_size": 16}, "max_accuracy_drop": 100.0},
    "target": {"boards": ["KV260"]},
}


@dataclass(frozen=True)
class Measured:
    """One process: seconds of wall time, user and system time, page faults, peak memory."""

    wall_s: float
    user_s: float
    system_s: float
    faults: int
    peak_mib: float


def write_pictures(root: Path) -> None:
    """Write JPEG pictures of noise over slopes, four classes, 320 x 240."""
    rng = np.random.default_rng(0)
    for split, count in PICTURES.items():
        for number in range(count):
            folder = root / "data" / split / str(number % 4)
            folder.mkdir(parents=True, exist_ok=True)
            tilt = np.linspace(0, 40 * (number % 4 + 1), 320)[None, :, None]
            pixels = tilt + rng.integers(0, 90, (30, 40, 3)).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=90)


def make_project(root: Path, network: str) -> Path:
    """Write spec and pictures, generate, prepare; return the folder of the scripts."""
    spec = root / "spec" / f"{network}.yaml"
    spec.parent.mkdir()
    if network == "quickstart":
        document = yaml.safe_load((ROOT / "spec" / "quickstart.yaml").read_text(encoding="utf-8"))
        document["train"]["epochs"] = 1
    else:
        write_pictures(root)
        document = SPEC
    spec.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "dpuforge", "generate", str(spec)], check=True, stdout=subprocess.DEVNULL)
    scripts = root / "generated" / str(document["project"])
    subprocess.run([sys.executable, str(scripts / "prepare.py")], check=True, stdout=subprocess.DEVNULL)
    return scripts


def run_script(command: list[str], env: dict[str, str]) -> Measured:
    """Run one script and return what the kernel counted for it."""
    begun = time.perf_counter()
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    wall = time.perf_counter() - begun
    return Measured(wall, usage.ru_utime, usage.ru_stime, usage.ru_minflt, usage.ru_maxrss / 1024)


def digest_results(build: Path) -> str:
    """Return a digest of what the three stages found: weights, positions, every prediction."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in torch.load(build / "train" / "model.pth").items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    for name in ("calibrate/quantize_result/quant_info.json", "evaluate/predictions.json", "evaluate/per_class.json"):
        digest.update((build / name).read_bytes())
    return digest.hexdigest()[:16]


def make_env(setting: str) -> dict[str, str]:
    """Return the environment of a stage under the emulator, as the executor makes it, with one setting of malloc."""
    folder = subprocess.run([sys.executable, "-m", "dpuforge", "emulator-path"], capture_output=True, check=True)
    path = os.pathsep.join(filter(None, [folder.stdout.decode().strip(), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "DPUFORGE_TOOLCHAIN": "emulator", **SETTINGS[setting]}


def describe(rows: list[Measured]) -> str:
    """Return the medians of one stage under one setting as a row of a table."""
    middle = {name: statistics.median(getattr(row, name) for row in rows) for name in Measured.__annotations__}
    total = middle["user_s"] + middle["system_s"]
    return (
        f"{middle['wall_s']:6.1f} | {total:6.1f} | {middle['system_s']:6.1f} | "
        f"{middle['faults'] / 1e6:7.2f} | {middle['peak_mib']:6.0f}"
    )


def main() -> None:
    """Print one row for each stage and setting, and whether all results are the same to the bit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("quickstart", "mobilenet_v2"), default="mobilenet_v2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    arguments = parser.parse_args()
    found: dict[tuple[str, str], list[Measured]] = {}
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        scripts = make_project(root, arguments.network)
        for _ in range(arguments.repeats):
            for setting in arguments.settings:
                env = make_env(setting)
                shutil.rmtree(
                    root / "build" / scripts.name / "train", ignore_errors=True
                )  # else it goes on from its end
                for stage, (script, *words) in STAGES.items():
                    command = [sys.executable, str(scripts / script), *words]
                    measured = run_script(command, env)
                    print(stage, setting, measured, file=sys.stderr, flush=True)
                    found.setdefault((stage, setting), []).append(measured)
                digests.add(digest_results(root / "build" / scripts.name))
                print("different results so far:", len(digests), file=sys.stderr, flush=True)
    print(f"{arguments.network}: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(f"{' '.join(platform.libc_ver())}, Python {platform.python_version()}, {json.dumps(arguments.repeats)} runs")
    print("stage | setting | wall s | user + system s | system s | million page faults | peak MiB")
    for stage in STAGES:
        for setting in arguments.settings:
            print(f"{stage} | {setting} | {describe(found[stage, setting])}")
    print("results: " + ("all the same to the bit" if len(digests) == 1 else f"{len(digests)} different ones"))


if __name__ == "__main__":
    main()
