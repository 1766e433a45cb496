"""dpuforge estimate --fit: measurements of a user's own boards move the estimate, those of emulated ones never do."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpuforge.board.fit_results import Measured, correct_estimate, read_measurements
from dpuforge.errors import UsageError
from dpuforge.estimating import estimate_xmodel
from tests.board.small_project import TINY


@pytest.fixture
def xmodel(tmp_path: Path) -> Path:
    """Return a small quantised network."""
    path = tmp_path / "tiny.xmodel"
    path.write_bytes(gzip.decompress(TINY.read_bytes()))
    return path


def write_result(
    folder: Path, factor: float, estimate: dict[str, Any], emulated: bool = False, name: str = "a"
) -> None:
    """Write what board bench leaves, with frame rates of factor times the estimate."""
    rates = {1: estimate["fps"]["single"][1] * factor, 4: estimate["fps"]["multi"][1] * factor}
    metrics = {
        "emulated": emulated,
        "estimate": {
            "configuration": estimate["configuration"],
            "single": estimate["fps"]["single"],
            "multi": estimate["fps"]["multi"],
        },
        "bench": {"rows": [{"threads": n, "end_to_end": {"fps": fps}} for n, fps in rates.items()]},
    }
    document = {"stage": "board", "status": "done", "board": "KV260", "inputs": {"x": name}, "metrics": metrics}
    place = folder / f"build/{name}/board/KV260/hosts/lab"
    place.mkdir(parents=True)
    (place / "result.json").write_text(json.dumps(document), encoding="utf-8")


def estimate(xmodel: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run dpuforge estimate for the KV260."""
    command = [sys.executable, "-m", "dpuforge", "estimate", str(xmodel), "--board", "KV260", "--json", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_measurements_move_the_estimate_of_their_board(tmp_path: Path, xmodel: Path) -> None:
    """A board half as fast as predicted: the estimate goes down, its latency up, the band still holds what was seen."""
    (found,) = estimate_xmodel(xmodel, ("KV260",), "3.0")
    document = {**found.to_json(), "configuration": found.board.configuration}
    write_result(tmp_path / "results", 0.5, document)
    done = estimate(xmodel, "--release", "3.0", "--fit", str(tmp_path / "results"))
    assert done.returncode == 0, done.stderr
    moved = json.loads(done.stdout)
    for kind in ("single", "multi"):
        low, middle, high = moved["fps"][kind]
        assert document["fps"][kind][1] * 0.5 < middle < document["fps"][kind][1]
        assert low < middle < high
    assert moved["latency_ms"][1] == pytest.approx(1e3 / moved["fps"]["single"][1], rel=1e-2)
    assert "corrected by measurements of 1 network(s) on your own KV260" in moved["notes"]


def test_more_networks_move_it_further_and_narrow_the_band(xmodel: Path) -> None:
    """With ever more networks measured the estimate comes to the measured rate, and the band narrows."""
    (found,) = estimate_xmodel(xmodel, ("KV260",), "3.0")
    assert found.fps_single is not None
    last, width = found.fps_single[1], found.fps_single[2] / found.fps_single[0]
    for count in (1, 4, 64):
        rows = [Measured("KV260", found.board.configuration, str(n), -0.5, -0.5) for n in range(count)]
        moved = correct_estimate(found, rows).fps_single
        assert moved is not None
        assert moved[1] < last
        assert moved[2] / moved[0] < width
        last, width = moved[1], moved[2] / moved[0]
    assert last == pytest.approx(found.fps_single[1] * 2.718281828**-0.5, rel=0.01)
    other = [Measured("ZCU104", found.board.configuration, "x", -0.5, -0.5)]
    assert correct_estimate(found, other) == found


def test_emulated_results_are_no_measurements(tmp_path: Path, xmodel: Path) -> None:
    """A folder with results of emulated boards alone, or none, is refused: exit code 2, and why."""
    (found,) = estimate_xmodel(xmodel, ("KV260",), "3.0")
    document = {**found.to_json(), "configuration": found.board.configuration}
    write_result(tmp_path / "results", 0.5, document, emulated=True)
    done = estimate(xmodel, "--fit", str(tmp_path / "results"))
    assert done.returncode == 2
    assert "1 of emulated boards" in done.stderr
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="0 result files"):
        read_measurements(tmp_path / "empty")
