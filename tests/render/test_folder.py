"""Comparing and writing generated/<project>/: every kind of difference is found, and writing is all or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpuforge.errors import UsageError
from dpuforge.records.files import Change, RenderedFile
from dpuforge.render.folder import compare_folder, format_diff, write_folder

FILES = (
    RenderedFile("boards/KV260/compile.sh", "#!/bin/sh\n", executable=True),
    RenderedFile("manifest.json", "{}\n"),
    RenderedFile("train.py", "x = 1\n"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in step with FILES."""
    write_folder(FILES, tmp_path / "out")
    return tmp_path / "out"


def found(folder: Path) -> dict[str, Change]:
    return {c.path: c.change for c in compare_folder(FILES, folder) if c.change is not Change.IDENTICAL}


def test_writing_twice_changes_nothing(folder: Path) -> None:
    """The second write says identical for every file and leaves time stamps alone."""
    before = (folder / "train.py").stat().st_mtime_ns
    assert {change.change for change in write_folder(FILES, folder)} == {Change.IDENTICAL}
    assert (folder / "train.py").stat().st_mtime_ns == before


def test_each_kind_of_difference_is_found(folder: Path) -> None:
    """Edited, missing, extra, another mode, a link, bytes that are no text: each is named."""
    assert found(folder) == {}
    (folder / "train.py").write_text("x = 2\n")
    assert found(folder) == {"train.py": Change.UPDATE}
    (folder / "train.py").unlink()
    assert found(folder) == {"train.py": Change.CREATE}
    (folder / "train.py").symlink_to(folder / "manifest.json")
    assert found(folder) == {"train.py": Change.UPDATE}
    write_folder(FILES, folder)
    (folder / "extra" / "deep.txt").parent.mkdir()
    (folder / "extra" / "deep.txt").write_text("")
    assert found(folder) == {"extra/deep.txt": Change.PRUNE}
    write_folder(FILES, folder)
    assert not (folder / "extra").exists()
    (folder / "boards/KV260/compile.sh").chmod(0o644)
    assert found(folder) == {"boards/KV260/compile.sh": Change.UPDATE}
    write_folder(FILES, folder)
    (folder / "train.py").chmod(0o755)
    assert found(folder) == {"train.py": Change.UPDATE}
    (folder / "train.py").write_bytes(b"\xff\xfe")
    assert found(folder) == {"train.py": Change.UPDATE}
    write_folder(FILES, folder)
    assert found(folder) == {}


def test_a_folder_of_strangers_is_refused_untouched(tmp_path: Path) -> None:
    """A folder with files and no manifest was not made by dpuforge; nothing in it is touched."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        write_folder(FILES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_killed_write_left_is_cleaned_up(tmp_path: Path) -> None:
    """Half a file from a killed first run is no stranger: the next write removes it."""
    (tmp_path / ".train.py.partial").write_text("x =")
    write_folder(FILES, tmp_path)
    assert found(tmp_path) == {}


def test_boards_left_alone_are_neither_written_nor_pruned(tmp_path: Path) -> None:
    """generate --board touches the shared files and that board only."""
    write_folder(FILES, tmp_path, ("boards/KV260/",))
    assert found(tmp_path) == {"boards/KV260/compile.sh": Change.CREATE}
    write_folder(FILES, tmp_path)
    write_folder(FILES[1:], tmp_path, ("boards/KV260/",))
    assert found(tmp_path) == {}


def test_a_diff_reads_from_disk_to_plan(folder: Path) -> None:
    """The diff shows what generate would do."""
    (folder / "train.py").write_text("x = 2\n")
    text = format_diff(compare_folder(FILES, folder), "demo")
    assert "update demo/train.py" in text
    assert "-x = 2\n+x = 1\n" in text
    assert "manifest" not in text
