"""What makes the stage that reads the images stale: every change of a file, also behind links and in CSV files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpuforge import pipeline
from dpuforge.execute.data_listing import find_data_changes, read_seen

SPEC = """\
spec_version: 1
project: squares
model: {{backbone: resnet18, weights: none, input: {{height: 16, width: 16}}}}
classes: [a, b]
data: {{train: {train}, validation: images/validation, test: images/test}}
transfer: {{method: fine_tuning}}
quantization: {{calibration: {{images: 2, batch_size: 1}}}}
target: {{vitis_ai: "3.0", boards: [KV260]}}
"""


def draw(path: Path, seed: int) -> None:
    """Write a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures in class folders, behind a link to a folder and behind a link to a file, and a loop of links."""
    draw(tmp_path / "data/a/one.png", 1)
    draw(tmp_path / "elsewhere/two.png", 2)
    draw(tmp_path / "three.png", 3)
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/three.png").symlink_to(tmp_path / "three.png")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/a/.hidden").write_text("left by an editor")
    (tmp_path / "data/a/notes.txt").write_text("no picture")
    for seed, name in enumerate(("validation/a/1.png", "validation/b/1.png", "test/a/1.png", "test/b/1.png")):
        draw(tmp_path / "images" / name, 10 + seed)
    return tmp_path


def prepare(root: Path, train: str = "data") -> None:
    """Let the generated script look at the images, as anybody may start it."""
    spec = root / "spec/squares.yaml"
    spec.parent.mkdir(exist_ok=True)
    spec.write_text(SPEC.format(train=train))
    job = pipeline.load(spec)
    pipeline.write(job, pipeline.render(pipeline.plan(job)))
    script = root / "generated/squares/prepare.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def changes(root: Path, train: str = "data") -> list[str]:
    """Return what became of the images since."""
    seen = read_seen(root / "build/squares/prepare")
    return list(find_data_changes(seen, (train, "images/validation", "images/test"), root))


def rename_odd(root: Path) -> None:
    """Add a file whose name is in no encoding."""
    shutil.copy(root / "three.png", os.fsencode(root) + b"/data/a/caf\xe9.png")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda root: draw(root / "data/a/one.png", 7), "data/a/one.png changed ("),
    "behind a folder's link": (lambda root: draw(root / "elsewhere/two.png", 8), "data/b/two.png changed ("),
    "behind a file's link": (lambda root: draw(root / "three.png", 9), "data/a/three.png changed ("),
    "a new file behind a link": (lambda root: draw(root / "elsewhere/new.png", 9), "data/b/new.png is new"),
    "a file taken away": (lambda root: (root / "data/a/one.png").unlink(), "data/a/one.png is gone"),
    "a new class": (lambda root: (root / "data/c").mkdir(), "data/c is a new folder"),
    "a name in no encoding": (rename_odd, "data/a/caf\\udce9.png is new"),
    "all that was known": (lambda root: (root / "build/squares/prepare/seen.json").unlink(), "prepare/seen.json"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_images_is_named(root: Path, change: str) -> None:
    """Loops end, and a change anywhere behind a link is told with its file."""
    prepare(root)
    assert changes(root) == []
    act, text = CHANGES[change]
    act(root)
    (found,) = changes(root)
    assert found.startswith(text)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"data": 1}', '{"data": {"files": {"a": [1]}}}', '{"data": {"files": []}}']
)
def test_a_damaged_record_of_the_images_is_none(tmp_path: Path, text: str) -> None:
    """Half a file, or another one, is a reason to look at the images again, and no traceback."""
    (tmp_path / "seen.json").write_text(text)
    assert list(find_data_changes(read_seen(tmp_path), ("data",), tmp_path)) == [
        "prepare/seen.json is missing: what was in the images is not known"
    ]


def test_what_is_no_other_picture_changes_nothing(root: Path) -> None:
    """Times of change, hidden files, and what prepare passed over anyway are no reason to run again."""
    prepare(root)
    os.utime(root / "data/a/one.png", (1, 1))
    (root / "data/a/.new").write_text("hidden")
    (root / "data/a/notes.txt").write_text("still no picture")
    assert changes(root) == []


@pytest.mark.parametrize("name", ["data/a/one.png", "data/table.csv", "elsewhere/two.png"])
def test_a_csv_file_stands_for_the_images_that_it_names(root: Path, name: str) -> None:
    """The table and every image of it count, relative to the table or to the root; other files do not."""
    (root / "data/table.csv").write_text("path;label\na/one.png;a\nelsewhere/two.png;b\n", encoding="utf-8")
    prepare(root, "data/table.csv")
    draw(root / "three.png", 4)
    assert changes(root, "data/table.csv") == []
    (root / name).write_bytes((root / name).read_bytes() + b"\n")
    (found,) = changes(root, "data/table.csv")
    assert found.startswith(f"{name} changed (")


def test_a_csv_row_that_leads_elsewhere_is_noticed(root: Path) -> None:
    """A file beside the table comes before one below the root, as prepare will find it."""
    (root / "data/table.csv").write_text("path;label\na/one.png;a\nelsewhere/two.png;b\n", encoding="utf-8")
    prepare(root, "data/table.csv")
    draw(root / "data/elsewhere/two.png", 5)
    assert changes(root, "data/table.csv") == ["data/elsewhere/two.png is new"]
