"""Fixtures of the tests that run generated scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import shapes_project as shapes


@pytest.fixture(scope="session", autouse=True)
def _zygote() -> Iterator[None]:
    yield
    if shapes.start_zygote.cache_info().currsize:
        shapes.stop_zygote()


@pytest.fixture(scope="session")
def network_source() -> str:
    """Return a tiny network with batch-norm and dropout, as a user would write one."""
    return (shapes.HERE / "tiny_network.py").read_text(encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path, network_source: str) -> Path:
    """Return a project root with striped images and a network file."""
    shapes.write_stripes(tmp_path)
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "tiny.py").write_text(network_source, encoding="utf-8")
    return tmp_path
