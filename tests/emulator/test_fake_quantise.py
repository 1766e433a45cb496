"""The arithmetic of quantisation against values recorded from the real tool: no tolerance anywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dpuforge.emulator.arithmetic.fake_quantise import (
    Rounding,
    average_pool_coefficient,
    fake_quantise,
    fake_quantise_scaled,
    limit_fix_position,
    most_frequent,
    search_fix_position,
    squared_error,
)
from dpuforge.emulator.arithmetic.float_scales import Grid, Scale, UnsupportedScaleError, combine_scales, find_scale
from tests.emulator.recorded import DATA, arrays

KERNELS = DATA / "kernels"


def rows(name: str) -> list:
    """Return the rows of a recorded table."""
    table = json.loads((KERNELS / f"{name}.json").read_text())
    return table["rows"] if isinstance(table, dict) and "rows" in table else table


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """The tensors that the searches were recorded on."""
    return {name: torch.from_numpy(value) for name, value in arrays(KERNELS / "fixpos_tensors.npz").items()}


def check_fake_quantisation(path: Path, bits: int) -> None:
    """Compare every rounding method and fix position of a recording."""
    data = arrays(path)
    for index, method in enumerate(data["methods"]):
        for row, fix in enumerate(data["fix_pos"]):
            mine = fake_quantise(torch.from_numpy(data["x"][row]), bits, int(fix), Rounding(int(method)))
            assert np.array_equal(mine.numpy(), data["y"][index, row]), (bits, method, fix)


@pytest.mark.parametrize("bits", [4, 8])
def test_fake_quantisation_equals_the_real_tool(bits: int) -> None:
    """All seven rounding methods at sixteen fix positions give the recorded values, ties and saturation included."""
    check_fake_quantisation(KERNELS / f"fix_neuron_bw{bits}.npz", bits)


def test_fake_quantisation_of_16_bits(golden: Path) -> None:
    """The same holds for 16 bits."""
    check_fake_quantisation(golden / "kernels" / "fix_neuron_bw16.npz", 16)


def test_values_beyond_the_integer_range_become_the_minimum() -> None:
    """Beyond 2**31 the result is the minimum even for positive values, as recorded."""
    data = arrays(KERNELS / "fix_neuron_overflow.npz")
    for index, method in enumerate(data["methods"]):
        mine = fake_quantise(torch.from_numpy(data["x"]), 8, 0, Rounding(int(method)))
        assert np.array_equal(mine.numpy(), data["y"][index])


def test_the_largest_float_below_a_half_rounds_to_zero() -> None:
    """0.49999997 plus 0.5 is 1.0 in float32, yet the value rounds to 0."""
    value = torch.tensor([0.49999997])
    assert [float(fake_quantise(value, 8, 0, mode)) for mode in (Rounding.HALF_UP, Rounding.STD_ROUND)] == [0, 0]


def test_float_scales_and_zero_points() -> None:
    """Float scales, zero points and all four rounding modes give the recorded values."""
    data = arrays(KERNELS / "fix_neuron_float_scale.npz")
    for index, (scale, point, low, high, method) in enumerate(data["params"]):
        mine = fake_quantise_scaled(torch.from_numpy(data["x"]), float(scale), point, low, high, Rounding(int(method)))
        assert np.array_equal(mine.numpy(), data["y"][index]), index


def test_scales_per_channel() -> None:
    """One scale per channel gives the recorded values."""
    data = arrays(KERNELS / "fix_neuron_per_channel.npz")
    scale = torch.from_numpy(data["scale"]).view(-1, 1, 1, 1)
    for index, method in enumerate(data["methods"]):
        mine = fake_quantise_scaled(torch.from_numpy(data["x"]), scale, 0, -128, 127, Rounding(int(method)))
        assert np.array_equal(mine.numpy(), data["y"][index])


def test_fix_position_search(tensors: dict[str, torch.Tensor]) -> None:
    """All 1,416 recorded searches end at the recorded fix position, before and after the limit."""
    for name, bits, candidates, method, raw, limited in rows("fixpos_expected"):
        found = search_fix_position(tensors[name], bits, Rounding(method), candidates)
        assert found == raw, (name, bits, candidates, method)
        if limited is not None:
            assert limit_fix_position(found, bits) == limited


def test_errors_of_the_candidates(tensors: dict[str, torch.Tensor]) -> None:
    """The squared errors behind the search agree with the recorded ones up to the order of summation."""
    for name, candidates in json.loads((KERNELS / "fixpos_sse_bw8_halfup.json").read_text()).items():
        for fix, error in candidates:
            if error is not None and np.isfinite(fix):
                assert squared_error(tensors[name], 8, int(fix), Rounding.HALF_UP) == pytest.approx(error, rel=1e-5)


def test_most_frequent_fix_position() -> None:
    """The running mode of a history takes the smallest of equally frequent values."""
    for history, running in rows("modal_fixpos"):
        assert [most_frequent(history[: count + 1]) for count in range(len(history))] == running


def test_average_pool_coefficients() -> None:
    """Every recorded kernel size has the recorded coefficient."""
    table = json.loads((KERNELS / "avgpool_coeff.json").read_text())
    mine = {size: average_pool_coefficient(*map(int, size.split("x"))) for size in table}
    assert mine == table


def test_float_scale_searches(tensors: dict[str, torch.Tensor]) -> None:
    """maxmin, percentile, mse and entropy find the recorded scale, or refuse where the real tool stops."""
    for name, method, rounding, symmetric, signed, narrow, low, high, scale, point, largest, error in rows(
        "float_algos_expected"
    ):
        if method == "mse" and rounding != "half_even":
            continue  # the real tool stops there; settings refuse it
        grid = Grid(8, symmetric, signed, narrow)
        assert (grid.low, grid.high) == (low, high)
        if error is not None:
            with pytest.raises(UnsupportedScaleError):
                find_scale(tensors[name], method, grid)
        else:
            assert find_scale(tensors[name], method, grid) == Scale(scale, point, largest), (name, method)


def test_percentiles(tensors: dict[str, torch.Tensor]) -> None:
    """Percentiles from 90 to 100 find the recorded scale to the last bit."""
    for name, percentage, scale, largest in rows("percentile_expected"):
        assert find_scale(tensors[name], "percentile", Grid(), percentage) == Scale(scale, 0, largest)


def test_statistics_over_batches() -> None:
    """max, mean, median and modal combine scales, zero points and maxima as recorded."""
    for history, statistic, scale, point, largest in rows("act_scale_stats"):
        steps = [Scale(*entry) for entry in zip(*history, strict=True)]
        assert combine_scales(steps, statistic) == Scale(scale, point, largest)
