"""A project in a folder with spaces and other letters, and an engine with the stand-in image, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.container.stand_in_image import IMAGE, engine_options, make_image
from tests.test_native_run import SPEC

NET = """\
import sys
import time
from pathlib import Path

from torch import nn


def make_net():
    order = Path(__file__).with_name("order.txt")  # what a test wants of the scripts in the container
    word = order.read_text().split() if order.exists() else ["go"]
    if len(word) == 2 and sys.argv[0].endswith(word[1]):
        print("order: " + word[0], flush=True)
        if word[0] == "hang":
            time.sleep(600)
        if word[0] == "break":
            raise RuntimeError("broken on purpose")
        if word[0] == "eat":
            hoard = [bytearray(64 << 20) for _ in range(4096)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
"""


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return podman, with the stand-in image in it; its absence fails: `nox -s container` installs it."""
    path = shutil.which("podman")
    assert path is not None, "podman is not installed: run `nox -s container` as root"
    make_image(path, tmp_path_factory.mktemp("image"))
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Path:
    """Return a project whose images lie outside it, in a folder with a space and letters beyond ASCII."""
    base = tmp_path_factory.mktemp("Übung für alle")
    root = base / "mein Projekt äé"
    (root / "spec").mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 8), ("test", 8)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = base / "Bilder 図" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(random.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (root / "images").symlink_to(base / "Bilder 図")
    (root / "net.py").write_text(NET)
    write_spec(root)
    return root


def write_spec(root: Path, **run: object) -> None:
    """Write the spec of the project; run adds to its run section."""
    document = yaml.safe_load(SPEC)
    container = {"engine": "podman", "image": IMAGE, "options": engine_options(), **run.pop("container", {})}  # type: ignore[dict-item]
    document["run"] = {"toolchain": "container", "container": container, **run}
    (root / "spec/squares.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")


def command(*args: str) -> list[str]:
    """Return the command line of dpuforge on the project."""
    return [sys.executable, "-m", "dpuforge", args[0], "spec/squares.yaml", *args[1:]]


def run(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run dpuforge in the project to its end."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*args), cwd=root, env=env, capture_output=True, text=True, check=False, timeout=600)
