"""How the command line speaks: results on stdout, messages on stderr, colour only where it is wanted.

The one module that uses Rich: text is printed as it is, so that square brackets and :words: in it are no markup.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    import click
    from rich.console import Console
    from rich.progress import Progress, TextColumn

_colour = "auto"


def set_colour(mode: str) -> None:
    """Choose "auto" (colour on a terminal unless NO_COLOR is set) or "never"."""
    global _colour
    _colour = mode


def is_coloured(stream: Any) -> bool:
    """Say whether stream may carry colours."""
    return _colour == "auto" and not os.environ.get("NO_COLOR") and stream.isatty()


class PlainCommand(TyperCommand):
    """A command whose --help shows [default: 1] as it is; Typer escapes the bracket for Rich even without markup."""

    def get_help(self, ctx: click.Context) -> str:
        """Return the help text."""
        return super().get_help(ctx).replace("\\[", "[")


class PlainGroup(TyperGroup):
    """A group of commands whose --help is as plain."""

    def get_help(self, ctx: click.Context) -> str:
        """Return the help text."""
        return super().get_help(ctx).replace("\\[", "[")


def _make_console(stderr: bool) -> Console:
    """Return a Rich console on stderr (messages) or stdout (tables that were asked for)."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 160
    plain = not is_coloured(stream)
    return Console(
        stderr=stderr, no_color=plain, width=width, highlight=False, soft_wrap=True, markup=False, emoji=False
    )


def make_progress(live: bool = True, transient: bool = False) -> Progress:
    """Return a progress display on stderr; its tasks have a description, a total and a field `note`.

    Without live nothing is shown; with transient it vanishes at its end.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), _make_column("{task.description}"), BarColumn(20), MofNCompleteColumn())
    note = _make_column("{task.fields[note]}")
    console = _make_console(stderr=True)
    return Progress(*columns, TimeElapsedColumn(), note, console=console, disable=not live, transient=transient)


def _make_column(text: str) -> TextColumn:
    from rich.progress import TextColumn

    return TextColumn(text, markup=False)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout and nothing else."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_message(text: str) -> None:
    """Print a message on stderr."""
    sys.stderr.write(f"{text}\n")


_WORD_COLOURS = {
    "create": "32",
    "update": "33",
    "prune": "31",
    "identical": "2",
    "done": "32",
    "failed": "31",
    "skipped": "33",
    "fresh": "2",
    "shared": "2",
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
    _make_console(stderr=False).print(table)
