"""The borders of the house: which folder may import which, no circles, no crowded folders."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import REPO

PACKAGE = REPO / "generator" / "dpuforge"
LEAVES = {"errors", "paths", "writing", "records", "quant_config", "chance"}
STEPS = ("load", "plan", "render", "execute", "report")
# From the ground up: a room of the emulator may import those before it, never one beside or after it.
EMULATOR_FLOORS = (
    {"arithmetic"},
    {"graph"},
    {"prepare"},
    {"quantise"},
    {"integer"},
    {"quantised_graph"},
    {"export", "diagnosis", "qat"},
    {"nndct"},
)
MOST_MODULES = 16


def module_names() -> dict[str, Path]:
    """Return every module of the package by its dotted name below dpuforge; a package's name is its folder's."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = module_names()


def imported_by(name: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (known(alias.name) for alias in node.names if alias.name.startswith("dpuforge."))
        elif isinstance(node, ast.ImportFrom):
            base = absolute(name, node)
            if base is not None:
                yield from (known(f"{base}.{alias.name}") for alias in node.names)


def absolute(name: str, node: ast.ImportFrom) -> str | None:
    """Return the dotted name that a from-import starts at, or None where it is not of this package."""
    if node.level:
        folder = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
        start = folder[: len(folder) - node.level + 1]
        return ".".join(["dpuforge", *start, *([node.module] if node.module else [])])
    module = node.module or ""
    return module if module == "dpuforge" or module.startswith("dpuforge.") else None


def known(dotted: str) -> str:
    """Return the longest beginning of a dotted name that is a module."""
    name = dotted.removeprefix("dpuforge").lstrip(".")
    while name not in MODULES and name:
        name = name.rpartition(".")[0]
    return name


IMPORTS = {name: {other for other in imported_by(name) if other and other != name} for name in MODULES}


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    """The modules of the package can be put in an order in which each imports only earlier ones."""
    try:
        tuple(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_circle_finder_sees_a_circle() -> None:
    """The judge of circles is not blind."""
    with pytest.raises(CycleError):
        tuple(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())
    assert "emulator.graph.nodes" in IMPORTS["emulator.graph.capture"]


def test_no_folder_is_crowded() -> None:
    """No folder of the package holds more than sixteen modules, its __init__ left aside."""
    counts = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert {str(folder.relative_to(REPO)): n for folder, n in counts.items() if n > MOST_MODULES} == {}


def test_every_module_of_the_emulator_stands_in_a_room() -> None:
    """No module of the emulator lies outside the rooms of the border test."""
    rooms = {name.split(".")[1] for name in MODULES if name.startswith("emulator.")}
    assert rooms == set().union(*EMULATOR_FLOORS)


@pytest.mark.parametrize("floor", range(len(EMULATOR_FLOORS)))
def test_rooms_of_the_emulator_import_downwards(floor: int) -> None:
    """A room imports itself and rooms that the data passed before it."""
    allowed = set().union(*EMULATOR_FLOORS[:floor])
    wrong = []
    for room in EMULATOR_FLOORS[floor]:
        for name in MODULES:
            if name.split(".")[:2] == ["emulator", room]:
                others = {other.split(".")[1] for other in IMPORTS[name] if other.startswith("emulator.")}
                wrong += [f"{name} imports {other}" for other in others - allowed - {room}]
    assert wrong == []


@pytest.mark.parametrize("step", STEPS)
def test_the_steps_do_not_import_each_other(step: str) -> None:
    """load, plan, render, execute and report import records and leaves; the joining modules join them."""
    used = {other.split(".")[0] for name in MODULES if name.split(".")[0] == step for other in IMPORTS[name]}
    assert used <= LEAVES | {step}


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("emulator", {"emulator", "xmodel", "quant_config", "records", "errors", "writing", "chance"}),
        ("xmodel", {"xmodel", "records", "errors", "writing"}),
        ("hardware", {"hardware", "records", "errors", "xmodel"}),
        ("records", {"records", "errors"}),
        ("quant_config", {"quant_config"}),
        ("chance", {"chance"}),
    ],
)
def test_what_knows_nothing_of_specs_imports_nothing_of_them(room: str, allowed: set[str]) -> None:
    """Emulator, xmodel, hardware, records and quant_config stand on their own."""
    wrong = {
        f"{name} imports {other}"
        for name in MODULES
        if name.split(".")[0] == room
        for other in IMPORTS[name]
        if other.split(".")[0] not in allowed
    }
    assert wrong == set()


def test_module_names_are_said_once() -> None:
    """No two modules of the package share a name; the stand-ins for AMD's packages keep theirs."""
    names = Counter(
        path.stem for name, path in MODULES.items() if path.name != "__init__.py" and not name.startswith("dropin.")
    )
    assert sorted(name for name, count in names.items() if count > 1) == []


def test_one_module_opens_the_catalogue_and_one_function_applies_the_lock() -> None:
    """load_catalogue is called for shipped_catalogue alone, and only pipeline and estimate ask for a spec's targets."""
    callers = {name: set[str]() for name in ("load_catalogue", "resolve_targets", "resolve_choices", "read_lock")}
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in callers:
                callers[node.func.id].add(path.relative_to(PACKAGE).as_posix())
    assert callers["load_catalogue"] == {"load/boards/catalogue.py"}
    assert callers["resolve_targets"] == {"pipeline.py", "estimating.py"}
    assert callers["read_lock"] == {"load/boards/lock_file.py", "commands/lock_board.py"}
    # A migration is about the DPUs of two releases, whatever a board reported before.
    assert callers["resolve_choices"] == callers["read_lock"] | {"edit/migrate.py"}


def test_the_pipeline_shows_the_six_steps_in_order() -> None:
    """pipeline.run calls load, plan, render, write, execute and report, in that order, and the page defines each."""
    tree = ast.parse((PACKAGE / "pipeline.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    calls = [node for node in ast.walk(functions["run"]) if isinstance(node, ast.Call)]
    named = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id in functions]
    steps = [node.func.id for node in sorted(named, key=lambda node: node.lineno)]  # type: ignore[attr-defined]
    assert steps == ["load", "plan", "render", "write", "execute", "report"]
