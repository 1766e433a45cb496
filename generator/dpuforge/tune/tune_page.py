"""The table of a tune in words and as Markdown, and what it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpuforge.report.figures_shown import escape_cell, format_figure, format_interval, format_table
from dpuforge.tune.judge_trial import KEPT
from dpuforge.writing import replacing

COLUMNS = (
    *("remedy", "sets", "int8, %", "95 % (Wilson)", "drop"),
    *("lost", "gained", "p", "p (Holm)", "minutes", "outcome"),
)
FINAL_COLUMNS = ("on the test split", "accuracy, %", "95 % (Wilson)", "drop", "95 % of the drop")

Row = tuple[str, ...]


def list_rows(document: Mapping[str, Any]) -> list[Row]:
    """Return the table of the remedies, the baseline first."""
    first = {**document["baseline"], "rung": "as calibrated", "verdict": "the baseline", "reason": ""}
    return [_list_row(row) for row in (first, *document["rows"])]


def _list_row(row: Mapping[str, Any]) -> Row:
    seconds = row.get("seconds")
    return (
        row["rung"],
        name_change(row.get("set", {})),
        format_figure(row.get("int8_accuracy")),
        format_interval(row.get("int8_interval")),
        *(format_figure(row.get(name)) for name in ("accuracy_drop", "lost", "gained", "p", "p_holm")),
        "–" if seconds is None else f"{seconds / 60:.1f}",
        row["verdict"] + (f": {row['reason']}" if row["reason"] else ""),
    )


def name_change(values: Mapping[str, str]) -> str:
    """Return overrides in words."""
    return ", ".join(f"{key.removeprefix('quantization.')}={text}" for key, text in values.items()) or "–"


def list_final(document: Mapping[str, Any]) -> list[Row]:
    """Return the figures of the test split: float, the baseline, and the winner where there is one."""
    final = document.get("final")
    if not final:
        return []
    base, best = final["baseline"], final["winner"]
    exact = ("float", format_figure(base["float_accuracy"]), format_interval(base["float_interval"]), "–", "–")
    rows = [("int8 as calibrated", base), *([("int8 of the winner", best)] if document["best"] else [])]
    return [exact, *(_list_final(name, row) for name, row in rows)]


def _list_final(name: str, row: Mapping[str, Any]) -> Row:
    figures = (format_figure(row["int8_accuracy"]), format_interval(row["int8_interval"]))
    return (name, *figures, format_figure(row["accuracy_drop"]), format_interval(row["drop_interval"]))


def explain(document: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know of the table, and what it comes to."""
    base, asked = document["baseline"], document["asked"]
    tried = [row for row in document["rows"] if row.get("p") is not None]
    images = format_figure(base["test_images"])
    lines = [
        *document["notes"],
        f"The trials were measured on {images} validation images: they chose the checkpoint too, and flatter what they "
        "choose. The test split was not looked at before the end.",
    ]
    if tried:
        lines.append(
            f"{len(tried)} remedies were measured. One is kept where it gains more images than it loses and McNemar's "
            "exact p against the best settings before it (for what changes weights: those without such a remedy) is "
            "below 0.05; p (Holm) is corrected for their number."
        )
    unsure = [row["rung"] for row in tried if row["verdict"] == KEPT and row["p_holm"] >= 0.05]
    if unsure:
        lines.append(f"Kept, and with so many tried perhaps by luck: {', '.join(unsure)}.")
    if document["emulated"]:
        lines.append("int8 was emulated: nothing here was measured with AMD's tool.")
    return [*lines, *_conclude(document, float(asked["target_drop"]))]


def _conclude(document: Mapping[str, Any], target: float) -> list[str]:
    if not document.get("finished"):
        return ["Not finished: the same command goes on."]
    if not document["needed"]:
        exact, drop = (document["baseline"][name] for name in ("float_accuracy", "accuracy_drop"))
        text = f"Nothing is needed: int8 loses {drop:.2f} points of {exact:.2f} % on the validation images"
        return [f"{text}, {target:g} were allowed."]
    final = document["final"]
    end = f"on the test split int8 loses {final['winner']['accuracy_drop']:.2f} points, {target:g} were asked for"
    if not document["best"]:
        return [f"No remedy helped beyond luck; {end}."]
    gain = f"against the baseline {final['gained']} test images gained, {final['lost']} lost, McNemar p {final['p']:g}"
    word = "The target is reached" if document["reached"] else "The target is not reached"
    return [f"The change that won: {name_change(document['best'])}.", f"{word}: {end}; {gain}."]


def write_tune_page(path: Path, document: Mapping[str, Any]) -> None:
    """Write the tables as Markdown in one step."""
    lines = [f"# Tune of {escape_cell(document['spec'])}", "", *format_table(COLUMNS, list_rows(document))]
    final = list_final(document)
    lines += format_table(FINAL_COLUMNS, final) if final else []
    lines += [f"- {line}" for line in explain(document)]
    with replacing(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
