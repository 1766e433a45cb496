"""The report: figures, bands, unknowns, and text that cannot break the page."""

from __future__ import annotations

import html
import re
from typing import Any

from dpuforge.records.hardware import BoardTarget
from dpuforge.records.result import StageResult, Status
from dpuforge.report.document import build_report
from dpuforge.report.figures_shown import format_figure
from dpuforge.report.pages import render_pages

BOARD = BoardTarget("KV260", "3.0", "DPUCZDX8G_ISA1_B4096", "DPUCZDX8G", 0x101000056010407, {}, "KV260", True, "", "")


FIGURES = {
    "float_accuracy": 95.0,
    "int8_accuracy": 94.0,
    "accuracy_drop": 1.0,
    "float_balanced_accuracy": 61.0,
    "int8_balanced_accuracy": 52.0,
    "test_images": 200,
}


def make_report(outdated: dict[str, str] | None = None, **results: StageResult) -> dict[str, Any]:
    return build_report("demo", "0" * 64, "emulator", [BOARD], results, outdated)


def read_pages(document: dict[str, Any]) -> dict[str, str]:
    """Return the report's pages; of the HTML page what a person reads, without scripts, data of charts and style."""
    pages = render_pages(document)
    hidden = re.compile(r"<(script|style)\b.*?</\1>", re.DOTALL)
    return {name: hidden.sub("", text) for name, text in pages.items()}


def evaluate(**metrics: Any) -> StageResult:
    return StageResult("evaluate", Status.DONE, metrics={**FIGURES, **metrics})


def row(name: str, exact: float, rounded: float, images: int = 10) -> dict[str, Any]:
    """Return a class's row as evaluate writes it."""
    return {
        "class": name,
        "images": images,
        "float_recall": exact,
        "int8_recall": rounded,
        "recall_drop": exact - rounded,
        "float_precision": None,
        "int8_precision": 50.0,
        "float_right": int(exact / 10),
        "int8_right": int(rounded / 10),
        "int8_taken_for": "good",
    }


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


def test_the_diagnosis_shows_what_was_tried_and_the_costliest_layer_first() -> None:
    """Suggestions, trials that helped nothing, and the layers in the diagnosis's order, on both pages."""
    refused = {"codes": ["RELU6_REPLACED"], "spec": ["quantization.include_cle: false"], "helps": False, "gain": -24.0}
    taken = {
        "codes": ["EQUALISATION"],
        "spec": ["quantization.include_cle: true"],
        "helps": True,
        "gain": 9.0,
        "text": "+9 points",
    }
    figures = {"sqnr_db": 20.5, "saturated": 0.0}
    costs = (("costly", 3.2), ("cheap", None))
    layers = [{"layer": name, "cost_db": cost, "activation": figures} for name, cost in costs]
    diagnosis = {
        "advice": [{"code": "EQUALISATION", "text": "set include_cle"}],
        "tried": [taken, {**refused, "text": "-24 points of accuracy"}],
        "layers": layers,
    }
    evaluated = StageResult("evaluate", Status.DONE, metrics={"diagnosis": diagnosis})
    for page in read_pages(make_report(evaluate=evaluated)).values():
        assert "Not advised" in page
        assert "-24 points of accuracy" in page
        assert "+9 points" not in page
        assert page.index("costly") < page.index("cheap")
        assert "3.2" in page


def test_text_from_logs_cannot_break_the_html_page() -> None:
    """A reason with markup is shown as text."""
    failed = StageResult("train", Status.FAILED, reason="<script>alert(1)</script>")
    page = render_pages(make_report(train=failed))["report.html"]
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_training_curve_is_a_picture() -> None:
    """The history of the epochs is drawn, and stands in a table; without epochs there is no chart."""
    history = [{"train_accuracy": 50.0 + epoch, "val_accuracy": 49.0} for epoch in range(3)]
    trained = StageResult("train", Status.DONE, metrics={"history": history})
    drawn = render_pages(make_report(train=trained))["report.html"]
    assert 'id="chart-accuracy"' in drawn
    assert '"train_accuracy": [50.0, 51.0, 52.0]' in drawn
    assert ">52</data>" in drawn
    assert 'id="chart-accuracy"' not in render_pages(make_report())["report.html"]


def test_figures_are_short() -> None:
    """Two decimals at most, units kept, unknowns dashed."""
    assert format_figure(97.123456, " %") == "97.12 %"
    assert format_figure(98.0) == "98"
    assert format_figure(None, " %") == "–"
    assert format_figure(1000) == "1000"


def test_warnings_stand_before_every_figure() -> None:
    """What the accuracies hide is read before they are, on both pages, and is in the document."""
    warning = {"code": "CLASS_NEVER_RECOGNISED", "classes": ["scratch"], "text": "never recognised: scratch"}
    document = make_report(evaluate=evaluate(accuracy_warnings=[warning]))
    assert document["warnings"] == [{"stage": "evaluate", **warning}]
    for page in read_pages(document).values():
        assert page.index("never recognised: scratch") < page.index("95 %")
        assert "52 %" in page


def test_before_int8_is_measured_the_warnings_are_of_training() -> None:
    """A failed evaluation without figures does not silence what training found."""
    warning = {"code": "CHANCE_LEVEL", "classes": [], "text": "cannot be told from guessing"}
    trained = StageResult("train", Status.DONE, metrics={"accuracy_warnings": [warning]})
    failed = StageResult("evaluate", Status.FAILED, metrics={"warnings": []})
    document = make_report(train=trained, evaluate=failed)
    assert [item["stage"] for item in document["warnings"]] == ["train"]
    assert document["metrics"]["int8_accuracy"] is None


def test_classes_are_sorted_by_what_int8_costs_them() -> None:
    """The largest drop comes first, then the lowest recall; names cannot break the tables."""
    rows = [row("even", 90.0, 90.0), row("never", 0.0, 0.0), row("a|b<i>", 90.0, 30.0), row("gains", 50.0, 60.0)]
    pages = read_pages(make_report(evaluate=evaluate(per_class=rows)))
    assert "| a\\|b<i> | 10 | 90 | 30 | 60 | – | 50 | good |" in pages["report.md"]
    assert "a|b&lt;i&gt;" in pages["report.html"]
    for page in (pages["report.md"].replace("\\|", "|"), html.unescape(pages["report.html"])):
        table = page[page.index("Classes") :]
        places = [table.index(name) for name in ("a|b<i>", "never", "even", "gains")]
        assert places == sorted(places)


def test_results_of_an_earlier_configuration_are_left_out() -> None:
    """No figure of an outdated stage is in the document or on a page; what it is and why is said."""
    board = {"dpu_subgraphs": 7, "fps_estimate": [400.0, 500.0, 600.0]}
    checked = StageResult("preflight", Status.DONE, metrics={"boards": {"KV260": board}})
    compiled = StageResult("compile", Status.DONE, board="KV260")
    history = StageResult("train", Status.DONE, metrics={"history": [{"train_accuracy": 1.0, "val_accuracy": 1.0}]})
    results = {"train": history, "evaluate": evaluate(), "preflight": checked, "compile/KV260": compiled}
    document = make_report(dict.fromkeys(results, "calibrate failed since"), **results)
    assert document["metrics"]["int8_accuracy"] is document["metrics"]["int8_balanced_accuracy"] is None
    assert document["boards"]["KV260"]["dpu_subgraphs"] is document["boards"]["KV260"]["fps_estimate"] is None
    assert document["boards"]["KV260"]["compiled"] is False
    assert "earlier configuration" in document["boards"]["KV260"]["reason"]
    assert all(stage["metrics"] == {} and stage["stale"] for stage in document["stages"])
    assert [item["code"] for item in document["warnings"]] == ["OUT_OF_DATE"] * 3
    for page in read_pages(document).values():
        assert "94" not in page
        assert "calibrate failed since" in page
        assert "base64" not in page


def test_only_what_is_outdated_is_left_out() -> None:
    """An evaluation that missed its gate is of the present configuration: its figures stay."""
    failed = evaluate().with_changes(status=Status.FAILED, reason="int8 loses too much")
    document = make_report(
        {"preflight": "evaluate failed"}, evaluate=failed, preflight=StageResult("preflight", Status.DONE)
    )
    assert document["metrics"]["int8_accuracy"] == 94.0
    assert "stale" not in document["stages"][0]


def test_steps_that_are_not_amds_are_named_beside_the_accuracy() -> None:
    """An int8 figure after the emulator's fast_finetune says in its own column whose step that was."""
    document = make_report(evaluate=evaluate(not_amd=["fast_finetune"]))
    assert document["not_amd"] == ["fast_finetune"]
    for page in render_pages(document).values():
        assert "int8, fast_finetune not AMD's" in html.unescape(page)
    assert make_report(evaluate=evaluate())["not_amd"] == []
