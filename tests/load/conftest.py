"""A project folder to write specs into, and the smallest spec that is good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dpuforge.errors import Problem
from dpuforge.load.load_spec import validate_file

GOOD = """\
project: demo
model: {backbone: resnet18}
classes: 3
data: {train: d/train, validation: d/val, test: d/test}
target: {boards: [KV260]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty project folder, so that messages show short relative paths."""
    (tmp_path / "spec").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Callable[..., Path]:
    """Return a function that writes a spec (or another file of spec/) and returns its relative path."""

    def write_file(text: str | bytes, name: str = "demo.yaml") -> Path:
        path = Path("spec") / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


@pytest.fixture
def validate(write: Callable[..., Path]) -> Callable[[str | bytes], tuple[Problem, ...]]:
    """Return a function that writes a spec and returns its problems."""
    return lambda text: validate_file(write(text))
