"""Comparing and writing generated/<project>/: every kind of difference is found, and writing is all or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dpuforge.errors import HandEditsError
from dpuforge.records.files import Cause, Change, Edits, RenderedFile, hash_text
from dpuforge.render import folder as folder_module
from dpuforge.render.folder import compare_folder, format_diff, write_folder


def add_manifest(*files: RenderedFile, spec: str = "one", templates: str = "one") -> tuple[RenderedFile, ...]:
    """Return files with a manifest that lists them, made from that spec and those templates."""
    digests = {file.path: hash_text(file.text) for file in files}
    manifest = json.dumps({"spec": spec, "templates": templates, "files": digests})
    return (*files, RenderedFile("manifest.json", manifest))


SCRIPT = RenderedFile("boards/KV260/compile.sh", "#!/bin/sh\n", executable=True)
FILES = add_manifest(SCRIPT, RenderedFile("train.py", "x = 1\n"))
NEWER = (SCRIPT, RenderedFile("train.py", "x = 3\n"))


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
    write_folder(FILES, folder, edits=Edits.OVERWRITE)
    (folder / "extra" / "deep.txt").parent.mkdir()
    (folder / "extra" / "deep.txt").write_text("")
    assert found(folder) == {"extra/deep.txt": Change.PRUNE}
    write_folder(FILES, folder, edits=Edits.OVERWRITE)
    assert not (folder / "extra").exists()
    (folder / "boards/KV260/compile.sh").chmod(0o644)
    assert found(folder) == {"boards/KV260/compile.sh": Change.UPDATE}
    write_folder(FILES, folder)
    (folder / "train.py").chmod(0o755)
    assert found(folder) == {"train.py": Change.UPDATE}
    (folder / "train.py").write_bytes(b"\xff\xfe")
    assert found(folder) == {"train.py": Change.UPDATE}
    write_folder(FILES, folder, edits=Edits.OVERWRITE)
    assert found(folder) == {}


def test_a_folder_of_strangers_is_refused_untouched(tmp_path: Path) -> None:
    """A folder with files and no manifest was not made by dpuforge; nothing in it is touched."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(HandEditsError, match=r"thesis\.txt: not made by dpuforge"):
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


def cause(files: tuple[RenderedFile, ...], folder: Path, path: str = "train.py") -> Cause:
    return next(change.cause for change in compare_folder(files, folder) if change.path == path)


def test_every_difference_has_its_cause(folder: Path) -> None:
    """A new spec, new templates, both, neither, a person's edit and a person's deletion are told apart."""
    assert cause(add_manifest(*NEWER, spec="two"), folder) is Cause.SPEC
    assert cause(add_manifest(*NEWER, templates="two"), folder) is Cause.TEMPLATES
    assert cause(add_manifest(*NEWER, spec="two", templates="two"), folder) is Cause.BOTH
    assert cause(add_manifest(*NEWER), folder) is Cause.DPUFORGE
    (folder / "train.py").write_text("x = 2\n")
    assert cause(add_manifest(*NEWER, spec="two"), folder) is Cause.EDITED
    (folder / "train.py").unlink()
    assert cause(FILES, folder) is Cause.DELETED


def edit_by_hand(folder: Path) -> dict[str, bytes]:
    """Edit a generated file and add two of one's own; return what is to survive."""
    (folder / "train.py").write_text("x = 2  # mine\n")
    (folder / "notes.md").write_text("mine")
    (folder / "boards/KV260/plot.png").write_bytes(b"\xff\x00")
    return {path: (folder / path).read_bytes() for path in ("train.py", "notes.md", "boards/KV260/plot.png")}


def read_all(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_persons_work_stops_a_write_before_it_begins(folder: Path) -> None:
    """An edit and a foreign file are named, and no file is touched, those of dpuforge neither."""
    edit_by_hand(folder)
    before = read_all(folder)
    with pytest.raises(HandEditsError) as caught:
        write_folder(add_manifest(*NEWER, spec="two"), folder)
    for words in ("train.py: edited by hand", "notes.md: not made by dpuforge", "plot.png: not made", "--keep"):
        assert words in str(caught.value)
    assert read_all(folder) == before


def test_keeping_leaves_a_persons_work_and_writes_the_rest(folder: Path) -> None:
    """--keep: what was edited stays, is named again the next time, and everything else is brought in step."""
    mine = edit_by_hand(folder)
    (folder / SCRIPT.path).unlink()
    changes = write_folder(add_manifest(*NEWER), folder, edits=Edits.KEEP)
    assert {change.path for change in changes if change.change is Change.KEEP} == set(mine)
    assert mine.items() <= read_all(folder).items()
    assert (folder / SCRIPT.path).read_text() == SCRIPT.text
    with pytest.raises(HandEditsError, match="edited by hand"):
        write_folder(add_manifest(*NEWER), folder)


def test_overwriting_moves_a_persons_work_aside(folder: Path, tmp_path: Path) -> None:
    """--overwrite: the folder is in step, and every byte of the person's lies in the other one, twice over too."""
    for _ in range(2):
        mine = edit_by_hand(folder)
        write_folder(FILES, folder, edits=Edits.OVERWRITE, aside=tmp_path / "aside")
        assert found(folder) == {}
    kept = list(read_all(tmp_path / "aside").values())
    assert sorted(kept) == sorted([*mine.values(), *mine.values()])


def test_a_folder_in_a_files_place_is_a_persons(folder: Path, tmp_path: Path) -> None:
    """A folder that stands where a file belongs goes aside whole."""
    (folder / "train.py").unlink()
    (folder / "train.py").mkdir()
    (folder / "train.py/mine.txt").write_text("mine")
    with pytest.raises(HandEditsError, match=r"train\.py"):
        write_folder(FILES, folder)
    write_folder(FILES, folder, edits=Edits.OVERWRITE, aside=tmp_path / "aside")
    assert found(folder) == {}
    assert list(read_all(tmp_path / "aside").values()) == [b"mine"]


def test_line_ends_of_another_system_are_no_edit(folder: Path) -> None:
    """A checkout that turned every line end into two bytes is dpuforge's own and written anew."""
    (folder / "train.py").write_bytes(b"x = 1\r\n")
    assert cause(FILES, folder) is Cause.DPUFORGE
    write_folder(FILES, folder)
    assert found(folder) == {}


@pytest.mark.parametrize("name", [".DS_Store", "train.py~", ".train.py.swp", "__pycache__/train.pyc", ".vscode/x.json"])
def test_what_tools_leave_is_in_no_ones_way(folder: Path, name: str) -> None:
    """Caches and editors' files neither stop a write nor are they removed."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    write_folder(add_manifest(*NEWER), folder)
    assert (folder / name).exists()


@pytest.mark.parametrize("text", ["<<<<<<< ours\n{}\n", "[]", "", '{"files": []}'])
def test_a_broken_manifest_makes_no_file_ours(folder: Path, text: str) -> None:
    """Where the manifest cannot be read (a merge left its marks), what differs is refused, what is alike is not."""
    (folder / "manifest.json").write_text(text)
    write_folder(FILES, folder)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(HandEditsError, match=r"train\.py: not made by dpuforge"):
        write_folder(add_manifest(*NEWER), folder)


def kill_write(files: tuple[RenderedFile, ...], folder: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write files and be killed after so many."""
    write, written = folder_module._write_file, []

    def write_some(file: RenderedFile, path: Path) -> None:
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path.name)
        write(file, path)

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "_write_file", write_some)
        with pytest.raises(KeyboardInterrupt):
            write_folder(files, folder)


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("second", [1, 2])
def test_killed_writes_are_known_as_our_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    """Two writes are killed between files while the spec goes on changing: nothing they wrote is a person's edit."""
    kill_write(add_manifest(RenderedFile("a.py", "a = 1\n"), *NEWER), folder, first, monkeypatch)
    kill_write(add_manifest(SCRIPT, RenderedFile("train.py", "x = 4\n")), folder, second, monkeypatch)
    write_folder(add_manifest(SCRIPT, RenderedFile("train.py", "x = 5\n")), folder)
    assert sorted(read_all(folder)) == ["boards/KV260/compile.sh", "manifest.json", "train.py"]
    assert (folder / "train.py").read_text() == "x = 5\n"


def test_a_removed_board_is_pruned_though_its_folder_was_copied(folder: Path, tmp_path: Path) -> None:
    """A folder that came by copy or checkout is known by its content, not by when or where it was written."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    write_folder(add_manifest(FILES[1]), copy)
    assert sorted(read_all(copy)) == ["manifest.json", "train.py"]


def test_a_diff_reads_from_disk_to_plan(folder: Path) -> None:
    """The diff shows what generate would do."""
    (folder / "train.py").write_text("x = 2\n")
    text = format_diff(compare_folder(FILES, folder), "demo")
    assert "update demo/train.py" in text
    assert "-x = 2\n+x = 1\n" in text
    assert "manifest" not in text
