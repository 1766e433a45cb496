"""The second table of docs/fidelity.md is what the emulator gives today."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fidelity.runner import PAGE
from tests.fidelity.training import compare_recorded, find_trainings
from tests.fidelity.training_page import format_row, read_rows


def marks_of(row: str) -> list[str]:
    """Return the cells but the last; how near a float sum comes may vary with the processor."""
    return [cell.replace("~", "yes") for cell in row.split(" | ")[:-1]]


@pytest.mark.slow
def test_the_page_tells_every_training_as_it_is(golden: Path) -> None:
    """Each recorded training and partial network has its row in docs/fidelity.md, and the row holds."""
    folders = find_trainings(golden)
    assert folders
    rows = read_rows(PAGE.read_text(encoding="utf-8"))
    assert sorted(rows) == sorted(folder.name for folder in folders)
    found = [(format_row(compare_recorded(folder)), rows[folder.name]) for folder in folders]
    wrong = [f"{row}\n   page: {page}" for row, page in found if marks_of(row) != marks_of(page)]
    assert not wrong, "write the page anew: python -m tests.fidelity.training_page GOLDEN\n" + "\n".join(wrong)
