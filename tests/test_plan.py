"""The plan's tables agree with what the generated scripts really read."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from dpuforge import pipeline
from dpuforge.records.project import Adjust
from tests.conftest import REPO

LOADED = pipeline.load(REPO / "spec/quickstart.yaml")
_QUANTIZATION = replace(LOADED.project.quantization, adjust=Adjust(enabled=True))  # with every optional stage
PLANNED = pipeline.plan(replace(LOADED, project=replace(LOADED.project, quantization=_QUANTIZATION)))
SCRIPTS = {
    file.path: file.text for file in pipeline.render(PLANNED) if file.path.endswith(".py") and "/" not in file.path
}


def imported_scripts(name: str) -> set[str]:
    """Return the generated scripts that a script imports, directly or through another."""
    tree = ast.parse(SCRIPTS[name])
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    direct = {f"{module}.py" for module in modules} & set(SCRIPTS)
    return direct.union(*(imported_scripts(other) for other in direct))


@pytest.mark.parametrize("stage", [s for s in PLANNED.stages if s.runner == "python"], ids=lambda s: s.key)
def test_a_stage_names_every_script_it_imports(stage: pipeline.Plan) -> None:
    """A script that changes makes every stage stale that runs any of it."""
    script = stage.argv[0]  # type: ignore[attr-defined]
    assert {script} | imported_scripts(script) <= set(stage.scripts)  # type: ignore[attr-defined]


def test_compiling_names_every_script_that_its_bundle_needs() -> None:
    """A change of bundle.py, of what it imports, or of the application makes the compile stage stale."""
    stage = next(stage for stage in PLANNED.stages if stage.name == "compile")
    parts = {file.path for file in PLANNED.files if file.path.startswith("deploy/")} - {"deploy/README.md"}
    assert {"bundle.py", "compile.sh", *imported_scripts("bundle.py"), *parts} <= set(stage.scripts)


def test_every_template_is_used_and_every_table_row_has_one() -> None:
    """templates/ holds nothing that no artifact is made from."""
    used = {file.template for file in PLANNED.files if file.template}
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
