"""The site of the documentation: warnings are errors, every key, code and error has a page, nothing is remote."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dpuforge import errors
from dpuforge.execute.faults import read_rows
from dpuforge.load.spec_schema import read_schema
from dpuforge.quant_config import PARAM_KEYS
from dpuforge.quant_config.pitfalls import PITFALLS
from dpuforge.zoo.entries import list_entries
from tests.conftest import REPO

pytest.importorskip("material", reason="mkdocs-material comes with the extras docs, test and dev")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of MkDocs (a dead link, a page outside of the navigation) fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def dotted(rules: object, above: str = "") -> list[str]:
    """Return the dotted keys of the schema, mappings among them."""
    found = []
    for name, rule in rules.items():  # type: ignore[attr-defined]
        found.append(f"{above}{name}")
        if rule.get("type") == "mapping" and "schema" in rule:
            found += dotted(rule["schema"], f"{above}{name}.")
    return found


def test_every_key_of_a_spec_has_a_page(site: Path) -> None:
    """Each key of the schema, and each of the quantizer's below quantization.overall, has a page of its meaning."""
    keys = [*dotted(read_schema()), *(f"quantization.overall.{key}" for key in PARAM_KEYS)]
    assert [key for key in keys if not (site / "keys" / f"{key}.html").is_file()] == []
    page = (site / "keys/train.optimizer.lr.html").read_text(encoding="utf-8")
    assert "Learning rate at the start." in page
    assert "0.001" in page


def test_every_code_of_the_quantizer_has_a_page_that_leads_to_its_keys(site: Path) -> None:
    """Each row's cause and remedy stand on its code's page, and its keys are links."""
    for row in read_rows("quantizer"):
        page = (site / "codes" / f"{row.code}.html").read_text(encoding="utf-8")
        assert "Remedy." in page
        assert all(f"../keys/{key}.html" in page for key in row.keys if "." in key)


def test_every_error_has_a_page(site: Path) -> None:
    """dpuforge's own errors, those of a disk, the parser's pitfalls and what logs show: a page each."""
    pages = [path.name for path in (site / "errors").glob("*.html") if path.name != "index.html"]
    own = [kind for kind in errors.UserError.__subclasses__() if kind.__module__ == errors.__name__]
    logs = [row for group in ("compiler", "ends", "engine") for row in read_rows(group)]
    assert len(pages) == 1 + len(own) + len(errors.DISK_ERRORS) + len(PITFALLS) + len(logs)


def test_the_zoo_and_the_spec_of_the_tutorial_are_on_the_site(site: Path) -> None:
    """Every shipped spec has its card, and the tutorial shows the very spec."""
    zoo = (site / "zoo.html").read_text(encoding="utf-8")
    assert [entry.name for entry in list_entries() if entry.name not in zoo] == []
    assert "fruits30_kv260" in (site / "tutorial.html").read_text(encoding="utf-8")
    assert "--8&lt;--" not in (site / "tutorial.html").read_text(encoding="utf-8")


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """No page loads a script, a style, a font or a picture from another host."""
    remote = re.compile(
        r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?(?:https?:)?//|@import url\(["\']?(?:https?:)?//'
    )
    found = [path.name for path in site.rglob("*.html") if remote.search(path.read_text(encoding="utf-8"))]
    found += [path.name for path in site.rglob("*.css") if remote.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_the_build_leaves_the_folder_of_the_pages_as_it_was(site: Path) -> None:
    """What is made while the site is built is not written into docs/."""
    assert site.is_dir()
    assert not any((REPO / "docs" / name).exists() for name in ("keys", "codes", "errors", "zoo.md"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "addition",
    ["[gone](gone.md)", "[gone](keys/no.such.key.md)", "[gone](cli.md#no-such-heading)", '--8<-- "spec/gone.yaml"'],
)
def test_what_leads_nowhere_fails_the_build(addition: str, tmp_path: Path) -> None:
    """A link to a page, a made page or a heading that is not there, and a missing snippet, fail the build."""
    (tmp_path / "docs").mkdir()
    for name in ("cli.md", "state.md"):
        (tmp_path / "docs" / name).write_text("# Page\n", encoding="utf-8")
    (tmp_path / "docs/index.md").write_text(f"# Start\n\n{addition}\n", encoding="utf-8")
    config = (REPO / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[0]
    config = config.replace("docs/_site/pages.py", str(REPO / "docs/_site/pages.py"))
    (tmp_path / "mkdocs.yml").write_text(
        config + "\nnav: [index.md, cli.md, state.md, zoo.md, {K: keys/}, {C: codes/}, {E: errors/}]\n"
    )
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr or "8<" in addition
