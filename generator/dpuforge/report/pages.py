"""Turn the report's document into pages a person reads: Markdown and HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from dpuforge.paths import find_shipped
from dpuforge.writing import replacing

PAGES = {"report.md": False, "report.html": True}


def render_pages(document: Mapping[str, Any]) -> dict[str, str]:
    """Return {file name: text} of the report's pages."""
    history = _find_history(document)
    curves = plot_history(history)
    return {name: _render(f"{name}.j2", escape, document, curves) for name, escape in PAGES.items()}


def _render(name: str, escape: bool, document: Mapping[str, Any], curves: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(find_shipped("templates") / "_report")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=escape,
    )
    environment.filters["figure"] = format_figure
    environment.filters["interval"] = format_interval
    environment.filters["cell"] = escape_cell
    return environment.get_template(name).render(report=document, curves=curves, classes=sort_classes(document))


def sort_classes(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of the classes, those first that int8 costs most, then those that it recognises least."""
    rows = document["metrics"].get("per_class") or []
    return sorted(rows, key=lambda row: (-(row["recall_drop"] or 0.0), _or_last(row["int8_recall"]), row["class"]))


def _or_last(recall: float | None) -> float:
    return 101.0 if recall is None else recall


def escape_cell(text: str) -> str:
    """Return a text that stays within one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def format_interval(bounds: Sequence[float] | None) -> str:
    """Return an interval as "low to high", or a dash where there is none."""
    return " to ".join(format_figure(bound) for bound in bounds) if bounds else "–"


def format_figure(value: Any, unit: str = "") -> str:
    """Return a number with at most two decimals, a band as "mid (low to high)", or a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, Sequence) and not isinstance(value, str):
        low, mid, high = (format_figure(item) for item in value)
        return f"{mid}{unit} ({low} to {high})"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return text + unit


def _find_history(document: Mapping[str, Any]) -> Sequence[Mapping[str, float]]:
    for stage in document["stages"]:
        if stage["stage"] == "train":
            history = stage["metrics"].get("history", [])
            return history if isinstance(history, list) else []
    return []


def plot_history(history: Sequence[Mapping[str, float]]) -> str:
    """Return the training curves as a PNG in base64, or "" without epochs or without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return ""
    names = [name for name in ("train_accuracy", "val_accuracy") if history and name in history[0]]
    if not names:
        return ""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        axes.plot(range(1, len(history) + 1), [epoch[name] for epoch in history], marker="o", label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy in %")
    axes.legend()
    picture = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(picture, format="png")
    return base64.b64encode(picture.getvalue()).decode()


def write_pages(folder: Path, pages: Mapping[str, str]) -> tuple[Path, ...]:
    """Write each page in one step and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        with replacing(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return tuple(folder / name for name in pages)
