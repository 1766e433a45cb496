"""The pages that code, templates, specs, tests and other pages cite are in this repository, section by section."""

import importlib.util
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPO

FOLDERS = ("generator", "templates", "spec", "docs", "tests", "benchmarks")
SUFFIXES = {".py", ".j2", ".yaml", ".md", ".proto"}
# These may name folders beside the checkout.
WHERE_RECORDINGS_ARE_FOUND = {Path("tests/conftest.py"), Path("tests/test_docs.py")}

_SECTION = r"(?:,[\s#]+section[\s#]+(?P<number>\d+))"
_CITATION = re.compile(rf"\bdocs/(?P<page>[\w/-]+\.md)\b{_SECTION}?")
_SECTION_WITHOUT_PATH = re.compile(rf"(?<![\w/-])(?P<page>[\w-]+\.md){_SECTION}")
_LINK = re.compile(r"\]\((?P<path>[^)\s:#]+)(?:#[^)]*)?\)")
_PATH = re.compile(r"`(?P<path>(?:generator|tests|benchmarks|hardware|emulator|load|plan|execute)/[\w./-]*)`")
_BESIDE_THE_CHECKOUT = re.compile(r"(?<![\w-])(?:shared|golden|facts)/[\w*{<]")


def source_files() -> Iterator[Path]:
    """Yield what people read in this repository, relative to its root; generated/ follows from the templates."""
    yield from (Path(path.name) for path in REPO.glob("*.md"))
    for folder in FOLDERS:
        for path in sorted((REPO / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES:
                yield path.relative_to(REPO)


def section_numbers(page: Path) -> set[str]:
    """Return the numbers of a page's headings ("## 4. Title")."""
    return set(re.findall(r"^#+ (\d+)\. \S", page.read_text(encoding="utf-8"), re.MULTILINE))


def broken_citations(text: str) -> list[str]:
    """Return the citations of a text whose page or section does not exist, or that do not say where the page is."""
    broken = [found.group() for found in _SECTION_WITHOUT_PATH.finditer(text)]
    for found in _CITATION.finditer(text):
        page = REPO / "docs" / found["page"]
        if not page.is_file() or (found["number"] and found["number"] not in section_numbers(page)):
            broken.append(found.group())
    return broken


@cache
def made_pages() -> frozenset[Path]:
    """Return the pages that docs/_site makes while the site is built, as if they lay in docs/."""
    spec = importlib.util.spec_from_file_location("pages", REPO / "docs/_site/pages.py")
    assert spec
    assert spec.loader
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    return frozenset(REPO / "docs" / path for path in pages.make_pages())


def broken_links(path: Path, text: str) -> list[str]:
    """Return the relative links of a Markdown page that lead nowhere; pages made for the site are there."""
    targets = {link["path"]: REPO / path.parent / link["path"] for link in _LINK.finditer(text)}
    found = [link for link, target in targets.items() if not target.exists()]
    return [link for link in found if Path(os.path.normpath(targets[link])) not in made_pages()]


def missing_paths(text: str) -> list[str]:
    """Return the paths in backquotes that are neither in the repository nor in the package."""
    homes = (REPO, REPO / "generator" / "dpuforge")
    return [path for path in _PATH.findall(text) if not any((home / path).exists() for home in homes)]


def test_cited_pages_and_sections_exist() -> None:
    """Every "docs/PAGE.md" and "docs/PAGE.md, section N" names a page, and a heading of it, that is here."""
    texts = {path: (REPO / path).read_text(encoding="utf-8") for path in source_files() if path.name != "test_docs.py"}
    found = {str(path): broken for path, text in texts.items() if (broken := broken_citations(text))}
    assert found == {}
    cited = {citation["page"] for text in texts.values() for citation in _CITATION.finditer(text) if citation["number"]}
    assert "quantizer.md" in cited  # the search finds what there is


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link of a Markdown page is a file or a folder of this repository, or a page of the site."""
    pages = [path for path in source_files() if path.suffix == ".md"]
    found = {str(path): broken_links(path, (REPO / path).read_text(encoding="utf-8")) for path in pages}
    assert {path: links for path, links in found.items() if links} == {}


def test_code_that_the_pages_name_is_there() -> None:
    """Every path to code or tests that a page of docs/ writes in backquotes exists."""
    pages = {page.name: page.read_text(encoding="utf-8") for page in (REPO / "docs").glob("*.md")}
    assert {name: missing for name, text in pages.items() if (missing := missing_paths(text))} == {}
    assert missing_paths("see `generator/gone.py` and `hardware/latency.py`") == ["generator/gone.py"]


def test_no_source_lies_outside_the_repository() -> None:
    """Nothing cites a file beside the checkout; only the fixtures know where recordings may lie."""
    found = {}
    for path in source_files():
        cited = _BESIDE_THE_CHECKOUT.findall((REPO / path).read_text(encoding="utf-8"))
        if cited and path not in WHERE_RECORDINGS_ARE_FOUND:
            found[str(path)] = cited
    assert found == {}


def test_every_section_says_how_it_was_established() -> None:
    """Each section of docs/quantizer.md says what was recorded, what measured, and what is only a claim."""
    text = (REPO / "docs" / "quantizer.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [section.split(".")[0] for section in sections] == [str(number) for number in range(1, len(sections) + 1)]
    silent = [section.splitlines()[0] for section in sections if not re.search(r"\*(Recorded|Measured)\*", section)]
    assert silent == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("(docs/quantizer.md, section 4)", []),
        ("# docs/quantizer.md,\n# section 4", []),
        ("docs/cli.md holds the contract", []),
        ("docs/quantizer.md, section 99", ["docs/quantizer.md, section 99"]),
        ("docs/quantizer.md,\n    # section 99", ["docs/quantizer.md,\n    # section 99"]),
        ("docs/missing.md", ["docs/missing.md"]),
        ("(quantizer.md, section 4)", ["quantizer.md, section 4"]),
        ("docs/cli.md, section 1", ["docs/cli.md, section 1"]),
    ],
)
def test_broken_citations_are_found(text: str, broken: list[str]) -> None:
    """A page or section that is not here, and a section of a page without its folder, count as broken."""
    assert broken_citations(text) == broken


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see ../golden/nets/*/graph.json", True),
        ("python fit.py ../shared/facts/rates.csv", True),
        ("source: facts/boards.csv", True),
        ("golden/<case>", True),
        ("tests/golden_data/emulator", False),
        ("(golden / 'kernels')", False),
    ],
)
def test_files_beside_the_checkout_are_found(text: str, found: bool) -> None:
    """Paths into folders beside the checkout are recognised, those of the repository are not taken for them."""
    assert bool(_BESIDE_THE_CHECKOUT.search(text)) == found
