"""What is wrong with a quantised network: finders that read a diagnosis's figures, for the table of advice.py.

Each finder yields a Hit for every layer in which it sees its symptom. The thresholds are where a loss begins to
matter: 6 dB are one bit, 3 dB half of the noise power.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpuforge.emulator.arithmetic.fake_quantise import most_frequent
from dpuforge.emulator.diagnosis.layer_study import LayerStudy, NetworkStudy
from dpuforge.emulator.diagnosis.sensitivity import Outcome, SensitivityStudy
from dpuforge.emulator.graph.kinds import KINDS, plain_name
from dpuforge.emulator.quantise.steps import FixStep
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.records.operator import OpKind

_HALF_THE_NOISE_DB = 3.0
_LOSS_DB = 1.0
_WIDE_CHANNELS = 16.0  # a channel 16 times the median one's range leaves that one 4 of 8 bits
_UNEVEN_CHANNELS = 4.0
_COARSE_SHARE = 0.25
_HARD_SHARE = 0.25  # of the noise at the output
_CLIPPED_INPUT = 1e-3
_CLIPPED = 1e-3
_SHIFTED = 0.1
_POINTS_LOST = 1.0
_AGREEMENT = 97.0
_OUTPUT_DB = 15.0
_PREPARED_DB = 25.0  # as much noise as int8 usually makes
_FEW_BATCHES = 3  # two batches that differ by one tell nothing
_UNSTEADY = 0.75  # share of the batches that chose the fix position in force


@dataclass(frozen=True)
class Findings:
    """Everything that the rules read; preparation: the float graph that is quantised against the user's own module."""

    network: QuantisedGraph
    whole: NetworkStudy
    study: SensitivityStudy | None = None
    preparation: Outcome | None = None

    @property
    def layers(self) -> Sequence[LayerStudy]:
        """Every layer's figures."""
        return self.whole.layers

    @property
    def images(self) -> int:
        """How many images were looked at."""
        return self.whole.quantised.images

    @property
    def node_costs(self) -> Mapping[str, float]:
        """What each measured layer costs the network, by node: what the output gains in dB with it alone in float."""
        rows = self.study.as_json() if self.study is not None else []
        return {row["node"]: row["gain_db"] for row in rows if row["gain_db"] is not None}

    @property
    def costs(self) -> Mapping[str, float]:
        """The same by the layer's label; of layers that share one, the costliest one's."""
        costs = self.node_costs
        known = [(costs[item.layer.name], item.layer.label) for item in self.layers if item.layer.name in costs]
        return {label: cost for cost, label in sorted(known)}

    @property
    def is_poor(self) -> bool:
        """Whether the network as a whole loses something worth mending."""
        return bool(_lost_points(self) or _low_agreement(self))


@dataclass(frozen=True)
class Hit:
    """One place where a rule applies: how bad it is, and the figures for the text."""

    badness: float
    measured: Mapping[str, Any]
    layer: str = ""


def clipped_input(findings: Findings) -> Iterable[Hit]:
    """Find inputs that clip: their fix position holds all that calibration saw, so these images reach further."""
    for study in findings.layers:
        share = study.activation.saturation.share if study.activation else 0.0
        if study.layer.kind == "input" and study.activation is not None and share > _CLIPPED_INPUT:
            measured = {"percent": 100 * share, "peak": study.activation.saturation.peak}
            yield Hit(share, measured, study.layer.label)


def _uneven_weights(findings: Findings) -> Iterable[Hit]:
    for study in findings.layers:
        spread = study.spread
        if spread is None or spread.ratio is None:
            continue
        if spread.ratio >= _WIDE_CHANNELS or (spread.coarse >= _COARSE_SHARE and spread.ratio >= _UNEVEN_CHANNELS):
            measured = {
                "ratio": spread.ratio,
                "channel": spread.channel,
                "coarse_percent": 100 * spread.coarse,
                "sqnr_db": spread.worst_db if spread.worst_db is not None else 0.0,
            }
            yield Hit(spread.ratio, measured, study.layer.label)


def needs_equalisation(findings: Findings) -> Iterable[Hit]:
    """Find convolutions with uneven weight channels while equalisation is off."""
    if not findings.network.settings.equalisation:
        graph, layers = findings.network.graph, (study.layer for study in findings.layers)
        convolutions = {layer.label for layer in layers if graph[layer.name].traits.convolution}
        yield from (hit for hit in _uneven_weights(findings) if hit.layer in convolutions)


def outlier_channels(findings: Findings) -> Iterable[Hit]:
    """Find uneven weight channels that equalisation has not mended."""
    taken = {hit.layer for hit in needs_equalisation(findings)}
    yield from (hit for hit in _uneven_weights(findings) if hit.layer not in taken)


def uneven_activations(findings: Findings) -> Iterable[Hit]:
    """Find layers that lose much where one channel dwarfs the others."""
    for study in findings.layers:
        ratio = study.activation.channel_ratio if study.activation else None
        noise = study.drop_db or 0.0
        if ratio is not None and ratio >= _WIDE_CHANNELS and noise >= _HALF_THE_NOISE_DB:
            yield Hit(ratio, {"ratio": ratio, "drop_db": noise}, study.layer.label)


def shifted_means(findings: Findings) -> Iterable[Hit]:
    """Find layers whose channels' means moved, while bias correction is off."""
    if findings.network.settings.bias_correction:
        return
    for study in findings.layers:
        shift = study.activation.shift if study.activation and study.parameters else 0.0
        if shift > _SHIFTED:
            yield Hit(shift, {"percent": 100 * shift}, study.layer.label)


def clipped_beyond_calibration(findings: Findings) -> Iterable[Hit]:
    """Find results that clip and would gain from a smaller fix position than the calibrated one."""
    limited = _before_hard(findings)
    for study in findings.layers:
        tensor = study.activation
        if tensor is None or tensor.rivals.best is None or study.layer.kind == "input" or study.layer.name in limited:
            continue
        fix, share = getattr(tensor.step, "fix", 0), tensor.saturation.share
        moved = _calibrated_fix(findings, study) not in (None, fix)
        if share > _CLIPPED and tensor.rivals.best < fix and tensor.rival_gain_db > _LOSS_DB and not moved:
            measured = {"percent": 100 * share, "fix": fix, "best": tensor.rivals.best, "gain_db": tensor.rival_gain_db}
            yield Hit(tensor.rival_gain_db, measured, study.layer.label)


def _calibrated_fix(findings: Findings, study: LayerStudy) -> int | None:
    """Return the fix position that calibration found, before alignment; None where this run has not calibrated."""
    history = findings.network.history.get(study.layer.point or "", [])
    found = [step.fix for step in history if isinstance(step, FixStep)]
    return most_frequent(found) if found else None


def moved_by_alignment(findings: Findings) -> Iterable[Hit]:
    """Find fix positions that the alignment at export took away from a better one."""
    limited = _before_hard(findings)
    for study in findings.layers:
        tensor, before = study.activation, _calibrated_fix(findings, study)
        fix = getattr(tensor.step, "fix", None) if tensor is not None else None
        if tensor is None or before in (None, fix) or study.layer.name in limited:
            continue
        if tensor.rival_gain_db >= _HALF_THE_NOISE_DB:
            measured = {"before": before, "fix": fix, "loss_db": tensor.rival_gain_db}
            yield Hit(tensor.rival_gain_db, measured, study.layer.label)


def unsteady_calibration(findings: Findings) -> Iterable[Hit]:
    """Find layers whose calibration batches disagree, where that matters: by two positions, or at a loss."""
    for study in findings.layers:
        steps = findings.network.history.get(study.layer.point or "", [])
        found = [step.fix for step in steps if isinstance(step, FixStep)]
        if len(found) < _FEW_BATCHES or study.activation is None:
            continue
        share = Counter(found).most_common(1)[0][1] / len(found)
        matters = max(found) - min(found) > 1 or study.activation.rival_gain_db > _LOSS_DB
        if share < _UNSTEADY and matters:
            measured = {"different": len(set(found)), "batches": len(found), "percent": 100 * share}
            yield Hit(1 - share, measured, study.layer.label)


def vanished(findings: Findings) -> Iterable[Hit]:
    """Find results of which nothing but zeros is left."""
    for study in findings.layers:
        tensor = study.activation
        if tensor is not None and tensor.carried.signal > 0 and tensor.carried.quantised == 0:
            measured = {"peak": tensor.float_peak, "fix": getattr(tensor.step, "fix", None)}
            yield Hit(1.0 / max(tensor.float_peak, 1e-30), measured, study.layer.label)


def too_coarse(findings: Findings) -> Iterable[Hit]:
    """Find weights and results on a larger step than suits them."""
    moved = {hit.layer for hit in moved_by_alignment(findings)}
    for study in findings.layers:
        if study.layer.kind == "input":  # takes the position that holds every value, whatever the error
            continue
        aligned = study.layer.label in moved
        tensors = {**study.parameters, **({"activations": study.activation} if study.activation else {})}
        for role, tensor in tensors.items():
            fix, best, gain = getattr(tensor.step, "fix", None), tensor.rivals.best, tensor.rival_gain_db
            if role == "bias" or (role == "activations" and aligned) or tensor.rounding.quantised == 0:
                continue
            if fix is None or best is None or best <= fix:
                continue
            if gain >= _HALF_THE_NOISE_DB:
                what = "weights" if role == "weight" else role
                yield Hit(gain, {"what": what, "fix": fix, "best": best, "gain_db": gain}, study.layer.label)


_HARD = tuple(
    plain_name(kind) for kind, row in KINDS.items() if row.neutral in (OpKind.HARD_SIGMOID, OpKind.HARD_SWISH)
)


def hard_activations(findings: Findings) -> Iterable[Hit]:
    """Find hard activations that make much noise, or whose input the DPU's limits keep off its best fix position."""
    share = _share_of_noise(findings.study, _HARD)
    for study in findings.layers:
        if study.layer.kind not in _HARD or study.activation is None:
            continue
        source = _source(findings, study)
        forced = source.activation.rival_gain_db if source and source.activation else 0.0
        drop = study.drop_db or 0.0
        figures = {"drop_db": drop, "input_loss_db": forced, "share_percent": None if share is None else 100 * share}
        if forced >= _HALF_THE_NOISE_DB:
            text = f"has an input whose fix position loses {forced:.1f} dB (it must not be negative)"
        elif share is not None and share >= _HARD_SHARE:
            text = f"and its like make {100 * share:.0f} % of the noise at the network's output"
        elif drop >= _HALF_THE_NOISE_DB:
            text = f"loses {drop:.1f} dB"
        else:
            continue
        yield Hit(max(forced, drop), {**figures, "figure": text}, study.layer.label)


def _source(findings: Findings, study: LayerStudy) -> LayerStudy | None:
    """Return the layer whose rounded result a layer reads first."""
    names = findings.network.graph[study.layer.name].input_names()
    point = findings.network.points.point_of[names[0]] if names else None
    return next((other for other in findings.layers if point is not None and other.layer.point == point), None)


def _before_hard(findings: Findings) -> set[str]:
    """Return the nodes of the layers that hard activations read: the limits of those govern their fix positions."""
    sources = (_source(findings, study) for study in findings.layers if study.layer.kind in _HARD)
    return {source.layer.name for source in sources if source is not None}


def _share_of_noise(study: SensitivityStudy | None, kinds: Sequence[str]) -> float | None:
    """Return the part of the layers' noise, each alone, that layers of these kinds make; None unless all were measured.

    Rounding errors of different layers are taken as independent, so that their powers add at the output: the model of
    Lin, Talathi and Annapureddy, ICML 2016, section 3.
    """
    if study is None or not study.complete:
        return None
    noise = [(item.layer.kind in kinds, item.alone.output.noise) for item in study.layers]
    total = sum(power for _, power in noise)
    return sum(power for hard, power in noise if hard) / total if total > 0 else None


def lost_six(findings: Findings) -> Iterable[Hit]:
    """Find places where a relu6 became a relu and values above 6 now pass."""
    for study in findings.layers:
        share = study.activation.share_above_six if study.activation else 0.0
        if share > _CLIPPED:
            yield Hit(share, {"percent": 100 * share}, study.layer.label)


def changed_by_preparation(findings: Findings) -> Iterable[Hit]:
    """Say whether the network as the DPU computes it differs from the user's before anything is rounded."""
    outcome = findings.preparation
    level = outcome.output.sqnr_db if outcome is not None else None
    if level is not None and level < _PREPARED_DB:
        leaky = sum(node.traits.neutral is OpKind.LEAKY_RELU for node in findings.network.graph.nodes)
        yield Hit(-level, {"sqnr_db": level, "leaky_relus": leaky})


def float_operators(findings: Findings) -> Iterable[Hit]:
    """Find kinds of operators that are left in float."""
    counts = Counter(node.kind for node in findings.network.graph.nodes)
    for kind in findings.network.points.floating:
        name = plain_name(kind)
        yield Hit(counts[kind], {"count": counts[kind], "kind": name}, name)


def costly_layers(findings: Findings) -> Iterable[Hit]:
    """Find layers without whose noise a poor network would be much better."""
    if findings.study is None or not findings.is_poor:
        return
    for row in findings.study.as_json():
        gain = row["gain_db"]
        if gain is not None and gain >= _HALF_THE_NOISE_DB:
            yield Hit(gain, {"gain_db": gain, "images": findings.study.images}, row["layer"])


def _lost_points(findings: Findings) -> Iterable[Hit]:
    before, after = findings.whole.exact.accuracy, findings.whole.quantised.accuracy
    if not findings.whole.labelled or before is None or after is None:
        return []
    lost = before - after
    if lost < max(_POINTS_LOST, _few_images(findings.images)):
        return []
    figure = f"{lost:.1f} points less accuracy on {findings.images} images"
    return [Hit(lost, {"float": before, "int8": after, "images": findings.images, "figure": figure})]


def _few_images(images: int) -> float:
    """Return the percentage that a single image moves, and half of it more: one image proves nothing."""
    return 150.0 / max(images, 1)


def _low_agreement(findings: Findings) -> Iterable[Hit]:
    output, images = findings.whole.quantised, findings.images
    agreement, level = output.agreement, output.output.sqnr_db
    if agreement is not None and agreement < min(_AGREEMENT, 100.0 - _few_images(images)):
        figure = f"another class than the float one on {100 - agreement:.1f} % of {images} images"
        return [Hit(100 - agreement, {"agreement": agreement, "images": images, "figure": figure})]
    if agreement is None and level is not None and level < _OUTPUT_DB:
        figure = f"an output SQNR of {level:.1f} dB, below {_OUTPUT_DB:.0f} dB"
        return [Hit(_OUTPUT_DB - level, {"sqnr_db": level, "figure": figure})]
    return []


def needs_finetuning(findings: Findings) -> Iterable[Hit]:
    """Say whether the network as a whole loses accuracy, agreement or, without classes, its signal."""
    return [*_lost_points(findings), *_low_agreement(findings)][:1]
