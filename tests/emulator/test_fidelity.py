"""The figures of a diagnosis on tensors whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpuforge.emulator.arithmetic.fake_quantise import fake_quantise, search_fix_position
from dpuforge.emulator.diagnosis.fidelity import CEILING_DB, Comparison, Rivals, Saturation, decibels, spread_channels
from dpuforge.emulator.quantise.settings import default_settings
from dpuforge.emulator.quantise.steps import FixStep, TensorRule, apply_step

CONFIG = default_settings().config
ACTIVATION = TensorRule("activation", CONFIG.tensors["activation"])
WEIGHTS = TensorRule("weights", CONFIG.tensors["weights"])


def test_decibels_of_known_powers() -> None:
    """A ratio of 100 is 20 dB; no noise is the ceiling, no signal the floor, neither or infinity is no figure."""
    assert decibels(100.0, 1.0) == pytest.approx(20.0)
    assert decibels(1.0, 0.0) == CEILING_DB
    assert decibels(0.0, 1.0) == -CEILING_DB
    assert decibels(0.0, 0.0) is None
    assert decibels(math.inf, 1.0) is None
    assert decibels(1.0, math.nan) is None


def test_one_bit_is_six_decibels() -> None:
    """Values spread evenly over the range: the noise is step**2 / 12, and each further fix position gains 6.02 dB."""
    values = torch.linspace(-1.0, 0.99, 100_000)
    levels = []
    for fix in (5, 6, 7):
        comparison = Comparison()
        comparison.add(values, fake_quantise(values, 8, fix, ACTIVATION.rounding))
        levels.append(comparison.sqnr_db)
        assert comparison.noise / values.numel() == pytest.approx(4.0**-fix / 12, rel=1e-2)
    assert levels[1] - levels[0] == pytest.approx(20 * math.log10(2), abs=0.05)
    assert levels[2] - levels[1] == pytest.approx(20 * math.log10(2), abs=0.05)


def test_cosine_of_known_angles() -> None:
    """Parallel is 1, perpendicular 0, opposite -1, and a zero vector has no angle."""
    for other, expected in (([2.0, 0.0], 1.0), ([0.0, 3.0], 0.0), ([-1.0, 0.0], -1.0), ([0.0, 0.0], None)):
        comparison = Comparison()
        comparison.add(torch.tensor([1.0, 0.0]), torch.tensor(other))
        assert comparison.cosine == expected


def test_batches_add_up() -> None:
    """Two halves give the figures of the whole."""
    values = torch.randn(64, generator=torch.Generator().manual_seed(0))
    rounded = values.round()
    whole, halves = Comparison(), Comparison()
    whole.add(values, rounded)
    for part, other in zip(values.chunk(2), rounded.chunk(2), strict=True):
        halves.add(part, other)
    assert halves.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-6)
    assert halves.cosine == pytest.approx(whole.cosine, rel=1e-6)


@given(st.integers(0, 6), st.integers(0, 2**31))
def test_clipped_values_are_those_that_the_grid_does_not_reach(fix: int, seed: int) -> None:
    """A value counts as clipped exactly when rounding without ends would give an integer beyond -128..127."""
    values = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * 40
    saturation = Saturation()
    saturation.add(values, FixStep(8, fix), ACTIVATION)
    integers = torch.floor(values.double() * 2.0**fix + 0.5)
    assert saturation.count == int(((integers < -128) | (integers > 127)).sum())
    assert saturation.peak == pytest.approx(float(values.abs().max()))


def test_the_best_rival_is_the_fix_position_of_the_search() -> None:
    """On one small tensor the rivals' errors name the position that calibration chooses, with the others around it."""
    values = torch.randn(4096, generator=torch.Generator().manual_seed(3))
    chosen = int(search_fix_position(values, 8, ACTIVATION.rounding))
    rivals = Rivals()
    rivals.add(values, FixStep(8, chosen), ACTIVATION)
    assert rivals.best == chosen
    assert len(rivals.noise) == 5
    assert all(rivals.sqnr_db(fix) <= rivals.sqnr_db(chosen) for fix in rivals.noise)


def test_a_chosen_position_beside_the_candidates_is_listed_too() -> None:
    """An adjusted fix position far from the search's candidates has its error shown all the same."""
    rivals = Rivals()
    rivals.add(torch.linspace(-1, 1, 1000), FixStep(8, 2), ACTIVATION)
    assert 2 in rivals.noise
    assert rivals.best is not None
    assert rivals.best > 2


def test_a_sample_of_a_large_tensor_is_fair() -> None:
    """Where every column of an image differs, the sampled error stays within 0.5 dB of the error of all values."""
    columns = torch.linspace(0.01, 3.0, 64)
    values = torch.randn((32, 64, 64, 64), generator=torch.Generator().manual_seed(0)) * columns
    step, rivals, whole = FixStep(8, 4), Rivals(), Comparison()
    rivals.add(values, step, ACTIVATION)
    whole.add(values, fake_quantise(values, 8, 4, ACTIVATION.rounding))
    assert rivals.sqnr_db(4) == pytest.approx(whole.sqnr_db, abs=0.5)


def test_uneven_channels_are_found() -> None:
    """One channel 64 times as wide as the others is named, and leaves the others too few integers."""
    weights = torch.linspace(-0.01, 0.01, 36).view(4, 3, 3).expand(8, 4, 3, 3).clone()
    weights[5] *= 64
    fix = int(search_fix_position(weights, 8, WEIGHTS.rounding))
    spread = spread_channels(weights, apply_step(weights, FixStep(8, fix), WEIGHTS), 0)
    assert spread.channel == 5
    assert spread.ratio == pytest.approx(64, rel=1e-3)
    assert spread.coarse == pytest.approx(7 / 8)
    assert spread.worst_db is not None
    assert spread.worst_db < 10
