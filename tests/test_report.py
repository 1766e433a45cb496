"""The report: figures, bands, unknowns, and text that cannot break the page."""

from __future__ import annotations

import base64
from typing import Any

from dpuforge.records.hardware import BoardTarget
from dpuforge.records.result import StageResult, Status
from dpuforge.report.document import build_report
from dpuforge.report.pages import format_figure, plot_history, render_pages

BOARD = BoardTarget("KV260", "3.0", "DPUCZDX8G_ISA1_B4096", "DPUCZDX8G", 0x101000056010407, {}, "KV260", True, "", "")


def make_report(**results: StageResult) -> dict[str, Any]:
    return build_report("demo", "0" * 64, "emulator", [BOARD], results)


def test_a_report_without_results_has_unknown_figures() -> None:
    """What has not run is null in the document and a dash on the pages."""
    document = make_report()
    assert document["metrics"]["int8_accuracy"] is None
    assert document["boards"]["KV260"]["fps_estimate"] is None
    assert document["boards"]["KV260"]["reason"] == "the compile stage has not run"
    assert "–" in render_pages(document)["report.md"]


def test_metrics_of_evaluate_and_preflight_reach_the_report() -> None:
    """Accuracies come from evaluate, the board's figures from preflight."""
    evaluated = StageResult("evaluate", Status.DONE, metrics={"float_accuracy": 97.9, "int8_accuracy": 97.8})
    board = {"dpu_subgraphs": 1, "fps_estimate": [400.0, 500.0, 600.0]}
    checked = StageResult("preflight", Status.DONE, metrics={"boards": {"KV260": board}})
    document = make_report(evaluate=evaluated, preflight=checked)
    assert document["metrics"]["float_accuracy"] == 97.9
    assert document["boards"]["KV260"]["dpu_subgraphs"] == 1
    assert "500 (400 to 600)" in render_pages(document)["report.html"]


def test_text_from_logs_cannot_break_the_html_page() -> None:
    """A reason with markup is shown as text."""
    failed = StageResult("train", Status.FAILED, reason="<script>alert(1)</script>")
    page = render_pages(make_report(train=failed))["report.html"]
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_training_curve_is_a_picture() -> None:
    """The history of the epochs becomes a PNG; without epochs there is none."""
    history = [{"train_accuracy": 50.0 + epoch, "val_accuracy": 49.0} for epoch in range(3)]
    assert base64.b64decode(plot_history(history)).startswith(b"\x89PNG")
    assert plot_history([]) == ""


def test_figures_are_short() -> None:
    """Two decimals at most, units kept, unknowns dashed."""
    assert format_figure(97.123456, " %") == "97.12 %"
    assert format_figure(98.0) == "98"
    assert format_figure(None, " %") == "–"
    assert format_figure(1000) == "1000"
