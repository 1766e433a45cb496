"""What the command line prints arrives as it is: square brackets and :words: of the user are no markup."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from dpuforge import doctoring, planning
from dpuforge.cli import app
from dpuforge.commands import screen
from tests.conftest import REPO

PACKAGE = REPO / "generator/dpuforge"
ODD = "[old] [/] [red]x[/red] :warning: [tool[run]]"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The quickstart spec in a folder with square brackets, with such folders of images."""
    text = (REPO / "spec/quickstart.yaml").read_text(encoding="utf-8")
    folder = tmp_path / "[old]" / "spec"
    folder.mkdir(parents=True)
    (folder / "quickstart.yaml").write_text(text.replace("data/mnist5k/", "data/[old]/"), encoding="utf-8")
    return folder / "quickstart.yaml"


def run(*arguments: object) -> str:
    """Run a command in this process and return what it printed on both streams."""
    return CliRunner().invoke(app, [str(word) for word in arguments]).output


def test_explain_shows_a_folder_in_square_brackets(spec: Path) -> None:
    """data/[old]/train keeps its folder, and a list of words its brackets."""
    shown = run("explain", spec)
    assert "data/[old]/train" in shown
    assert "['0', '1', '2'" in shown


def test_validate_shows_a_folder_in_square_brackets(spec: Path) -> None:
    """A problem names its file and the value as they are written."""
    text = spec.read_text(encoding="utf-8")
    spec.write_text(text.replace("data/[old]/test", "data/[old]/train"), encoding="utf-8")
    shown = run("validate", spec)
    assert f"{spec}:" in shown
    assert "data/[old]/train" in shown


def test_plan_shows_reasons_in_square_brackets(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of stages shows the reason as it is."""
    seen = planning.Foresight((planning.StageRow("train", planning.State.STALE, ODD),), f"note {ODD}")
    monkeypatch.setattr(planning, "foresee", lambda *_: seen)
    assert ODD in run("plan", spec)


def test_doctor_shows_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that supplies a missing module keeps its extra: dpuforge[run]."""
    monkeypatch.setattr(doctoring, "_PACKAGES", (("no_such_module", "tests", "pip install 'dpuforge[run]'", True),))
    assert "pip install 'dpuforge[run]'" in run("doctor")


def test_tables_print_titles_headers_and_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is taken for markup or an emoji anywhere in a table."""
    screen.print_table(f"title {ODD}", (f"header {ODD}",), [(f"cell {ODD}",)])
    shown = capsys.readouterr().out
    for place in ("title", "header", "cell"):
        assert f"{place} {ODD}" in shown


def test_progress_shows_names_and_notes_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """The description and the note of a running stage, and a line printed above them, are no markup."""
    progress = screen.make_progress()
    progress.add_task(f"description {ODD}", total=1, note=f"note {ODD}")
    progress.console.print(progress.get_renderable())
    progress.console.print(f"line {ODD}")
    shown = capsys.readouterr().err
    for place in ("description", "note", "line"):
        assert f"{place} {ODD}" in shown


def find_commands(command: click.Command, name: str = "dpuforge") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, groups included."""
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from find_commands(inner, f"{name} {word}")


COMMANDS = dict(find_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_has_a_stray_backslash(name: str) -> None:
    """Defaults and required values stand in plain brackets in every --help."""
    shown = run(*name.split()[1:], "--help")
    assert "Usage:" in shown
    assert "\\" not in shown
    required = [option for option in COMMANDS[name].params if option.required]
    assert not required or "[required]" in shown


def find_rich(path: Path) -> list[Any]:
    """Return the import statements of Rich in a module, anywhere in it."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    named = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {node: getattr(node, "module", None) or node.names[0].name for node in named}
    return [node for node, module in modules.items() if module.split(".")[0] == "rich"]


def test_one_module_prints_through_rich() -> None:
    """Only commands/screen.py imports Rich, and every console and column that it makes has markup switched off."""
    users = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if find_rich(path)}
    assert users == {"commands/screen.py"}
    tree = ast.parse((PACKAGE / "commands/screen.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [node for node in calls if getattr(node.func, "attr", "") in ("from_markup", "render_markup")]
    made = {name: [c for c in calls if getattr(c.func, "id", "") == name] for name in ("Console", "TextColumn")}
    assert {name: len(found) for name, found in made.items()} == {"Console": 1, "TextColumn": 1}
    for call in (*made["Console"], *made["TextColumn"]):
        assert {"markup": False}.items() <= {k.arg: getattr(k.value, "value", None) for k in call.keywords}.items()


def test_json_keeps_square_brackets(spec: Path) -> None:
    """--json prints the same value."""
    assert json.loads(run("explain", spec, "--json"))["data.train"]["value"] == "data/[old]/train"
