"""Turn the report's document into pages a person reads: Markdown and one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dpuforge.paths import find_shipped
from dpuforge.report import charts
from dpuforge.report.facts import Facts
from dpuforge.report.figures_shown import Figures, escape_cell, format_figure, format_interval
from dpuforge.report.highlight import highlight_spec
from dpuforge.writing import replacing

PAGES = {"report.md": False, "report.html": True}


def render_pages(document: Mapping[str, Any], facts: Facts | None = None) -> dict[str, str]:
    """Return {file name: text} of the report's pages; facts hold what is shown beside the figures, such as pictures."""
    known = facts or Facts()
    return {name: _render(f"{name}.j2", escape, document, known) for name, escape in PAGES.items()}


def make_environment(escape: bool) -> jinja2.Environment:
    """Return the environment of the report's templates."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(find_shipped("templates") / "_report")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=escape,
    )
    environment.filters |= {"figure": format_figure, "interval": format_interval, "cell": escape_cell}
    return environment


def _render(name: str, escape: bool, document: Mapping[str, Any], facts: Facts) -> str:
    figures = Figures(document, escape)
    more: dict[str, Any] = {}
    if escape:
        more = {"raw": read_raw, "pictures": gather_pictures(facts), "spec": highlight_spec(facts.spec, document)}
        more |= {"data": gather_data(document, facts), "charts": gather_charts(document)}
    template = make_environment(escape).get_template(name)
    return template.render(
        report=document,
        at=figures.at,
        span=figures.interval,
        classes=sort_classes(document),
        facts=facts,
        missing=partial(find_missing, document),
        **more,
    )


def sort_classes(document: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the rows of the classes with their places, those first that int8 costs most, then the least recognised."""
    rows = list(enumerate(document["metrics"].get("per_class") or []))
    return sorted(
        rows, key=lambda row: (-(row[1]["recall_drop"] or 0.0), _or_last(row[1]["int8_recall"]), row[1]["class"])
    )


def _or_last(recall: float | None) -> float:
    return 101.0 if recall is None else recall


def find_missing(document: Mapping[str, Any], section: str) -> list[Mapping[str, str]]:
    """Return what a section lacks, with the command that fills it."""
    return [item for item in document["missing"] if item["section"] == section]


def read_raw(name: str) -> Markup:
    """Return a shipped script or style sheet as it is."""
    return Markup((find_shipped("templates") / "_report" / name).read_text(encoding="utf-8"))


def gather_pictures(facts: Facts) -> dict[str, Any]:
    """Return the thumbnails of prepare and evaluate; class maps become small pictures to lie over them."""
    seen, judged = facts.table("prepare/pictures.json"), facts.table("evaluate/pictures.json")
    names = ("float_map", "int8_map")
    maps = [{**row, **{name: _draw_map(row.get(name)) for name in names}} for row in _rows(judged, "maps")]
    return {
        "seen": _rows(seen, "seen"),
        "copies": _rows(seen, "copies"),
        "augmented": _rows(judged, "augmented"),
        "changed": _rows(judged, "changed"),
        "changed_images": judged.get("changed_images", 0),
        "wrong": _rows(judged, "wrong"),
        "wrong_images": judged.get("wrong_images", 0),
        "maps": maps,
    }


def _rows(table: Mapping[str, Any], name: str) -> list[Any]:
    found = table.get(name)
    return found if isinstance(found, list) else []


def _draw_map(rows: Any) -> str:
    return charts.encode_map(rows) if isinstance(rows, list) and rows and rows[0] else ""


def gather_data(document: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Return what the page's own charts draw."""
    hardware, training = document["hardware"], document["training"]
    names = [row["class"] for row in document["metrics"].get("per_class") or []]
    return {
        "training": {name: training[name] for name in ("curves", "learning_rate", "seconds")},
        "confusion": charts.place_classes(names, facts.rows("evaluate/confusion.json", "true", "predicted")),
        "layers": document["quantisation"]["layers"],
        "histograms": facts.rows("evaluate/histograms.json", "layer", "node"),
        "roofline": hardware.get("roofline"),
        "operators": [
            {name: row[name] for name in ("label", "kind", "ms", "bound", "workload", "ops_per_byte")}
            for row in hardware.get("graph", ())
            if row["ms"] and row["ops_per_byte"]
        ],
    }


def gather_charts(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the places of what the page draws without a script."""
    ladder, hardware = document["ladder"], document["hardware"]
    limit, exact = ladder["gate"]["limit"], ladder["rungs"][0]["top1"]
    gate = None if limit is None or exact is None else exact - limit
    graph = hardware.get("graph", [])
    slowest = max((row["ms"] or 0.0 for row in graph), default=0.0)
    return {
        "ladder": charts.scale_ladder(ladder["rungs"], gate),
        "boards": charts.scale_boards(hardware.get("boards", ())),
        "edges": Markup(charts.draw_edges(graph)) if graph else "",
        "slowest_ms": slowest,
    }


def write_pages(folder: Path, pages: Mapping[str, str]) -> tuple[Path, ...]:
    """Write each page in one step and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        with replacing(folder / name) as partial_file:
            partial_file.write_text(text, encoding="utf-8")
    return tuple(folder / name for name in pages)
