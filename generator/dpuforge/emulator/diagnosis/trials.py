"""Tries what a suggestion would change: the float module quantised anew, calibrated on some images, measured on others.

Both sides of a comparison see the same images: the present settings, and those that a Change makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from dpuforge.emulator.diagnosis.original import Original
from dpuforge.emulator.diagnosis.paired import Gain, Scores, compare_scores, count_tries
from dpuforge.emulator.diagnosis.sensitivity import Inputs
from dpuforge.emulator.graph.nodes import Graph, leaves
from dpuforge.emulator.quantise.settings import Settings
from dpuforge.emulator.quantised_graph import QuantisedGraph

BATCH = 8
FEWEST_IMAGES = 12  # a third to calibrate with; of eight others five have to change for a gain to be told from luck
_MOST_CALIBRATION = 32
_CALIBRATION_PART = 3
_CALIBRATION_PASSES = 4.0  # forward passes that calibrating with one image costs: 2.6 to 5.0 for resnet18, mobilenet_v2
_TEST_PASSES = 1.5


@dataclass(frozen=True)
class Change:
    """A change of the quantiser's settings, or of the images that calibrate.

    spec: the lines of the spec that make it, ready to copy. flags: of the quantizer's config. recalibrates: the
    settings stay, these images calibrate. (A method of the config is nothing to try: on a DPU it is not read.)
    """

    spec: tuple[str, ...]
    flags: tuple[tuple[str, bool], ...] = ()
    recalibrates: bool = False

    @property
    def in_words(self) -> str:
        """The lines of the spec as part of a sentence."""
        more = ", or raise quantization.calibration.images where that is so already" if self.recalibrates else ""
        return " and ".join(self.spec) + more

    def apply(self, settings: Settings) -> Settings:
        """Return the settings with this change; an option of the tool that forbids it gives way."""
        flags = {**settings.config.flags, **dict(self.flags)}
        options = settings.options
        for flag, option in (("include_cle", "equalisation"), ("include_bias_corr", "bias_correction")):
            if dict(self.flags).get(flag):
                options = replace(options, **{option: True})
        return replace(settings, config=replace(settings.config, flags=flags), options=options)

    def matters(self, settings: Settings) -> bool:
        """Say whether there is anything to try."""
        return self.recalibrates or _effect(self.apply(settings)) != _effect(settings)


def _effect(settings: Settings) -> tuple[bool, ...]:
    """What the flags come to together with the tool's options: an option may forbid what a flag allows."""
    return settings.equalisation, settings.bias_correction, settings.replaces_relu6


EQUALISE = Change(("quantization.include_cle: true",), flags=(("include_cle", True),))
CORRECT_BIASES = Change(("quantization.include_bias_corr: true",), flags=(("include_bias_corr", True),))
KEEP_RELU6 = Change(
    ("quantization.include_cle: false", "quantization.convert_relu6_to_relu: false"),
    flags=(("include_cle", False), ("convert_relu6_to_relu", False)),
)
RECALIBRATE = Change(("quantization.calibration.from: validation",), recalibrates=True)


@dataclass(frozen=True)
class Tried:
    """How a change did: gain is None where it was not tried, and skipped says why."""

    change: Change
    gain: Gain | None = None
    helps: bool = False
    images: int = 0
    calibrated: int = 0
    skipped: str = ""


@dataclass(frozen=True)
class Bench:
    """What trials run on: the network as it is, the float module, all the images, and how much work is allowed.

    own_images: the network was calibrated on these very images. budget: in forward passes; None is no limit.
    """

    network: QuantisedGraph
    module: nn.Module | None
    original: Original
    inputs: Inputs
    labels: torch.Tensor | None = None
    budget: float | None = None
    own_images: bool = False


def try_changes(bench: Bench, changes: Sequence[Change]) -> dict[Change, Tried]:
    """Try the changes that matter, the first ones first where the budget does not allow all; say why others were not.

    A change that the present settings hold already is left out.
    """
    wanted = [change for change in dict.fromkeys(changes) if change.matters(bench.network.settings)]
    results: dict[Change, Tried] = {}
    excuse = _excuse_recalibration(bench)
    if excuse and RECALIBRATE in wanted:
        results[RECALIBRATE] = Tried(RECALIBRATE, skipped=excuse)
        wanted.remove(RECALIBRATE)
    reason, affordable, images = _plan(bench, wanted)
    results |= {change: Tried(change, skipped=reason) for change in wanted if change not in affordable}
    if affordable:
        results |= _try_all(bench, affordable, images)
    return results


def _excuse_recalibration(bench: Bench) -> str:
    if bench.own_images:
        return "these very images calibrated the network"
    if bench.original.tensors is not None:
        return "fast_finetune moved the weights, and a trial goes without it"
    return ""


# -- how much ------------------------------------------------------------------------------------------------------


def _plan(bench: Bench, wanted: Sequence[Change]) -> tuple[str, Sequence[Change], int]:
    """Return why changes are left out, those that are not, and how many images they are tried on."""
    available = int(bench.inputs[0].shape[0])
    if bench.module is None or bench.original.captured is None:
        return bench.original.problem, (), 0
    if available < FEWEST_IMAGES:
        noun = "one image" if available == 1 else f"{available} images"
        return f"{noun} given, a trial needs {FEWEST_IMAGES}: some to calibrate with, others to measure", (), 0
    for count in range(len(wanted), 0, -1):
        images = _affordable(wanted[:count], available, bench.budget)
        if images >= FEWEST_IMAGES:
            return _too_dear(wanted[: count + 1], bench.budget), wanted[:count], images
    return _too_dear(wanted[:1], bench.budget), (), 0


def _too_dear(changes: Sequence[Change], budget: float | None) -> str:
    return f"it takes {_cost(changes, FEWEST_IMAGES):.0f} forward passes, the budget left {budget or 0:.0f}"


def _affordable(changes: Sequence[Change], available: int, budget: float | None) -> int:
    if budget is None:
        return available
    return next((count for count in range(available, 0, -1) if _cost(changes, count) <= budget), 0)


def _cost(changes: Sequence[Change], images: int) -> float:
    """Return what trying costs on this many images, in forward passes of the float network over one image."""
    calibrating = _calibration_count(images)
    measuring = images - calibrating
    networks = 1 + sum(not change.recalibrates for change in changes)  # calibrated anew, one with the present settings
    measured = networks + any(change.recalibrates for change in changes)
    return networks * calibrating * _CALIBRATION_PASSES + measured * measuring * _TEST_PASSES + measuring


def _calibration_count(images: int) -> int:
    return min(_MOST_CALIBRATION, images // _CALIBRATION_PART)


# -- the trial -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """Images to calibrate with and others to measure on, with what the float module makes of those, batch by batch."""

    calibration: Inputs
    batches: Sequence[tuple[Inputs, torch.Tensor | None]]
    exact: Sequence[tuple[torch.Tensor, ...]]


def _try_all(bench: Bench, changes: Sequence[Change], images: int) -> dict[Change, Tried]:
    captured = bench.original.captured
    assert bench.module is not None
    assert captured is not None  # _plan left nothing to do otherwise
    settings, calibrated = bench.network.settings, _calibration_count(images)
    parts = _split(bench, bench.module, images)

    def score(changed: Settings) -> Scores:
        return _score(calibrated_anew(captured, parts.calibration, changed).test, parts)

    present = score(settings)
    in_force = _score(bench.network.test, parts) if any(change.recalibrates for change in changes) else present
    gains = {}
    for change in changes:
        pair = (in_force, present) if change.recalibrates else (present, score(change.apply(settings)))
        gains[change] = compare_scores(*pair, len(changes))
    tries = count_tries(list(gains.values()))
    return {
        change: Tried(change, gain, gain.beats_luck(tries), images - calibrated, calibrated)
        for change, gain in gains.items()
    }


def _split(bench: Bench, module: nn.Module, images: int) -> _Parts:
    """Take this many images, evenly spaced, and of these every third or so, at most 32, to calibrate with."""
    total, device = int(bench.inputs[0].shape[0]), bench.inputs[0].device
    places = torch.arange(images, device=device) * total // images
    count = _calibration_count(images)
    chosen = torch.zeros(images, dtype=torch.bool, device=device)
    chosen[torch.arange(count, device=device) * images // count] = True
    others = places[~chosen]
    batches = []
    for start in range(0, len(others), BATCH):
        rows = others[start : start + BATCH]
        labels = None if bench.labels is None else bench.labels[rows]
        batches.append((tuple(part[rows] for part in bench.inputs), labels))
    calibration = tuple(part[places[chosen]] for part in bench.inputs)
    return _Parts(calibration, batches, [_tensors(_float_outputs(module, inputs)) for inputs, _ in batches])


@torch.no_grad()
def _float_outputs(module: nn.Module, inputs: Inputs) -> object:
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        outputs: object = module(*inputs)
        return outputs
    finally:
        for part in training:
            part.training = True


def _tensors(outputs: object) -> tuple[torch.Tensor, ...]:
    return tuple(leaf for leaf in leaves(outputs) if isinstance(leaf, torch.Tensor))


def calibrated_anew(captured: Graph, inputs: Inputs, settings: Settings) -> QuantisedGraph:
    """Return a captured network quantised with these settings, calibrated on inputs ((images, ...) each)."""
    network = QuantisedGraph(captured, settings)
    for start in range(0, int(inputs[0].shape[0]), BATCH):
        network.calibrate([part[start : start + BATCH] for part in inputs])
    network.finish_calibration()
    network.freeze_parameters()
    return network


def _score(run: Callable[[Sequence[torch.Tensor]], object], parts: _Parts) -> Scores:
    scores = Scores()
    for (inputs, labels), exact in zip(parts.batches, parts.exact, strict=True):
        scores.add(exact, _tensors(run(inputs)), labels)
    return scores


# -- in words ------------------------------------------------------------------------------------------------------

_MEASURES: Mapping[str, tuple[str, str]] = {
    "accuracy": ("points", " of accuracy"),
    "agreement": ("points", " of agreement with float"),
    "output_sqnr_db": ("dB", " of output SQNR"),
}


def describe_gain(tried: Tried) -> str:
    """Say what a change gained: on how many images, from what to what, and how sure that is."""
    gain = tried.gain
    if gain is None:
        return f"not tried: {tried.skipped}"
    unit, of_what = _MEASURES[gain.measure]
    low, high = gain.interval
    return (
        f"{gain.gain:+.1f} {unit}{of_what} on {tried.images} images, {gain.before:.1f} to {gain.after:.1f} "
        f"(95 % interval {low:+.1f} to {high:+.1f}, p {gain.chance:.2g})"
    )


def as_json(tried: Tried) -> dict[str, object]:
    """Return a trial as a JSON object: its figures, or why there are none."""
    row: dict[str, object] = {"spec": list(tried.change.spec), "helps": tried.helps}
    if tried.gain is None:
        return {**row, "skipped": tried.skipped, "text": describe_gain(tried)}
    gain = tried.gain
    figures = {"measure": gain.measure, "before": gain.before, "after": gain.after, "gain": gain.gain}
    sure = {"interval": list(gain.interval), "p": gain.chance}
    counts = {"images": tried.images, "calibrated_on": tried.calibrated}
    return {**row, **figures, **sure, **counts, "text": describe_gain(tried)}
