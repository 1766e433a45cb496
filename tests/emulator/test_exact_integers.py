"""The integer kernels against float arithmetic, ties and saturation included, and the trial that guards them."""

from typing import Any

import pytest
import torch

from dpuforge.emulator.arithmetic.fake_quantise import Rounding, fake_quantise
from dpuforge.emulator.integer import exact

needs_kernels = pytest.mark.skipif(
    not exact.integer_support().available, reason=f"no exact int8 kernels: {exact.integer_support().reason}"
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
    floats = sum(exact.dequantise(part, fix) for part, fix in zip(operands, fixes, strict=True))
    assert isinstance(floats, torch.Tensor)
    expected = fake_quantise(floats.relu() if relu else floats, 8, output_fix, Rounding.HALF_UP)
    found = exact.add_integers(operands, fixes, output_fix, relu)
    assert torch.equal(exact.dequantise(found, output_fix), expected)


@pytest.mark.parametrize("fix", range(-4, 9))
def test_moving_equals_float_arithmetic(fix: int) -> None:
    """An activation moved to another fix position is rounded half up and saturated."""
    values = every_pair()[0]
    expected = fake_quantise(exact.dequantise(values, 2), 8, fix, Rounding.HALF_UP)
    assert torch.equal(exact.dequantise(exact.add_integers((values,), (2,), fix), fix), expected)


def test_sums_without_a_wide_enough_type_are_refused() -> None:
    """Fix positions too far apart have no integer type, and adding them anyway is an error."""
    assert exact.sum_width((20, 0), 3) is None
    with pytest.raises(ValueError, match="no integer type"):
        exact.add_integers(every_pair(), (20, 0), 3)


@pytest.mark.parametrize("cut", [-3, 0, 1, 7, 14, 15, 20])
def test_product_equals_float_arithmetic(cut: int) -> None:
    """The product of every pair of activations is the float product, rounded half up."""
    first, second = every_pair()
    expected = fake_quantise(exact.dequantise(first, 0) * exact.dequantise(second, 0), 8, -cut, Rounding.HALF_UP)
    assert torch.equal(exact.dequantise(exact.multiply_integers(first, second, cut), -cut), expected)


def test_gate_scales_whole_channels() -> None:
    """A product with (N, C, 1, 1) spreads over height and width."""
    values = torch.arange(2 * 5 * 3 * 4).remainder(256).to(torch.uint8).view(2, 5, 3, 4)
    gate = torch.arange(100, 240, 14, dtype=torch.uint8).view(2, 5, 1, 1)
    spread = exact.multiply_integers(values, gate.expand(values.shape).contiguous(), 6)
    assert torch.equal(exact.multiply_integers(values, gate, 6), spread)


def test_floats_are_rounded_as_the_reference_does() -> None:
    """Ties, their float neighbours and saturated values become the reference's integers."""
    halves = torch.arange(-300, 300, dtype=torch.float32) / 2
    near = [torch.nextafter(halves, torch.tensor(side)) for side in (-1e9, 1e9)]
    values = torch.cat([halves, *near, torch.tensor([0.49999997, -0.49999997, 1e6, -1e6])]).view(1, 1, 2, -1) / 16
    expected = fake_quantise(values, 8, 4, Rounding.HALF_UP)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = values.expand(2, 3, -1, -1).contiguous(memory_format=layout)
        found = exact.dequantise(exact.quantise_floats(given, 4), 4)
        assert torch.equal(found, expected.expand(given.shape))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e12])
def test_unrepresentable_floats_are_refused(bad: float) -> None:
    """Values that have no integer raise instead of becoming one."""
    values = torch.zeros(1, 3, 4, 4)
    values[0, 1, 2, 3] = bad
    with pytest.raises(exact.UnrepresentableError):
        exact.quantise_floats(values, 5)


def test_table_look_up() -> None:
    """A table of 256 entries is read in every memory layout."""
    table = torch.arange(255, -1, -1, dtype=torch.uint8)
    values = torch.arange(240, dtype=torch.uint8).view(2, 5, 4, 6)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(exact.look_up(values.contiguous(memory_format=layout), table), 255 - values)
        assert exact.dequantise(values, 3, channels_last=True).is_contiguous(memory_format=torch.channels_last)


def test_requantisation_adds_half_of_the_finest_unit() -> None:
    """Half a unit makes half-to-even half-up; a finer bias halves its own unit; exact results get nothing."""
    assert exact.plan_requantisation(7, 5, 8, 4) == exact.Requantisation(8, 0.5)
    assert exact.plan_requantisation(7, 5, 14, 4) == exact.Requantisation(8, 0.125)
    assert exact.plan_requantisation(3, 1, 2, 4) == exact.Requantisation(0, 0.0)
    assert exact.plan_requantisation(3, 1, 5, 4) == exact.Requantisation(0, 0.25)
    assert exact.plan_requantisation(3, 1, None, 6) == exact.Requantisation(-2, 0.0)


def test_shifts_finer_than_float32_are_refused() -> None:
    """With a shift of sixteen, half a unit is lost once the zero point is added; fifteen still fits."""
    bias = torch.zeros(4, dtype=torch.float64)
    assert exact.holds_exactly(bias, exact.Requantisation(15, 0.5), 0)
    assert not exact.holds_exactly(bias, exact.Requantisation(16, 0.5), 0)
    assert not exact.holds_exactly(bias + 2**25 + 1, exact.Requantisation(3, 0.5), 0)


def test_partial_sums_are_bounded() -> None:
    """The bound counts both signs of weights, the range of the inputs, and the unit of the bias."""
    weight, bias = torch.tensor([[3.0, -2.0], [1.0, 0.0]]), torch.tensor([10.0, -4.0])
    assert exact.largest_partial_sum(weight, None, 0, 127, 0) == 3 * 127
    assert exact.largest_partial_sum(weight, bias, -128, 127, 0) == 3 * 128 + 2 * 127 + 10
    assert exact.largest_partial_sum(weight, bias, 0, 127, -3) == 8 * (3 * 127 + 10)


@needs_kernels
@pytest.mark.parametrize("kernel", ["Convolution", "Dense"])
def test_the_trial_finds_a_kernel_that_is_off_by_one(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that errs in a single value is not used."""
    honest = getattr(exact, kernel).__call__

    def off_by_one(self: Any, values: torch.Tensor) -> torch.Tensor:
        result = honest(self, values).clone()
        result.view(-1)[result.numel() // 2] ^= 1
        return result

    if kernel == "Convolution":
        monkeypatch.setattr(exact.Convolution, "__call__", lambda self, values: honest(self, values) ^ 1)
    else:
        monkeypatch.setattr(exact.Dense, "__call__", off_by_one)
    exact.integer_support.cache_clear()
    try:
        assert not exact.integer_support().available
        assert "saturate or round" in exact.integer_support().reason
    finally:
        monkeypatch.undo()
        exact.integer_support.cache_clear()


def test_a_torch_without_the_kernels_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a kernel fails, the reason says so and nothing raises."""

    def missing() -> bool:
        raise RuntimeError("onednn::qlinear_prepack is not implemented\nsecond line")

    monkeypatch.setattr(exact, "_convolution_is_exact", lambda: True)
    monkeypatch.setattr(exact, "_dense_is_exact", missing)
    exact.integer_support.cache_clear()
    try:
        support = exact.integer_support()
        assert not support.available
        assert "not implemented" in support.reason or "oneDNN" in support.reason or "no " in support.reason
    finally:
        monkeypatch.undo()
        exact.integer_support.cache_clear()
