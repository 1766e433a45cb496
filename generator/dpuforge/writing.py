"""The one way to write a file: whole or not at all, so that a killed run leaves the old file or the new one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside path to write to; it takes path's place when the block succeeds.

    What a failed block wrote is left under a name that ends in PARTIAL. Raises OSError, also without a folder.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    yield partial
    partial.replace(path)
