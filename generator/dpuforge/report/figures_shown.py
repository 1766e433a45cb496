"""How a figure of the report's document is shown: the same text in Markdown and HTML, with its place there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

DASH = "–"
_WHOLE = 100.0  # from here on decimals only distract


def format_figure(value: Any, unit: str = "") -> str:
    """Return a number with at most two decimals, a band as "mid (low to high)", or a dash where there is none."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        low, mid, high = (format_figure(item) for item in value)
        return f"{mid}{unit} ({low} to {high})"
    text = _shorten(value) if isinstance(value, float) else str(value)
    return text + unit


def _shorten(value: float) -> str:
    """Return two decimals; a small number keeps two significant digits, a large one has no decimals."""
    if abs(value) >= _WHOLE:
        return f"{value:.0f}"
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.2f}".rstrip("0").rstrip(".")


def format_interval(bounds: Sequence[float] | None, unit: str = "") -> str:
    """Return an interval as "low to high", or a dash where there is none."""
    return " to ".join(format_figure(bound) for bound in bounds) + unit if bounds else DASH


def escape_cell(text: Any) -> str:
    """Return a text that stays within one cell of a Markdown table and is shown as it is."""
    return " ".join(str(text).split()).replace("|", "\\|")


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown, an empty one after it."""
    cells = [columns, ("---",) * len(columns), *rows]
    return ["| " + " | ".join(map(escape_cell, row)) + " |" for row in cells] + [""]


class Figures:
    """Shows figures of a document by their place in it: in HTML as <data> with value and place, in Markdown as text."""

    def __init__(self, document: Mapping[str, Any], in_html: bool) -> None:
        self._document, self._in_html = document, in_html

    def look_up(self, place: Sequence[str | int]) -> Any:
        """Return the value at a place, None where it does not exist."""
        value: Any = self._document
        for step in place:
            if isinstance(value, Mapping):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def at(self, *place: str | int, unit: str = "") -> str:
        """Return the figure at a place: /boards/KV260/fps_estimate is at("boards", "KV260", "fps_estimate")."""
        return self._show(place, format_figure(self.look_up(place), unit))

    def interval(self, *place: str | int, unit: str = "") -> str:
        """Return the interval at a place."""
        return self._show(place, format_interval(self.look_up(place), unit))

    def _show(self, place: Sequence[str | int], text: str) -> str:
        if not self._in_html:
            return text
        value = json.dumps(self.look_up(place), ensure_ascii=False)
        return Markup('<data value="{}" data-place="{}">{}</data>').format(value, point(place), text)


def point(place: Sequence[str | int]) -> str:
    """Return a place as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in place)
