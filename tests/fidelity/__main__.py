"""Writes docs/fidelity.md anew: python -m tests.fidelity GOLDEN [--show WORD...]."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.fidelity.runner import PAGE, compare_recording, find_recordings, format_table, replace_table


def main() -> None:
    """Compare every recording and put the table into the page, or show the rows whose label holds a word."""
    parser = argparse.ArgumentParser(prog="python -m tests.fidelity", description=__doc__)
    parser.add_argument("golden", type=Path, help="the folder that holds micro/ and dense/")
    parser.add_argument("--show", nargs="+", default=[], help="only print the rows of recordings named like this")
    arguments = parser.parse_args()
    chosen = [
        recorded
        for recorded in find_recordings(arguments.golden)
        if not arguments.show or any(word in recorded.label for word in arguments.show)
    ]
    table = format_table([compare_recording(recorded) for recorded in chosen])
    if arguments.show:
        print(table)
    else:
        PAGE.write_text(replace_table(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
