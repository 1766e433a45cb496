"""diagnose(): one JSON document on every layer, what it costs, within a budget, and without touching the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dpuforge.emulator.diagnosis.diagnose import diagnose
from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer
from dpuforge.emulator.quantise.settings import default_settings
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.errors import UsageError
from tests.emulator.diagnosis_networks import Branches, Chain, Pyramid, enliven, images, quantise


def test_a_calibrated_network_is_described_layer_by_layer() -> None:
    """Every layer has its figures, the fix positions are those of the network, and the document is strict JSON."""
    network = quantise(enliven(Chain()), images())
    document = diagnose(network, images(), network.evaluate_float((images(),)).argmax(1))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["emulated"] is True
    assert document["output"]["float_accuracy"] == 100.0
    rows = {row["layer"]: row for row in document["layers"]}
    first = rows["features.0.0"]
    assert first["weights"]["fix"] == network.fix.param["Chain::features.0.0.weight"][1]
    assert first["activation"]["fix"] in [fix for _, fix in network.fix.output.values()]
    assert first["weights"]["rounding_sqnr_db"] > 30
    assert 0.99 < first["activation"]["cosine"] <= 1
    assert {row["layer"] for row in document["sensitivity"]["layers"]} == set(rows)


def test_bits_of_the_network_do_not_change() -> None:
    """A test run after the diagnosis gives the very bits of one before."""
    network = quantise(enliven(Branches()), images())
    before = network.test((images(),))
    diagnose(network, images())
    assert torch.equal(network.test((images(),)), before)


def test_a_float_module_is_quantised_first() -> None:
    """A module needs no preparation; what folding and replaced operators changed is shown beside it."""
    module = enliven(Chain())
    document = diagnose(module, images())
    assert document["preparation"]["sqnr_db"] > 80
    leaky = diagnose(enliven(Chain(nn.LeakyReLU)), images())
    assert leaky["preparation"]["sqnr_db"] < 40
    assert not module.training


@pytest.mark.parametrize("budget", [100.0, 400.0])
def test_a_budget_limits_images_and_layers(budget: float) -> None:
    """The planned work stays within the budget, and the document says on how much it rests."""
    network = quantise(enliven(Chain()), images())
    document = diagnose(network, images(40), budget=budget)
    sensitivity = document["sensitivity"]
    work = 8 * document["images"] + sensitivity["images"] * sensitivity.get("passes", 0)
    assert work <= budget
    assert 0 < document["images"] < 40
    assert sensitivity["of"] == 6


def test_images_under_a_budget_are_spread_over_the_classes() -> None:
    """Of images sorted by class the ones looked at come from all over, not from the first class alone."""
    network = quantise(enliven(Chain()), images())
    batch = torch.cat([images(1).expand(20, -1, -1, -1), images(20, seed=5)])
    labels = network.evaluate_float((batch,)).argmax(1)
    labels[:20] = (labels[:20] + 1) % 5  # the first half is wrong
    document = diagnose(network, batch, labels, budget=120)
    assert document["images"] == 6
    assert document["output"]["float_accuracy"] == 50.0


def test_a_tiny_budget_measures_no_sensitivity_and_says_so() -> None:
    """With almost nothing to spend one image is studied and no layer's cost is claimed."""
    document = diagnose(quantise(enliven(Chain()), images()), images(), budget=1.0)
    assert document["images"] == 1
    assert document["sensitivity"] == {"images": 0, "measured": 0, "of": 6, "layers": []}


def test_layers_can_be_chosen_by_name_or_number() -> None:
    """Names pick those layers; a number picks the most suspicious ones."""
    network = quantise(enliven(Chain()), images())
    named = diagnose(network, images(), layers=["fc", "features.1.0"])["sensitivity"]["layers"]
    assert {row["layer"] for row in named} == {"fc", "features.1.0"}
    assert len(diagnose(network, images(), layers=2)["sensitivity"]["layers"]) == 2
    with pytest.raises(UsageError, match="'nowhere'"):
        diagnose(network, images(), layers=["nowhere"])


def test_several_inputs_and_outputs_work() -> None:
    """One tensor per input; without class scores there are errors but no accuracies."""
    inputs = (images(), images(channels=2, seed=2))
    document = diagnose(quantise(enliven(Pyramid()), *inputs), inputs)
    assert document["output"]["agreement"] is None
    assert document["output"]["sqnr_db"] > 15


def test_a_network_without_calibration_is_refused() -> None:
    """There is nothing to diagnose before calibration."""
    network = QuantisedGraph(capture_graph(enliven(Chain()), (images(1),)), default_settings())
    with pytest.raises(UsageError, match="no fix positions"):
        diagnose(network, images())


def test_images_and_labels_must_fit() -> None:
    """No images, inputs of different length, or too few labels are refused with what was given."""
    network = quantise(enliven(Chain()), images())
    with pytest.raises(UsageError, match="one or more images"):
        diagnose(network, images()[:0])
    with pytest.raises(UsageError, match="8 images, but 3 labels"):
        diagnose(network, images(), [0, 1, 2])


def test_float_scales_are_described_too() -> None:
    """A CPU network has scales in place of fix positions, and no rival positions."""
    overall = {"scale_type": "float", "method": "maxmin", "calib_statistic_method": "max", "round_mode": "half_even"}
    network = quantise(enliven(Chain()), images(), config={"target_device": "CPU", "overall_quantize_config": overall})
    row = next(row for row in diagnose(network, images())["layers"] if row["layer"] == "features.1.0")
    assert row["weights"]["scale"] > 0
    assert "rivals" not in row["weights"]
    assert row["weights"]["rounding_sqnr_db"] > 30


def test_the_quantizer_object_diagnoses_what_it_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torch_quantizer in mode test has diagnose(), which leaves the bits of quant_model alone."""
    module, batch = enliven(Chain()), images()
    arguments: dict[str, Any] = {"output_dir": str(tmp_path), "device": "cpu"}
    calibrating = torch_quantizer("calib", module, (batch,), **arguments)
    calibrating.quant_model(batch)
    calibrating.export_quant_config()
    testing = torch_quantizer("test", module, (batch,), **arguments)
    before = testing.quant_model(batch)
    document = testing.diagnose(batch, budget=200, float_model=module)
    assert torch.equal(testing.quant_model(batch), before)
    assert document["output"]["agreement"] == 100 * float((before.argmax(1) == module(batch).argmax(1)).float().mean())
    assert document["preparation"]["agreement"] == 100.0
    same = calibrating.diagnose(batch, budget=200)
    assert same["layers"] == document["layers"]


def test_the_quantizer_object_refuses_before_calibration(tmp_path: Path) -> None:
    """Without a calibration batch there is nothing to diagnose."""
    calibrating = torch_quantizer("calib", enliven(Chain()), (images(1),), output_dir=str(tmp_path), device="cpu")
    with pytest.raises(UsageError, match="no fix positions"):
        calibrating.diagnose(images())
