"""The integer kernels against float arithmetic, ties and saturation included, and the trial that guards them."""

from typing import Any

import pytest
import torch

from dpuforge.emulator import integer
from dpuforge.emulator.kernels import Rounding, fake_quantise

needs_kernels = pytest.mark.skipif(
    not integer.integer_support().available, reason=f"no exact int8 kernels: {integer.integer_support().reason}"
)


def every_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two (1, 1, 256, 256) tensors that hold every pair of bytes."""
    rows = torch.arange(256, dtype=torch.uint8).view(1, 1, 256, 1).expand(1, 1, 256, 256).contiguous()
    return rows, rows.transpose(2, 3).contiguous()


@pytest.mark.parametrize("fixes", [(3, 3), (4, 3), (2, 9), (0, 0), (-2, 1), (7, 7)])
@pytest.mark.parametrize("output_fix", [-3, 1, 3, 6])
@pytest.mark.parametrize("relu", [False, True])
def test_sum_equals_float_arithmetic(fixes: tuple[int, int], output_fix: int, relu: bool) -> None:
    """The sum of every pair of activations is the float sum, rounded half up."""
    operands = every_pair()
    floats = sum(integer.dequantise(part, fix) for part, fix in zip(operands, fixes, strict=True))
    assert isinstance(floats, torch.Tensor)
    expected = fake_quantise(floats.relu() if relu else floats, 8, output_fix, Rounding.HALF_UP)
    found = integer.add_integers(operands, fixes, output_fix, relu)
    assert torch.equal(integer.dequantise(found, output_fix), expected)


@pytest.mark.parametrize("fix", range(-4, 9))
def test_moving_equals_float_arithmetic(fix: int) -> None:
    """An activation moved to another fix position is rounded half up and saturated."""
    values = every_pair()[0]
    expected = fake_quantise(integer.dequantise(values, 2), 8, fix, Rounding.HALF_UP)
    assert torch.equal(integer.dequantise(integer.add_integers((values,), (2,), fix), fix), expected)


def test_sums_without_a_wide_enough_type_are_refused() -> None:
    """Fix positions too far apart have no integer type, and adding them anyway is an error."""
    assert integer.sum_width((20, 0), 3) is None
    with pytest.raises(ValueError, match="no integer type"):
        integer.add_integers(every_pair(), (20, 0), 3)


@pytest.mark.parametrize("cut", [-3, 0, 1, 7, 14, 15, 20])
def test_product_equals_float_arithmetic(cut: int) -> None:
    """The product of every pair of activations is the float product, rounded half up."""
    first, second = every_pair()
    expected = fake_quantise(integer.dequantise(first, 0) * integer.dequantise(second, 0), 8, -cut, Rounding.HALF_UP)
    assert torch.equal(integer.dequantise(integer.multiply_integers(first, second, cut), -cut), expected)


def test_gate_scales_whole_channels() -> None:
    """A product with (N, C, 1, 1) spreads over height and width."""
    values = torch.arange(2 * 5 * 3 * 4).remainder(256).to(torch.uint8).view(2, 5, 3, 4)
    gate = torch.arange(100, 240, 14, dtype=torch.uint8).view(2, 5, 1, 1)
    spread = integer.multiply_integers(values, gate.expand(values.shape).contiguous(), 6)
    assert torch.equal(integer.multiply_integers(values, gate, 6), spread)


def test_floats_are_rounded_as_the_reference_does() -> None:
    """Ties, their float neighbours and saturated values become the reference's integers."""
    halves = torch.arange(-300, 300, dtype=torch.float32) / 2
    near = [torch.nextafter(halves, torch.tensor(side)) for side in (-1e9, 1e9)]
    values = torch.cat([halves, *near, torch.tensor([0.49999997, -0.49999997, 1e6, -1e6])]).view(1, 1, 2, -1) / 16
    expected = fake_quantise(values, 8, 4, Rounding.HALF_UP)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = values.expand(2, 3, -1, -1).contiguous(memory_format=layout)
        found = integer.dequantise(integer.quantise_floats(given, 4), 4)
        assert torch.equal(found, expected.expand(given.shape))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e12])
def test_unrepresentable_floats_are_refused(bad: float) -> None:
    """Values that have no integer raise instead of becoming one."""
    values = torch.zeros(1, 3, 4, 4)
    values[0, 1, 2, 3] = bad
    with pytest.raises(integer.UnrepresentableError):
        integer.quantise_floats(values, 5)


def test_table_look_up() -> None:
    """A table of 256 entries is read in every memory layout."""
    table = torch.arange(255, -1, -1, dtype=torch.uint8)
    values = torch.arange(240, dtype=torch.uint8).view(2, 5, 4, 6)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(integer.look_up(values.contiguous(memory_format=layout), table), 255 - values)
        assert integer.dequantise(values, 3, channels_last=True).is_contiguous(memory_format=torch.channels_last)


def test_requantisation_adds_half_of_the_finest_unit() -> None:
    """Half a unit makes half-to-even half-up; a finer bias halves its own unit; exact results get nothing."""
    assert integer.plan_requantisation(7, 5, 8, 4) == integer.Requantisation(8, 0.5)
    assert integer.plan_requantisation(7, 5, 14, 4) == integer.Requantisation(8, 0.125)
    assert integer.plan_requantisation(3, 1, 2, 4) == integer.Requantisation(0, 0.0)
    assert integer.plan_requantisation(3, 1, 5, 4) == integer.Requantisation(0, 0.25)
    assert integer.plan_requantisation(3, 1, None, 6) == integer.Requantisation(-2, 0.0)


def test_shifts_finer_than_float32_are_refused() -> None:
    """With a shift of sixteen, half a unit is lost once the zero point is added; fifteen still fits."""
    bias = torch.zeros(4, dtype=torch.float64)
    assert integer.holds_exactly(bias, integer.Requantisation(15, 0.5), 0)
    assert not integer.holds_exactly(bias, integer.Requantisation(16, 0.5), 0)
    assert not integer.holds_exactly(bias + 2**25 + 1, integer.Requantisation(3, 0.5), 0)


def test_partial_sums_are_bounded() -> None:
    """The bound counts both signs of weights, the range of the inputs, and the unit of the bias."""
    weight, bias = torch.tensor([[3.0, -2.0], [1.0, 0.0]]), torch.tensor([10.0, -4.0])
    assert integer.largest_partial_sum(weight, None, 0, 127, 0) == 3 * 127
    assert integer.largest_partial_sum(weight, bias, -128, 127, 0) == 3 * 128 + 2 * 127 + 10
    assert integer.largest_partial_sum(weight, bias, 0, 127, -3) == 8 * (3 * 127 + 10)


@needs_kernels
@pytest.mark.parametrize("kernel", ["Convolution", "Dense"])
def test_the_trial_finds_a_kernel_that_is_off_by_one(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that errs in a single value is not used."""
    honest = getattr(integer, kernel).__call__

    def off_by_one(self: Any, values: torch.Tensor) -> torch.Tensor:
        result = honest(self, values).clone()
        result.view(-1)[result.numel() // 2] ^= 1
        return result

    if kernel == "Convolution":
        monkeypatch.setattr(integer.Convolution, "__call__", lambda self, values: honest(self, values) ^ 1)
    else:
        monkeypatch.setattr(integer.Dense, "__call__", off_by_one)
    integer.integer_support.cache_clear()
    try:
        assert not integer.integer_support().available
        assert "saturate or round" in integer.integer_support().reason
    finally:
        monkeypatch.undo()
        integer.integer_support.cache_clear()


def test_a_torch_without_the_kernels_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a kernel fails, the reason says so and nothing raises."""

    def missing() -> bool:
        raise RuntimeError("onednn::qlinear_prepack is not implemented\nsecond line")

    monkeypatch.setattr(integer, "_convolution_is_exact", lambda: True)
    monkeypatch.setattr(integer, "_dense_is_exact", missing)
    integer.integer_support.cache_clear()
    try:
        support = integer.integer_support()
        assert not support.available
        assert "not implemented" in support.reason or "oneDNN" in support.reason or "no " in support.reason
    finally:
        monkeypatch.undo()
        integer.integer_support.cache_clear()
