"""The pages in a real browser: nothing is loaded or logged, nothing overflows, clicks, sorting and zooming work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpuforge.report.comparison import build_comparison, render_comparison
from dpuforge.report.pages import render_pages
from tests.report.sample import BITING, make_report

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
    for name, found in pages.items():
        (target / f"{name}.html").write_text(found["report.html"], encoding="utf-8")
    compared = build_comparison([(full, facts), ({**full, "project": "<b>other"}, facts)])
    (target / "comparison.html").write_text(render_comparison(compared)["comparison.html"], encoding="utf-8")
    return target


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
