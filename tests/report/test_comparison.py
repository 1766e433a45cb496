"""Several runs side by side: the front, the differences in words, the same figures in all files, the command."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpuforge.report.comparison import (
    Run,
    build_comparison,
    find_front,
    list_differences,
    name_folder,
    render_comparison,
)
from dpuforge.report.figures_shown import format_figure
from tests.report.sample import make_report
from tests.report.test_pages import Page, look_up, numbers, show


def make_run(name: str, int8: float | None, fps: float | None, **settings: Any) -> Run:
    """Return a run of the sample with another name, accuracy, frame rate and settings."""
    document, facts = make_report(3)
    document = copy.deepcopy(document)
    document["project"] = name
    document["metrics"]["int8_accuracy"] = int8
    document["boards"]["KV260"]["fps_estimate"] = None if fps is None else [0.8 * fps, fps, 1.2 * fps]
    return document, replace(facts, spec=replace(facts.spec, settings={**facts.spec.settings, **settings}))


def test_the_front_is_what_no_other_run_beats() -> None:
    """A run that is behind in both figures is not on it; equals are; a run without figures is not."""
    assert find_front([(90.0, 500.0), (95.0, 300.0), (89.0, 400.0), (None, 900.0), (95.0, 300.0)]) == {0, 1, 4}
    assert find_front([]) == set()


def test_differences_are_said_in_words() -> None:
    """Each key that differs is one line, with who has which value; names do not count."""
    settings = [
        {"train.optimizer.lr": 1e-3, "project": "a"},
        {"train.optimizer.lr": 5e-4},
        {"train.optimizer.lr": 5e-4, "x": 1},
    ]
    words = [item["words"] for item in list_differences(["a", "b", "c"], settings)]
    assert words == ["train.optimizer.lr: 0.001 in a; 0.0005 in b and c", "x: not set in a and b; 1 in c"]


def test_the_three_files_of_a_comparison_agree() -> None:
    """Every figure of the HTML page is the document's, and stands in the Markdown table."""
    runs = [make_run("one", 90.123, 500.0, **{"a|b": 1}), make_run("<two>", 95.5, 300.0), make_run("three", None, None)]
    document = json.loads(json.dumps(build_comparison(runs)))
    pages = render_comparison(document)
    page = Page(pages["comparison.html"])
    assert len(page.figures) >= 24
    for figure in page.figures:
        value = look_up(document, figure["data-place"])
        assert json.loads(figure["value"]) == value
        assert numbers(figure["text"]) == numbers(show(value))
    rows = [
        line.split(" | ") for line in pages["comparison.md"].splitlines() if re.match(r"\| (one|<two>|three) ", line)
    ]
    assert [row[3] for row in rows] == [format_figure(row["int8_accuracy"]) for row in document["runs"]]
    assert [row["on_front"] for row in document["runs"]] == [True, True, False]
    assert "<two>" in "".join(page.words)


def test_runs_without_a_common_board_are_compared_by_their_table() -> None:
    """Without a shared board or any figure the page says so, and no plot is drawn."""
    first, second = make_run("one", None, None), make_run("two", None, None)
    second[0]["boards"] = {"VEK280": second[0]["boards"]["KV260"]}
    document = build_comparison([first, second])
    assert document["board"] is None
    assert "No run has both" in render_comparison(document)["comparison.html"]


def test_a_folder_of_many_runs_has_a_short_name() -> None:
    """A sweep of a hundred runs has one folder whose name fits any file system, another sweep another one."""
    names = [f"project_{number}" for number in range(100)]
    assert len(name_folder(names)) < 100
    assert name_folder(names) != name_folder(names[:-1])
    assert name_folder(["a", "b"]) == "a-b"


@pytest.mark.parametrize("count", [1, 2])
def test_the_command_reports_one_spec_and_compares_several(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dpuforge report A B` writes each report and the comparison; nothing else is touched."""
    from typer.testing import CliRunner

    from dpuforge.cli import app

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    text = "project: {}\nmodel: {{backbone: resnet18}}\nclasses: 3\ndata: {{train: a, validation: b, test: c}}\n"
    text += "train: {{epochs: {}}}\ntarget: {{boards: [KV260]}}\n"
    (tmp_path / "spec").mkdir()
    specs = [tmp_path / "spec" / f"{name}.yaml" for name in ("one", "two")[:count]]
    for number, path in enumerate(specs):
        path.write_text(text.format(path.stem, number + 3))
    ran = CliRunner().invoke(app, ["report", *map(str, specs)])
    assert ran.exit_code == 0, ran.output
    written = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "build").rglob("*") if path.is_file()}
    pages = ("report.json", "report.md", "report.html", "card.md")
    expected = {f"build/{path.stem}/{page}" for path in specs for page in pages}
    if count == 2:
        expected |= {f"build/comparison/one-two/comparison.{end}" for end in ("json", "md", "html")}
        assert "train.epochs: 3 in one; 4 in two" in ran.output
    assert written == expected
