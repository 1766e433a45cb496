"""Archives that were not made by `dpuforge pack`: what could harm whoever unpacks them is refused, unopened."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from dpuforge.errors import FormatError
from dpuforge.prove.archive import CONTENTS, verify_archive

SPEC = b"project: x\n"
MANIFEST = {"files": {"a.py": sha256(b"a = 1\n").hexdigest()}, "spec": {"sha256": sha256(SPEC).hexdigest()}}
FILES = {
    "spec/x.yaml": SPEC,
    "generated/x/a.py": b"a = 1\n",
    "generated/x/manifest.json": json.dumps(MANIFEST).encode(),
    "build/x/train/result.json": json.dumps(
        {"stage": "train", "status": "done", "scripts": MANIFEST["files"]}
    ).encode(),
}


def describe(files: dict[str, bytes]) -> bytes:
    digests = {name: sha256(content).hexdigest() for name, content in files.items()}
    return json.dumps({"dpuforge_pack": 1, "project": "x", "spec": ["spec/x.yaml"], "files": digests}).encode()


def make(
    path: Path, files: dict[str, bytes], change: Callable[[zipfile.ZipFile], object] = lambda packed: None
) -> Path:
    """Write an archive as pack does, changed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr(CONTENTS, describe(files))
        for name, content in files.items():
            packed.writestr(name, content)
        change(packed)
    return path


def add(
    name: str, mode: int = stat.S_IFREG | 0o644, how: int = zipfile.ZIP_STORED
) -> Callable[[zipfile.ZipFile], object]:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, how
    return lambda packed: packed.writestr(info, b"0" * 100_000)


def test_a_sound_archive_is_sound(tmp_path: Path) -> None:
    """Everything matches, and what is not in it is said."""
    verdict = verify_archive(make(tmp_path / "a.zip", FILES))
    assert verdict.differs == []
    assert verdict.stages == {"train": "1 digests"}
    assert "the images are not in the archive" in verdict.unseen


HOSTILE = {
    "a path out of it": add("../outside.txt"),
    "a path out of it, later": add("build/x/../../../outside.txt"),
    "an absolute path": add("/etc/cron.d/x"),
    "a home": add("~/x"),
    "a backslash": add("build\\..\\x"),
    "a drive": add("C:x"),
    "a newline": add("build/x\nrm"),
    "an empty part": add("build//x"),
    "a link": add("build/link", stat.S_IFLNK | 0o777),
    "a device": add("build/device", stat.S_IFBLK | 0o666),
    "a folder": add("build/folder/", stat.S_IFDIR | 0o755),
    "compressed zeros": add("build/bomb", how=zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path: Path, case: str) -> None:
    """Paths that lead out, links, devices, folders and compressed entries: none is opened."""
    with pytest.raises(FormatError, match="refused"):
        verify_archive(make(tmp_path / "a.zip", FILES, HOSTILE[case]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Two tools would see two files."""
    with pytest.raises(FormatError, match="twice"):
        verify_archive(make(tmp_path / "a.zip", FILES, lambda packed: packed.writestr("spec/x.yaml", b"other")))


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + b"\0" * 18, b"\x1f\x8b\x08" + b"\0" * 50])
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    """Empty, cut or other files end with exit code 2 and one line."""
    (tmp_path / "a.zip").write_bytes(content)
    command = [sys.executable, "-m", "dpuforge", "verify", str(tmp_path / "a.zip")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is no archive of `dpuforge pack`" in done.stderr
    assert "Traceback" not in done.stderr


CHANGED: dict[str, tuple[dict[str, bytes], str]] = {
    "a script": ({"generated/x/a.py": b"a = 2\n"}, "generated/x/a.py is "),
    "the spec": ({"spec/x.yaml": b"project: y\n"}, "the spec of the manifest is "),
    "a result": ({"build/x/train/result.json": b"["}, "build/x/train/result.json is damaged"),
    "deep": ({"build/x/train/result.json": b"[" * 100_000}, "build/x/train/result.json is damaged"),
    "no manifest": ({"generated/x/manifest.json": b"{}"}, "manifest.json is missing, or damaged"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_forged_part_contradicts_the_others(tmp_path: Path, case: str) -> None:
    """An archive whose list of contents was made anew is still held against manifest and results."""
    change, text = CHANGED[case]
    verdict = verify_archive(make(tmp_path / "a.zip", {**FILES, **change}))
    assert any(text in line for line in verdict.differs)


def test_a_byte_more_or_less_is_found(tmp_path: Path) -> None:
    """Contents that do not match the list, and files that are not on it, are named."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr(CONTENTS, describe({**FILES, "build/x/gone": b""}))
        for name, content in {**FILES, "generated/x/a.py": b"a = 3\n", "extra": b""}.items():
            packed.writestr(name, content)
    differs = verify_archive(path).differs
    assert any(line.startswith("build/x/gone is missing") for line in differs)
    assert any(line.startswith("generated/x/a.py is ") for line in differs)
    assert "extra is not among the contents" in differs
