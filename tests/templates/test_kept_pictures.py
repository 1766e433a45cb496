"""splits.py: pictures that are decoded once and kept are those decoded afresh, and go when their images change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapes_project as shapes
from PIL import Image

ALL = "train", "validation", "test"
# Run in the folder of the scripts: what(splits) is printed.
ASK = """
import sys; from pathlib import Path; from types import SimpleNamespace
root = Path(sys.argv[1]); sys.path.insert(0, str(root / "generated/shapes"))
import numpy as np, torch, splits
def images(name): return splits.Images(splits.Split(SimpleNamespace(root=root, build=root / "build/shapes"), name))
def read(images): return np.stack([images[i][0].numpy() for i in range(len(images))])
"""


def ask(root: Path, code: str) -> str:
    """Run lines of Python that know images(split) and read(images); return what they print."""
    done = subprocess.run(
        [sys.executable, "-c", ASK + code, str(root)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepare(root: Path, **data: Any) -> None:
    """Write the scripts and check the data."""
    shapes.write_scripts(shapes.make_project(data=shapes.make_data(**data)), root)
    ran = shapes.run_script(root, "prepare.py")
    assert ran.status == 0, ran.output


def list_kept(root: Path) -> list[str]:
    """Return the names of the files of kept pictures, half ones too."""
    return sorted(os.listdir(root / "build/shapes/pixels"))


def add_odd_pictures(root: Path) -> None:
    """Put what is hard to read into the training split: JPEG on its side, 16 bits, palette, grey, wide and high."""
    folder = root / "data/shapes/train/across"
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 256, (90, 51, 3)).astype(np.uint8))
    tag = Image.Exif()
    tag[0x0112] = 6
    noise.save(folder / "side.jpg", exif=tag)
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    noise.convert("P").save(folder / "palette.png")
    noise.convert("L").save(folder / "grey.webp", lossless=True)
    noise.convert("RGBA").resize((300, 40)).save(folder / "wide.png")
    Image.fromarray(rng.integers(0, 65536, (48, 40)).astype(np.uint16)).save(folder / "wide16.png")


@pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
def test_kept_pictures_are_those_decoded_afresh(root: Path, color: str) -> None:
    """Every image of every split, odd ones too, is the same to the bit: decoded, kept, and read by a later process."""
    add_odd_pictures(root)
    mean = {"mean": (0.5,), "std": (0.5,)} if color == "GRAY" else {}
    prepare(root, color=color, exif=True, **mean)
    code = f"""
for name in {ALL}:
    fresh = read(images(name)); assert images(name).rows is None
    kept = images(name).keep(); again = read(kept); assert kept.rows is not None
    assert fresh.dtype == again.dtype and (fresh == again).all(), name
    later = images(name); assert (read(later) == fresh).all() and later.rows is not None
    plain = splits.Pictures(later.split); assert (np.asarray(plain[0][0]) == plain.rows[0]).all()
    print(len(fresh))
"""
    assert ask(root, code).split() == ["42", "12", "18"]
    assert [name.partition("-")[0] for name in list_kept(root)] == ["test", "train", "validation"]


@pytest.mark.parametrize("change", ["touched", "rewritten", "script"])
def test_changed_images_are_decoded_anew(root: Path, change: str) -> None:
    """A picture that was changed, or another way to read them, leaves nothing of what was kept."""
    prepare(root)
    ask(root, "images('test').keep()")
    before = list_kept(root)
    picture = root / "data/shapes/test/across/00.png"
    if change == "touched":
        os.utime(picture, ns=(1, 1))
    elif change == "rewritten":
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(picture)
    else:
        shapes.write_scripts(shapes.make_project(data=shapes.make_data(resize=33)), root)
    code = """
old = images('test'); assert not old.path.is_file()
fresh = read(old); assert (read(old.keep()) == fresh).all()
"""
    ask(root, code)
    assert list_kept(root) != before
    assert len(list_kept(root)) == 1


def test_a_killed_run_leaves_nothing_that_is_believed(root: Path) -> None:
    """Half a file is not read; a later run writes its own, and removes the half one once nobody writes to it."""
    prepare(root)
    ask(root, "images('test').keep()")
    (whole,) = list_kept(root)
    folder = root / "build/shapes/pixels"
    half = folder / f".{whole}.4711.tmp"
    half.write_bytes((folder / whole).read_bytes()[:1000])
    (folder / whole).unlink()
    ask(root, "assert images('test').rows is None; images('test').keep()")
    assert list_kept(root) == [half.name, whole]
    os.utime(half, (1, 1))
    (folder / whole).unlink()
    ask(root, "images('test').keep()")
    assert list_kept(root) == [whole]


def test_pictures_that_do_not_fit_are_decoded_each_time(root: Path) -> None:
    """Above the bound, on a full disk and without permission nothing is kept, and the images are read all the same."""
    prepare(root)
    code = """
splits.MOST_BYTES = 100
found = read(images('test').keep()); assert not images('test').path.is_file()
splits.MOST_BYTES = 1 << 30
def full(*_): raise OSError(28, "No space left on device")
splits.np.lib.format.write_array_header_1_0, real = full, splits.np.lib.format.write_array_header_1_0
assert (read(images('test').keep()) == found).all()
splits.np.lib.format.write_array_header_1_0 = real
import os; os.rmdir(root / "build/shapes/pixels"); (root / "build/shapes/pixels").write_text("a file of the user")
assert (read(images('test').keep()) == found).all()
"""
    printed = ask(root, code)
    assert "test: pictures are not kept: [Errno 28] No space left on device" in printed
    assert "test: pictures are not kept: [Errno 17]" in printed
    assert (root / "build/shapes/pixels").read_text() == "a file of the user"


def test_batches_are_those_of_the_data_loader(root: Path) -> None:
    """load_batches gives what torch's DataLoader gives, types and order too, for whole and partial batches."""
    prepare(root)
    code = """
from torch.utils.data import DataLoader, Subset
for size in (1, 4, 7, 18, 50):
    for chosen in (images('test'), Subset(images('test'), [5, 2, 11])):
        ours, theirs = list(splits.load_batches(chosen, size)), list(DataLoader(chosen, size))
        assert len(ours) == len(theirs)
        for (a, b), (c, d) in zip(ours, theirs):
            assert torch.equal(a, c) and torch.equal(b, d) and b.dtype == d.dtype
assert list(splits.load_batches([], 4)) == []
first = next(splits.load_batches(images('test'), 2)); print(len(first[0]))
"""
    assert ask(root, code).strip() == "2"


def test_a_picture_that_breaks_is_named_by_the_stage(root: Path) -> None:
    """A picture damaged after prepare fails the training with its name, and leaves no file of pictures."""
    prepare(root)
    (root / "data/shapes/train/across/00.png").write_bytes(b"no picture")
    ran = shapes.run_script(root, "train.py")
    assert ran.status == 3
    assert "00.png has changed since prepare checked it" in ran.output
    assert "run the prepare stage again" in ran.output
    assert not any(name.startswith("train") for name in list_kept(root))


def test_images_go_to_other_processes_without_their_pixels(root: Path) -> None:
    """A data-loader process that is not forked gets the name of the file, not its gigabytes."""
    prepare(root)
    code = """
import pickle
kept = images('train').keep(); kept[0]
text = pickle.dumps(kept); again = pickle.loads(text)
assert again.rows is None and torch.equal(again[3][0], kept[3][0]); print(len(text))
"""
    assert int(ask(root, code)) < 20_000


def test_training_is_the_same_with_and_without_kept_pictures(root: Path) -> None:
    """The weights of a training are equal to the bit where nothing may be kept."""
    prepare(root)
    weights = []
    for _ in range(2):
        ran = shapes.run_script(root, "train.py")
        assert ran.status == 0, ran.output
        weights.append(shapes.read_result(root, "train")["metrics"]["history"])
        for path in (root / "build/shapes/pixels").glob("*"):
            path.unlink()
        script = root / "generated/shapes/splits.py"
        script.write_text(script.read_text().replace("MOST_BYTES = 4 << 30", "MOST_BYTES = 0"))
    assert weights[0] == weights[1]
    assert list_kept(root) == []
