"""The table of a sweep in words and as Markdown, and its plot of accuracy against frames per second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpuforge.errors import MissingToolError
from dpuforge.report.figures_shown import escape_cell, format_figure, format_interval, format_table
from dpuforge.writing import replacing

EXTRA = "pip install 'dpuforge[sweep]' into this environment"
SETTING_COLUMNS = ("setting", "variants", "float, %", "int8, %", "± over seeds", "95 % (Wilson)", "fps", "front")
TEST_COLUMNS = ("behind the best by", "95 % over seeds", "lost", "gained", "p", "p (Holm)", "verdict")
VARIANT_COLUMNS = ("no.", "setting", "status", "float, %", "int8, %", "95 % (Wilson)", "drop", "fps", "training")

Row = tuple[str, ...]


def check_extra(*packages: str) -> None:
    """Raise MissingToolError where a package of the extra (default: any) is not here: before hours of training."""
    import importlib.util

    needed = packages or ("matplotlib", "optuna", "scipy")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingToolError(f"{', '.join(missing)} cannot be imported", EXTRA)


def list_settings(document: Mapping[str, Any]) -> list[Row]:
    """Return the table of the settings: what was measured, and what the tests say of each."""
    return [_list_setting(row) for row in document["settings"]]


def _list_setting(row: Mapping[str, Any]) -> Row:
    test = row["against_best"] or {}
    return (
        row["setting"],
        ", ".join(map(str, row["variants"])),
        *(format_figure(row[name]) for name in ("float_mean", "int8_mean", "int8_spread")),
        format_interval(row["int8_interval"]),
        format_figure(row["fps"]),
        "yes" if row["on_front"] else "no",
        format_figure(test.get("behind")),
        format_interval(test.get("behind_interval")),
        *(format_figure(test.get(name)) for name in ("lost", "gained", "p", "p_holm")),
        row["verdict"],
    )


def list_variants(document: Mapping[str, Any]) -> list[Row]:
    """Return the table of the variants."""
    return [
        (
            str(row["number"]),
            name_values(row["set"]),
            row["status"] + (f" ({row['reason']})" if row["reason"] else ""),
            *(format_figure(row[name]) for name in ("float_accuracy", "int8_accuracy")),
            format_interval(row["int8_interval"]),
            *(format_figure(row[name]) for name in ("accuracy_drop", "fps")),
            _name_training(document, row),
        )
        for row in document["variants"]
    ]


def _name_training(document: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Say whose training a variant stands on."""
    if not row["test_images"]:
        return "–"
    origin = row["shared"].get("train")
    numbers = (
        str(other["number"]) for other in document["variants"] if origin == f"variant {name_values(other['set'])}"
    )
    return f"of {next(numbers, origin)}" if origin else "its own"


def name_values(values: Mapping[str, str]) -> str:
    """Return what a variant sets, in words."""
    return ", ".join(f"{key}={text}" for key, text in values.items()) or "the spec as it is"


def explain_tests(document: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know of the tests."""
    images = next((row["test_images"] for row in document["variants"] if row["test_images"]), None)
    kinds = {row["split"] for row in document["variants"] if row["test_images"]}
    split = " and ".join(sorted(kinds)) or "test"
    lines = [
        f"Each setting is held against the best on the same {format_figure(images)} {split} images: McNemar's exact "
        "test, of several seeds on the images that more of them recognise; Holm's correction for all settings.",
        "A setting is called worse only where p (Holm) is below 0.05 and, of several seeds, Student's 95 % interval of "
        "the difference over seeds leaves out zero. Two or three seeds seldom suffice for that.",
        f"The best was chosen on the {split} split: its own accuracy is flattered by the choice.",
    ]
    if any(row["emulated"] for row in document["variants"]):
        lines.append("int8 was emulated: nothing here was measured with AMD's tool. Frames per second are estimates.")
    return lines


def write_page(path: Path, document: Mapping[str, Any]) -> None:
    """Write the tables as Markdown in one step."""
    lines = [f"# Sweep of {escape_cell(document['spec'])}", ""]
    lines += format_table((*SETTING_COLUMNS, *TEST_COLUMNS), list_settings(document))
    lines += [f"- {line}" for line in explain_tests(document)] + [""]
    lines += format_table(VARIANT_COLUMNS, list_variants(document))
    with replacing(path) as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")


def draw_plot(path: Path, document: Mapping[str, Any]) -> bool:
    """Draw int8 accuracy against estimated frames per second; say whether any setting has both."""
    rows = [row for row in document["settings"] if row["int8_mean"] is not None and row["fps"] is not None]
    if not rows:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        span = row["int8_interval"] or [row["int8_mean"]] * 2
        low, high = (max(0.0, abs(bound - row["int8_mean"])) for bound in span)
        shape: dict[str, Any] = {"marker": "o" if row["on_front"] else "x", "capsize": 3, "linestyle": "none"}
        label = f"{row['variants'][0]}: {row['setting']} ({row['verdict']})"
        axes.errorbar([row["fps"]], [row["int8_mean"]], yerr=[[low], [high]], label=label, **shape)
    axes.set_xlabel(f"estimated frames per second on {document['board']}, not measured")
    axes.set_ylabel("int8 accuracy, %" + (", emulated" if any(r["emulated"] for r in document["variants"]) else ""))
    axes.set_title("accuracy against frame rate; circles: on the front; bars: 95 %", fontsize="medium")
    figure.legend(loc="outside lower center", fontsize="x-small")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return True
