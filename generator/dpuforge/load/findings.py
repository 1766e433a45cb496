"""The nouns of load: where a value stands in a file, and what is wrong with it before it is located and printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

Path = tuple[str | int, ...]
MAX_SHOWN = 60


@dataclass(frozen=True)
class Place:
    """Where a value (and its key, if it has one) stands; lines and columns count from 1."""

    file: str
    line: int
    column: int
    key_line: int = 0
    key_column: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """Line and column of the key, or of the value where there is no key."""
        return (self.key_line, self.key_column) if self.key_line else (self.line, self.column)


@dataclass(frozen=True)
class Finding:
    """A mistake before it is located: at_key points to the key instead of the value; place overrides the search."""

    path: Path
    message: str
    help: str = ""
    severity: str = "error"
    at_key: bool = False
    place: Place | None = None


def find_close(value: object, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Return the known name that a value is most like, [] where it is like none; a long text is like none."""
    text = str(value)
    return get_close_matches(text, list(known), 1, cutoff) if len(text) <= MAX_SHOWN else []


def show_value(value: object) -> str:
    """Return a value for an error message, on one line and cut to a readable length."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif value is None:
        text = "null"
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {show_value(item)}" for key, item in list(value.items())[:8]) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(show_value(item) for item in value[:8]) + "]"
    else:
        text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
