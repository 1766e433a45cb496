"""Joins what went wrong in a log with the spec: cause, the key and line that lead there, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dpuforge.errors import UsageError
from dpuforge.execute.compile_log import find_failures
from dpuforge.execute.faults import PREFIX, Fault, list_codes, look_up
from dpuforge.execute.log_scan import scan_log
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.load_spec import load_project
from dpuforge.records.origin import Origin

_MOST = 6  # faults told of one log


def explain_code(word: str, spec: Path | None = None) -> list[dict[str, Any]]:
    """Return a row for each fault that a code or number names; with a spec, where it says what leads there.

    Raises UsageError for a word that is no code.
    """
    found = look_up(word)
    if not found:
        close = get_close_matches(word.upper().removeprefix(PREFIX), list_codes(), 3, 0.6)
        remedy = f"did you mean {' or '.join(close)}?" if close else "codes stand in the log: [QUANTIZER_TORCH_<code>]"
        raise UsageError(f"{word} is neither a spec nor a code on record", remedy)
    origins = _read_origins(spec) if spec else {}
    return [_describe(fault, origins) for fault in found]


def explain_log(spec: Path, log: Path) -> list[str]:
    """Return the lines that explain a failed stage: errors before warnings, each code once."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    faults = list(dict.fromkeys(_find_faults(text)))[:_MOST]
    origins = _read_origins(spec) if faults else {}
    return [line for fault in faults for line in format_row(_describe(fault, origins))]


def _find_faults(text: str) -> Iterator[Fault]:
    found = sorted(scan_log(text), key=lambda item: item.severity != "ERROR")
    yield from (item.fault for item in found if item.fault)
    yield from (Fault(item.cause, item.remedy, item.keys) for item in find_failures(text))


def format_row(row: Mapping[str, Any]) -> list[str]:
    """Return a row as lines to read."""
    number = f" ({row['number']})" if row["number"] else ""
    head = f"{row['severity']} {row['code']}{number}: " if row["code"] else ""
    lines = [f"{head}{row['cause']}"]
    if row["keys"]:
        lines.append(f"  leads there: {', '.join(_show_key(key) for key in row['keys'])}")
    return [*lines, f"  what to do: {row['remedy']}"]


def _show_key(key: Mapping[str, str]) -> str:
    return f"{key['key']} ({key['where']})" if key["where"] else key["key"]


def _describe(fault: Fault, origins: Mapping[str, Origin]) -> dict[str, Any]:
    return {
        "code": fault.code,
        "severity": fault.severity,
        "number": fault.number,
        "cause": fault.cause,
        "keys": [{"key": key, "where": _locate(key, origins)} for key in fault.keys],
        "remedy": fault.remedy,
    }


def _locate(key: str, origins: Mapping[str, Origin]) -> str:
    """Return "file:line:column" of what a spec says of a key or of the first below it, or that it is the default."""
    below = [
        (name, origin) for name, origin in origins.items() if name == key or name.startswith((f"{key}.", f"{key}["))
    ]
    written = next((origin.where for _, origin in below if origin.where), "")
    return written or (f"default {below[0][1].value}" if below and below[0][0] == key else "")


def _read_origins(spec: Path) -> Mapping[str, Origin]:
    return load_project(spec, shipped_catalogue()).origins
