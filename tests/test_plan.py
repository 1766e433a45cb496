"""The plan's tables agree with what the generated scripts really read."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from dpuforge import pipeline
from dpuforge.records.plan import PlannedStage
from dpuforge.records.project import Adjust, Qat
from tests.conftest import REPO

LOADED = pipeline.load(REPO / "spec/quickstart.yaml")


def plan_with(**changes: object) -> pipeline.Plan:
    """Return the plan of a shipped project with optional stages turned on."""
    quantization = replace(LOADED.project.quantization, **changes)  # type: ignore[arg-type]
    return pipeline.plan(replace(LOADED, project=replace(LOADED.project, quantization=quantization)))


def render_scripts(plan: pipeline.Plan) -> dict[str, str]:
    """Return the text of every generated script of a plan."""
    return {f.path: f.text for f in pipeline.render(plan) if f.path.endswith(".py") and "/" not in f.path}


# Two plans that together have every optional stage: qat stands in the place of adjust and calibrate.
PLANNED, TRAINED = plan_with(adjust=Adjust(enabled=True)), plan_with(qat=Qat(enabled=True))
SCRIPTS, TRAINED_SCRIPTS = render_scripts(PLANNED), render_scripts(TRAINED)


def imported_scripts(name: str, scripts: dict[str, str] = SCRIPTS) -> set[str]:
    """Return the generated scripts that a script imports, directly or through another."""
    tree = ast.parse(scripts[name])
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    direct = {f"{module}.py" for module in modules} & set(scripts)
    return direct.union(*(imported_scripts(other, scripts) for other in direct))


@pytest.mark.parametrize(
    ("stage", "scripts"),
    [
        pytest.param(stage, scripts, id=f"{stage.key}-{name}")
        for name, plan, scripts in (("adjust", PLANNED, SCRIPTS), ("qat", TRAINED, TRAINED_SCRIPTS))
        for stage in plan.stages
        if stage.runner == "python"
    ],
)
def test_a_stage_names_every_script_it_imports(stage: PlannedStage, scripts: dict[str, str]) -> None:
    """A script that changes makes every stage stale that runs any of it."""
    assert {stage.argv[0]} | imported_scripts(stage.argv[0], scripts) <= set(stage.scripts)
    assert {name for name in stage.scripts if name.endswith(".py")} <= set(scripts)


def test_compiling_names_every_script_that_its_bundle_needs() -> None:
    """A change of bundle.py, of what it imports, or of the application makes the compile stage stale."""
    stage = next(stage for stage in PLANNED.stages if stage.name == "compile")
    parts = {file.path for file in PLANNED.files if file.path.startswith("deploy/")} - {"deploy/README.md"}
    assert {"bundle.py", "compile.sh", *imported_scripts("bundle.py"), *parts} <= set(stage.scripts)


def test_every_template_is_used_and_every_table_row_has_one() -> None:
    """templates/ holds nothing that no artifact is made from."""
    used = {file.template for plan in (PLANNED, TRAINED) for file in plan.files if file.template}
    folder = REPO / "templates"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.j2")}
    assert {name for name in found if not name.startswith("_")} == used


def test_a_users_own_network_decides_every_stage_that_builds_it(tmp_path: Path) -> None:
    """Editing net.py makes training and all that follows stale."""
    text = (REPO / "spec/quickstart.yaml").read_text().replace("backbone: resnet18", 'backbone: "net.py:make"')
    (tmp_path / "net.py").write_text("def make(): ...\n")
    spec = tmp_path / "own.yaml"
    spec.write_text(text)
    stages = pipeline.plan(pipeline.load(spec)).stages
    assert {s.name for s in stages if s.files} == {"train", "inspect", "calibrate", "evaluate", "deploy"}
