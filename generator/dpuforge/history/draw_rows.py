"""The accuracies of the history as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpuforge.errors import UsageError
from dpuforge.writing import replacing


def draw_rows(path: Path, rows: Mapping[int, Mapping[str, Any]]) -> None:
    """Draw float and int8 accuracy of each run with its 95 % interval, a colour a project."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    drawn = 0
    for place, project in enumerate(dict.fromkeys(row["project"] for row in rows.values())):
        for name, marker in (("float", "x"), ("int8", "o")):
            known = {
                number: row
                for number, row in rows.items()
                if row["project"] == project and row["metrics"].get(f"{name}_accuracy") is not None
            }
            drawn += len(known)
            if known:
                _draw(axes, known, name, {"color": f"C{place % 10}", "marker": marker, "label": f"{project}, {name}"})
    if not drawn:
        raise UsageError("no run of the history has an accuracy yet", "dpuforge run SPEC --until evaluate")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("run, by its number in the history")
    axes.set_ylabel("accuracy on the test split, %; bars: Wilson 95 %")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _draw(axes: Any, rows: Mapping[int, Mapping[str, Any]], name: str, style: Mapping[str, Any]) -> None:
    values = [float(row["metrics"][f"{name}_accuracy"]) for row in rows.values()]
    spans = [row["metrics"].get(f"{name}_interval") or (v, v) for row, v in zip(rows.values(), values, strict=True)]
    low = [max(0.0, value - float(span[0])) for value, span in zip(values, spans, strict=True)]
    high = [max(0.0, float(span[1]) - value) for value, span in zip(values, spans, strict=True)]
    axes.errorbar(list(rows), values, yerr=[low, high], capsize=3, linestyle="-", linewidth=0.8, **style)
