"""The preflight stage as a run starts it: a process that leaves a result, for the DPUs that the boards carry."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dpuforge.load.boards.board_query import read_query
from dpuforge.load.boards.lock_file import write_lock
from dpuforge.preflight import count_images
from dpuforge.xmodel.integers.run import run_xmodel
from dpuforge.xmodel.read import read_xmodel
from tests.board import small_project
from tests.board_queries import make_core, make_query
from tests.test_board_lock import make_project
from tests.xmodel.recorded_xmodels import DATA, small_images

FIX_POINT = 6  # of the recorded network's output


def preflight(spec: Path) -> tuple[int, dict[str, Any]]:
    """Run the stage on a spec; return its exit code and its result."""
    root = spec.parent.parent
    build = root / "build" / spec.stem
    command = [sys.executable, "-m", "dpuforge.preflight", "--spec", f"spec/{spec.name}"]
    command += ["--root", str(root), "--build", str(build)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    result: dict[str, Any] = json.loads((build / "preflight/result.json").read_text(encoding="utf-8"))
    assert not result["reason"] or f"preflight: {result['reason']}" in done.stdout
    return done.returncode, result


def test_preflight_honours_a_board_lock(tmp_path: Path) -> None:
    """It predicts for no other DPU than the one that a board reported: the stage fails and names both."""
    spec = make_project(tmp_path, "[KV260]")
    write_lock(spec, "KV260", read_query(make_query(make_core(fingerprint="0x101000056010407"))))
    code, result = preflight(spec)
    assert (code, result["status"]) == (3, "failed")
    assert "run the deploy stage" in result["reason"]  # the lock fits, and no xmodel was made
    write_lock(spec, "KV260", read_query(make_query(make_core(fingerprint="0x101000016010407"))))
    code, result = preflight(spec)
    assert (code, result["status"]) == (3, "failed")
    assert "KV260 reported the DPU DPUCZDX8G_ISA1_B4096, fingerprint 0x101000016010407 (its lock)" in result["reason"]


def test_preflight_of_a_bad_spec_says_what_is_wrong(tmp_path: Path) -> None:
    """A spec that is broken by then is a failed stage with the problem as its reason, and no traceback."""
    spec = make_project(tmp_path, "[KV270]")
    code, result = preflight(spec)
    assert (code, result["status"]) == (3, "failed")
    assert "there is no board 'KV270'" in result["reason"]


def test_preflight_refuses_a_mix_of_calibrations(tmp_path: Path) -> None:
    """calibrate, evaluate and deploy carry one hash of what they quantised with; another one is named and refused."""
    spec = make_project(tmp_path, "[KV260]")
    for stage, context in (("calibrate", "a"), ("evaluate", "b"), ("deploy", "a")):
        folder = tmp_path / "build/quickstart" / stage
        folder.mkdir(parents=True)
        result = {"stage": stage, "status": "done", "metrics": {"quantisation_context": context}}
        (folder / "result.json").write_text(json.dumps(result))
    code, result = preflight(spec)
    assert (code, result["status"]) == (3, "failed")
    assert "evaluate quantised with another configuration, weights or settings than calibrate" in result["reason"]
    assert "--from calibrate" in result["reason"]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A project with a recorded xmodel, its recorded tensors, and eight test images; return its spec."""
    small_project.make_project(tmp_path)
    dump = tmp_path / "build/small/deploy/quantize_result/deploy_check_data_int/Tiny"
    dump.mkdir(parents=True)
    graph = read_xmodel(tmp_path / "build/small/deploy/small_net_int.xmodel")
    small_images(graph).tofile(dump / "Tiny__input_0.bin")
    outputs = np.load(DATA / "quant_out.npz")["tiny"] * 2.0**FIX_POINT
    outputs.astype(np.int8).tofile(dump / "Tiny__Tiny_Linear_fc__ret_fix.bin")
    return tmp_path / "spec/small.yaml"


def test_the_integers_have_an_accuracy_of_their_own(recorded: Path) -> None:
    """Every test image is classified by the integer run; figures, interval and answers are those of its outputs."""
    code, result = preflight(recorded)
    assert (code, result["reason"]) == (0, "")
    metrics, root = result["metrics"], recorded.parent.parent
    assert (metrics["integer_images"], metrics["integer_images_of"]) == (8, 8)
    answers = json.loads((root / "build/small/preflight/predictions.json").read_text(encoding="utf-8"))
    prepared = [prepare(root / name) for name in answers["files"]]
    outputs = run_xmodel(read_xmodel(root / "build/small/deploy/small_net_int.xmodel"), np.stack(prepared))
    assert answers["integers"] == outputs.argmax(1).tolist()
    assert answers["label"] == list(range(8))
    right = sum(a == b for a, b in zip(answers["integers"], answers["label"], strict=True))
    assert metrics["integer_accuracy"] == 100.0 * right / 8
    low, high = metrics["integer_interval"]
    assert 0 <= low <= metrics["integer_accuracy"] <= high <= 100
    assert metrics["integer_top5_accuracy"] >= metrics["integer_accuracy"]
    assert set(result["scripts"]) == {"preprocess.py"}
    assert "build/small/prepare/data.json" in result["inputs"]


def prepare(path: Path) -> NDArray[np.float32]:
    """Return an image as the spec says: the shorter side 36 pixels, the middle 32, normalised as ImageNet's."""
    picture = Image.open(path).convert("RGB")
    scale = 36 / min(picture.size)
    size = tuple(max(36, int(side * scale)) for side in picture.size)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - 32) / 2.0) for side in size)
    pixels = np.asarray(picture.crop((left, top, left + 32, top + 32)), np.float32) / 255
    return (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.unlink(), "does not exist any more"),
        (lambda path: path.write_bytes(b"no picture"), "has changed since prepare checked it"),
    ],
)
def test_without_its_test_images_the_checks_stand(recorded: Path, harm: Callable[[Path], object], words: str) -> None:
    """An image that is gone or no picture any more costs the accuracy, with the reason, and not the stage."""
    harm(recorded.parent.parent / "data/test/3.png")
    code, result = preflight(recorded)
    assert code == 0
    assert "integer_accuracy" not in result["metrics"]
    assert words in result["metrics"]["integer_note"]
    assert "3.png" in result["metrics"]["integer_note"]
    assert result["metrics"]["integer_run"]["tensors"] == 1


def test_large_networks_classify_fewer_images() -> None:
    """All of a small split, a thousand at most, and never fewer than a hundred where there are so many."""
    assert count_images(8, 1e12) == 8
    assert count_images(50_000, 1e6) == 1000
    assert count_images(50_000, 3.6e9) == 277
    assert count_images(50_000, 1e15) == 100
    assert count_images(50_000, 0) == 1000
