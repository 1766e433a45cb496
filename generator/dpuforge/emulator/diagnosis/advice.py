"""What a user can do about the accuracy that quantisation costs: a table of rules, each with the figure behind it.

A rule's finder (symptoms.py) yields hits; the costliest layer's figures fill its text. What changes settings is tried
before it is advised (trials.py): a change that gains nothing is left out, one that could not be tried says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpuforge.emulator.diagnosis import symptoms, trials
from dpuforge.emulator.diagnosis.symptoms import Findings, Hit
from dpuforge.emulator.diagnosis.trials import Bench, Change, Tried

_MOST_NAMED = 3
_TRAINING = "not tried: it means training again"


@dataclass(frozen=True)
class Rule:
    """A rule: find yields its hits; says is filled in with the figures of the costliest layer's hit.

    changes: the settings that may help, to be tried. remedy: what to do without a trial, or where it could not be
    made. otherwise: what remains to be advised where no change helps, if anything. untried: why the remedy has no
    figure.
    """

    code: str
    find: Callable[[Findings], Iterable[Hit]]
    says: str
    remedy: str
    changes: tuple[Change, ...] = ()
    otherwise: str = ""
    untried: str = _TRAINING


@dataclass(frozen=True)
class Advice:
    """One suggestion: its code, the layers concerned (costliest first), the figures that triggered it, and the text.

    tried: the trial that speaks for it, None where there was none; its change is the one to make.
    """

    code: str
    text: str
    layers: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    tried: Tried | None = None

    @property
    def gain(self) -> float:
        """What the trial gained; below every gain where there was none."""
        return self.tried.gain.gain if self.tried and self.tried.gain else float("-inf")

    def as_json(self) -> dict[str, Any]:
        """Return the suggestion as a JSON object."""
        return {
            "code": self.code,
            "text": self.text,
            "layers": list(self.layers),
            "measured": dict(self.measured),
            "spec": list(self.tried.change.spec) if self.tried else [],
            "trial": trials.as_json(self.tried) if self.tried else None,
        }


@dataclass(frozen=True)
class Verdict:
    """What is advised, the largest gain first and what was not tried last, and every trial, with its rules' codes."""

    advice: tuple[Advice, ...]
    tried: tuple[tuple[Tried, tuple[str, ...]], ...]

    def as_json(self) -> dict[str, Any]:
        """Return the keys advice and tried of the document."""
        rows = [{"codes": list(codes), **trials.as_json(tried)} for tried, codes in self.tried]
        return {"advice": [item.as_json() for item in self.advice], "tried": rows}


def give_advice(findings: Findings, bench: Bench) -> Verdict:
    """Try what the rules suggest and return what helps or cannot be tried; empty where nothing stands out."""
    found = [(rule, _by_cost(findings, rule.find(findings))) for rule in RULES]
    hit = [(rule, hits) for rule, hits in found if hits]
    results = trials.try_changes(bench, [change for rule, _ in hit for change in rule.changes])
    advice = [item for rule, hits in hit for item in _advise(rule, hits, results)]
    codes = {change: tuple(rule.code for rule, _ in hit if change in rule.changes) for change in results}
    tried = sorted(results.values(), key=_order_trial)
    return Verdict(
        tuple(sorted(advice, key=lambda item: -item.gain)), tuple((item, codes[item.change]) for item in tried)
    )


def _order_trial(tried: Tried) -> float:
    return float("inf") if tried.gain is None else -tried.gain.gain


def _by_cost(findings: Findings, hits: Iterable[Hit]) -> list[Hit]:
    """Return hits in the order of what their layers cost the network; without that figure, the worst first."""
    costs = findings.costs
    return sorted(hits, key=lambda hit: (-costs.get(hit.layer, float("-inf")), -hit.badness))


def _advise(rule: Rule, hits: Sequence[Hit], results: Mapping[Change, Tried]) -> Iterable[Advice]:
    """Yield the rule's suggestion: nothing where its changes were tried and did not help."""
    symptom, names = _describe(rule, hits), tuple(hit.layer for hit in hits if hit.layer)
    mine = [results[change] for change in rule.changes if change in results]
    best = max((tried for tried in mine if tried.helps), key=lambda tried: -_order_trial(tried), default=None)
    skipped = next((tried.skipped for tried in mine if tried.gain is None), "")
    if best is not None:
        text = f"{symptom}: set {best.change.in_words} (tried: {trials.describe_gain(best)})"
    elif not mine:
        text = f"{symptom}: {rule.remedy} ({rule.untried})"
    elif skipped:
        text = f"{symptom}: {rule.remedy} (not tried: {skipped})"
    elif rule.otherwise:
        text = f"{symptom}: {rule.otherwise}"
    else:
        return
    yield Advice(rule.code, text, names, hits[0].measured, best)


def _describe(rule: Rule, hits: Sequence[Hit]) -> str:
    text = rule.says.format(layer=hits[0].layer, **hits[0].measured)
    names = [hit.layer for hit in hits if hit.layer]
    if len(names) > 1:
        others = ", ".join(names[1:_MOST_NAMED])
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        text += f" (also {others}{more})"
    return text


RULES: tuple[Rule, ...] = (
    Rule(
        "SATURATED_INPUT",
        symptoms.clipped_input,
        "{percent:.2f} % of the input values are clipped, the largest is {peak:.3g}",
        "check that calibration and these images are normalised alike (mean, scale, 0..1 or 0..255), and calibrate "
        "with images that reach the whole range",
        changes=(trials.RECALIBRATE,),
        otherwise="check that calibration and these images are normalised alike (mean, scale, 0..1 or 0..255); "
        "calibrating with these images gains nothing",
    ),
    Rule(
        "EQUALISATION",
        symptoms.needs_equalisation,
        "{layer}: the largest weight channel ({channel}) has {ratio:.0f} times the median channel's range, "
        "{coarse_percent:.0f} % of the channels are below 10 dB, and cross-layer equalisation is off",
        'set "include_cle": true',
        changes=(trials.EQUALISE,),
    ),
    Rule(
        "OUTLIER_CHANNELS",
        symptoms.outlier_channels,
        "{layer}: the largest weight channel ({channel}) has {ratio:.0f} times the median channel's range and the "
        "worst one an SQNR of {sqnr_db:.1f} dB; equalisation does not reach it",
        "train with weight decay on batch-norm scales, or remove channels that do nothing",
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
        changes=(trials.CORRECT_BIASES,),
    ),
    Rule(
        "MORE_CALIBRATION_IMAGES",
        symptoms.clipped_beyond_calibration,
        "{layer}: {percent:.2f} % of the values are clipped; fix position {best} would give {gain_db:.1f} dB more than "
        "the calibrated {fix}",
        "calibrate with more images, chosen like those seen in use",
        changes=(trials.RECALIBRATE,),
    ),
    Rule(
        "UNSTEADY_CALIBRATION",
        symptoms.unsteady_calibration,
        "{layer}: {batches} calibration batches chose {different} different fix positions, only {percent:.0f} % of "
        "them the one in force",
        "calibrate with more images or larger batches",
        changes=(trials.RECALIBRATE,),
    ),
    Rule(
        "ALIGNMENT",
        symptoms.moved_by_alignment,
        "{layer}: aligning shifts for the DPU moved fix position {before} to {fix}, which costs {loss_db:.1f} dB",
        "the ranges of this layer's input, weights and output lie too far apart: equalise, or scale its batch-norm",
        changes=(trials.EQUALISE,),
        otherwise="the ranges of this layer's input, weights and output lie too far apart: scale its batch-norm in "
        "training (not tried)",
    ),
    Rule(
        "VANISHED",
        symptoms.vanished,
        "{layer}: every value (the largest is {peak:.2g}) rounds to zero at fix position {fix}",
        "the layer's results are too small to be seen: check that the batch-norm statistics belong to these "
        "weights (an untrained network's do not), or scale the layer up",
        untried="not tried: it changes the weights",
    ),
    Rule(
        "COARSE_STEP",
        symptoms.too_coarse,
        "{layer}: fix position {fix} of the {what}, where {best} would give {gain_db:.1f} dB more",
        "the range seen in calibration or the largest fix position allowed keeps the step too large: calibrate with "
        "images like those seen in use, or scale the layer up (equalisation, batch-norm)",
        changes=(trials.RECALIBRATE,),
        otherwise="calibrating with these images does not help; scale the layer up in training (not tried)",
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
        "train with relu in its place; keeping relu6 costs equalisation, which took a MobileNetV2 from 27 % to 3 %",
        changes=(trials.KEEP_RELU6,),
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
        untried="not tried: it changes the network",
    ),
    Rule(
        "KEEP_FLOAT",
        symptoms.costly_layers,
        "{layer}: half of the network's noise and more comes from here: in float the output gains {gain_db:.1f} dB "
        "({images} images)",
        "mend this layer first; as a last resort end the DPU's part of the network there and compute it on the CPU",
        untried="the mending is not tried: it changes the network",
    ),
    Rule(
        "FAST_FINETUNE",
        symptoms.needs_finetuning,
        "the quantised network shows {figure}",
        "quantisation-aware training, or quantization.fast_finetune.enabled: true with the result measured in AMD's "
        "container",
        untried="not tried: the emulator's algorithm is dpuforge's own, and AMD's tool was recorded to give 33.67 % "
        "where the emulator gave 82.33 %, so the gain in AMD's container is unknown",
    ),
)
