"""Every recorded setting of the real tool: config files, tool options, targets; refused where the tool refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpuforge.emulator.arithmetic.float_scales import UnsupportedScaleError
from dpuforge.emulator.quantise.settings import Settings
from dpuforge.quant_config import check_config, resolve_config
from tests.conftest import GOLDEN
from tests.emulator.recorded import arrays, calibrate_and_test, options_of, recorded_tables, small_recording, tables

VARIANTS = sorted(path.name for path in (GOLDEN / "variants").glob("*__*")) if GOLDEN.is_dir() else ["none"]
SUMS_BEYOND_24_BITS = {"dpu_bw16"}  # 16 x 16 bit products leave float32's exact integers: order shows


def settings_of(folder: Path) -> Settings:
    """Return the settings of a variant's folder."""
    path = folder / "quant_config.json"
    config = json.loads(path.read_text()) if path.is_file() else None
    assert config is None or check_config(config) == ()
    return Settings(resolve_config(config), options_of(folder.name.partition("__")[2]))


def close(mine: Any, theirs: Any) -> bool:
    """Compare rows: integers exactly, float scales to float32's last digits."""
    one, two = flat(mine), flat(theirs)
    return len(one) == len(two) and bool(np.allclose(one, two, rtol=2e-6, atol=0))


def flat(row: Any) -> list[float]:
    """Return the numbers of nested lists."""
    return [number for item in row for number in flat(item)] if isinstance(row, (list, tuple)) else [float(row)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_equals_the_real_tool(variant: str, golden: Path) -> None:
    """A recorded setting gives the recorded steps and output, or is refused as the real tool refused it."""
    folder = golden / "variants" / variant
    name = variant.partition("__")[0]
    recording = small_recording(name, folder, settings_of(folder))
    if not (folder / "quant_info.json").is_file():
        with pytest.raises(UnsupportedScaleError):
            calibrate_and_test(recording)
        return
    outcome = calibrate_and_test(recording)
    theirs = recorded_tables(folder)
    mine = {
        table: {key: row for key, row in rows.items() if len(row[0]) > 1}
        for table, rows in tables(outcome.quantised).items()
    }
    for table, rows in theirs.items():
        assert list(mine[table]) == list(rows), table
        for key, row in rows.items():
            assert close(mine[table][key], row), (key, mine[table][key], row)
    info = json.loads((folder / "quant_info.json").read_text())
    assert outcome.quantised.types == info.get("dtype", {})
    check_output(variant, outcome.output, arrays(folder / "quant_out.npz")["y"])


def check_output(variant: str, mine: np.ndarray, theirs: np.ndarray) -> None:
    """Compare outputs: exactly where all sums are exact."""
    if variant.partition("__")[2] in SUMS_BEYOND_24_BITS:
        assert np.abs(mine - theirs).max() <= 2.0**-11
    elif "float32" in variant:
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    elif "cpu_float" in variant:
        # A float scale follows float sums, whose last bit depends on the processor: two units in the last place
        # of the scale pass, one integer step (at least 1/255 of the range) does not.
        np.testing.assert_allclose(mine, theirs, rtol=2.0**-22, atol=0)
    else:
        assert np.array_equal(mine, theirs)
