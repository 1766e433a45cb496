"""prepare.py on the data that people bring: what is refused, what is left out, what is warned of, all named."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapes_project as shapes
import torch
from PIL import Image

from dpuforge.records import project as records

TRAIN = "data/shapes/train"


def prepare(root: Path, **changes: Any) -> tuple[shapes.Ran, dict[str, Any]]:
    """Run prepare.py of the small project; keyword arguments replace sections of its spec."""
    shapes.write_scripts(shapes.make_project(**changes), root)
    ran = shapes.run_script(root, "prepare.py")
    assert "Traceback" not in ran.output, ran.output
    return ran, shapes.read_result(root, "prepare")


def read_data(root: Path) -> dict[str, Any]:
    """Return data.json, which fixes classes and images for all later stages."""
    document: dict[str, Any] = json.loads((root / "build/shapes/prepare/data.json").read_text())
    return document


def encode(format_: str, **options: Any) -> bytes:
    """Return a noisy image as a file's bytes."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream, format_, **options)
    return stream.getvalue()


def encode_array(array: np.ndarray[Any, Any], format_: str = "TIFF") -> bytes:
    """Return an array as an image file's bytes."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format_)
    return stream.getvalue()


BROKEN = {
    "empty.png": (b"", "empty: 0 bytes"),
    "zeros.jpg": (bytes(500), "are zero"),
    "half.jpg": (encode("JPEG")[:900], "truncated"),
    "half.png": (encode("PNG")[:5000], "truncated"),
    "half.bmp": (encode("BMP")[:5000], "truncated"),
    "half.tif": (encode("TIFF")[:5000], "truncated"),
    "half.ppm": (encode("PPM")[:5000], "truncated"),
    "half.webp": (encode("WEBP")[:900], "data/shapes/train/across/half.webp ("),
    "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git-lfs pointer"),
    "annex.png": (b"/annex/objects/SHA256E-s1--ab.png\n", "git-annex pointer"),
    "error.jpg": (b'{"error": "quota"}', "JSON text"),
    "note.png": (b"just some words", "not an image but text"),
    "noise.png": (bytes(range(255, 0, -1)) * 4, "not an image"),
    "phone.jpg": (b"\x00\x00\x00\x18ftypheic" + bytes(64), "heic file"),
    "paper.jpg": (b"%PDF-1.7 ...", "a PDF document"),
    "array.png": (b"\x93NUMPY\x01\x00v\x00" + bytes(64), "a numpy array"),
    "scan.png": (bytes(128) + b"DICM" + bytes(99), "DICOM"),
    "depth.tif": (encode_array(np.linspace(0, 1, 3600, dtype=np.float32).reshape(60, 60)), "data.preprocess.range"),
    "counts.tif": (encode_array(np.arange(3600, dtype=np.int32).reshape(60, 60)), "data.preprocess.range"),
    "nan.tif": (encode_array(np.full((60, 60), np.nan, np.float32)), "no numbers (NaN or infinity)"),
    "line.png": (encode_array(np.zeros((1, 65000), np.uint8), "PNG"), "too long and narrow"),
}


def test_every_bad_file_is_named_at_once_with_its_reason(root: Path) -> None:
    """Two dozen kinds of bad file: one run names all of them, each with a reason in words, and the log's file too."""
    for name, (content, _) in BROKEN.items():
        (root / TRAIN / "across" / name).write_bytes(content)
    (root / TRAIN / "across" / "gone.png").symlink_to("nowhere.png")
    (root / TRAIN / "across" / "self.png").symlink_to("self.png")
    os.mkfifo(root / TRAIN / "across" / "pipe.jpg")
    ran, result = prepare(root)
    assert ran.status == 3
    lines = {line.split(" (")[0].strip(): line for line in result["reason"].splitlines() if " (" in line}
    for name, (_, words) in BROKEN.items():
        assert words in lines[f"{TRAIN}/across/{name}"], name
    assert "a broken link: nowhere.png does not exist" in lines[f"{TRAIN}/across/gone.png"]
    assert "leads nowhere" in lines[f"{TRAIN}/across/self.png"]
    assert "not a file but a pipe" in lines[f"{TRAIN}/across/pipe.jpg"]
    assert f"{len(BROKEN) + 3} unreadable images" in result["reason"]
    assert len((root / "build/shapes/prepare/problems.txt").read_text().splitlines()) == len(BROKEN) + 4


def test_a_decompression_bomb_is_refused(root: Path) -> None:
    """A small file of 40000 x 40000 pixels is named before it fills the memory."""
    header = b"P5\n40000 40000\n255\n"
    (root / TRAIN / "across" / "bomb.pgm").write_bytes(header)
    ran, result = prepare(root)
    assert ran.status == 3
    assert "bomb.pgm (too large, perhaps a decompression bomb" in result["reason"]


def test_problems_of_every_kind_come_together(root: Path) -> None:
    """A leak, a broken file, a missing class and too few calibration images are told in one run."""
    shutil.copy(root / "data/shapes/test/upright/00.png", root / TRAIN / "upright/leaked.png")
    (root / TRAIN / "across/bad.png").write_bytes(b"")
    shutil.rmtree(root / "data/shapes/val/diagonal")
    quantization = shapes.make_quantization(calibration=records.Calibration(99, 8, "train"))
    ran, result = prepare(root, quantization=quantization)
    assert ran.status == 3
    for words in ("two splits", "bad.png (empty", "missing: ['diagonal']", "calibration.images is 99"):
        assert words in result["reason"], result["reason"]


def test_hidden_files_and_folders_are_passed_over_and_counted(root: Path) -> None:
    """What notebooks, archives and file managers leave is no class and no image, and changes nothing for training."""
    prepare(root)
    before = read_data(root)
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails"):
        (root / TRAIN / name).mkdir()
        shutil.copy(root / TRAIN / "across/00.png", root / TRAIN / name)
    for name in (".DS_Store", "across/Thumbs.db", "across/._00.png", "across/.hidden.png", "desktop.ini"):
        (root / TRAIN / name).write_bytes(b"x")
    ran, result = prepare(root)
    assert ran.status == 0, ran.output
    assert result["metrics"]["left_out"] == {"hidden": 9}
    assert "left out: 9 (hidden)" in ran.output
    assert read_data(root) == before


@pytest.mark.parametrize("suffix", [".jfif", ".gif", ".HEIC", ".avif", ".jp2"])
def test_pictures_of_other_suffixes_are_left_out_with_a_warning(root: Path, suffix: str) -> None:
    """A picture that no later stage would read is counted, named and warned of."""
    shutil.copy(root / TRAIN / "across/00.png", root / TRAIN / f"across/odd{suffix}")
    ran, result = prepare(root)
    assert ran.status == 0
    assert result["metrics"]["left_out"] == {suffix.lower(): 1}
    (warning,) = result["metrics"]["warnings"]
    assert f"{TRAIN}/across/odd{suffix}" in warning


def test_a_class_of_left_out_files_alone_says_what_it_holds(root: Path) -> None:
    """A class folder with GIFs alone is refused with what lies there."""
    for image in (root / TRAIN / "across").iterdir():
        image.rename(image.with_suffix(".gif"))
    ran, result = prepare(root)
    assert ran.status == 3
    assert "data.train: no images in the class folders across" in result["reason"]
    assert "left out: 12 .gif" in result["reason"]


def test_links_are_followed_and_loops_end(root: Path) -> None:
    """Linked folders and files count as what they lead to; a folder inside itself is named and entered once."""
    moved = root / "elsewhere"
    shutil.move(root / TRAIN / "across", moved)
    (root / TRAIN / "across").symlink_to(moved)
    (moved / "again").symlink_to(moved)
    (root / TRAIN / "diagonal/up").symlink_to(root / TRAIN)
    ran, result = prepare(root)
    assert ran.status == 0, ran.output
    assert read_data(root)["train"]["classes"] == {"across": 12, "diagonal": 12, "upright": 12}
    assert result["metrics"]["left_out"] == {"a link to a folder around it": 2}


def rename_classes(root: Path, split: str, **names: str) -> None:
    for old, new in names.items():
        (root / "data/shapes" / split / old).rename(root / "data/shapes" / split / new)


@pytest.mark.parametrize(
    ("split", "names", "words"),
    [
        ("test", {"across": "zigzag"}, "missing: ['across']; not in the train: ['zigzag']"),
        ("val", {"upright": "Upright"}, "differ in case or blanks alone"),
        ("test", {"upright": "upright "}, "differ in case or blanks alone"),
    ],
)
def test_class_folders_that_differ_are_refused_also_with_a_number(
    root: Path, split: str, names: dict[str, str], words: str
) -> None:
    """Three folders in every split are not enough: other names would swap the labels."""
    rename_classes(root, split, **names)
    ran, result = prepare(root)
    assert ran.status == 3
    assert words in result["reason"]


def test_names_in_two_unicode_forms_are_refused_with_a_hint(root: Path) -> None:
    """A folder unpacked on another system may look the same and be another one."""
    composed = unicodedata.normalize("NFC", "é")
    for split in ("train", "val"):
        rename_classes(root, split, across=composed)
    rename_classes(root, "test", across=unicodedata.normalize("NFD", composed))
    ran, result = prepare(root)
    assert ran.status == 3
    assert "written with other Unicode characters" in result["reason"]


def test_the_same_bytes_under_two_labels_are_refused(root: Path) -> None:
    """A file in two class folders of one split is a wrong label, named with both."""
    shutil.copy(root / TRAIN / "across/00.png", root / TRAIN / "upright/zz.png")
    ran, result = prepare(root)
    assert ran.status == 3
    assert f"{TRAIN}/across/00.png = {TRAIN}/upright/zz.png (across, upright)" in result["reason"]


RECODE: dict[str, Callable[[Image.Image, Path], None]] = {
    "jpeg": lambda image, path: image.save(path.with_suffix(".jpg"), quality=60),
    "smaller": lambda image, path: image.resize((30, 30), Image.Resampling.BICUBIC).save(path),
    "larger": lambda image, path: image.resize((80, 80), Image.Resampling.BILINEAR).save(path),
    "webp": lambda image, path: image.save(path.with_suffix(".webp"), quality=80),
    "bmp": lambda image, path: image.save(path.with_suffix(".bmp")),
}


@pytest.mark.parametrize("how", RECODE)
def test_a_picture_encoded_anew_in_another_split_is_found(root: Path, how: str) -> None:
    """Re-encoded and resized copies across splits are a warning with the pair; other pictures are no copies."""
    with Image.open(root / "data/shapes/test/diagonal/01.png") as image:
        RECODE[how](image, root / TRAIN / "diagonal/copy.png")
    ran, result = prepare(root)
    assert ran.status == 0, ran.output
    assert result["metrics"]["copies"] == 1
    assert "data/shapes/test/diagonal/01.png ~ data/shapes/train/diagonal/copy." in result["metrics"]["warnings"][0]


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("clear.png", lambda i: i.convert("RGBA"), "transparency"),
        ("print.jpg", lambda i: i.convert("CMYK"), "CMYK"),
        ("flat.png", lambda i: Image.new("RGB", i.size, (9, 9, 9)), "single colour"),
    ],
)
def test_kinds_that_surprise_are_counted(root: Path, name: str, make: Any, words: str) -> None:
    """Transparency, print colours and blank pictures are accepted and named in a warning."""
    with Image.open(root / TRAIN / "across/00.png") as image:
        made = make(image.rotate(90).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    made.save(root / TRAIN / "diagonal" / name)
    ran, result = prepare(root)
    assert ran.status == 0, ran.output
    assert any(words in text and name in text for text in result["metrics"]["warnings"]), result["metrics"]["warnings"]


def test_an_animation_counts_as_its_first_frame(root: Path) -> None:
    """A WebP of several frames is accepted and named."""
    rng = np.random.default_rng(5)
    frames = [Image.fromarray(rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)) for _ in range(3)]
    frames[0].save(root / TRAIN / "across/film.webp", save_all=True, append_images=frames[1:])
    _, result = prepare(root)
    assert any("several frames" in text and "film.webp" in text for text in result["metrics"]["warnings"])


def test_a_palette_picture_is_like_any_other(root: Path) -> None:
    """A palette picture is read in its colours without a warning."""
    with Image.open(root / TRAIN / "across/00.png") as image:
        image.rotate(180).convert("P").save(root / TRAIN / "across/palette.png")
    ran, result = prepare(root)
    assert ran.status == 0
    assert result["metrics"]["warnings"] == []


def write_wide(root: Path, low: int, high: int) -> None:
    """Replace every image by a 16-bit one with values from low to high."""
    rng = np.random.default_rng(8)
    for path in (root / "data/shapes").rglob("*.png"):
        Image.fromarray(rng.integers(low, high, (40, 40)).astype(np.uint16)).save(path)


def test_sixteen_bits_that_use_little_of_the_range_are_warned_of(root: Path) -> None:
    """Thermal values within a few per cent of 16 bits would become a few grey levels: the key to write is named."""
    write_wide(root, 29000, 31001)
    ran, result = prepare(root)
    assert ran.status == 0, ran.output
    assert any("data.preprocess.range: [29000, 31000]" in text for text in result["metrics"]["warnings"])


def test_a_range_is_said_and_values_outside_are_warned_of(root: Path) -> None:
    """With a range that fits there is no warning, with one that cuts there is."""
    write_wide(root, 0, 4096)
    _, good = prepare(root, data=shapes.make_data(range=(0.0, 4095.0)))
    assert good["metrics"]["warnings"] == []
    _, cut = prepare(root, data=shapes.make_data(range=(0.0, 1000.0)))
    assert "they are cut" in cut["metrics"]["warnings"][0]


def test_imbalance_is_shown(root: Path) -> None:
    """A class with a fifth of the images of another is a warning that names both, the counts are printed."""
    for number in range(3, 12):
        (root / TRAIN / f"diagonal/{number:02d}.png").unlink()
    for number in range(12, 20):
        shapes_copy(root, number)
    quantization = shapes.make_quantization(calibration=records.Calibration(4, 4, "train"))
    ran, result = prepare(root, quantization=quantization)
    assert ran.status == 0, ran.output
    assert result["metrics"]["imbalance"] == pytest.approx(20 / 3, abs=1e-3)
    assert "diagonal has 3 training images, across has 20" in result["metrics"]["warnings"][0]
    balanced, quiet = prepare(root, quantization=quantization, train=shapes.make_train(balance="sampler"))
    assert quiet["metrics"]["warnings"] == [], balanced.output
    assert any(line.split() == ["across", "20", "4", "6"] for line in ran.output.splitlines())


def shapes_copy(root: Path, number: int) -> None:
    """Write one more picture of class across."""
    pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(root / TRAIN / f"across/{number:02d}.png")


@pytest.mark.parametrize(
    ("settings", "share", "warned"),
    [({}, (32 / 36) ** 2, 0), ({"resize": 64}, 0.25, 1), ({"resize": (32, 32), "crop": None}, 1.0, 0)],
)
def test_what_the_network_sees_is_recorded(root: Path, settings: dict[str, Any], share: float, warned: int) -> None:
    """The share of a picture that resize and crop leave is a figure; less than half is a warning with the remedy."""
    _, result = prepare(root, data=shapes.make_data(**settings))
    view = result["metrics"]["view"]
    assert view["seen_share"] == pytest.approx(share, abs=1e-5)
    assert view["picture_px"] == [40, 40]
    assert len(result["metrics"]["warnings"]) == warned


@pytest.mark.parametrize("settings", [{"resize": None, "crop": None}, {"resize": None, "crop": (48, 48)}])
def test_images_that_do_not_fit_without_resizing_are_named(root: Path, settings: dict[str, Any]) -> None:
    """With resize: null a picture of another size, or one smaller than the crop, is refused before training."""
    model = records.Model("nets/tiny.py:make", "none", records.InputSize(48, 48))
    ran, result = prepare(root, data=shapes.make_data(**settings), model=model)
    assert ran.status == 3
    assert "36 more" not in result["reason"]
    assert f"{TRAIN}/across/00.png" in result["reason"]
    assert "data.preprocess.resize is null" in result["reason"]


def write_csv(root: Path, split: str, name: str, rows: list[list[str]], delimiter: str = ",") -> str:
    """Write a CSV file beside a split and return its path in the spec."""
    path = root / "data/shapes" / name
    with open(path, "w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)
    return path.relative_to(root).as_posix()


def list_rows(root: Path, split: str) -> list[list[str]]:
    """Return a row of path and label for every image of a split."""
    return [[f"{split}/{p.parent.name}/{p.name}", p.parent.name] for p in (root / "data/shapes" / split).glob("*/*")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_files_of_path_and_label_are_splits(root: Path, delimiter: str) -> None:
    """CSV files with or without headings give the same images and classes as folders."""
    prepare(root)
    expected = {name: (split["classes"], split["files"]) for name, split in read_data(root).items()}
    rows = [
        ["id", "label", "filename"],
        *([str(n), label, path] for n, (path, label) in enumerate(list_rows(root, "train"))),
    ]
    files = [
        write_csv(root, "train", "train.csv", rows, delimiter),
        write_csv(root, "val", "val.csv", list_rows(root, "val"), delimiter),
        write_csv(root, "test", "test.csv", [[f"data/shapes/{p}", c] for p, c in list_rows(root, "test")], delimiter),
    ]
    ran, _ = prepare(root, data=name_splits(*files))
    assert ran.status == 0, ran.output
    assert {name: (split["classes"], split["files"]) for name, split in read_data(root).items()} == expected


def name_splits(train: str, validation: str, test: str) -> records.Data:
    """Return the data section with these splits."""
    base = shapes.make_data()
    return records.Data(train, validation, test, None, base.preprocess, base.augment)


def test_numbers_as_labels_keep_their_order(root: Path) -> None:
    """Labels 0 to 10 of a CSV file are outputs 0 to 10: not in the order of their letters."""
    splits = {}
    for split in ("train", "val", "test"):
        rows = list_rows(root, split)
        splits[split] = [[path, str({"across": 2, "diagonal": 10, "upright": 0}[label])] for path, label in rows]
    files = [write_csv(root, split, f"{split}.csv", rows) for split, rows in splits.items()]
    ran, _ = prepare(root, data=name_splits(*files))
    assert ran.status == 0, ran.output
    assert list(read_data(root)["train"]["classes"]) == ["0", "2", "10"]


def test_bad_rows_of_a_csv_file_are_named_with_their_number(root: Path) -> None:
    """Missing files, empty labels and binary files in place of a table are told in one run."""
    rows = [*list_rows(root, "train"), ["train/across/absent.png", "across"], ["train/across/00.png", ""]]
    broken = root / "data/shapes/val.csv"
    broken.write_bytes(b"\xff\xfe\x00\x01")
    ran, result = prepare(
        root, data=name_splits(write_csv(root, "train", "t.csv", rows), "data/shapes/val.csv", "data/no")
    )
    assert ran.status == 3
    for words in ("row 37: no such file: 'train/across/absent.png'", "row 38 has no path and label",
                  "data.validation", "neither a folder nor a CSV", "data.test", "does not exist"):  # fmt: skip
        assert words in result["reason"], result["reason"]


SPLIT = records.DataSplit("data/all", 0.2, 0.25, 0)


def gather(root: Path) -> None:
    """Move all images into one folder a class."""
    for path in sorted((root / "data/shapes").glob("*/*/*.png")):
        target = root / "data/all" / path.parent.name / f"{path.parent.parent.name}{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def split_data(split: records.DataSplit = SPLIT) -> records.Data:
    """Return the data section that splits one folder."""
    base = shapes.make_data()
    return records.Data(split.folder, split.folder, split.folder, None, base.preprocess, base.augment, split)


def test_one_folder_is_split_by_content(root: Path) -> None:
    """Every class gives its shares, copies stay together, and new names of the files change nothing."""
    gather(root)
    source = sorted((root / "data/all/across").iterdir())[0]
    with Image.open(source) as image:
        image.save(root / "data/all/across/copy.jpg", quality=80)
    shutil.copy(source, root / "data/all/across/same.png")
    ran, result = prepare(root, data=split_data())
    assert ran.status == 0, ran.output
    data = read_data(root)
    assert data["test"]["classes"] == {"across": 6, "diagonal": 6, "upright": 6}
    assert data["validation"]["classes"]["diagonal"] == 4
    names = {f"data/all/across/{name}" for name in ("copy.jpg", "same.png", source.name)}
    homes = {name for name, split in data.items() if names & split["files"].keys()}
    assert len(homes) == 1
    assert result["metrics"]["copies"] == 0
    digests = {name: split["sha256"] for name, split in data.items()}
    for number, path in enumerate(sorted((root / "data/all").glob("*/*"), reverse=True)):
        path.rename(path.with_name(f"renamed{number}{path.suffix}"))
    prepare(root, data=split_data())
    again = read_data(root)
    assert {name: split["classes"] for name, split in again.items()} == {n: s["classes"] for n, s in data.items()}
    assert digests.keys() == again.keys()
    other = records.DataSplit("data/all", 0.2, 0.25, 1)
    before = set(again["test"]["files"])
    prepare(root, data=split_data(other))
    assert set(read_data(root)["test"]["files"]) != before


def test_a_class_too_small_to_split_is_refused(root: Path) -> None:
    """Two pictures of a class cannot fill three splits; the class is named."""
    gather(root)
    for path in sorted((root / "data/all/upright").iterdir())[2:]:
        path.unlink()
    ran, result = prepare(root, data=split_data())
    assert ran.status == 3
    assert "data.split: class upright has 2 images" in result["reason"]


def test_pictures_of_a_fixed_camera_can_still_be_split(root: Path) -> None:
    """Where all pictures of a class look alike, their bytes decide and a warning says so."""
    rng = np.random.default_rng(4)
    scene = rng.integers(0, 255, (40, 40, 3)).astype(np.int16)
    gather(root)
    for path in (root / "data/all/across").iterdir():
        Image.fromarray((scene + rng.integers(0, 2, scene.shape)).clip(0, 255).astype(np.uint8)).save(path)
    ran, result = prepare(root, data=split_data())
    assert ran.status == 0, ran.output
    assert any("look so much alike" in text for text in result["metrics"]["warnings"])


def test_names_in_no_encoding_are_no_traceback(root: Path) -> None:
    """A file name that is not UTF-8 is read, listed and trained on like any other."""
    name = os.fsencode(str(root / TRAIN / "across")) + b"/caf\xe9.png"
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    with open(name, "wb") as stream:
        stream.write(encode_array(pixels, "PNG"))
    ran, _ = prepare(root)
    assert ran.status == 0, ran.output
    assert read_data(root)["train"]["images"] == 37


def test_what_was_decoded_is_not_decoded_again(root: Path) -> None:
    """The cache goes by digest: a second run decodes nothing, a changed file alone is, a torn line is not trusted."""
    first, _ = prepare(root)
    assert "66 images, 66 of them decoded anew" in first.output
    assert "66 images, 0 of them" in prepare(root)[0].output
    shapes_copy(root, 0)
    cache = root / "build/shapes/prepare/decoded.jsonl"
    cache.write_bytes(cache.read_bytes()[:-40])
    assert "66 images, 2 of them" in prepare(root)[0].output
    cache.write_bytes(b"\x00garbage\n" + cache.read_bytes())
    assert "66 images, 66 of them" in prepare(root)[0].output


def test_processes_find_what_one_process_finds(root: Path) -> None:
    """Many images are decoded by several processes with the same outcome, broken ones included."""
    rng = np.random.default_rng(2)
    for number in range(220):
        pixels = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / TRAIN / f"across/x{number}.png")
    (root / TRAIN / "across/bad.png").write_bytes(encode("PNG")[:999])
    shapes.write_scripts(shapes.make_project(), root)
    reasons = []
    for workers in ("1", "3"):
        shutil.rmtree(root / "build", ignore_errors=True)
        assert shapes.run_script(root, "prepare.py", "--workers", workers).status == 3
        reasons.append(shapes.read_result(root, "prepare")["reason"])
    assert reasons[0] == reasons[1]
    assert "bad.png (truncated" in reasons[0]


def test_training_uses_the_listed_images_and_names_one_that_vanished(root: Path) -> None:
    """train.py reads data.json; a file that is gone since prepare is one line, no traceback."""
    prepare(root)
    (root / TRAIN / "across/05.png").unlink()
    ran = shapes.run_script(root, "train.py")
    assert ran.status == 3
    assert "across/05.png has changed since prepare checked it" in ran.output
    assert "Traceback" not in ran.output


DRAW = """
import collections, train
labels = [0] * 90 + [1] * 10
drawn = [labels[ticket % 100] for batch in train.EpochBatches(labels) for ticket in batch]
print(collections.Counter(drawn)[1], train.balance_classes(labels))
"""


@pytest.mark.parametrize("balance", ["weights", "sampler"])
def test_rare_classes_are_learnt_with_balance(root: Path, balance: str) -> None:
    """Training on uneven classes is repeatable, and other weights come out than without balance."""
    for number in range(2, 12):
        (root / TRAIN / f"diagonal/{number:02d}.png").unlink()
    learnt = []
    for kind in (balance, balance, "none"):
        shutil.rmtree(root / "build", ignore_errors=True)
        prepare(root, train=shapes.make_train(balance=kind))
        ran = shapes.run_script(root, "train.py")
        assert ran.status == 0, ran.output
        learnt.append(torch.load(root / "build/shapes/train/model.pth", weights_only=True)["fc.weight"])
    assert torch.equal(learnt[0], learnt[1])
    assert not torch.equal(learnt[0], learnt[2])


def test_the_sampler_draws_every_class_alike(root: Path) -> None:
    """A tenth of the images becomes about half of an epoch; the weights of the loss are its inverse shares."""
    shapes.write_scripts(shapes.make_project(train=shapes.make_train(balance="sampler")), root)
    (root / "generated/shapes/draw.py").write_text(DRAW, encoding="utf-8")
    drawn, weights = shapes.run_script(root, "draw.py").output.split(maxsplit=1)
    assert 35 <= int(drawn) <= 65
    assert json.loads(weights) == pytest.approx([100 / 180, 5.0])
