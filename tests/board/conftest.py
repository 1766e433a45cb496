"""Fixtures: a loopback board, and projects that a run has left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.board.loopback import SSHD, WHY_NOT, Loopback
from tests.board.small_project import make_project


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Loopback]:
    """Return a running sshd that stands for a board; skip where there is no sshd."""
    if SSHD is None:
        pytest.skip(WHY_NOT)
    board = Loopback(tmp_path / "loopback")
    board.folder.mkdir()
    board.prepare()
    board.start()
    yield board
    board.stop()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a small project whose stages up to deploy have run."""
    make_project(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def large_project(tmp_path: Path) -> Path:
    """Return the same with tens of megabytes to copy."""
    make_project(tmp_path / "project", filler=True)
    return tmp_path / "project"
