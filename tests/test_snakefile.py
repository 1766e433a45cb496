"""The generated Snakefile is the same graph of stages, for a workflow engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

pytest.importorskip("snakemake", reason="snakemake comes with the extras all and dev")


@pytest.mark.parametrize(
    ("goal", "rules"),
    [
        ("all", {"prepare", "train", "inspect", "calibrate", "evaluate", "deploy"}),
        ("compiled", {"prepare", "train", "calibrate", "deploy", "compile"}),
    ],
)
def test_snakemake_plans_the_stages_in_order(tmp_path: Path, goal: str, rules: set[str]) -> None:
    """A dry run of a fresh project plans each stage once; compiling is a goal of its own."""
    shutil.copytree(REPO / "generated/quickstart", tmp_path / "generated/quickstart")
    command = [sys.executable, "-m", "snakemake", "-s", "generated/quickstart/Snakefile", "--cores", "1", "-n", goal]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    planned = [line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith("rule ")]
    assert set(planned) - {goal} == rules
    compiled = [name for name in ("KV260", "ZCU104") if f"compile/{name}/resnet18_digits.xmodel" in text]
    assert compiled == (["KV260", "ZCU104"] if goal == "compiled" else [])
    assert planned.count("compile") == len(compiled)
    for stage in ("prepare", "train", "calibrate"):
        assert planned.index(stage) < planned.index("deploy")
