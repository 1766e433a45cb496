"""Rows of the history in words: what changed from run to run, and two of them held against each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpuforge.chance.paired_tests import count_pairs, judge_pairs
from dpuforge.errors import UsageError
from dpuforge.history.keep_rows import read_kept
from dpuforge.sweep.outcomes import Answers, parse_answers
from dpuforge.trace.name_changes import name_settings

Row = Mapping[str, Any]
_MOST = 3  # changes named in a list


def tell_changes(rows: Mapping[int, Row], number: int) -> str:
    """Return in words what a run's spec says otherwise than the spec of the same project's run before."""
    row = rows[number]
    earlier = [other for other in rows if other < number and rows[other]["project"] == row["project"]]
    if not earlier:
        return "the first run"
    words = [f"{change.key}: {change.words}" for change in name_settings(rows[max(earlier)], row)]
    more = f"; and {len(words) - _MOST} more" if len(words) > _MOST else ""
    return "; ".join(words[:_MOST]) + more if words else "the same settings"


def compare_rows(root: Path, one: Row, two: Row) -> dict[str, Any]:
    """Return how two runs differ: settings in words, and each network on the same images where those were kept."""
    settings = [{"key": change.key, "words": change.words} for change in name_settings(one, two)]
    first, second = _read_answers(root, one), _read_answers(root, two)
    document: dict[str, Any] = {"settings": settings, "note": "", "float": None, "int8": None}
    notes: list[str] = []
    if first is None or second is None:
        notes.append("no test on the same images: a run left no predictions")
    elif first.images != second.images:
        notes.append("no test on the same images: the test splits differ")
    else:
        for name, before, after in (("float", first.exact, second.exact), ("int8", first.int8, second.int8)):
            document[name] = judge_pairs(*count_pairs(before, after))
    if one.get("emulated") != two.get("emulated"):
        notes.append("one of them was emulated, the other was not")
    document["note"] = "; ".join(notes)
    return document


def _read_answers(root: Path, row: Row) -> Answers | None:
    if not row.get("predictions"):
        return None
    try:
        return parse_answers(json.loads(read_kept(root, str(row["predictions"]), ".json")))
    except (UsageError, ValueError, KeyError, TypeError):
        return None
