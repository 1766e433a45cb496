"""What each layer costs: the figures of separate evaluations, the culprit on top."""

from __future__ import annotations

import pytest
import torch

from dpuforge.emulator.diagnosis.fidelity import Comparison
from dpuforge.emulator.diagnosis.layers import list_layers
from dpuforge.emulator.diagnosis.sensitivity import measure_sensitivity
from dpuforge.emulator.quantise.steps import FixStep
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.errors import UsageError
from tests.emulator.diagnosis_networks import Chain, Pyramid, enliven, images, quantise


@pytest.fixture
def network() -> QuantisedGraph:
    """Return a calibrated chain."""
    return quantise(enliven(Chain()), images())


def _only(network: QuantisedGraph, name: str) -> torch.Tensor:
    """Return the outputs of a test run after the steps of all layers but one are taken away."""
    steps, layer = network.steps, next(layer for layer in list_layers(network) if layer.name == name)
    kept = {key for _, key in layer.parameters}
    params, outputs = dict(steps.param), dict(steps.output)
    steps.param = {key: step for key, step in params.items() if key in kept}
    steps.output = {point: step for point, step in outputs.items() if point == layer.point}
    network.freeze_parameters()
    try:
        found: torch.Tensor = network.test((images(),))
    finally:
        steps.param, steps.output = params, outputs
        network.freeze_parameters()
    return found


def test_figures_are_those_of_separate_test_runs(network: QuantisedGraph) -> None:
    """The output error with one layer alone quantised is that of a test run whose other steps were removed."""
    study = measure_sensitivity(network, list_layers(network), (images(),))
    exact = network.evaluate_float((images(),))
    for item in study.layers:
        expected = Comparison()
        expected.add(exact, _only(network, item.layer.name))
        assert item.alone.output.sqnr_db == pytest.approx(expected.sqnr_db, abs=1e-3)


def test_a_spoilt_layer_comes_first(network: QuantisedGraph) -> None:
    """Weights forced onto a step far too large: that layer costs most, and in float the network recovers."""
    key = next(key for key in network.steps.param if key.endswith("features.1.0.weight"))
    network.steps.param[key] = FixStep(8, 1)
    network.freeze_parameters()
    rows = measure_sensitivity(network, list_layers(network), (images(),)).as_json()
    assert rows[0]["layer"] == "features.1.0"
    assert rows[0]["gain_db"] > 10
    assert rows[0]["alone_sqnr_db"] == min(row["alone_sqnr_db"] for row in rows)


def test_accuracies_are_counted_from_labels(network: QuantisedGraph) -> None:
    """With the float network's own classes as labels it scores 100 %, and accuracy lost equals disagreement."""
    labels = network.evaluate_float((images(),)).argmax(1)
    study = measure_sensitivity(network, list_layers(network), (images(),), labels)
    assert study.exact.accuracy == 100.0
    assert study.quantised.accuracy == study.quantised.agreement
    for row in study.as_json():
        assert row["accuracy_lost"] == row["alone_disagreement"]


def test_small_memory_gives_the_same_figures(network: QuantisedGraph) -> None:
    """Images taken one at a time give what all at once give."""
    layers = list_layers(network)
    whole = measure_sensitivity(network, layers, (images(),)).as_json()
    small = measure_sensitivity(network, layers, (images(),), memory=1).as_json()
    for one, other in zip(whole, small, strict=True):
        assert one["layer"] == other["layer"]
        assert one["gain_db"] == pytest.approx(other["gain_db"], abs=1e-3)


def test_a_subset_is_measured_against_the_whole_network(network: QuantisedGraph) -> None:
    """Measuring one layer leaves the others quantised in the reference: the figures do not depend on the subset."""
    layers = list_layers(network)
    rows = {row["layer"]: row for row in measure_sensitivity(network, layers, (images(),)).as_json()}
    (alone,) = measure_sensitivity(network, layers[2:3], (images(),)).as_json()
    assert alone == rows[alone["layer"]]


def test_networks_without_classes_have_errors_but_no_agreement() -> None:
    """Two feature maps as outputs: error figures yes, class figures none, and labels are refused."""
    inputs = (images(), images(channels=2, seed=2))
    network = quantise(enliven(Pyramid()), *inputs)
    layers = list_layers(network)
    row = measure_sensitivity(network, layers, inputs).as_json()[0]
    assert row["gain_db"] is not None
    assert row["alone_disagreement"] is None
    with pytest.raises(UsageError, match="images, classes"):
        measure_sensitivity(network, layers, inputs, torch.zeros(8))
