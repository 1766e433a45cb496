"""The preflight stage as a run starts it: a process that leaves a result, for the DPUs that the boards carry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dpuforge.load.boards.board_query import read_query
from dpuforge.load.boards.lock_file import write_lock
from tests.board_queries import make_core, make_query
from tests.test_board_lock import make_project


def preflight(spec: Path) -> tuple[int, dict[str, Any]]:
    """Run the stage on a spec; return its exit code and its result."""
    root = spec.parent.parent
    build = root / "build/quickstart"
    command = [sys.executable, "-m", "dpuforge.preflight", "--spec", "spec/quickstart.yaml"]
    command += ["--root", str(root), "--build", str(build)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    result: dict[str, Any] = json.loads((build / "preflight/result.json").read_text(encoding="utf-8"))
    assert f"preflight: {result['reason']}" in done.stdout
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
