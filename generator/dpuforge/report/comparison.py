"""Several runs side by side: a table, the Pareto front of accuracy and frame rate, and how their specs differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from dpuforge.report import charts
from dpuforge.report.facts import Facts
from dpuforge.report.figures_shown import Figures
from dpuforge.report.pages import make_environment, read_raw

Run = tuple[Mapping[str, Any], Facts]
_NAMES = ("project", "description", "target.net_name")  # differ in any two specs, and say nothing
_MOST = 60  # characters of a value or a folder's name
PAGES = {"comparison.md": False, "comparison.html": True}


def build_comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the document of comparison.json: a row for each run, the board compared on, the differences."""
    documents = [document for document, _ in runs]
    board = find_common_board(documents)
    rows = [_describe(document, board) for document in documents]
    front = find_front([(row["int8_accuracy"], row["fps"][1] if row["fps"] else None) for row in rows])
    for place, row in enumerate(rows):
        row["on_front"] = place in front
    names = [row["project"] for row in rows]
    settings = [facts.spec.settings for _, facts in runs]
    return {"board": board, "runs": rows, "differences": list_differences(names, settings)}


def find_common_board(documents: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the first board of the first run that all runs have, None without one."""
    shared = [board for board in documents[0]["boards"] if all(board in other["boards"] for other in documents)]
    return shared[0] if shared else None


def _describe(document: Mapping[str, Any], board: str | None) -> dict[str, Any]:
    metrics, gate = document["metrics"], document["ladder"]["gate"]
    on_board = document["boards"].get(board, {}) if board else {}
    return {
        "project": document["project"],
        "spec": document["provenance"]["spec"],
        "emulated": document["emulated"],
        **{
            name: metrics.get(name)
            for name in ("float_accuracy", "int8_accuracy", "int8_interval", "accuracy_drop", "int8_balanced_accuracy")
        },
        "test_images": metrics.get("test_images"),
        "gate_kept": gate["kept"],
        "fps": on_board.get("fps_estimate"),
        "latency_ms": on_board.get("latency_ms_estimate"),
        "train_seconds": document["training"]["whole_seconds"],
        "warnings": len(document["warnings"]),
    }


def find_front(points: Sequence[tuple[float | None, float | None]]) -> set[int]:
    """Return the places of the points that no other point beats in both figures; a point without figures is on none."""
    known = [(place, a, b) for place, (a, b) in enumerate(points) if a is not None and b is not None]
    return {place for place, a, b in known if not any(c >= a and d >= b and (c > a or d > b) for _, c, d in known)}


def list_differences(names: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the keys in which specs differ, with words: "train.optimizer.lr: 0.001 in a; 0.0005 in b and c"."""
    keys = [key for key in dict.fromkeys(key for each in settings for key in each) if key not in _NAMES]
    found = []
    for key in keys:
        values = [_show(each[key]) if key in each else "not set" for each in settings]
        if len(set(values)) > 1:
            groups = {
                value: [name for name, own in zip(names, values, strict=True) if own == value] for value in values
            }
            words = "; ".join(f"{value} in {_join(members)}" for value, members in groups.items())
            found.append({"key": key, "values": values, "words": f"{key}: {words}"})
    return found


def _show(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def render_comparison(document: Mapping[str, Any]) -> dict[str, str]:
    """Return {file name: text} of the comparison's pages."""
    return {name: _render(f"{name}.j2", escape, document) for name, escape in PAGES.items()}


def _render(name: str, escape: bool, document: Mapping[str, Any]) -> str:
    figures = Figures(document, escape)
    more: dict[str, Any] = {"raw": read_raw, "plot": place_points(document["runs"])} if escape else {}
    template = make_environment(escape).get_template(name)
    return template.render(comparison=document, at=figures.at, span=figures.interval, **more)


def place_points(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return ticks of both axes and the place of each run in percent of the plot; None where no run has both."""
    points = [(row["fps"][1], row["int8_accuracy"]) if row["fps"] and row["int8_accuracy"] else None for row in rows]
    known = [point for point in points if point]
    if not known:
        return None
    (left, right), (low, high) = (_widen(values) for values in zip(*known, strict=True))
    return {
        "x": [(tick, charts.share(tick, left, right)) for tick in charts.make_ticks(left, right)],
        "y": [(tick, charts.share(tick, low, high)) for tick in charts.make_ticks(low, high)],
        "points": [
            (charts.share(point[0], left, right), charts.share(point[1], low, high)) if point else None
            for point in points
        ],
    }


def _widen(values: Sequence[float]) -> tuple[float, float]:
    pad = 0.15 * (max(values) - min(values)) or 0.02 * abs(values[0]) or 1.0
    return min(values) - pad, max(values) + pad


def name_folder(names: Sequence[str]) -> str:
    """Return the name of the comparison's folder: the projects' names, shortened with a digest where they are long."""
    joined = "-".join(names)
    if len(joined) <= _MOST:
        return joined
    return f"{joined[:_MOST]}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"
