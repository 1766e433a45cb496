"""Writes the second table of docs/fidelity.md anew: python -m tests.fidelity.training_page GOLDEN [--show NAME...]."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tests.fidelity.runner import PAGE
from tests.fidelity.training import Figures, compare_recorded, find_trainings

_BEGIN, _END = "<!-- training table -->", "<!-- end of training table -->"
COLUMNS = (
    "begins", "first output", "gradients", "losses", "thresholds", "trained", "positions", "deployed", "files",
    "exports", "log",
)  # fmt: skip


def format_row(row: Figures) -> str:
    """Return one recording's row."""
    cells = [row.marks.get(column, "-") for column in COLUMNS]
    text = "; ".join(row.differences[:3]).replace("|", "\\|").replace("\n", " ")
    return f"| {row.label} | " + " | ".join(cells) + f" | {text} |"


def format_table(rows: Sequence[Figures]) -> str:
    """Return the table, one row a recording, the count last."""
    lines = ["| recording | " + " | ".join(COLUMNS) + " | what differs |", "|---" * (len(COLUMNS) + 2) + "|"]
    whole = sum(not row.differences for row in rows)
    return "\n".join([*lines, *map(format_row, rows), "", f"{whole} of {len(rows)} recordings equal in everything."])


def replace_table(page: str, table: str) -> str:
    """Return the page with the table between this table's marks replaced."""
    head, _, rest = page.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    return f"{head}{_BEGIN}\n{table}\n{_END}{tail}"


def read_rows(page: str) -> dict[str, str]:
    """Return the page's rows by recording."""
    table = page.partition(_BEGIN)[2].partition(_END)[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return {line.split("|")[1].strip(): line for line in rows}


def main() -> None:
    """Repeat every recording and put the table into the page, or show the rows named."""
    parser = argparse.ArgumentParser(prog="python -m tests.fidelity.training_page", description=__doc__)
    parser.add_argument("golden", type=Path, help="the folder that holds qat/")
    parser.add_argument("--show", nargs="+", default=[], help="only print these recordings")
    arguments = parser.parse_args()
    folders = [path for path in find_trainings(arguments.golden) if not arguments.show or path.name in arguments.show]
    table = format_table([compare_recorded(folder) for folder in folders])
    if arguments.show:
        print(table)
    else:
        PAGE.write_text(replace_table(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
