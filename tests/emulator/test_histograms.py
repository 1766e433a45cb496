"""Histograms against the integer grid, and the features of a module in the quantised network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpuforge.emulator.diagnosis.diagnose import quantise
from dpuforge.emulator.diagnosis.histograms import BINS, Histogram, find_features, histogram_layers
from dpuforge.emulator.quantise.steps import FixStep


def make_network() -> tuple[nn.Module, torch.Tensor]:
    """Return a small network with a repeatable start, and four images."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return network.eval(), torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize(
    ("values", "place"), [([-8.0], 0), ([7.9375], BINS - 1), ([0.0], BINS // 2), ([-0.0625], BINS // 2 - 1)]
)
def test_a_value_falls_into_the_bin_of_its_code(values: list[float], place: int) -> None:
    """The grid of fix position 4 goes from -8 to 7.9375; each bin holds four codes."""
    histogram = Histogram(FixStep(8, 4))
    histogram.add(torch.tensor(values))
    assert histogram.counts.nonzero().flatten().tolist() == [place]
    assert len(histogram.levels) == 1


def test_values_beyond_the_grid_are_counted_apart() -> None:
    """What is clipped is in no bin, but below or above; values that round onto the grid are within."""
    histogram = Histogram(FixStep(8, 4))
    histogram.add(torch.tensor([-9.0, 8.0, 100.0, -8.02, 7.96]))
    found = histogram.as_json()
    assert (found["below"], found["above"], sum(found["counts"])) == (1, 2, 2)
    assert (found["low"], found["high"]) == (-9.0, 100.0)


def test_every_layer_has_its_histograms_in_order() -> None:
    """Weights and results of all layers are counted whole, in the order in which the network runs."""
    module, images = make_network()
    network = quantise(module, (images,))
    rows = histogram_layers(network, (images,))
    assert [row["kind"] for row in rows if "weights" in row] == ["conv2d", "dense"]
    found = {row["kind"]: row for row in rows}
    for kind, size in (("conv2d", 8 * 3 * 9), ("dense", 8 * 5)):
        weights = found[kind]["weights"]
        assert sum(weights["counts"]) + weights["below"] + weights["above"] == size
    result = found["conv2d"]["activation"]
    assert sum(result["counts"]) + result["below"] + result["above"] == 4 * 8 * 6 * 6
    assert result["levels"] <= 2 ** result["bits"]


def test_features_are_those_of_the_quantised_network() -> None:
    """The first known module's result lies on its grid; without a known module there is none."""
    module, images = make_network()
    network = quantise(module, (images,))
    path, features = find_features(network, (images[:1],), ["nowhere", "1", "0"])
    assert path == "1"
    assert features is not None
    assert features.shape == (1, 8, 6, 6)
    point = next(step for name, step in network.steps.output.items() if network.graph[name].module_path == "1")
    assert isinstance(point, FixStep)
    assert torch.equal(features * 2.0**point.fix, (features * 2.0**point.fix).round())
    assert find_features(network, (images[:1],), ["nowhere"]) == ("", None)
