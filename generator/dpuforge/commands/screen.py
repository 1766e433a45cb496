"""How the command line speaks: results on stdout, messages on stderr, colour only where it is wanted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_colour = "auto"


def set_colour(mode: str) -> None:
    """Choose "auto" (colour on a terminal unless NO_COLOR is set) or "never"."""
    global _colour
    _colour = mode


def is_coloured(stream: Any) -> bool:
    """Say whether stream may carry colours."""
    return _colour == "auto" and not os.environ.get("NO_COLOR") and stream.isatty()


def make_console(stderr: bool = True) -> Console:
    """Return a Rich console on stderr (messages) or stdout (tables that were asked for)."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 160
    return Console(stderr=stderr, no_color=not is_coloured(stream), width=width, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout and nothing else."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_message(text: str) -> None:
    """Print a message on stderr."""
    print(text, file=sys.stderr)


_WORD_COLOURS = {
    "create": "32",
    "update": "33",
    "prune": "31",
    "identical": "2",
    "done": "32",
    "failed": "31",
    "skipped": "33",
    "fresh": "2",
}


def paint(word: str, width: int = 0) -> str:
    """Return a word of ours, padded, in its colour where stdout is a terminal."""
    code = _WORD_COLOURS.get(word, "")
    return f"\x1b[{code}m{word:<{width}}\x1b[0m" if code and is_coloured(sys.stdout) else f"{word:<{width}}"


def print_table(title: str, headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout."""
    from rich import box
    from rich.table import Table

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    make_console(stderr=False).print(table)
