"""What a folder of images holds: its splits and classes, found by the very script that prepare will use."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dpuforge.errors import UsageError

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "tst"),
}
_SCRIPT = "find_images.py"
_ANY_SPEC = """\
project: any
model: {backbone: resnet18}
classes: 2
data: {split: {from: any}}
target: {boards: [{board: CUSTOM_ZYNQMP, dpu: B4096}]}
"""


@dataclass(frozen=True)
class Images:
    """The images of one folder or CSV file, name relative to the project root; rows are (path, class)."""

    name: str
    classes: tuple[str, ...]
    rows: tuple[tuple[Path, str], ...]
    problem: str = ""

    def describe(self) -> str:
        """Return in a line what is there."""
        return f"{self.name}: {len(self.classes)} classes, {len(self.rows)} images"


@dataclass(frozen=True)
class Data:
    """Where images were found: splits by name, or the one folder (or file) that holds them all."""

    splits: Mapping[str, Images]
    whole: Images | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """The splits that have no folder."""
        return tuple(name for name in SPLITS if name not in self.splits) if self.splits else ()


@cache
def _load_script() -> dict[str, Any]:
    """Return what the generated find_images.py defines, of a project that takes any images."""
    from dpuforge import pipeline

    with TemporaryDirectory(prefix="dpuforge-") as folder:
        spec = Path(folder) / "any.yaml"
        spec.write_text(_ANY_SPEC, encoding="utf-8")
        planned = pipeline.plan(pipeline.load(spec))
    files = tuple(file for file in planned.files if file.path == _SCRIPT)
    text = next(file.text for file in pipeline.render(replace(planned, files=files)) if file.path == _SCRIPT)
    defined: dict[str, Any] = {"__name__": "find_images"}
    exec(compile(text, _SCRIPT, "exec"), defined)
    return defined


def read_data(root: Path, name: str) -> Data | None:
    """Return what lies at a path relative to the project root, None where nothing does.

    A folder that holds nothing but one folder of folders, as archives leave it, stands for that one. Raises UsageError
    where what is there cannot be used.
    """
    path = root / name
    if not path.exists():
        return None
    inside = _enter(path) if path.is_dir() else path
    name = name if inside == path else Path(os.path.relpath(inside, root)).as_posix()
    found = _find_splits(inside) if inside.is_dir() else {}
    if not found:
        return Data({}, _refuse_useless(_read(root, name), inside))
    splits = {split: _refuse_useless(_read(root, f"{name}/{entry}"), inside) for split, entry in found.items()}
    return Data(splits)


def _folders(path: Path) -> list[Path]:
    hidden: Callable[[str], bool] = _load_script()["is_hidden"]
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not hidden(entry.name))


def _enter(path: Path) -> Path:
    for _ in range(3):
        inside = _folders(path)
        files = any(entry.is_file() and not entry.name.startswith(".") for entry in path.iterdir())
        if files or len(inside) != 1 or not _folders(inside[0]):
            break
        path = inside[0]
    return path


def _find_splits(path: Path) -> dict[str, str]:
    """Return {split: folder} where folders of a path are called as splits are; train and one other at least."""
    names = {entry.name.lower(): entry.name for entry in _folders(path)}
    found = {split: names[known] for split, aliases in SPLITS.items() for known in [*aliases] if known in names}
    return found if "train" in found and len(found) > 1 else {}


def _read(root: Path, name: str) -> Images:
    source = _load_script()["read_source"]("data", root, name)
    return Images(name, tuple(source.classes), tuple(source.images), source.problem)


def _refuse_useless(images: Images, around: Path) -> Images:
    """Return images that a classifier can learn from; raise UsageError that says what is wrong with others."""
    remedy = "expected is one folder a class with images in it, or a CSV file with a path and a label a row"
    if images.problem:
        raise UsageError(images.problem, remedy)
    if len(images.classes) < 2:
        raise UsageError(f"{images.name} has {len(images.classes)} class folders, at least two are needed", remedy)
    filled = {label for _, label in images.rows}
    empty = [name for name in images.classes if name not in filled]
    if empty:
        shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise UsageError(f"{images.name} has class folders without an image: {shown}", remedy)
    if _splits_lie_inside(images, around):
        what = f"{images.name}: every class folder has train and test folders of its own"
        raise UsageError(what, "turn it round, train/<class> and test/<class>, or name the splits by CSV files")
    return images


def _splits_lie_inside(images: Images, around: Path) -> bool:
    """Tell <class>/train/<image> from <class>/<image>: taken as it is, it would be split anew without a word."""
    first = around / images.classes[0]
    return first.is_dir() and all(_find_splits(around / name) for name in images.classes if (around / name).is_dir())


def compare_classes(splits: Mapping[str, Images]) -> str:
    """Return how the classes of the splits differ from those of train, "" where they do not."""
    expected = set(splits["train"].classes)
    for images in splits.values():
        lacking, extra = sorted(expected - set(images.classes)), sorted(set(images.classes) - expected)
        if lacking or extra:
            return f"{images.name} has not the classes of train: missing {lacking[:5]}, not in train {extra[:5]}"
    return ""


def write_list(root: Path, name: str, splits: Mapping[str, Images]) -> str:
    """Return the text of a CSV file, to lie at name, that lists the images of all splits; nothing is moved.

    Raises UsageError where a file's name cannot stand in a list.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label"))
    for images in splits.values():
        for path, label in images.rows:
            shown = Path(os.path.relpath(path, (root / name).parent)).as_posix()
            if not shown.isprintable() or shown != shown.strip():
                raise UsageError(f"{shown!r} cannot stand in a CSV file", "rename the file")
            writer.writerow((shown, label))
    return text.getvalue()
