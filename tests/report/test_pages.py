"""The pages of the report: the same figures in all three files, what is missing, text that stays text, size."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest

from dpuforge.report.card import describe_licence, render_card
from dpuforge.report.document import build_report
from dpuforge.report.facts import Facts, SpecText
from dpuforge.report.figures_shown import escape_cell, format_figure, format_interval
from dpuforge.report.pages import render_pages
from tests.report.sample import BITING, BOARDS, STAGES, make_facts, make_report, make_results, name_classes

LARGEST = 3_000_000  # bytes of a page of thirty classes


class Page(HTMLParser):
    """Collects <data> elements (value, place, text), the text of the body, and every address that is named."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.figures: list[dict[str, str]] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = {name: value or "" for name, value in attributes}
        self.addresses += [named[name] for name in ("src", "href") if name in named]
        if tag == "data":
            self.figures.append({**named, "text": ""})

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("script", "style"):
            return
        if self.tags and self.tags[-1] == "data" and not self.figures[-1]["text"]:
            self.figures[-1]["text"] = data
        self.words.append(data)


@cache
def write_full() -> str:
    """Return the HTML page of the sample; it is rendered once."""
    document, facts = make_report()
    return render_pages(document, facts)["report.html"]


def look_up(document: Any, place: str) -> Any:
    """Return the value at a JSON pointer, None where there is none."""
    for step in place.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            document = document[int(name)] if isinstance(document, list) else document[name]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def read_tables(text: str) -> dict[str, list[list[str]]]:
    """Return the tables of a Markdown page by their first column's title: rows of cells."""
    tables: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        tables[f"{rows[0][0]} {rows[0][1]}"] = rows[2:]
    return tables


def test_every_figure_of_the_html_page_is_the_documents() -> None:
    """Each <data> names its place in report.json, holds that value, and shows it as figures are shown."""
    document, facts = make_report()
    document = json.loads(json.dumps(document))
    page = Page(render_pages(document, facts)["report.html"])
    assert len(page.figures) > 300
    for figure in page.figures:
        value = look_up(document, figure["data-place"])
        assert json.loads(figure["value"]) == value, figure
        assert numbers(figure["text"]) == numbers(show(value)), figure


def show(value: Any) -> str:
    """Return a value as it is shown, whatever its unit."""
    return format_interval(value) if isinstance(value, list) and len(value) == 2 else format_figure(value)


def numbers(text: str) -> list[str]:
    """Return the numbers of a text, or its words where it has none."""
    return re.findall(r"-?\d[\d.e-]*", text) or text.split()


def test_the_markdown_page_has_the_same_figures() -> None:
    """Ladder, classes, layers, boards and curves of report.md hold what report.json holds, row by row."""
    document, facts = make_report()
    pages = render_pages(document, facts)
    tables = read_tables(pages["report.md"])
    for row, rung in zip(tables["step top-1, %"], document["ladder"]["rungs"], strict=True):
        p = rung["mcnemar"]["p"] if rung["mcnemar"] else None
        shown = [
            rung["name"],
            format_figure(rung["top1"]),
            format_interval(rung["interval"]),
            format_figure(rung["top5"]),
        ]
        assert row[:7] == [
            *shown,
            format_figure(rung["drop"]),
            format_interval(rung["drop_interval"]),
            format_figure(p),
        ]
    rows = {row[0]: row[1:] for row in tables["class images"]}
    assert len(rows) == 30
    for item in document["metrics"]["per_class"]:
        names = ("images", "float_recall", "int8_recall", "recall_drop", "float_precision", "int8_precision")
        assert rows[escape_cell(item["class"])][:6] == [format_figure(item[name]) for name in names]
    for row, board in zip(tables["board DPU"], document["hardware"]["boards"], strict=True):
        assert row[2:4] == [format_figure(board["fps"]), format_figure(board["measured_fps"])]
    layers = next(rows for title, rows in tables.items() if title.startswith("layer"))
    assert [row[1] for row in layers] == [format_figure(item["cost_db"]) for item in document["quantisation"]["layers"]]
    curve = document["training"]["curves"]["train_accuracy"]
    assert [row[1] for row in tables["epoch train accuracy"]] == [format_figure(value) for value in curve]


def test_figures_that_both_pages_show_are_equal() -> None:
    """The accuracies, the drop and the boards' rates stand in the HTML page as in the Markdown page."""
    document, facts = make_report()
    pages = render_pages(document, facts)
    text = " ".join(" ".join(Page(pages["report.html"]).words).split())
    for name in ("float_accuracy", "int8_accuracy", "float_top5_accuracy"):
        shown = format_figure(document["metrics"][name], " %")
        assert shown in text
        assert shown in pages["report.md"]
    for board in document["boards"].values():
        assert format_figure(board["fps_estimate"]) in text
        assert format_figure(board["fps_estimate"]) in pages["report.md"]


def test_a_changed_figure_is_seen() -> None:
    """The comparison of the files is not blind: another value in the document no longer fits the page."""
    document, facts = make_report()
    page = Page(render_pages(document, facts)["report.html"])
    document["metrics"]["int8_accuracy"] = 1.25
    wrong = [
        it
        for it in page.figures
        if json.loads(it["value"]) != look_up(json.loads(json.dumps(document)), it["data-place"])
    ]
    assert {figure["data-place"] for figure in wrong} == {"/metrics/int8_accuracy"}


@pytest.mark.parametrize("name", BITING)
def test_names_of_classes_stay_text(name: str) -> None:
    """Names with markup, quotes, template code or 200 characters of unicode open no tag and lose nothing."""
    text = write_full()
    page = Page(text)
    assert "".join(name.split()) in "".join("".join(page.words).split())
    assert page.tags.count("script") == 3
    assert "49" not in {word.strip() for word in page.words if "7 * 7" in word}


def test_the_page_names_no_address_but_its_own() -> None:
    """Pictures are within the page, links lead within it, and the policy lets nothing else in."""
    text = write_full()
    assert all(address.startswith(("data:", "#")) for address in Page(text).addresses)
    assert "default-src 'none'" in text


def test_a_page_of_thirty_classes_is_small() -> None:
    """Thirty classes, all pictures and the chart library stay below three megabytes."""
    assert len(write_full().encode()) < LARGEST


def test_a_thousand_classes_are_rendered() -> None:
    """A confusion matrix of a thousand classes is data of the page, and its table has a row for each."""
    document, facts = make_report(1000)
    page = render_pages(document, facts)["report.html"]
    assert len(page.encode()) < 4 * LARGEST
    assert page.count('data-label="precision int8"') == 1000


def test_each_missing_section_names_the_command_that_fills_it() -> None:
    """Without any result every section says in one line what is missing and which command fills it."""
    facts = Facts(spec=SpecText(path="spec/demo.yaml"), stages=STAGES)
    document = build_report("demo", "0" * 64, "emulator", BOARDS, {}, {}, facts=facts)
    sections = {item["section"] for item in document["missing"]}
    assert sections >= {"ladder", "training", "classes", "images", "data", "quantisation", "hardware"}
    pages = render_pages(document, facts)
    text = " ".join("".join(Page(pages["report.html"]).words).split())
    for item in document["missing"]:
        assert item["command"].startswith("dpuforge ")
        assert "spec/demo.yaml" in item["command"]
        assert item["command"] in text
        assert item["command"] in pages["report.md"]


def test_a_full_report_lacks_only_what_needs_other_tools() -> None:
    """With all results of this machine, compiler and board alone are missing."""
    document, _ = make_report()
    assert {item["what"] for item in document["missing"]} == {"compiled for KV260", "on KV260"}


@pytest.mark.parametrize("content", [{}, [], [1, None], [{"true": "a"}], {"seen": 3, "changed": None}, "text"])
def test_a_damaged_file_of_a_stage_is_as_good_as_missing(content: Any) -> None:
    """A file that holds something else than it should leaves its section empty, and breaks nothing."""
    names = name_classes()
    facts = make_facts(names)
    broken = dict.fromkeys([*facts.files, "train/history.csv", "prepare/problems.txt"], content)
    hurt = Facts(facts.spec, broken, {}, {}, STAGES)
    document = build_report("demo", "0" * 64, "emulator", BOARDS, make_results(names), {}, facts=hurt)
    assert "the confusion matrix" in {item["what"] for item in document["missing"]}
    assert "demo" in render_pages(document, hurt)["report.html"]


def test_figures_that_are_no_numbers_are_none() -> None:
    """NaN and infinity, of a training that diverged or an exact layer, are dashes, and the page's data stay JSON."""
    names = name_classes()
    results, facts = make_results(names), make_facts(names)
    diagnosis = json.loads(json.dumps(results["evaluate"].metrics["diagnosis"]))
    diagnosis["layers"][0] |= {"cost_db": math.inf, "activation": {"sqnr_db": -math.inf, "saturated": math.nan}}
    metrics = {**results["evaluate"].metrics, "diagnosis": diagnosis}
    results["evaluate"] = results["evaluate"].with_changes(metrics=metrics)
    history = [{"train_accuracy": math.nan, "val_accuracy": 1.5, "train_loss": math.inf, "val_loss": math.nan}] * 3
    facts = Facts(facts.spec, {**facts.files, "train/history.csv": history}, facts.hardware, {}, STAGES)
    document = build_report("demo", "0" * 64, "emulator", BOARDS, results, {}, facts=facts)
    assert document["training"]["curves"]["train_loss"] == [None] * 3
    assert document["training"]["curves"]["val_accuracy"] == [1.5] * 3
    json.dumps(document, allow_nan=False)
    pages = render_pages(document, facts)
    embedded = pages["report.html"].partition('id="report-data">')[2].partition("</script>")[0]
    assert not re.search(r"NaN|Infinity", embedded)
    assert not re.search(r"\| -?(nan|inf) \|", pages["report.md"])


def test_the_advice_has_its_change_ready_to_copy_and_its_line_marked() -> None:
    """The spec change of an advice stands beside it with a button, and its line in the spec is marked."""
    page = write_full()
    assert 'data-copy="quantization.include_cle: true"' in page
    assert "line 5, <code>quantization.include_cle</code>: the advice EQUALISATION changes it" in page


def test_the_card_says_what_the_network_is() -> None:
    """Data, training, accuracy, limits and the licence of the weights stand in the model card."""
    document, facts = make_report()
    card = render_card(document, facts)
    for word in (
        "# Model card: demo",
        "1200 images",
        "8 epochs",
        "Emulated",
        "## Limits",
        "BSD 3-Clause",
        "not measured on a board",
    ):
        assert word in card
    assert format_figure(document["metrics"]["int8_accuracy"], " %") in card


@pytest.mark.parametrize(
    ("weights", "backbone", "words"),
    [
        ("none", "resnet18", "random weights"),
        ("IMAGENET1K_V1", "resnet18", "torchvision"),
        ("default", "timm/resnet18", "timm"),
        ("weights/mine.pth", "resnet18", "own file"),
        ("", "", "Not known"),
    ],
)
def test_the_licence_follows_from_where_the_weights_come(weights: str, backbone: str, words: str) -> None:
    """Each source of weights has its own words, and none is silent."""
    assert words in describe_licence(weights, backbone)


def test_what_was_measured_on_a_board_stands_on_both_pages() -> None:
    """Threads and latencies of a visit are tables, the frame rate a figure; an emulated board says that it is one."""
    names = name_classes(3)
    span = {"latency": {name: {"ms": 2.5} for name in ("p50", "p95", "p99")}, "fps": 512.25, "interval": [500.0, 520.0]}
    row = {"threads": 2, "dpu": {**span, "cpu_load_percent": 30.0, "power_w": {}}, "end_to_end": {**span}}
    row["end_to_end"] |= {"cpu_load_percent": 40.0, "power_w": {"total": {"mean": 6.5}}}
    visit = {
        "host": "lab",
        "emulated": True,
        "note": "no DPU ran",
        "status": "done",
        "bench": {"rows": [row], "changes": []},
    }
    document = build_report(
        "demo", "0" * 64, "emulator", BOARDS, make_results(names), {}, {"KV260": visit}, make_facts(names)
    )
    pages = render_pages(document, make_facts(names))
    place = "/boards/KV260/measured/fps"
    shown = {figure["data-place"]: figure["text"] for figure in Page(pages["report.html"]).figures}
    assert shown[place] == format_figure(512.25)
    for page in pages.values():
        assert "Measured on KV260 (lab)" in page
        assert "no DPU ran" in page
        assert f"{format_figure(512.25)}" in page
