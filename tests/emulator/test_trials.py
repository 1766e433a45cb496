"""Suggestions that change settings are tried first: what helps is advised with its gain, what does not is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dpuforge.chance.paired_tests import luck
from dpuforge.emulator.diagnosis.diagnose import diagnose
from dpuforge.emulator.diagnosis.paired import Scores, compare_scores, count_tries
from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer
from dpuforge.emulator.quantised_graph import QuantisedGraph
from tests.emulator.diagnosis_networks import Chain, Pyramid, biased, enliven, flags, images, quantise, uneven_mobile


def _advice(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["code"]: item for item in document["advice"]}


def _tried(document: dict[str, Any], code: str) -> dict[str, Any]:
    return next(row for row in document["tried"] if code in row["codes"])


def _uneven(module: nn.Module, factor: float = 1000.0) -> nn.Module:
    """Make one channel of the first layer far larger and its reader undo it."""
    with torch.no_grad():
        module.features[0][1].weight[3] *= factor
        module.features[0][1].bias[3] *= factor
        module.features[1][0].weight[:, 3] /= factor
    return module


def _unequalised(module: nn.Module) -> QuantisedGraph:
    return quantise(module, images(), config=flags(include_cle=False))


def test_switching_equalisation_off_is_not_advised_where_it_hurts() -> None:
    """A MobileNetV2 in small with values above 6: keeping relu6 costs equalisation, and the trial shows what."""
    module, batch = uneven_mobile()
    network = quantise(module, batch[:8])
    labels = module(batch).argmax(1)
    assert "RELU6_REPLACED" in _advice(diagnose(network, batch, labels))  # untried, the symptom is there
    document = diagnose(network, batch, labels, layers=0, float_model=module)
    assert "RELU6_REPLACED" not in _advice(document)
    assert not any("include_cle: false" in item["text"] for item in document["advice"])
    row = _tried(document, "RELU6_REPLACED")
    assert row["spec"] == ["quantization.include_cle: false", "quantization.convert_relu6_to_relu: false"]
    assert not row["helps"]
    assert row["gain"] < -5


def test_an_untried_loss_of_equalisation_is_not_advised_either() -> None:
    """Without the float network the text advises training, and says what switching equalisation off has done."""
    module, batch = uneven_mobile()
    text = _advice(diagnose(quantise(module, batch[:8]), batch))["RELU6_REPLACED"]["text"]
    assert "not tried: the float network was not given" in text
    assert "train with relu" in text


def test_relu6_is_kept_where_that_helps() -> None:
    """A network that lives from being clipped: the same change is advised, with its lines of the spec."""
    module, batch = enliven(Chain(nn.ReLU6)), images(96)
    with torch.no_grad():
        module.features[0][1].weight *= 100
    document = diagnose(quantise(module, images()), batch, module(batch).argmax(1), layers=0, float_model=module)
    item = _advice(document)["RELU6_REPLACED"]
    assert item["spec"] == ["quantization.include_cle: false", "quantization.convert_relu6_to_relu: false"]
    assert item["trial"]["gain"] > 10
    assert document["advice"][0]["code"] == "RELU6_REPLACED"


@pytest.mark.parametrize("labelled", [True, False])
def test_equalisation_is_advised_with_what_it_gained(labelled: bool) -> None:
    """The text has the gain, on how many images, how sure it is, and the line of the spec."""
    module, batch = _uneven(enliven(Chain())), images(64)
    labels = module(batch).argmax(1) if labelled else None
    document = diagnose(_unequalised(module), batch, labels, layers=0, float_model=module)
    item = _advice(document)["EQUALISATION"]
    assert item["spec"] == ["quantization.include_cle: true"]
    assert "set quantization.include_cle: true (tried: +" in item["text"]
    trial = item["trial"]
    assert trial["measure"] == ("accuracy" if labelled else "agreement")
    assert f"on {trial['images']} images" in item["text"]
    assert trial["images"] + trial["calibrated_on"] == 64
    assert trial["gain"] > 50
    assert 0 < trial["interval"][0] < trial["gain"] < trial["interval"][1]
    assert trial["p"] < 0.001
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_a_trial_measures_what_the_change_really_gives() -> None:
    """Before and after are the accuracies of networks quantised by hand, on the images not calibrated with."""
    module, batch = _uneven(enliven(Chain())), images(64)
    labels = module(batch).argmax(1)
    trial = _tried(diagnose(_unequalised(module), batch, labels, layers=0, float_model=module), "EQUALISATION")
    chosen = torch.zeros(64, dtype=torch.bool)
    chosen[torch.arange(21) * 64 // 21] = True
    for wanted, on in ((trial["before"], False), (trial["after"], True)):
        network = quantise(module, batch[chosen], batches=3, config=flags(include_cle=on))
        right = (network.test((batch[~chosen],)).argmax(1) == labels[~chosen]).float().mean()
        assert wanted == pytest.approx(100 * float(right), abs=0.01)


def test_bias_correction_is_advised_where_it_helps() -> None:
    """Rounding errors that add up: bias correction gains points, and nothing that gains none stands before it."""
    module, batch = biased()
    network = quantise(module, batch[:8], config=flags(include_bias_corr=False))
    document = diagnose(network, batch, module(batch).argmax(1), layers=0, float_model=module)
    assert document["advice"][0]["code"] == "BIAS_CORRECTION"
    assert document["advice"][0]["spec"] == ["quantization.include_bias_corr: true"]
    gains = [row["gain"] for row in document["tried"] if "gain" in row]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 5


def test_calibration_with_other_images_is_tried_against_the_network_as_it_is() -> None:
    """Calibrated on images far too bright: calibrating on the validation split helps, and its spec line says so."""
    module, batch = enliven(Chain()), images(64)
    document = diagnose(quantise(module, images() * 64), batch, module(batch).argmax(1), layers=0, float_model=module)
    item = _advice(document)["COARSE_STEP"]
    assert item["spec"] == ["quantization.calibration.from: validation"]
    assert item["trial"]["before"] == pytest.approx(item["trial"]["after"] - item["trial"]["gain"], abs=0.01)


def test_without_classes_the_output_decides() -> None:
    """Maps without labels: the measure is the output's SQNR in dB."""
    module, inputs = enliven(Pyramid()), (images(24), images(24, channels=2, seed=2))
    document = diagnose(quantise(module, *(part / 6 for part in inputs)), inputs, layers=0, float_model=module)
    trial = _advice(document)["SATURATED_INPUT"]["trial"]
    assert trial["measure"] == "output_sqnr_db"
    assert trial["gain"] > 3
    assert "dB of output SQNR on 16 images" in trial["text"]


@pytest.mark.parametrize("count", [1, 11])
def test_too_few_images_try_nothing_and_say_so(count: int) -> None:
    """One image cannot both calibrate and measure."""
    module = _uneven(enliven(Chain()))
    document = diagnose(_unequalised(module), images(count), layers=0, float_model=module)
    item = _advice(document)["EQUALISATION"]
    assert "a trial needs 12" in item["text"]
    assert item["trial"] is None
    assert "gain" not in _tried(document, "EQUALISATION")


def test_many_classes_with_few_images_are_no_problem() -> None:
    """More classes than images."""
    module, batch = Chain(), images(24)
    module.fc = nn.Linear(16, 1000)
    _uneven(enliven(module))
    document = diagnose(_unequalised(module), batch, module(batch).argmax(1), layers=0, float_model=module)
    assert _advice(document)["EQUALISATION"]["trial"]["images"] == 16


def test_a_gain_that_luck_gives_is_no_gain() -> None:
    """Two images gained of sixteen are not advised as a gain."""
    before = Scores(right=[True] * 14 + [False] * 2)
    gain = compare_scores(before, Scores(right=[True] * 16))
    assert gain.gain == 12.5
    assert gain.chance == 0.25
    assert not gain.beats_luck(1)
    assert compare_scores(Scores(right=[False] * 16), Scores(right=[True] * 16)).beats_luck(5)


def test_the_sign_test_is_exact() -> None:
    """Five of five heads are one case in 32; no change at all proves nothing."""
    assert luck(5, 0) == 1 / 32
    assert luck(4, 1) == 6 / 32
    assert luck(0, 0) == 1.0


def test_trials_that_could_not_win_do_not_count_as_tries() -> None:
    """Where no image changed its class, luck had no chance to make a gain (Tarone 1990)."""
    start = Scores(right=[False] * 16)
    clear = compare_scores(start, Scores(right=[True] * 5 + [False] * 11))
    idle = compare_scores(start, start)
    assert count_tries([clear, idle, idle]) == 1
    assert count_tries([clear, clear]) == 2


def test_trials_keep_to_their_budget() -> None:
    """Little to spend takes images away, then trials; nothing to spend tries nothing, and the reason is said."""
    module, batch = _uneven(enliven(Chain())), images(96)
    network, labels = _unequalised(module), module(batch).argmax(1)

    def run(budget: float) -> dict[str, Any]:
        return diagnose(network, batch, labels, budget=80, layers=0, float_model=module, trial_budget=budget)

    few = _tried(run(160), "EQUALISATION")
    assert 12 <= few["images"] + few["calibrated_on"] < 96
    networks = 2
    assert networks * (4 * few["calibrated_on"] + 1.5 * few["images"]) + few["images"] <= 160
    none = run(20)
    assert all("forward passes" in row["skipped"] for row in none["tried"])
    assert "not tried: it takes" in _advice(none)["EQUALISATION"]["text"]


def test_a_whole_budget_is_shared_with_trials() -> None:
    """Without a budget of their own trials get a part of the one given."""
    module, batch = _uneven(enliven(Chain())), images(64)
    document = diagnose(_unequalised(module), batch, budget=600, float_model=module)
    sensitivity, trials = document["sensitivity"], [row for row in document["tried"] if "gain" in row]
    work = 8 * document["images"] + sensitivity["images"] * sensitivity.get("passes", 0)
    assert work <= 600 - 0.5 * (600 - 8 * document["images"])
    assert trials


def test_layers_stand_in_the_order_of_what_they_cost() -> None:
    """The document's layers, and those of a suggestion, begin with the one whose rounding costs the output most."""
    document = diagnose(quantise(enliven(Chain()), images() / 6), images(16))
    costs = [row["cost_db"] for row in document["layers"]]
    assert costs == sorted(costs, reverse=True)
    by_layer = {row["layer"]: row["cost_db"] for row in document["layers"]}
    named = _advice(document)["MORE_CALIBRATION_IMAGES"]["layers"]
    assert len(named) > 1
    assert [by_layer[name] for name in named] == sorted((by_layer[name] for name in named), reverse=True)


def test_layers_that_were_not_measured_come_last() -> None:
    """A budget without sensitivity leaves the cost open."""
    document = diagnose(quantise(enliven(Chain()), images()), images(), layers=2)
    assert [row["cost_db"] is None for row in document["layers"]] == [False] * 2 + [True] * 4


def test_finetuned_weights_are_compared_with_the_original_ones(tmp_path: Path) -> None:
    """After fast_finetune the weights lie on their grid: only the float network tells what that cost."""
    module, batch = enliven(Chain()), images(8)
    arguments: dict[str, Any] = {"output_dir": str(tmp_path), "device": "cpu", "bitwidth": 4}
    calibrating = torch_quantizer("calib", module, (batch,), **arguments)
    calibrating.fast_finetune(lambda network: network(batch), (calibrating.quant_model,))
    calibrating.quant_model(batch)
    calibrating.export_quant_config()
    testing = torch_quantizer("test", enliven(Chain()), (batch,), **arguments)
    testing.load_ft_param()
    found = testing.quant_model(batch)
    document = testing.diagnose(batch, float_model=module)
    assert document["finetuned"] is True
    levels = [row["weights"]["rounding_sqnr_db"] for row in document["layers"] if "weights" in row]
    assert all(5 < level < 40 for level in levels)
    same = float((found.argmax(1) == module(batch).argmax(1)).float().mean())
    assert document["output"]["agreement"] == pytest.approx(100 * same, abs=0.01)
    assert document["preparation"]["sqnr_db"] > 60
    blind = testing.diagnose(batch)
    assert blind["finetuned"] is False
    assert max(row["weights"]["rounding_sqnr_db"] for row in blind["layers"] if "weights" in row) == 200


def test_fast_finetune_is_never_promised() -> None:
    """Its text gives the two recorded figures and says that the gain in AMD's container is unknown."""
    module = _uneven(enliven(Chain()), 100.0)
    document = diagnose(_unequalised(module), images(64), layers=0, float_model=module)
    text = _advice(document)["FAST_FINETUNE"]["text"]
    assert "33.67 % where the emulator gave 82.33 %" in text
    assert "the gain in AMD's container is unknown" in text
    assert "not tried" in text


def test_what_means_training_says_that_it_was_not_tried() -> None:
    """A suggestion without a figure says why it has none."""
    module = enliven(Chain(nn.Hardswish))
    with torch.no_grad():
        for block in module.features:
            block[1].weight *= 5
    text = _advice(diagnose(quantise(module, images()), images(16), layers=0, float_model=module))["REPLACE_HARDSWISH"][
        "text"
    ]
    assert "not tried: it means training again" in text
