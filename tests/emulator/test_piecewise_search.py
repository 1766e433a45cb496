"""Calibration piece by piece against the reference: the same positions, values and biases to the bit."""

import math
from pathlib import Path

import pytest
import torch

from dpuforge.emulator.arithmetic import piecewise
from dpuforge.emulator.arithmetic.fake_quantise import Rounding, fake_quantise, search_fix_position
from dpuforge.emulator.integer import calibration_calls
from dpuforge.emulator.quantise import steps
from dpuforge.emulator.quantised_graph import QuantisedGraph
from tests.emulator.recorded import DATA, arrays, calibrate_and_test, large_recording, small_recording
from tests.emulator.small_networks import SMALL_NETWORKS

NEAREST = [Rounding.HALF_UP, Rounding.STD_ROUND, Rounding.HALF_EVEN]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make small tensors take the way of large ones, in many pieces."""
    monkeypatch.setattr(piecewise, "_LARGE", 2)
    monkeypatch.setattr(piecewise, "_PIECE", 97)


def distributions() -> dict[str, torch.Tensor]:
    """Return tensors of several shapes of distribution."""
    torch.manual_seed(0)
    normal = torch.randn(3000)
    return {
        "normal": normal,
        "relu": normal.relu() * 5,
        "heavy": normal.pow(5),
        "grid": (normal * 20).round() / 32,
        "ties": (normal * 20).round() / 16 + 1 / 32,
        "zero": torch.zeros(3000),
        "tiny": normal * 1e-20,
        "one_value": torch.cat([torch.zeros(2999), torch.tensor([3.7])]),
    }


@pytest.mark.parametrize("name", distributions())
@pytest.mark.parametrize("rounding", [*NEAREST, Rounding.FLOOR])
@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.usefixtures("small_pieces")
def test_search_equals_the_reference(name: str, rounding: Rounding, bits: int) -> None:
    """The piecewise search finds the reference's fix position."""
    values = distributions()[name]
    found = piecewise.search_large(values, bits, rounding, 5)
    assert found == search_fix_position(values, bits, rounding, 5)


@pytest.mark.usefixtures("small_pieces")
def test_search_equals_the_reference_on_recorded_tensors() -> None:
    """The tensors on which the real tool's search was recorded give the same positions piece by piece."""
    for key, array in arrays(DATA / "kernels" / "fixpos_tensors.npz").items():
        values = torch.from_numpy(array).float().contiguous()
        if values.numel() == 0 or not bool(torch.isfinite(values).all()):
            continue
        reference = search_fix_position(values, 8, Rounding.HALF_UP, 5)
        assert piecewise.search_large(values, 8, Rounding.HALF_UP, 5) == reference, key


def test_close_candidates_are_left_to_the_reference() -> None:
    """Only a lead that no float32 summation can turn around is decided here."""
    assert piecewise._clear_winner([5.0, 1.0, 3.0]) == 1
    assert piecewise._clear_winner([1.0, 1.0005, 3.0]) is None
    assert piecewise._clear_winner([1.0, 0.0, 0.0]) == 1
    assert piecewise._clear_winner([1e-40, 0.0, 0.0]) is None
    assert piecewise._clear_winner([1e-35, 1e-38, 1e-33]) is None
    assert piecewise._clear_winner([1.0, math.nan, 2.0]) is None


@pytest.mark.parametrize("name", distributions())
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.usefixtures("small_pieces")
def test_fake_quantisation_equals_the_reference(name: str, in_place: bool) -> None:
    """Piecewise fake quantisation gives the reference's bits, in place or not."""
    values = distributions()[name]
    for fix in (-2, 3, 6, 40):
        expected = fake_quantise(values, 8, fix, Rounding.HALF_UP)
        given = values.clone()
        found = piecewise.quantise_large(given, 8, fix, Rounding.HALF_UP, in_place)
        assert torch.equal(found, expected)
        assert in_place or torch.equal(given, values)


def reference_run(name: str, monkeypatch: pytest.MonkeyPatch) -> QuantisedGraph:
    """Calibrate a network without pieces and without economised calls."""
    with monkeypatch.context() as patch:
        patch.setattr(piecewise, "_LARGE", 2**62)
        patch.setattr(calibration_calls, "_economise", lambda node, *rest: node)
        return calibrate_and_test(small_recording(name)).quantised


def assert_same_calibration(fast: QuantisedGraph, exact: QuantisedGraph) -> None:
    """Compare all that calibration finds."""
    assert fast.history == exact.history
    assert fast.steps == exact.steps
    assert list(fast.corrections) == list(exact.corrections)
    assert [key for key in fast.corrections if not torch.equal(fast.corrections[key], exact.corrections[key])] == []


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_calibration_in_pieces_equals_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Histories, steps and bias corrections are the reference's to the bit."""
    exact = reference_run(name, monkeypatch)
    monkeypatch.setattr(piecewise, "_LARGE", 2)
    monkeypatch.setattr(piecewise, "_PIECE", 997)
    assert steps.is_large is piecewise.is_large
    assert_same_calibration(calibrate_and_test(small_recording(name)).quantised, exact)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg_small", "resnet18", "mobilenet_v2"])
def test_calibration_of_large_networks_equals_the_reference(
    name: str, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 224x224 the piecewise calibration gives the reference's histories, steps and corrections to the bit."""
    with monkeypatch.context() as patch:
        patch.setattr(piecewise, "_LARGE", 2**62)
        patch.setattr(calibration_calls, "_economise", lambda node, *rest: node)
        exact = calibrate_and_test(large_recording(name, golden)).quantised
    assert_same_calibration(calibrate_and_test(large_recording(name, golden)).quantised, exact)
