"""Whole sweeps and runs of several specs: real training, as often as training differs, interrupted and gone on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.squares_project import SPEC, dpuforge, started, write_project

pytestmark = pytest.mark.long

METHOD = "quantization.overall.method"


def start(root: Path, *args: str) -> subprocess.Popen[str]:
    """Start a command in a session of its own, as a terminal would."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dpuforge", *args]
    return subprocess.Popen(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def count_trainings(text: str) -> int:
    """Return how many trainings ran to their end."""
    return len(re.findall(r"^done +\d+:train ", text, re.MULTILINE))


def test_a_sweep_of_the_quickstart_trains_as_often_as_training_differs(tmp_path: Path) -> None:
    """Six settings with two seeds: twelve variants, two trainings, intervals and p values; Ctrl-C loses nothing."""
    (tmp_path / "spec").mkdir()
    text = (REPO / "spec/quickstart.yaml").read_text().replace("epochs: 4", "epochs: 1")
    (tmp_path / "spec/quickstart.yaml").write_text(text.replace("max_accuracy_drop: 1.0", "max_accuracy_drop: 100.0"))
    words = ["sweep", "spec/quickstart.yaml", "--set", f"{METHOD}=maxmin,diffs", "--images", "300"]
    words += ["--set", "quantization.calibration.images=64,128,200", "--set", "train.seed=0,1", "--until", "evaluate"]
    first = start(tmp_path, *words)
    results = tmp_path / "build/quickstart/variants"
    while first.poll() is None and len(list(results.glob("*/build/*/calibrate/result.json"))) < 2:
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 130, said
    second = start(tmp_path, *words)
    out, more = second.communicate(timeout=1200)
    assert second.returncode == 0, more
    assert count_trainings(said) + count_trainings(more) == 2
    assert "12 variants, 2 trained" in out
    document = json.loads(next(tmp_path.glob("build/quickstart/sweeps/*/sweep.json")).read_text())
    assert len(document["variants"]) == 12
    assert all(row["status"] == "done" and len(row["int8_interval"]) == 2 for row in document["variants"])
    tests = [row["against_best"] for row in document["settings"] if row["against_best"]]
    assert len(tests) == 5
    assert all(0 <= test["p"] <= test["p_holm"] <= 1 and test["seeds"] == 2 for test in tests)
    page = next(tmp_path.glob("build/quickstart/sweeps/*/sweep.md")).read_text()
    assert page.count("train.seed=") == 12
    assert json.loads(dpuforge_json(tmp_path, "history"))[-1]["outcome"] == "done"


def dpuforge_json(root: Path, *args: str) -> str:
    """Return what a command prints as JSON."""
    return subprocess.run(
        [sys.executable, "-m", "dpuforge", *args, "--json"], cwd=root, capture_output=True, text=True, check=True
    ).stdout


def test_two_specs_for_two_boards_train_once(tmp_path: Path) -> None:
    """`run A B`: what does not know the board is taken over; both end with equal accuracies and their own reports."""
    root = tmp_path / "p"
    write_project(root)
    (root / "spec/other.yaml").write_text(SPEC.replace("project: squares", "project: other").replace("KV260", "ZCU104"))
    done = dpuforge(root, "run", "spec/other.yaml", "--until", "preflight")
    assert done.returncode == 0, done.stderr
    shared = {line.split()[1] for line in done.stderr.splitlines() if line.startswith("shared")}
    assert {"prepare", "train", "calibrate", "evaluate", "deploy"} <= shared
    assert "inspect" not in shared
    reports = [json.loads((root / f"build/{name}/report.json").read_text()) for name in ("squares", "other")]
    assert reports[0]["metrics"] == reports[1]["metrics"]
    assert list(reports[1]["boards"]) == ["ZCU104"]
    again = dpuforge(root, "run", "spec/other.yaml", "--until", "preflight")
    assert started(again) == set()


def test_the_winner_of_a_sweep_runs_no_more(tmp_path: Path) -> None:
    """--apply writes into the spec and keeps its comments; the run after it takes over all that the sweep made."""
    root = tmp_path / "p"
    write_project(root, SPEC.replace("transfer:", "# as in the paper\ntransfer:"))
    words = ("--set", f"{METHOD}=maxmin,diffs", "--until", "evaluate", "--jobs", "2")
    done = dpuforge(root, "sweep", *words)
    assert done.returncode == 0, done.stderr
    assert count_trainings(done.stderr) == 1
    applied = dpuforge(root, "sweep", "--apply", "1")
    assert applied.returncode == 0, applied.stderr
    text = (root / "spec/squares.yaml").read_text()
    assert "# as in the paper" in text
    assert "method: maxmin" in text
    after = dpuforge(root, "run", "--until", "evaluate")
    assert after.returncode == 0, after.stderr
    assert started(after) == set()
    assert after.stderr.count("shared") == 5


def test_a_sampler_tries_and_goes_on(tmp_path: Path) -> None:
    """Two trials, then a third of the same study: the numbers go on and nothing runs twice."""
    root = tmp_path / "p"
    write_project(root)
    words = ("--set", "train.optimizer.lr=1e-3..1e-1", "--sampler", "tpe", "--until", "evaluate", "--trials")
    assert dpuforge(root, "sweep", *words, "1").returncode == 0
    done = dpuforge(root, "sweep", *words, "2")
    assert done.returncode == 0, done.stderr
    assert count_trainings(done.stderr) == 1
    document = json.loads(next(root.glob("build/squares/sweeps/*/sweep.json")).read_text())
    assert [row["number"] for row in document["variants"]] == [1, 2]
