"""Suggestions: a healthy network gets none, each injected fault gets its own, and following it removes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dpuforge.emulator.diagnosis.advice import RULES
from dpuforge.emulator.diagnosis.diagnose import diagnose
from dpuforge.emulator.quantise.steps import FixStep
from dpuforge.emulator.quantised_graph import QuantisedGraph
from tests.conftest import REPO
from tests.emulator.diagnosis_networks import Chain, Pyramid, enliven, flags, images, quantise


def _advice(network: QuantisedGraph, batch: torch.Tensor | None = None, **options: Any) -> dict[str, dict[str, Any]]:
    found = diagnose(network, images(16) if batch is None else batch, **options)["advice"]
    return {item["code"]: item for item in found}


def _uneven(module: nn.Module, factor: float = 100.0) -> nn.Module:
    """Make one channel of the first layer far larger and its reader undo it: the same function, uneven weights."""
    first, second = module.features[0], module.features[1][0]
    with torch.no_grad():
        first[1].weight[3] *= factor
        first[1].bias[3] *= factor
        second.weight[:, 3] /= factor
    return module


class Functional(nn.Module):
    """A convolution with functional operators that the DPU does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        return self.two(F.gelu(self.one(x))).mean((2, 3))


def _hot(module: nn.Module, factor: float) -> nn.Module:
    """Scale the first batch-norm so that its activation leaves 0..6."""
    with torch.no_grad():
        module.features[0][1].weight *= factor
    return module


def _loud(module: nn.Module) -> nn.Module:
    """Scale all batch-norms so that hard activations see far larger values than 3."""
    with torch.no_grad():
        for block in module.features:
            block[1].weight *= 5
    return module


def _misaligned() -> QuantisedGraph:
    """A fix position moved after calibration, as the export's alignment does."""
    network = quantise(enliven(Chain()), images())
    name = network.points.outputs[2]
    network.steps.output[name] = FixStep(8, network.steps.output[name].fix - 2)
    return network


def _leaky() -> nn.Module:
    return enliven(Chain(lambda: nn.LeakyReLU(0.5)))


def _unsteady() -> QuantisedGraph:
    batch = torch.cat([images(8) * scale for scale in (0.1, 0.3, 1.0, 3.0)])
    return quantise(enliven(Chain()), batch, batches=4)


def _faint() -> QuantisedGraph:
    module = enliven(Chain())
    with torch.no_grad():
        module.features[1][1].weight.mul_(1e-6)
        module.features[1][1].bias.copy_(torch.full((16,), 1e-6))
    return quantise(module, images(), config=flags(include_cle=False))


def _coarse_output() -> QuantisedGraph:
    """A classifier whose scores lie on a step as large as they are: images change class."""
    network = quantise(enliven(Chain()), images(16))
    name = network.points.outputs[-1]
    network.steps.output[name] = FixStep(8, -1)
    return network


Fault = Callable[[], QuantisedGraph]
FAULTS: dict[str, tuple[Fault, torch.Tensor]] = {
    "SATURATED_INPUT": (lambda: quantise(enliven(Chain()), images() / 4), images(16)),
    "EQUALISATION": (
        lambda: quantise(_uneven(enliven(Chain())), images(), config=flags(include_cle=False)),
        images(16),
    ),
    "OUTLIER_CHANNELS": (lambda: quantise(_widen_classifier(enliven(Chain())), images()), images(16)),
    "OUTLIER_ACTIVATIONS": (
        lambda: quantise(_uneven(enliven(Chain())), images(), config=flags(include_cle=False)),
        images(16),
    ),
    "BIAS_CORRECTION": (
        lambda: quantise(enliven(Chain()), images(), config=flags(include_bias_corr=False), bits=3),
        images(16),
    ),
    "MORE_CALIBRATION_IMAGES": (lambda: quantise(enliven(Chain()), images() / 6), images(16)),
    "UNSTEADY_CALIBRATION": (_unsteady, images(16)),
    "ALIGNMENT": (_misaligned, images(16)),
    "VANISHED": (_faint, images(16)),
    "COARSE_STEP": (lambda: quantise(enliven(Chain()), images() * 8), images(16)),
    "REPLACE_HARDSWISH": (lambda: quantise(_loud(enliven(Chain(nn.Hardswish))), images()), images(16)),
    "RELU6_REPLACED": (lambda: quantise(_hot(enliven(Chain(nn.ReLU6)), 5.0), images()), images(16)),
    "PREPARATION": (lambda: quantise(_leaky(), images()), images(16)),
    "FLOAT_OPERATOR": (lambda: quantise(enliven(Functional()), images()), images(16)),
    "KEEP_FLOAT": (_coarse_output, images(16)),
    "FAST_FINETUNE": (_coarse_output, images(16)),
}


def _widen_classifier(module: nn.Module) -> nn.Module:
    """Give one class scores far larger than the others: a dense layer, out of equalisation's reach."""
    with torch.no_grad():
        module.fc.weight[2] *= 50
    return module


def test_a_healthy_network_gets_no_advice() -> None:
    """Where nothing is wrong nothing is suggested."""
    network = quantise(enliven(Chain()), images(16))
    labels = network.test((images(16),)).argmax(1)
    assert _advice(network, labels=labels) == {}


def test_every_rule_has_a_fault_that_triggers_it() -> None:
    """No rule is without a test."""
    assert {rule.code for rule in RULES} == set(FAULTS)


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_named_with_its_figure(code: str) -> None:
    """The suggestion for the fault appears, with the figures that its text shows."""
    build, batch = FAULTS[code]
    options = {"float_model": _leaky()} if code == "PREPARATION" else {}
    found = _advice(build(), batch, **options)
    assert code in found, sorted(found)
    item = found[code]
    assert item["measured"]
    assert not any(mark in item["text"] for mark in "{}")
    assert any(character.isdigit() for character in item["text"])


@pytest.mark.parametrize("code", ["EQUALISATION", "OUTLIER_ACTIVATIONS"])
def test_equalisation_removes_what_asked_for_it(code: str) -> None:
    """The same weights with equalisation on: the suggestion is gone."""
    network = quantise(_uneven(enliven(Chain())), images(), config=flags(include_cle=True))
    assert code not in _advice(network)


def test_bias_correction_is_not_suggested_where_it_is_on() -> None:
    """The rule looks at the setting, not at the error alone."""
    assert "BIAS_CORRECTION" not in _advice(quantise(enliven(Chain()), images(), bits=3))


def test_hard_activations_are_blamed_for_their_inputs_limits() -> None:
    """The convolution before a hard swish is clipped by the hard swish's limits: no calibration image can mend that."""
    found = _advice(quantise(_loud(enliven(Chain(nn.Hardswish))), images()), images())
    assert found["REPLACE_HARDSWISH"]["measured"]["input_loss_db"] > 3
    assert "MORE_CALIBRATION_IMAGES" not in found


def test_the_worst_layer_is_named_first() -> None:
    """Of several layers concerned the worst one's figures stand in the text, the others are listed."""
    found = _advice(quantise(enliven(Chain()), images() / 6))["MORE_CALIBRATION_IMAGES"]
    assert len(found["layers"]) > 1
    assert found["text"].startswith(found["layers"][0])
    assert found["layers"][1] in found["text"]


def test_one_differing_image_proves_nothing() -> None:
    """A single image of another class out of sixteen is no reason to fine-tune."""
    network = quantise(enliven(Chain()), images(16))
    labels = network.test((images(16),)).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    assert "FAST_FINETUNE" not in _advice(network, labels=labels)


def test_networks_without_classes_are_judged_by_their_error() -> None:
    """Feature maps at four bits: fine-tuning is suggested from the output's SQNR."""
    inputs = (images(), images(channels=2, seed=2))
    found = {item["code"]: item for item in diagnose(quantise(enliven(Pyramid()), *inputs, bits=3), inputs)["advice"]}
    assert found["FAST_FINETUNE"]["measured"]["sqnr_db"] < 15


def test_the_documentation_lists_every_code() -> None:
    """docs/diagnosis.md has a row for each rule, and none for rules that do not exist."""
    text = (REPO / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([A-Z0-9_]+)` \|", text, re.MULTILINE) == [rule.code for rule in RULES]
