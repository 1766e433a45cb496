"""What a user can do about the accuracy that quantisation costs: a table of rules, each with the figure behind it.

A rule looks at the findings of a diagnosis and yields hits, worst first; the worst one's figures fill its text. The
thresholds are where a loss begins to matter: 6 dB are one bit, 3 dB half of the noise power.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpuforge.emulator.layer_study import LayerStudy, NetworkStudy
from dpuforge.emulator.prepare import CONVOLUTIONS
from dpuforge.emulator.quantised import QuantisedGraph
from dpuforge.emulator.sensitivity import SensitivityStudy

_HALF_THE_NOISE_DB = 3.0
_ONE_BIT_DB = 6.0
_WIDE_CHANNELS = 16.0  # a channel 16 times the median one's range leaves that one 4 of 8 bits
_COARSE_SHARE = 0.25
_CLIPPED_INPUT = 1e-3
_CLIPPED = 1e-3
_SHIFTED = 0.1
_POINTS_LOST = 1.0
_AGREEMENT = 97.0
_OUTPUT_DB = 15.0
_UNSTEADY = 0.75  # share of the batches that chose the fix position in force
_MOST_NAMED = 3


@dataclass(frozen=True)
class Findings:
    """Everything that the rules read."""

    network: QuantisedGraph
    whole: NetworkStudy
    study: SensitivityStudy | None = None

    @property
    def layers(self) -> Sequence[LayerStudy]:
        """Every layer's figures."""
        return self.whole.layers

    @property
    def images(self) -> int:
        """How many images were looked at."""
        return self.whole.quantised.images

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


@dataclass(frozen=True)
class Rule:
    """A rule: find yields its hits; says is filled in with the worst hit's figures."""

    code: str
    find: Callable[[Findings], Iterable[Hit]]
    says: str
    remedy: str


@dataclass(frozen=True)
class Advice:
    """One suggestion: its code, the layers concerned (worst first), the figures that triggered it, and the text."""

    code: str
    text: str
    layers: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the suggestion as a JSON object."""
        return {
            "code": self.code,
            "text": self.text,
            "layers": list(self.layers),
            "measured": dict(self.measured),
        }


def give_advice(findings: Findings) -> tuple[Advice, ...]:
    """Return what the rules suggest, in the order of the table; empty where nothing stands out."""
    found = ((rule, sorted(rule.find(findings), key=lambda hit: -hit.badness)) for rule in RULES)
    return tuple(_advise(rule, hits) for rule, hits in found if hits)


def _advise(rule: Rule, hits: Sequence[Hit]) -> Advice:
    worst, names = hits[0], tuple(hit.layer for hit in hits if hit.layer)
    text = rule.says.format(layer=worst.layer, **worst.measured)
    if len(names) > 1:
        others = ", ".join(names[1:_MOST_NAMED])
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        text += f" (also {others}{more})"
    return Advice(rule.code, f"{text}: {rule.remedy}", names, worst.measured)


# -- rules -----------------------------------------------------------------------------------------------------


def _clipped_input(findings: Findings) -> Iterable[Hit]:
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
        if spread.ratio >= _WIDE_CHANNELS or spread.coarse >= _COARSE_SHARE:
            measured = {
                "ratio": spread.ratio,
                "channel": spread.channel,
                "coarse_percent": 100 * spread.coarse,
                "sqnr_db": spread.worst_db if spread.worst_db is not None else 0.0,
            }
            yield Hit(spread.ratio, measured, study.layer.label)


def _needs_equalisation(findings: Findings) -> Iterable[Hit]:
    if not findings.network.settings.equalisation:
        convolutions = {study.layer.label for study in findings.layers if f"nndct_{study.layer.kind}" in CONVOLUTIONS}
        yield from (hit for hit in _uneven_weights(findings) if hit.layer in convolutions)


def _outlier_channels(findings: Findings) -> Iterable[Hit]:
    taken = {hit.layer for hit in _needs_equalisation(findings)}
    yield from (hit for hit in _uneven_weights(findings) if hit.layer not in taken)


def _uneven_activations(findings: Findings) -> Iterable[Hit]:
    for study in findings.layers:
        ratio = study.activation.channel_ratio if study.activation else None
        noise = study.drop_db or 0.0
        if ratio is not None and ratio >= _WIDE_CHANNELS and noise >= _HALF_THE_NOISE_DB:
            yield Hit(ratio, {"ratio": ratio, "drop_db": noise}, study.layer.label)


def _shifted_means(findings: Findings) -> Iterable[Hit]:
    if findings.network.settings.bias_correction:
        return
    for study in findings.layers:
        shift = study.activation.shift if study.activation and study.parameters else 0.0
        if shift > _SHIFTED:
            yield Hit(shift, {"percent": 100 * shift}, study.layer.label)


def _clipped_beyond_calibration(findings: Findings) -> Iterable[Hit]:
    for study in findings.layers:
        tensor = study.activation
        if tensor is None or study.layer.kind == "input" or tensor.rivals.best is None:
            continue
        fix, share = getattr(tensor.step, "fix", 0), tensor.saturation.share
        if share > _CLIPPED and tensor.rivals.best < fix and tensor.rival_gain_db > 1.0:
            measured = {"percent": 100 * share, "fix": fix, "best": tensor.rivals.best, "gain_db": tensor.rival_gain_db}
            yield Hit(tensor.rival_gain_db, measured, study.layer.label)


def _unsteady_calibration(findings: Findings) -> Iterable[Hit]:
    by_point = {study.layer.point: study.layer.label for study in findings.layers}
    for name, history in findings.network.history.items():
        most = Counter(history).most_common(1)[0][1]
        share = most / len(history)
        if len(history) > 1 and share < _UNSTEADY and name in by_point:
            different = len(set(history))
            measured = {"different": different, "batches": len(history), "percent": 100 * share}
            yield Hit(1 - share, measured, by_point[name])


def _vanished(findings: Findings) -> Iterable[Hit]:
    for study in findings.layers:
        tensor = study.activation
        if tensor is not None and tensor.rounding.signal > 0 and tensor.rounding.quantised == 0:
            measured = {"peak": tensor.saturation.peak, "fix": getattr(tensor.step, "fix", None)}
            yield Hit(1.0, measured, study.layer.label)


def _too_coarse(findings: Findings) -> Iterable[Hit]:
    for study in findings.layers:
        if study.layer.kind == "input":  # takes the position that holds every value, whatever the error
            continue
        tensors = {**study.parameters, **({"activations": study.activation} if study.activation else {})}
        for role, tensor in tensors.items():
            fix, best, gain = getattr(tensor.step, "fix", None), tensor.rivals.best, tensor.rival_gain_db
            if role == "bias" or fix is None or best is None or best <= fix or tensor.rounding.quantised == 0:
                continue
            if gain >= _HALF_THE_NOISE_DB:
                what = "weights" if role == "weight" else role
                yield Hit(gain, {"what": what, "fix": fix, "best": best, "gain_db": gain}, study.layer.label)


_HARD = ("hswish", "hsigmoid")


def _hard_activations(findings: Findings) -> Iterable[Hit]:
    gains = _gains(findings)
    for study in findings.layers:
        if study.layer.kind not in _HARD or study.activation is None:
            continue
        drop, gain = study.drop_db or 0.0, gains.get(study.layer.name)
        if drop >= _HALF_THE_NOISE_DB or (gain or 0.0) >= _HALF_THE_NOISE_DB / 2:
            figure = f"loses {drop:.1f} dB"
            if gain is not None:
                figure += f", and in float it would raise the output by {gain:.1f} dB"
            measured = {"kind": study.layer.kind, "drop_db": drop, "gain_db": gain, "figure": figure}
            yield Hit(drop + (gain or 0.0), measured, study.layer.label)


def _lost_six(findings: Findings) -> Iterable[Hit]:
    for study in findings.layers:
        share = study.activation.share_above_six if study.activation else 0.0
        if share > _CLIPPED:
            yield Hit(share, {"percent": 100 * share}, study.layer.label)


def _float_operators(findings: Findings) -> Iterable[Hit]:
    counts = Counter(node.kind for node in findings.network.graph.nodes)
    for kind in findings.network.points.floating:
        name = kind.removeprefix("nndct_")
        yield Hit(counts[kind], {"count": counts[kind], "kind": name}, name)


def _gains(findings: Findings) -> dict[str, float]:
    """Return, per node, by how many dB the output gains when the layer stays in float."""
    rows = findings.study.as_json() if findings.study else []
    return {row["node"]: row["gain_db"] for row in rows if row["gain_db"] is not None}


def _costly_layers(findings: Findings) -> Iterable[Hit]:
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


def _needs_finetuning(findings: Findings) -> Iterable[Hit]:
    return [*_lost_points(findings), *_low_agreement(findings)][:1]


RULES: tuple[Rule, ...] = (
    Rule(
        "SATURATED_INPUT",
        _clipped_input,
        "{percent:.2f} % of the input values are clipped, the largest is {peak:.3g}",
        "check that calibration and these images are normalised alike (mean, scale, 0..1 or 0..255), and calibrate "
        "with images that reach the whole range",
    ),
    Rule(
        "EQUALISATION",
        _needs_equalisation,
        "{layer}: the largest weight channel ({channel}) has {ratio:.0f} times the median channel's range, "
        "{coarse_percent:.0f} % of the channels are below 10 dB, and cross-layer equalisation is off",
        'set "include_cle": true',
    ),
    Rule(
        "OUTLIER_CHANNELS",
        _outlier_channels,
        "{layer}: the largest weight channel ({channel}) has {ratio:.0f} times the median channel's range and the "
        "worst one an SQNR of {sqnr_db:.1f} dB; equalisation does not reach it",
        "train with weight decay on batch-norm scales, remove channels that do nothing, or turn on fast_finetune",
    ),
    Rule(
        "OUTLIER_ACTIVATIONS",
        _uneven_activations,
        "{layer}: one channel reaches {ratio:.0f} times as far as the median one, and {drop_db:.1f} dB are lost here",
        "clip the activation in training (relu6), or let batch-norm follow this layer so that equalisation can act",
    ),
    Rule(
        "BIAS_CORRECTION",
        _shifted_means,
        "{layer}: quantised weights move the channels' means by {percent:.0f} % of the signal, and bias correction is "
        "off",
        'set "include_bias_corr": true',
    ),
    Rule(
        "MORE_CALIBRATION_IMAGES",
        _clipped_beyond_calibration,
        "{layer}: {percent:.2f} % of the values are clipped; fix position {best} would give {gain_db:.1f} dB more than "
        "the calibrated {fix}",
        "calibrate with more images, chosen like those seen in use",
    ),
    Rule(
        "UNSTEADY_CALIBRATION",
        _unsteady_calibration,
        "{layer}: {batches} calibration batches chose {different} different fix positions, only {percent:.0f} % of "
        "them the one in force",
        "calibrate with more images or larger batches",
    ),
    Rule(
        "VANISHED",
        _vanished,
        "{layer}: every value (the largest is {peak:.2g}) rounds to zero at fix position {fix}",
        "the layer's results are too small to be seen: check that the batch-norm statistics belong to these "
        "weights (an untrained network's do not), or scale the layer up",
    ),
    Rule(
        "COARSE_STEP",
        _too_coarse,
        "{layer}: fix position {fix} of the {what}, where {best} would give {gain_db:.1f} dB more",
        "the range seen in calibration, the limit of the fix position or the DPU's alignment of shifts keeps the step "
        "too large; scale the layer up (equalisation, batch-norm), or calibrate with images like those seen in use",
    ),
    Rule(
        "REPLACE_HARDSWISH",
        _hard_activations,
        "{layer}: {kind} {figure}",
        "train with relu in its place; the DPU computes hard swish and hard sigmoid on coarse steps",
    ),
    Rule(
        "RELU6_REPLACED",
        _lost_six,
        "{layer}: relu6 became relu, and {percent:.2f} % of the values are above 6 and no longer clipped",
        'train with relu, or keep relu6 by setting "include_cle" and "convert_relu6_to_relu" to false',
    ),
    Rule(
        "FLOAT_OPERATOR",
        _float_operators,
        "{count} {kind} left in float: no DPU operator, so the network is cut there and the CPU computes it",
        "use an operator of the DPU in its place (relu, hard swish, hard sigmoid), or accept the CPU's time",
    ),
    Rule(
        "KEEP_FLOAT",
        _costly_layers,
        "{layer}: half of the network's noise and more comes from here: in float the output gains {gain_db:.1f} dB "
        "({images} images)",
        "mend this layer first; as a last resort end the DPU's part of the network there and compute it on the CPU",
    ),
    Rule(
        "FAST_FINETUNE",
        _needs_finetuning,
        "the quantised network shows {figure}",
        "turn on fast_finetune, and quantisation-aware training if that is not enough",
    ),
)
