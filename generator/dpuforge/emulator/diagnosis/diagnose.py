"""Says where and why a quantised network loses accuracy: the public door of the emulator's diagnosis.

Layers are studied side by side in float and quantised (layer_study.py), then one at a time for what each costs the
whole network (sensitivity.py); advice.py turns the figures into suggestions and tries them (trials.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.diagnosis.advice import Verdict, give_advice
from dpuforge.emulator.diagnosis.layer_study import LayerStudy, study_layers
from dpuforge.emulator.diagnosis.layers import Layer, choose_layers, list_layers
from dpuforge.emulator.diagnosis.original import find_original
from dpuforge.emulator.diagnosis.replay import Replay
from dpuforge.emulator.diagnosis.sensitivity import (
    Inputs,
    Outcome,
    SensitivityStudy,
    choose_chunk,
    list_mixtures,
    measure_sensitivity,
)
from dpuforge.emulator.diagnosis.symptoms import Findings
from dpuforge.emulator.diagnosis.trials import Bench, calibrated_anew
from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.quantise.settings import Settings, default_settings
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.errors import UsageError

_STUDY_PASSES = 8.0  # forward passes that studying one image costs: 5 measured for resnet18, 9 for mobilenet_v2
_STUDY_SHARE = 0.4  # of a budget
_FEWEST_IMAGES = 4
_FEWEST_LAYERS = 8
_TRIAL_SHARE = 0.5  # of what the study leaves of a budget
_DIGITS = 4


def diagnose(
    network: nn.Module | QuantisedGraph,
    images: torch.Tensor | Sequence[torch.Tensor],
    labels: torch.Tensor | Sequence[int] | None = None,
    layers: Iterable[str] | int | None = None,
    budget: float | None = None,
    float_model: nn.Module | None = None,
    trial_budget: float | None = None,
) -> dict[str, Any]:
    """Return what quantisation does to a network, layer by layer, as a JSON-ready dict.

    network: a calibrated QuantisedGraph, or a float module, which is then quantised with the tool's defaults and
    calibrated on these very images. images: (images, C, H, W) as the network takes them, or one such tensor per input
    of the network. labels: class indices, one per image; without them the loss is measured as the output's error and
    as agreement with the float network. layers: for which ones sensitivity is measured: names or module paths, or how
    many of the most suspicious ones (lowest SQNR); None is all. budget: at most about this much work, in forward
    passes of the float network over one image; then fewer images (evenly spaced ones) and layers are looked at, and the
    result says how many. float_model: the module as the user wrote it, to show what folding, replacing operators and
    fast_finetune changed, and to try suggestions on. trial_budget: what trials may cost beyond the budget; None leaves
    them a part of it.

    Keys: emulated, images, labelled, finetuned, output (the whole network), preparation, layers and sensitivity (both
    the costliest layer first), advice (the largest gain first), tried (every trial, also those in vain). SQNR in dB,
    200 where there is no error at all; accuracies in percent, their differences in percentage points; null where a
    figure does not exist. Raises UsageError for a network without calibration, unknown layers, or labels that do not
    fit.
    """
    own_images = isinstance(network, nn.Module)
    if isinstance(network, nn.Module):
        float_model = float_model or network
        inputs = _as_inputs(images, next(network.parameters(), torch.empty(0)).device)
        network = quantise(network, inputs)
    every = _as_inputs(images, _device(network))
    labelled = _as_labels(labels, every)
    original = find_original(network, float_model, every)
    replay = Replay(network, _calibrated_layers(network), original.tensors)
    count = _affordable_images(int(every[0].shape[0]), budget)
    inputs, truth = _spread(every, labelled, count)
    whole = study_layers(replay, inputs, truth)
    left = None if budget is None else budget - count * _STUDY_PASSES
    kept = 0.0 if left is None or trial_budget is not None else left * _TRIAL_SHARE
    study = _measure(replay, _choose(whole.layers, layers), inputs, truth, None if left is None else left - kept)
    findings = Findings(network, whole, study, _compare_preparation(replay, inputs, float_model))
    allowance = trial_budget if trial_budget is not None else None if budget is None else kept
    verdict = give_advice(findings, Bench(network, float_model, original, every, labelled, allowance, own_images))
    return _report(findings, verdict, len(replay.layers), original.tensors is not None)


def quantise(module: nn.Module, inputs: Inputs, settings: Settings | None = None) -> QuantisedGraph:
    """Quantise a float module as the tool would by default, calibrated on inputs ((images, ...) each)."""
    captured = capture_graph(module, tuple(part[:1] for part in inputs))
    return calibrated_anew(captured, inputs, settings or default_settings())


# -- what goes in ----------------------------------------------------------------------------------------------


def _as_inputs(images: torch.Tensor | Sequence[torch.Tensor], device: torch.device) -> Inputs:
    parts = (images,) if isinstance(images, torch.Tensor) else tuple(images)
    sizes = {int(part.shape[0]) if part.dim() else 0 for part in parts}
    if len(sizes) != 1 or sizes == {0}:
        found = sorted(tuple(part.shape) for part in parts)
        raise UsageError(f"diagnosis needs one or more images, the same number for every input, got shapes {found}")
    return tuple(part.to(device) for part in parts)


def _as_labels(labels: torch.Tensor | Sequence[int] | None, inputs: Inputs) -> torch.Tensor | None:
    if labels is None:
        return None
    truth = torch.as_tensor(labels, device=inputs[0].device).flatten()
    if truth.numel() != inputs[0].shape[0]:
        raise UsageError(f"{inputs[0].shape[0]} images, but {truth.numel()} labels", "give one class index per image")
    return truth


def _device(network: QuantisedGraph) -> torch.device:
    return next(iter(network.graph.tensors.values()), torch.empty(0)).device


def _calibrated_layers(network: QuantisedGraph) -> tuple[Layer, ...]:
    layers = list_layers(network)
    if not layers:
        raise UsageError("the network has no fix positions yet", "calibrate it, or load a calibration's result")
    return layers


# -- how much ---------------------------------------------------------------------------------------------------


def _affordable_images(available: int, budget: float | None) -> int:
    """Return how many images the study of layers may take: its share of the budget, but at least one image."""
    return available if budget is None else max(1, min(available, int(budget * _STUDY_SHARE / _STUDY_PASSES)))


def _spread(inputs: Inputs, labels: torch.Tensor | None, count: int) -> tuple[Inputs, torch.Tensor | None]:
    """Return this many images, evenly spaced: images in the order of their classes still give several classes."""
    total = int(inputs[0].shape[0])
    if count >= total:
        return inputs, labels
    places = torch.arange(count, device=inputs[0].device) * total // count
    return tuple(part[places] for part in inputs), None if labels is None else labels[places]


def _choose(studies: Sequence[LayerStudy], layers: Iterable[str] | int | None) -> list[Layer]:
    """Return the layers to measure, the most suspicious first."""
    ordered = [study.layer for study in sorted(studies, key=lambda study: study.suspicion_db)]
    if layers is None or isinstance(layers, int):
        return ordered[:layers]
    wanted = choose_layers([study.layer for study in studies], [layers] if isinstance(layers, str) else layers)
    return [layer for layer in ordered if layer in wanted]


def _measure(
    replay: Replay, layers: Sequence[Layer], inputs: Inputs, labels: torch.Tensor | None, budget: float | None
) -> SensitivityStudy | None:
    """Measure as many of the layers as the budget allows, in order; None where it allows none."""
    images = int(inputs[0].shape[0])
    if budget is not None:
        images, layers = plan_sensitivity(replay, layers, images, budget)
    if not layers:
        return None
    return measure_sensitivity(replay, layers, *_spread(inputs, labels, images))


def plan_sensitivity(
    replay: Replay, layers: Sequence[Layer], images: int, budget: float
) -> tuple[int, tuple[Layer, ...]]:
    """Return how many images and which of the layers a budget (forward passes over one image) pays for.

    Images are halved, down to four, until at least eight layers fit.
    """
    while True:
        fitting = _fitting(replay, layers, budget / images)
        if len(fitting) >= min(len(layers), _FEWEST_LAYERS) or images // 2 < _FEWEST_IMAGES:
            return images, fitting
        images //= 2


def _fitting(replay: Replay, layers: Sequence[Layer], passes: float) -> tuple[Layer, ...]:
    """Return the longest start of layers that costs no more than this many forward passes per image."""
    spent, count = replay.cost(list_mixtures(replay, ())), 0
    for layer in layers:
        spent += replay.downstream_cost(layer)
        if spent > passes:
            break
        count += 1
    return tuple(layers[:count])


def _compare_preparation(replay: Replay, inputs: Inputs, float_model: nn.Module | None) -> Outcome | None:
    """Compare the float graph that is quantised with the user's own module; None without one, or if not one tensor."""
    if float_model is None:
        return None
    outcome, training = Outcome(), float_model.training
    chunk = choose_chunk(replay, [replay.float])
    float_model.eval()
    try:
        for start in range(0, int(inputs[0].shape[0]), chunk):
            part = tuple(tensor[start : start + chunk] for tensor in inputs)
            with torch.no_grad():
                written = float_model(*part)
            if not isinstance(written, torch.Tensor):
                return None
            outcome.add((written,), replay.run(part, [replay.float])[0], None)
    finally:
        float_model.train(training)
    return outcome


# -- what comes out ---------------------------------------------------------------------------------------------


def _report(findings: Findings, verdict: Verdict, known: int, finetuned: bool) -> dict[str, Any]:
    document = {
        "emulated": True,
        "images": findings.images,
        "labelled": findings.whole.labelled,
        "finetuned": finetuned,
        "output": _report_output(findings),
        "preparation": _report_preparation(findings.preparation),
        "layers": _report_layers(findings),
        "sensitivity": _report_sensitivity(findings.study, known),
        **verdict.as_json(),
    }
    rounded: dict[str, Any] = _round(document)
    return rounded


def _report_layers(findings: Findings) -> list[dict[str, Any]]:
    """Return the layers' rows, the costliest first; then those whose cost is not known, the most suspicious first."""
    costs = findings.node_costs
    studies = sorted(findings.layers, key=lambda study: (-costs.get(study.layer.name, -math.inf), study.suspicion_db))
    return [{**study.as_json(), "cost_db": costs.get(study.layer.name)} for study in studies]


def _report_output(findings: Findings) -> dict[str, Any]:
    outcome = findings.whole.quantised
    row = {"sqnr_db": outcome.output.sqnr_db, "cosine": outcome.output.cosine, "agreement": outcome.agreement}
    if findings.whole.labelled:
        row |= {"float_accuracy": findings.whole.exact.accuracy, "int8_accuracy": outcome.accuracy}
    return row


def _report_preparation(outcome: Outcome | None) -> dict[str, Any] | None:
    return None if outcome is None else {"sqnr_db": outcome.output.sqnr_db, "agreement": outcome.agreement}


def _report_sensitivity(study: SensitivityStudy | None, known: int) -> dict[str, Any]:
    if study is None:
        return {"images": 0, "measured": 0, "of": known, "layers": []}
    return {
        "images": study.images,
        "measured": len(study.layers),
        "of": known,
        "passes": study.passes,
        "naive_passes": study.naive_passes,
        "layers": study.as_json(),
    }


def _round(value: Any) -> Any:
    """Round floats to four significant digits, and put None for what JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _round(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_round(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
