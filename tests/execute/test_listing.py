"""What makes the stage that reads the images stale: every change of a file, also behind links and in CSV files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dpuforge.execute.staleness import describe_inputs
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.plan import PlannedStage

PLACE = ToolchainPlace("emulator", "python", {}, {})


def list_data(root: Path, folder: str = "data") -> str:
    """Return what stands for the data in a stage's key."""
    stage = PlannedStage("prepare", "python", ("prepare.py",), (), folders=(folder,))
    return str(describe_inputs(stage, PLACE, root, root, {})["folders"][folder])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images: one in the data folder, one behind a link to a folder, and a link to a file."""
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data/a/one.png").write_bytes(b"one")
    (tmp_path / "elsewhere/two.png").write_bytes(b"two")
    (tmp_path / "three.png").write_bytes(b"three")
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/three.png").symlink_to(tmp_path / "three.png")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/a/gone.png").symlink_to("nothing.png")
    return tmp_path


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file": lambda root: (root / "data/a/one.png").write_bytes(b"other"),
    "behind a folder's link": lambda root: (root / "elsewhere/two.png").write_bytes(b"other"),
    "behind a file's link": lambda root: (root / "three.png").write_bytes(b"other"),
    "a new file behind a link": lambda root: (root / "elsewhere/new.png").write_bytes(b"new"),
    "a broken link that leads somewhere": lambda root: (root / "data/a/nothing.png").write_bytes(b"new"),
    "a name in no encoding": lambda root: open(os.fsencode(root) + b"/data/a/caf\xe9.png", "w").close(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_images_is_noticed(root: Path, change: str) -> None:
    """Loops and broken links end, and a change anywhere behind a link changes the listing."""
    before = list_data(root)
    assert list_data(root) == before
    CHANGES[change](root)
    assert list_data(root) != before


@pytest.mark.parametrize("name", ["data/a/one.png", "table.csv", "elsewhere/two.png"])
def test_a_csv_file_stands_for_the_images_that_it_names(root: Path, name: str) -> None:
    """The table and every image of it count, relative to the table or to the root; other files do not."""
    (root / "data/table.csv").write_text("path;label\na/one.png;a\nelsewhere/two.png;b\n", encoding="utf-8")
    before = list_data(root, "data/table.csv")
    (root / "three.png").write_bytes(b"not named")
    assert list_data(root, "data/table.csv") == before
    target = root / ("data/table.csv" if name == "table.csv" else name)
    target.write_bytes(target.read_bytes() + b"\n")
    assert list_data(root, "data/table.csv") != before


def test_data_that_do_not_exist_are_listed_too(root: Path) -> None:
    """A folder that is not there, and one that appears, are two listings."""
    before = list_data(root, "later")
    (root / "later").mkdir()
    (root / "later/x.png").write_bytes(b"x")
    assert list_data(root, "later") != before
