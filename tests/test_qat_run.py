"""A whole run of a project that is quantised by training: stages, results, report, and what makes it stale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.squares_project import SPEC, dpuforge, plan_stages, started, write_project

QAT = SPEC.replace("quantization: {", "quantization: {qat: {enabled: true, epochs: 2, batch_size: 8, lr: 0.01}, ")


@pytest.mark.slow  # a whole run
def test_a_run_trains_and_carries_it_to_the_end(tmp_path: Path) -> None:
    """Every stage passes, preflight finds the integers equal, the report says how it was quantised, all stays fresh."""
    root = tmp_path / "project"
    write_project(root, QAT)
    done = dpuforge(root, "run", "--until", "preflight")
    assert done.returncode == 0, done.stderr
    assert started(done) >= {"train", "qat", "evaluate", "deploy", "preflight"}
    assert "calibrate" not in started(done)
    checked = json.loads((root / "build/squares/preflight/result.json").read_text())
    assert checked["metrics"]["integer_run"]["tensors"] > 3
    report = json.loads((root / "build/squares/report.json").read_text())
    assert report["emulated"] is True
    assert any("quantised by training (2 epochs" in line for line in report["calibration"])
    assert {rung["kind"] for rung in report["ladder"]["rungs"] if rung["top1"] is not None} >= {"float", "int8"}
    rows = plan_stages(root)
    assert {rows[name]["state"] for name in ("qat", "evaluate", "deploy", "preflight")} == {"fresh"}
    spec = root / "spec/squares.yaml"
    spec.write_text(QAT.replace("lr: 0.01}, ", "lr: 0.02}, "))
    rows = plan_stages(root)
    assert rows["train"]["state"] == "fresh"
    assert rows["qat"]["state"] == "stale"


def test_there_is_no_calibration_to_import(tmp_path: Path) -> None:
    """The command says why, and touches nothing."""
    root = tmp_path / "project"
    write_project(root, QAT)
    done = dpuforge(root, "import-calibration", "images")
    assert done.returncode == 3
    assert "quantised by training (quantization.qat)" in done.stderr
