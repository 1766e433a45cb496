"""The pages in a real browser: nothing is loaded or logged, nothing overflows, clicks, sorting and zooming work."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpuforge.report.charts import encode_map
from dpuforge.report.comparison import build_comparison, render_comparison
from dpuforge.report.document import build_report
from dpuforge.report.facts import Facts, SpecText
from dpuforge.report.pages import render_pages
from tests.report.sample import BITING, BOARDS, STAGES, make_facts, make_report, make_results, name_classes

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: nox -s report installs it")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: nox -s report installs it")
WIDTHS = (360, 768, 1200, 1920)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the system's Chromium without a window."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report of thirty classes, one of a thousand, an empty one and a comparison."""
    target = tmp_path_factory.mktemp("pages")
    full, facts = make_report()
    large, more = make_report(1000)
    pages = {"full": render_pages(full, facts), "large": render_pages(large, more)}
    pages |= {name: render_pages(*report) for name, report in make_odd_reports().items()}
    for name, found in pages.items():
        (target / f"{name}.html").write_text(found["report.html"], encoding="utf-8")
    compared = build_comparison([(full, facts), ({**full, "project": "<b>other"}, facts)])
    (target / "comparison.html").write_text(render_comparison(compared)["comparison.html"], encoding="utf-8")
    return target


def make_odd_reports() -> dict[str, tuple[dict[str, Any], Facts]]:
    """Return reports of what people have: nothing, unbroken and right-to-left names, a training that diverged."""
    names = {
        "unbroken": [letter * 200 for letter in "xyzWabcdefg"],
        "right_to_left": ["تفاحة حمراء", "שלום עולם", "\u202eevil\u202c", "שלום " * 40, "e\u0301" * 100, *"abcdefg"],
        "diverged": name_classes(),
        "one_pixel": name_classes(),
        "integers": name_classes(),
    }
    made = {name: (make_results(classes), make_facts(classes)) for name, classes in names.items()}
    made["empty"] = ({}, Facts(spec=SpecText(path="spec/demo.yaml"), stages=STAGES))
    _, facts = made["diverged"]
    history = [{"train_accuracy": math.nan, "val_accuracy": 1.0, "train_loss": math.inf}] * 3
    made["diverged"] = (made["diverged"][0], replace(facts, files={**facts.files, "train/history.csv": history}))
    results, facts = made["one_pixel"]
    sheet = {"sizes": [[1, 1, 1]], "kinds": {"PNG L": 1}, "seen": [{"class": "a", "picture": encode_map([[0.5]])}]}
    made["one_pixel"] = (results, replace(facts, files={**facts.files, "prepare/pictures.json": sheet}))
    checked = made["integers"][0]["preflight"]
    measured = {"integer_accuracy": 82.0, "integer_interval": [73.3, 88.3], "integer_images": 100}
    made["integers"][0]["preflight"] = checked.with_changes(metrics={**checked.metrics, **measured})
    return {
        name: (build_report("demo", "0" * 64, "emulator", BOARDS, results, {}, facts=facts), facts)
        for name, (results, facts) in made.items()
    }


ODD = ("unbroken", "right_to_left", "diverged", "one_pixel", "integers", "empty")


class Visit:
    """An open page with all that it logged and asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1200, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    def ask(self, script: str) -> Any:
        """Return what a script finds in the page."""
        return self.page.evaluate(script)


@pytest.mark.parametrize("name", ["full", "large", "comparison"])
def test_a_page_opens_from_a_file_without_a_word_or_a_request(browser: Any, folder: Path, name: str) -> None:
    """From file:// the console stays empty, and nothing but the file itself is asked for."""
    with Visit(browser, folder / f"{name}.html") as visit:
        visit.page.wait_for_load_state("load")
        assert visit.said == []
        assert [url for url in visit.asked if not url.startswith("data:")] == [(folder / f"{name}.html").as_uri()]
        if name != "comparison":
            assert visit.ask("document.documentElement.dataset.ready") == "yes"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows(browser: Any, folder: Path, width: int, scheme: str) -> None:
    """From a phone to a wide screen the page is as wide as the window, light and dark."""
    for name in ("full", "comparison"):
        with Visit(browser, folder / f"{name}.html", width, scheme) as visit:
            assert visit.ask("document.documentElement.scrollWidth") <= width
            assert visit.said == []


@pytest.mark.parametrize("name", ODD)
def test_odd_results_are_shown_as_well(browser: Any, folder: Path, name: str) -> None:
    """Whatever the results hold, no width overflows, nothing is logged, and axe finds nothing in what is shown."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: nox -s report")
    for width in WIDTHS:
        with Visit(browser, folder / f"{name}.html", width) as visit:
            assert visit.ask("document.documentElement.scrollWidth") <= width
            assert visit.ask("document.documentElement.dataset.ready") == "yes"
            visit.ask("dispatchEvent(new Event('beforeprint'))")  # all charts are drawn
            assert visit.said == []
            if width == WIDTHS[0]:
                visit.ask("document.querySelector('meta[http-equiv]')?.remove()")
                found = axe.Axe().run(visit.page).response["violations"]
                assert [(it["id"], it["nodes"][0]["html"][:120]) for it in found] == []


def test_integers_that_were_measured_stand_on_the_ladder(browser: Any, folder: Path) -> None:
    """The accuracy of the xmodel on integers is a mark of its own beside float and int8."""
    with Visit(browser, folder / "integers.html") as visit:
        assert visit.page.locator("#ladder .plot .dot").count() == 3
        assert "82 %" in visit.page.locator("#ladder .range", has_text="xmodel, on integers").inner_text()


def test_a_page_of_thirty_classes_opens_within_a_second(browser: Any, folder: Path) -> None:
    """From the start of the navigation to the page's own script having run: the best of five, in milliseconds."""
    spent = []
    for _ in range(5):
        with Visit(browser, folder / "full.html") as visit:
            assert visit.ask("document.documentElement.dataset.ready") == "yes"
            spent.append(visit.ask("performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert 0 < min(spent) < 1000


def test_the_page_is_readable_without_a_script(browser: Any, folder: Path) -> None:
    """Ladder, tables, pictures and boards need no script."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "full.html").as_uri())
    assert page.locator("#ladder .plot .dot").count() == 2
    assert page.locator("#table-classes tbody tr").count() == 30
    assert page.locator(".network li").count() == 12
    context.close()


def test_a_click_on_a_layer_shows_its_histograms(browser: Any, folder: Path) -> None:
    """A click into the layers' chart, and the choice in the list, change the layer that is shown."""
    with Visit(browser, folder / "full.html") as visit:
        chart = visit.page.locator("#chart-layers")
        chart.scroll_into_view_if_needed()
        visit.page.wait_for_selector("#chart-layers canvas")
        box = chart.bounding_box()
        titles = []
        for share in (0.2, 0.9):
            chart.click(position={"x": box["width"] * share, "y": box["height"] * 0.4})
            titles.append(visit.page.locator("#layer-title").inner_text())
        assert titles == ["layer0.<conv> (conv2d)", "layer3.<conv> (conv2d)"]
        visit.page.locator("#choose-layer").select_option("1")
        assert visit.page.locator("#layer-title").inner_text() == "layer1.<conv> (conv2d)"
        assert "180 of 256 levels" in visit.page.locator("#cap-weights").inner_text()
        assert visit.page.locator("#chart-weights canvas").count() == 1
        visit.page.locator("#choose-figure").select_option("fix")
        assert visit.said == []


def test_a_columns_title_sorts_the_classes(browser: Any, folder: Path) -> None:
    """Clicking a title sorts by its numbers, downwards, then upwards, and says so to screen readers."""
    with Visit(browser, folder / "full.html") as visit:
        head = visit.page.locator("#table-classes th", has_text="recall int8")
        cells = "document.querySelectorAll('#table-classes tbody tr')"
        read = f"Array.from({cells}, row => +row.cells[3].querySelector('data').value)"
        head.get_by_role("button").click()
        assert visit.ask(read) == sorted(visit.ask(read), reverse=True)
        assert head.get_attribute("aria-sort") == "descending"
        head.get_by_role("button").press("Enter")
        assert visit.ask(read) == sorted(visit.ask(read))
        assert head.get_attribute("aria-sort") == "ascending"
        assert len(set(visit.ask(read))) > 2


@pytest.mark.parametrize("name", ["full", "large"])
def test_the_confusion_matrix_zooms(browser: Any, folder: Path, name: str) -> None:
    """Buttons and the wheel zoom into the matrix, of a thousand classes too, and out again."""
    with Visit(browser, folder / f"{name}.html") as visit:
        chart = visit.page.locator("#chart-confusion")
        chart.scroll_into_view_if_needed()
        visit.page.wait_for_selector("#chart-confusion[data-range]")
        whole = chart.get_attribute("data-range")
        visit.page.get_by_role("button", name="Zoom in").click()
        closer = chart.get_attribute("data-range")
        assert closer != whole
        visit.page.get_by_role("button", name="Whole").click()
        assert chart.get_attribute("data-range") == whole
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        visit.page.mouse.wheel(0, -400)
        visit.page.wait_for_selector(f"#chart-confusion:not([data-range='{whole}'])")
        visit.page.get_by_role("button", name="float", exact=True).click()
        assert visit.page.get_by_role("button", name="float", exact=True).get_attribute("aria-pressed") == "true"
        assert visit.said == []


def test_names_that_bite_are_shown_as_text(browser: Any, folder: Path) -> None:
    """No name of a class became an element, and each stands in the table as it is, also in a chart's tooltip."""
    with Visit(browser, folder / "full.html") as visit:
        shown = visit.ask("Array.from(document.querySelectorAll('#table-classes tbody th'), cell => cell.textContent)")
        assert set(BITING) <= set(shown)
        assert visit.ask("document.scripts.length") == 3
        chart = visit.page.locator("#chart-confusion")
        chart.scroll_into_view_if_needed()
        visit.page.wait_for_selector("#chart-confusion canvas")
        box = chart.bounding_box()
        for share in (0.2, 0.25, 0.3):
            visit.page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] * share * 0.7)
        assert visit.ask("document.querySelectorAll('main script, main b b').length") == 0
        assert visit.said == []


def test_the_page_prints(browser: Any, folder: Path) -> None:
    """As PDF the page has content and no scroll containers that cut it."""
    with Visit(browser, folder / "full.html") as visit:
        visit.page.emulate_media(media="print")
        assert visit.ask("getComputedStyle(document.querySelector('nav.toc')).display") == "none"
        assert visit.ask("getComputedStyle(document.querySelector('.scroll.tall')).overflowY") == "visible"
        assert len(visit.page.pdf()) > 100_000
        visit.ask("dispatchEvent(new Event('beforeprint'))")
        assert (
            visit.ask("document.querySelectorAll('.chart:has(canvas)').length") == visit.page.locator(".chart").count()
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["full", "comparison"])
def test_axe_finds_no_violation(browser: Any, folder: Path, name: str, scheme: str) -> None:
    """axe-core, with all details open, finds nothing that keeps people out."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: nox -s report")
    with Visit(browser, folder / f"{name}.html", 1200, scheme) as visit:
        visit.ask("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        visit.ask("document.querySelector('meta[http-equiv]')?.remove()")
        found = axe.Axe().run(visit.page).response["violations"]
        assert [(it["id"], [node["html"][:120] for node in it["nodes"][:3]]) for it in found] == []
        visit.ask("document.querySelector('main').append(document.createElement('img'))")
        assert [it["id"] for it in axe.Axe().run(visit.page).response["violations"]] == ["image-alt"]


def test_the_keyboard_reaches_everything(browser: Any, folder: Path) -> None:
    """The first stop of the tabulator leads past the head, and buttons, lists and scroll boxes can be reached."""
    with Visit(browser, folder / "full.html") as visit:
        visit.page.keyboard.press("Tab")
        assert visit.ask("document.activeElement.className") == "skip-link"
        unreachable = (
            "Array.from(document.querySelectorAll('.scroll, .network')).filter(box => box.tabIndex !== 0).length"
        )
        assert visit.ask(unreachable) == 0
