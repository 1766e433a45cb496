"""Where people work: validate for GitHub and SARIF viewers, the pre-commit hooks, the GitHub Action."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPO
from tests.test_cli import dpuforge

HOOKS = yaml.safe_load((REPO / ".pre-commit-hooks.yaml").read_text())
ACTION = yaml.safe_load((REPO / "action.yml").read_text())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A generated project with a base file beside its spec, in a git repository."""
    (tmp_path / "spec").mkdir()
    shutil.copy(REPO / "spec/quickstart.yaml", tmp_path / "spec")
    (tmp_path / "spec/common.yaml").write_text("train: {seed: 0}\n")
    assert dpuforge("generate", cwd=tmp_path).returncode == 0
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "--all"], [*names, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def spoil(root: Path) -> None:
    spec = root / "spec/quickstart.yaml"
    spec.write_text(spec.read_text().replace("epochs: 4", "epochs: -4").replace("batch_size: 64", "batch: 64"))


def test_problems_as_annotations(project: Path) -> None:
    """One workflow command a problem, at its file, line and column; help on a line of its own, escaped."""
    spoil(project)
    done = dpuforge("validate", "--format", "github", cwd=project)
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert all(line.startswith("::error file=spec/quickstart.yaml,line=") for line in lines)
    assert any("line=27,col=" in line and "train.epochs" in line and "%0Ahelp: " in line for line in lines)


def test_problems_as_sarif(project: Path) -> None:
    """The document has the parts that a SARIF viewer needs, and as many results as there are problems."""
    spoil(project)
    done = dpuforge("validate", "--format", "sarif", cwd=project)
    document = json.loads(done.stdout)
    (run,) = document["runs"]
    text = dpuforge("validate", "--json", cwd=project)
    (problems,) = (entry["problems"] for entry in json.loads(text.stdout).values())
    assert document["version"] == "2.1.0"
    assert len(run["results"]) == len(problems) >= 2
    assert {result["ruleId"] for result in run["results"]} == {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "spec/quickstart.yaml"
    assert place["region"]["startLine"] > 0


def test_a_good_spec_is_empty_in_every_form(project: Path) -> None:
    """Good specs: exit code 0, no annotation, a document without results; a base file is no spec."""
    assert dpuforge("validate", "--format", "github", cwd=project).stdout == ""
    assert json.loads(dpuforge("validate", "--format", "sarif", cwd=project).stdout)["runs"][0]["results"] == []
    assert dpuforge("validate", cwd=project).stdout == "spec/quickstart.yaml: good\n"


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_the_hooks_run_what_exists(project: Path, hook: dict[str, Any]) -> None:
    """Each hook's command passes on a good project and fails on one that is out of step, without file names."""
    assert hook["pass_filenames"] is False
    command = hook["entry"].split()
    assert command[0] == "dpuforge"
    assert dpuforge(*command[1:], cwd=project).returncode == 0
    spoil(project)
    assert dpuforge(*command[1:], cwd=project).returncode != 0


def run_steps(project: Path, tmp_path: Path, **inputs: str) -> tuple[dict[str, int], str]:
    """Run the Action's own shell steps as GitHub would, installing excepted; return statuses and GITHUB_OUTPUT."""
    output = tmp_path / "output"
    output.touch()
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "dpuforge").write_text('#!/bin/sh\nexec python -m dpuforge "$@"\n')
    (folder / "dpuforge").chmod(0o755)
    python = os.path.dirname(os.sys.executable)  # type: ignore[attr-defined]
    environment = {
        **os.environ,
        "PATH": f"{folder}:{python}:{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "SPECS": inputs.get("specs", ""),
        "AGAINST": inputs.get("against", ""),
    }
    found = {}
    for step in ACTION["runs"]["steps"]:
        if step["name"] == "Install":
            continue
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], cwd=project, env=environment, check=False)
        found[step["name"]] = done.returncode
    return found, output.read_text()


def test_the_action_tells_a_pull_request_what_changed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a changed spec and files in step: all steps pass, and the comment's text names the change."""
    spec = project / "spec/quickstart.yaml"
    spec.write_text(spec.read_text().replace("epochs: 4", "epochs: 6"))
    assert dpuforge("generate", cwd=project).returncode == 0
    statuses, output = run_steps(project, tmp_path_factory.mktemp("action"), against="HEAD")
    assert set(statuses.values()) == {0}
    assert "`train.epochs` | 4 -> 6" in output


def test_the_action_fails_where_files_are_out_of_step(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A spec that was changed without generating fails the check; a bad spec fails the first step."""
    spec = project / "spec/quickstart.yaml"
    spec.write_text(spec.read_text().replace("epochs: 4", "epochs: 6"))
    statuses, _ = run_steps(project, tmp_path_factory.mktemp("action"), against="HEAD")
    assert statuses["Validate"] == 0
    assert statuses["Check"] == 1
    spoil(project)
    statuses, _ = run_steps(project, tmp_path_factory.mktemp("action"), against="none")
    assert statuses["Validate"] == 2
    assert statuses["Changes in words"] == 2
