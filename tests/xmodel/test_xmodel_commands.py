"""The public door: `dpuforge xmodel show`, `run` and `diff` on recorded files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recorded_xmodels import DATA, small_bytes, small_graph, small_images


def _call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dpuforge.cli", "xmodel", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Write two recorded files and one image, and return their paths."""
    found = {name: tmp_path / f"{name}.xmodel" for name in ("tiny", "ops_a")}
    for name, path in found.items():
        path.write_bytes(small_bytes(name))
    np.save(tmp_path / "x.npy", small_images(small_graph("tiny")))
    return {**found, "x": tmp_path / "x.npy", "y": tmp_path / "y.npy"}


def test_show_prints_one_json_document(files: dict[str, Path]) -> None:
    """stdout holds the summary and nothing else."""
    result = _call("show", files["tiny"], "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["macs"] == 368_720


def test_run_writes_the_recorded_output_and_says_that_it_emulates(files: dict[str, Path]) -> None:
    """The array written is the quantised model's recorded output, bit for bit."""
    result = _call("run", files["tiny"], "--input", files["x"], "--output", files["y"])
    assert result.returncode == 0
    assert "emulation" in result.stderr
    np.testing.assert_array_equal(np.load(files["y"]), np.load(DATA / "quant_out.npz")["tiny"])


def test_diff_ends_with_one_where_files_differ(files: dict[str, Path]) -> None:
    """Exit code 0 for a file and itself, 1 with the differences for two networks."""
    assert _call("diff", files["tiny"], files["tiny"]).returncode == 0
    result = _call("diff", files["tiny"], files["ops_a"])
    assert result.returncode == 1
    assert "fix position" in result.stdout


def test_file_that_is_no_xmodel_is_an_error_without_a_traceback(files: dict[str, Path]) -> None:
    """A wrong file ends with code 2, a message that names it and a remedy."""
    result = _call("show", files["x"])
    assert result.returncode == 2
    assert "x.npy: not an .xmodel" in result.stderr
    assert "help:" in result.stderr
    assert "Traceback" not in result.stderr
