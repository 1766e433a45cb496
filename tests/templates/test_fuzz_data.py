"""Random hostile data folders within a fixed budget: prepare ends with a verdict, and what it accepts can be read."""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapes_project as shapes
from PIL import Image

from dpuforge.execute.staleness import Present, explain_staleness
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.plan import PlannedStage
from dpuforge.records.project import Data

ROUNDS = 60
DAMAGES = 3  # a round, at most
NAMES = ["a b", "é", "-x", "new\nline", "tab\t", "'quote'", 'dou"ble', "%s {0}", "caf\udce9", "CON", "x" * 200, "🍎"]
SUFFIXES = [".png", ".jpg", ".JPG", ".tif", ".bmp", ".ppm", ".pgm", ".webp", ".gif", ".txt", ""]
FORMATS = ["PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP", "GIF"]
MODES = ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16", "I", "F", "YCbCr", "HSV", "LAB"]
READ_ALL = """
from types import SimpleNamespace
from pathlib import Path
import splits
root = Path(__file__).resolve().parents[2]
arguments = SimpleNamespace(root=root, build=root / "build/shapes")
for name in ("train", "validation", "test"):
    images = splits.Images(splits.Split(arguments, name))
    assert all(images[index][0].shape == (3, 32, 32) for index in range(len(images)))
print("all read")
"""


def pick(root: Path, rng: random.Random) -> Path:
    """Return one of the image files, or of what has become of them."""
    files = sorted(path for path in (root / "data/shapes").rglob("*") if path.is_file() and not path.is_symlink())
    return rng.choice(files) if files else root / "data/shapes/train/across/00.png"


def pick_folder(root: Path, rng: random.Random) -> Path:
    """Return one of the folders of the data."""
    return rng.choice([p for p in sorted((root / "data/shapes").rglob("*")) if p.is_dir() and not p.is_symlink()])


def truncate(root: Path, rng: random.Random) -> None:
    path = pick(root, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(2000)])


def encode_anew(root: Path, rng: random.Random) -> None:
    path = pick(root, rng)
    pixels = np.random.default_rng(rng.randrange(99)).integers(0, 256, (rng.randint(1, 60), rng.randint(1, 60), 3))
    image, stream = Image.fromarray(pixels.astype(np.uint8)), io.BytesIO()
    try:
        image.convert(rng.choice(MODES)).save(stream, rng.choice(FORMATS))
    except (OSError, ValueError, KeyError):
        image.save(stream, rng.choice(FORMATS))
    path.write_bytes(stream.getvalue())


def flip_bytes(root: Path, rng: random.Random) -> None:
    encode_anew(root, rng)
    path = pick(root, rng)
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 20)):
        if content:
            content[rng.randrange(min(len(content), rng.choice([64, 10**6])))] = rng.randrange(256)
    path.write_bytes(bytes(content))


def write_garbage(root: Path, rng: random.Random) -> None:
    begin = rng.choice(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\x00", b"MM\x00*", b"BM", b"RIFF", b"P6\n9 9"]
    )
    pick(root, rng).write_bytes(begin + rng.randbytes(rng.randrange(300)))


def rename(root: Path, rng: random.Random) -> None:
    path = rng.choice([pick(root, rng), pick_folder(root, rng)])
    target = path.with_name(rng.choice(NAMES) + (rng.choice(SUFFIXES) if path.is_file() else ""))
    if path.exists() and not target.exists():
        path.rename(target)


def copy(root: Path, rng: random.Random) -> None:
    target = pick_folder(root, rng) / (rng.choice(NAMES) + rng.choice(SUFFIXES))
    if not target.is_dir():
        shutil.copy(pick(root, rng), target)


def link(root: Path, rng: random.Random) -> None:
    place = pick_folder(root, rng) / f"link{rng.randrange(10**6)}{rng.choice(SUFFIXES)}"
    place.symlink_to(
        rng.choice([place.name, "nowhere", "..", str(root / "data"), str(pick(root, rng)), "/dev/zero", "."])
    )


def make_pipe(root: Path, rng: random.Random) -> None:
    os.mkfifo(pick_folder(root, rng) / f"pipe{rng.randrange(10**6)}{rng.choice(SUFFIXES)}")


def nest(root: Path, rng: random.Random) -> None:
    folder = pick_folder(root, rng)
    for _ in range(rng.choice([1, 2, 300])):
        folder = folder / "d"
        folder.mkdir(exist_ok=True)


def remove(root: Path, rng: random.Random) -> None:
    folder = pick_folder(root, rng)
    if len(folder.relative_to(root).parts) > 2:
        shutil.rmtree(folder)


DAMAGE: list[Callable[[Path, random.Random], None]] = [
    *(truncate, encode_anew, flip_bytes, flip_bytes, write_garbage, rename, copy, link, make_pipe, nest, remove),
]


def ask_staleness(root: Path) -> None:
    """Ask whether the stage that reads the data is fresh, as every run does."""
    stage = PlannedStage("prepare", "python", ("prepare.py",), (), folders=("data/shapes/train", "data/shapes/val"))
    place = ToolchainPlace("emulator", "python", {}, {})
    assert isinstance(explain_staleness(stage, Present(root, root / "build/shapes", {}, place, {})), str)


def judge(root: Path, seed: int) -> bool:
    """Run prepare and tell whether it accepts; it refuses in words, and what it accepts is read whole."""
    ran = shapes.run_script(root, "prepare.py")
    ask_staleness(root)
    assert "Traceback" not in ran.output, f"seed {seed}: {ran.output}"
    assert ran.status in (0, 3), f"seed {seed}: {ran.status}"
    assert shapes.read_result(root, "prepare")["status"] == ("failed" if ran.status else "done")
    if ran.status == 0:
        read = shapes.run_script(root, "read_all.py")
        assert "all read" in read.output, f"seed {seed}: {read.output}"
    return ran.status == 0


def start(tmp_path: Path, project: object = None) -> None:
    """Write the scripts of the small project and the one that reads all images."""
    folder = shapes.write_scripts(shapes.make_project() if project is None else project, tmp_path)  # type: ignore[arg-type]
    (folder / "read_all.py").write_text(READ_ALL, encoding="utf-8")


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(4))
def test_no_data_folder_ends_in_a_traceback(tmp_path: Path, part: int) -> None:
    """Folders damaged in several random ways are accepted or refused in words; what is accepted loads."""
    start(tmp_path)
    accepted = 0
    for seed in range(part * ROUNDS, (part + 1) * ROUNDS):
        rng = random.Random(seed)
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shapes.write_stripes(tmp_path, {"train": 4, "val": 2, "test": 2})
        for _ in range(rng.randint(1, DAMAGES)):
            rng.choice(DAMAGE)(tmp_path, rng)
        accepted += judge(tmp_path, seed)
    assert 0.1 * ROUNDS < accepted < 0.9 * ROUNDS  # both verdicts are tried


@pytest.mark.fuzz
def test_no_csv_file_ends_in_a_traceback(tmp_path: Path) -> None:
    """Tables with random bytes, cells and separators in place of folders are accepted or refused in words."""
    base = shapes.make_data()
    shapes.write_stripes(tmp_path, {"train": 4, "val": 2, "test": 2})
    table = tmp_path / "data/shapes/train.csv"
    start(tmp_path, shapes.make_project(data=Data("data/shapes/train.csv", base.validation, base.test, None,
                                                  base.preprocess, base.augment)))  # fmt: skip
    rows = [f"train/{p.parent.name}/{p.name},{p.parent.name}" for p in (tmp_path / "data/shapes/train").glob("*/*")]
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        text = bytearray("\n".join(["path,label", *rows]).encode())
        for _ in range(rng.randrange(12)):
            place = rng.randrange(len(text))
            text[place : place + rng.randrange(3)] = rng.choice(
                [b'"', b",", b";", b"\n", b"\x00", b"\xff", b"/", b"../"]
            )
        table.write_bytes(bytes(text))
        judge(tmp_path, seed)
