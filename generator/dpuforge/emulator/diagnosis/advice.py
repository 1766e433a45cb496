"""What a user can do about the accuracy that quantisation costs: a table of rules, each with the figure behind it.

A rule's finder (symptoms.py) yields hits; the worst one's figures fill its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpuforge.emulator.diagnosis import symptoms
from dpuforge.emulator.diagnosis.symptoms import Findings, Hit

_MOST_NAMED = 3


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


RULES: tuple[Rule, ...] = (
    Rule(
        "SATURATED_INPUT",
        symptoms.clipped_input,
        "{percent:.2f} % of the input values are clipped, the largest is {peak:.3g}",
        "check that calibration and these images are normalised alike (mean, scale, 0..1 or 0..255), and calibrate "
        "with images that reach the whole range",
    ),
    Rule(
        "EQUALISATION",
        symptoms.needs_equalisation,
        "{layer}: the largest weight channel ({channel}) has {ratio:.0f} times the median channel's range, "
        "{coarse_percent:.0f} % of the channels are below 10 dB, and cross-layer equalisation is off",
        'set "include_cle": true',
    ),
    Rule(
        "OUTLIER_CHANNELS",
        symptoms.outlier_channels,
        "{layer}: the largest weight channel ({channel}) has {ratio:.0f} times the median channel's range and the "
        "worst one an SQNR of {sqnr_db:.1f} dB; equalisation does not reach it",
        "train with weight decay on batch-norm scales, remove channels that do nothing, or turn on fast_finetune",
    ),
    Rule(
        "OUTLIER_ACTIVATIONS",
        symptoms.uneven_activations,
        "{layer}: one channel reaches {ratio:.0f} times as far as the median one, and {drop_db:.1f} dB are lost here",
        "clip the activation in training (relu6), or let batch-norm follow this layer so that equalisation can act",
    ),
    Rule(
        "BIAS_CORRECTION",
        symptoms.shifted_means,
        "{layer}: quantised weights move the channels' means by {percent:.0f} % of the signal, and bias correction is "
        "off",
        'set "include_bias_corr": true',
    ),
    Rule(
        "MORE_CALIBRATION_IMAGES",
        symptoms.clipped_beyond_calibration,
        "{layer}: {percent:.2f} % of the values are clipped; fix position {best} would give {gain_db:.1f} dB more than "
        "the calibrated {fix}",
        "calibrate with more images, chosen like those seen in use",
    ),
    Rule(
        "UNSTEADY_CALIBRATION",
        symptoms.unsteady_calibration,
        "{layer}: {batches} calibration batches chose {different} different fix positions, only {percent:.0f} % of "
        "them the one in force",
        "calibrate with more images or larger batches",
    ),
    Rule(
        "ALIGNMENT",
        symptoms.moved_by_alignment,
        "{layer}: aligning shifts for the DPU moved fix position {before} to {fix}, which costs {loss_db:.1f} dB",
        "the ranges of this layer's input, weights and output lie too far apart: equalise, or scale its batch-norm",
    ),
    Rule(
        "VANISHED",
        symptoms.vanished,
        "{layer}: every value (the largest is {peak:.2g}) rounds to zero at fix position {fix}",
        "the layer's results are too small to be seen: check that the batch-norm statistics belong to these "
        "weights (an untrained network's do not), or scale the layer up",
    ),
    Rule(
        "COARSE_STEP",
        symptoms.too_coarse,
        "{layer}: fix position {fix} of the {what}, where {best} would give {gain_db:.1f} dB more",
        "the range seen in calibration or the largest fix position allowed keeps the step too large: calibrate with "
        "images like those seen in use, or scale the layer up (equalisation, batch-norm)",
    ),
    Rule(
        "REPLACE_HARDSWISH",
        symptoms.hard_activations,
        "{layer}: this hard activation {figure}",
        "train with relu in its place; the DPU computes hard swish and hard sigmoid on coarse steps",
    ),
    Rule(
        "RELU6_REPLACED",
        symptoms.lost_six,
        "{layer}: relu6 became relu, and {percent:.2f} % of the values are above 6 and no longer clipped",
        'train with relu, or keep relu6 by setting "include_cle" and "convert_relu6_to_relu" to false',
    ),
    Rule(
        "PREPARATION",
        symptoms.changed_by_preparation,
        "before anything is rounded, the network as the DPU computes it differs from yours: output SQNR "
        "{sqnr_db:.1f} dB ({leaky_relus} leaky relus)",
        "train with what the DPU has: a leaky relu's slope is 26/256 there, nn.ReLU6 becomes relu, hard sigmoid and "
        "average pools have coefficients of their own",
    ),
    Rule(
        "FLOAT_OPERATOR",
        symptoms.float_operators,
        "{count} x {kind} stay in float: the quantizer has no fix position for it, so the CPU computes it",
        "use an operator of the DPU in its place (relu, hard swish, hard sigmoid; nn.AdaptiveAvgPool2d for a mean), or "
        "accept the CPU's time",
    ),
    Rule(
        "KEEP_FLOAT",
        symptoms.costly_layers,
        "{layer}: half of the network's noise and more comes from here: in float the output gains {gain_db:.1f} dB "
        "({images} images)",
        "mend this layer first; as a last resort end the DPU's part of the network there and compute it on the CPU",
    ),
    Rule(
        "FAST_FINETUNE",
        symptoms.needs_finetuning,
        "the quantised network shows {figure}",
        "turn on fast_finetune, and quantisation-aware training if that is not enough",
    ),
)
