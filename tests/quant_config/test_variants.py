"""The verdict and the pitfalls, against the runs of the real quantizer on whole networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpuforge.quant_config import check_config, find_pitfalls


@pytest.fixture(scope="module")
def runs(golden: Path) -> dict[str, tuple[dict[str, object], bool]]:
    """Return config and outcome (did calibration end with a result) of every recorded variant with a config file."""
    files = sorted((golden / "variants").glob("*/quant_config.json"))
    return {f.parent.name: (json.loads(f.read_text()), (f.parent / "quant_info.json").exists()) for f in files}


def test_every_recorded_run_started_from_an_accepted_config(runs: dict[str, tuple[dict[str, object], bool]]) -> None:
    """The real quantizer read all of these files, so none may be refused."""
    assert len(runs) > 50
    assert {name: check_config(config) for name, (config, _) in runs.items() if check_config(config)} == {}


def test_every_run_that_failed_later_was_foreseen(runs: dict[str, tuple[dict[str, object], bool]]) -> None:
    """A run that ended with a traceback is one that a pitfall warns about."""
    foretold = ("mse_rounding", "unsigned_symmetric")
    for name, (config, ended_well) in runs.items():
        names = [finding.pitfall.name for finding in find_pitfalls(config)]
        assert ended_well or set(names) & set(foretold), name
