"""What can go wrong in AMD's tools and in container engines, from the table faults.yaml: cause, spec keys, remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PREFIX = "QUANTIZER_TORCH_"
_TABLE = Path(__file__).with_name("faults.yaml")
_KILLED = 137  # 128 + SIGKILL
_ENGINE_CODES = (125, 126, 127)  # docker's and podman's own


@dataclass(frozen=True)
class Fault:
    """One row of the table: what is known of a code, or of a line that pattern finds; number None where unknown."""

    cause: str
    remedy: str
    keys: tuple[str, ...] = ()
    code: str = ""
    severity: str = ""
    number: int | None = None
    pattern: str = ""

    def __str__(self) -> str:
        return f"{self.cause}; {self.remedy}"


@dataclass(frozen=True)
class Found:
    """A row that a log matched: the line that shows it, and the row with the line's own words filled in."""

    line: str
    fault: Fault


@cache
def _read_table() -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    table: dict[str, Any] = yaml.load(_TABLE.read_text(encoding="utf-8"), Loader=loader)
    return table


@cache
def read_rows(section: str) -> tuple[Fault, ...]:
    """Return the rows of a section: quantizer, compiler, ends or engine."""
    return tuple(Fault(**{**row, "keys": tuple(row.get("keys", ()))}) for row in _read_table()[section])


def find_code(code: str, severity: str) -> Fault | None:
    """Return the row of a quantizer's code: that of its severity where there are two of one name."""
    name = code.removeprefix(PREFIX)
    rows = [row for row in read_rows("quantizer") if row.code == name]
    return next((row for row in rows if row.severity == severity), rows[0] if rows else None)


def find_uncoded(text: str) -> Fault | None:
    """Return the row of a quantizer's error that carries no code, by its words."""
    for row in _read_table()["uncoded"]:
        if re.search(row["pattern"], text):
            return find_code(row["code"], "error")
    return None


def match_rows(section: str, text: str) -> tuple[Found, ...]:
    """Return the rows of a section that a text matches, in the table's order, each at its first line."""
    found = ((row, re.search(row.pattern, text, re.MULTILINE)) for row in read_rows(section))
    return tuple(_fill(row, match, text) for row, match in found if match)


def _fill(row: Fault, match: re.Match[str], text: str) -> Found:
    words = match.groups()
    filled = Fault(row.cause.format(*words), row.remedy.format(*words), row.keys, pattern=row.pattern)
    return Found(line_of(text, match.start()), filled)


def line_of(text: str, position: int) -> str:
    """Return the line of a text that holds a position."""
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else len(text)].strip()


def explain_engine(text: str) -> str:
    """Return the cause and the remedy of what an engine said, "" where nothing is known of it."""
    found = match_rows("engine", text)
    return str(found[0].fault) if found else ""


def explain_container(code: int, log: str, out_of_memory: bool, memory_gb: float | None, image: str) -> str:
    """Return why a container ended with code, "" where it was the stage in it that failed.

    out_of_memory is what the engine says of its end, memory_gb the spec's limit.
    """
    if out_of_memory or code == _KILLED:
        limit = f"the limit of {memory_gb:g} GB" if memory_gb else "the machine's memory"
        why = f"memory ran out: the container was killed at {limit}"
        if not out_of_memory:
            why = f"killed from outside (exit code 137), most often because memory ran out: {limit}"
        return f"{why}; raise run.container.memory_gb, or lower batch_size or --jobs"
    if code in _ENGINE_CODES or code < 0:
        last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "it said nothing")
        return f"the container of {image} did not start, or its engine ended: {explain_engine(log) or last}"
    return ""


def look_up(word: str) -> tuple[Fault, ...]:
    """Return the rows that a word names: a code with or without its prefix, its number, or a code of the compiler."""
    name = word.strip().upper().removeprefix(PREFIX)
    return tuple(_matching(name))


def _matching(name: str) -> Iterator[Fault]:
    for row in read_rows("quantizer"):
        if name in (row.code, str(row.number)):
            yield row
    if "_" in name and not name.isdigit():
        for row in read_rows("compiler"):
            if re.search(rf"\b{re.escape(name)}\b", row.pattern) or re.search(row.pattern, name):
                words = (name,) if re.compile(row.pattern).groups else ()
                yield Fault(
                    row.cause.format(*words, "", ""), row.remedy.format(*words, "", ""), row.keys, name, "error"
                )


def list_codes() -> Iterable[str]:
    """Return the codes of the quantizer, for a message on one that is not known."""
    return sorted({row.code for row in read_rows("quantizer")})
