"""The table of docs/fidelity.md is what the emulator gives today."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fidelity.runner import PAGE, compare_recording, find_recordings, format_row, read_rows


def marks_of(row: str) -> list[str]:
    """Return the cells of a row but the last: how much differs may vary with the processor, what is equal may not."""
    return row.split(" | ")[:-1]


@pytest.mark.slow
def test_the_page_tells_every_recording_as_it_is(golden: Path) -> None:
    """Each recorded network has its row in docs/fidelity.md, and the row holds."""
    recordings = find_recordings(golden)
    assert recordings
    rows = read_rows(PAGE.read_text(encoding="utf-8"))
    assert sorted(rows) == sorted(recorded.label for recorded in recordings)
    found = [(format_row(compare_recording(recorded)), rows[recorded.label]) for recorded in recordings]
    wrong = [f"{row}\n   page: {page}" for row, page in found if marks_of(row) != marks_of(page)]
    assert not wrong, "write the page anew: python -m tests.fidelity GOLDEN\n" + "\n".join(wrong)
