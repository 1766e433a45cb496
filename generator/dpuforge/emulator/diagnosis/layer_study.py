"""What quantisation does to every layer of a network: weights, biases and activations against their float originals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dpuforge.emulator.diagnosis.fidelity import (
    ChannelSpread,
    Comparison,
    Rivals,
    Saturation,
    limits,
    spread_channels,
)
from dpuforge.emulator.diagnosis.layers import Layer
from dpuforge.emulator.diagnosis.replay import ByMask, Replay
from dpuforge.emulator.diagnosis.sensitivity import MEMORY, Inputs, Outcome, add_outcomes, choose_chunk
from dpuforge.emulator.graph.kinds import Group
from dpuforge.emulator.graph.nodes import Node
from dpuforge.emulator.quantise.steps import FixStep, ScaleStep, Step, TensorRule
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.records.operator import OpKind

_SIX = 6.0


@dataclass
class TensorStudy:
    """One quantised tensor: own rounding error, clipped values, and the fix positions that were to choose from."""

    step: Step
    rule: TensorRule
    rounding: Comparison = field(default_factory=Comparison)
    saturation: Saturation = field(default_factory=Saturation)
    rivals: Rivals = field(default_factory=Rivals)

    def add(self, exact: torch.Tensor, rounded: torch.Tensor) -> None:
        """Count one batch of values before and after rounding."""
        self.rounding.add(exact, rounded)
        self.saturation.add(exact, self.step, self.rule)
        if isinstance(self.step, FixStep):
            self.rivals.add(exact, self.step, self.rule)

    @property
    def rival_gain_db(self) -> float:
        """By how many dB the best fix position beats the one in force; 0 where that is the best."""
        best = self.rivals.best
        if best is None or not isinstance(self.step, FixStep) or best == self.step.fix:
            return 0.0
        better, chosen = self.rivals.sqnr_db(best), self.rivals.sqnr_db(self.step.fix)
        return 0.0 if better is None or chosen is None else better - chosen

    def as_json(self) -> dict[str, Any]:
        """Return bits, step, errors; "rivals" are rows [fix position, SQNR in dB]."""
        row: dict[str, Any] = {"bits": self.step.bits}
        if isinstance(self.step, FixStep):
            row["fix"] = self.step.fix
        elif isinstance(self.step, ScaleStep):
            row["scale"] = self.step.scale
        row |= {"rounding_sqnr_db": self.rounding.sqnr_db, "saturated": self.saturation.share}
        if self.rivals.noise:
            row["best_fix"] = self.rivals.best
            row["rivals"] = [[fix, self.rivals.sqnr_db(fix)] for fix in self.rivals.noise]
        return row


@dataclass
class ActivationStudy(TensorStudy):
    """A layer's result: also against the float network's, with the noise of all layers before it.

    errors, peaks: per channel (dimension 1), the summed error and the largest magnitude; clipped_by_six: the user's
    network has a relu6 here that became a relu; above_six: float values over 6, counted then.
    """

    carried: Comparison = field(default_factory=Comparison)
    errors: torch.Tensor | None = None
    peaks: torch.Tensor | None = None
    clipped_by_six: bool = False
    above_six: int = 0
    per_channel: int = 0

    def compare(self, exact: torch.Tensor, quantised: torch.Tensor) -> None:
        """Count one batch of the float and the quantised network's values."""
        self.carried.add(exact, quantised)
        if self.clipped_by_six:
            self.above_six += int((exact > _SIX).sum())
        others = [axis for axis in range(exact.dim()) if axis != 1]
        errors, peaks = (quantised - exact).sum(others), exact.abs().amax(others)
        if self.errors is None or self.peaks is None or self.errors.shape != errors.shape:
            self.errors, self.peaks, self.per_channel = errors, peaks, 0
        else:
            self.errors, self.peaks = self.errors + errors, torch.maximum(self.peaks, peaks)
        self.per_channel += exact.numel() // max(errors.numel(), 1)

    @property
    def shift(self) -> float:
        """Root mean square over channels of the mean error, over that of the values: what bias correction removes.

        The biased error of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
        ICCV 2019, section 3.2, in relative terms.
        """
        if self.errors is None or self.carried.signal <= 0 or not self.per_channel:
            return 0.0
        mean = (self.errors / self.per_channel).square().mean()
        power = self.carried.signal / (self.per_channel * self.errors.numel())
        return math.sqrt(float(mean) / power)

    @property
    def channel_ratio(self) -> float | None:
        """The largest channel's peak over the median channel's, channels of zeros left out."""
        used = self.peaks[self.peaks > 0] if self.peaks is not None else None
        return None if used is None or not used.numel() else float(used.max() / used.median())

    @property
    def float_peak(self) -> float:
        """The largest magnitude in the float network."""
        return 0.0 if self.peaks is None else float(self.peaks.max())

    @property
    def share_above_six(self) -> float:
        """Float values over 6 per value: what a relu6 would have clipped."""
        return self.above_six / self.saturation.total if self.saturation.total else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the tensor's row with the error that the quantised network carries up to here."""
        carried = {"sqnr_db": self.carried.sqnr_db, "cosine": self.carried.cosine}
        ends = limits(self.step, self.rule, torch.zeros(1))
        reach = {"peak": self.saturation.peak}
        if isinstance(ends[1], float) and math.isfinite(ends[1]):
            reach["limit"] = ends[1]
        spread = {"channel_ratio": self.channel_ratio, "channel_shift": self.shift}
        return {**carried, **super().as_json(), **reach, **spread}


@dataclass
class LayerStudy:
    """One layer's figures; drop_db: by how much the SQNR of its result is below that of what it reads."""

    layer: Layer
    parameters: dict[str, TensorStudy]
    spread: ChannelSpread | None
    activation: ActivationStudy | None
    drop_db: float | None = None

    @property
    def suspicion_db(self) -> float:
        """The lowest SQNR of what is rounded here: layers are examined in rising order of it."""
        studies = [*self.parameters.values(), *([self.activation] if self.activation else [])]
        levels = [study.rounding.sqnr_db for study in studies]
        return min((level for level in levels if level is not None), default=math.inf)

    def as_json(self) -> dict[str, Any]:
        """Return the row of this layer."""
        row: dict[str, Any] = {"layer": self.layer.label, "node": self.layer.name, "kind": self.layer.kind}
        for role, study in self.parameters.items():
            figures = {"cosine": study.rounding.cosine, **study.as_json()}
            if role == "bias":  # searched like the others, but no rival is ever worth a word
                figures.pop("rivals", None)
            row["weights" if role == "weight" else role] = figures
        if self.spread is not None:
            row["weights"] |= {
                "channel_ratio": self.spread.ratio,
                "largest_channel": self.spread.channel,
                "coarse_channels": self.spread.coarse,
                "worst_channel_db": self.spread.worst_db,
            }
        if self.activation is not None:
            row["activation"] = self.activation.as_json()
            row["drop_db"] = self.drop_db
        return row


@dataclass(frozen=True)
class NetworkStudy:
    """Every layer's figures, and what the float and the quantised network make of the images."""

    layers: tuple[LayerStudy, ...]
    exact: Outcome
    quantised: Outcome
    labelled: bool


def study_layers(
    replay: Replay, inputs: Inputs, labels: torch.Tensor | None = None, memory: int = MEMORY
) -> NetworkStudy:
    """Run the float and the quantised network side by side on images ((images, ...) per input of the network).

    labels: class indices, (images,), for the accuracies. memory: bytes that the values of one pass may take.
    """
    network = replay.network
    studies = tuple(_start(replay, layer) for layer in replay.layers)
    by_point = {study.layer.point: study.activation for study in studies if study.activation is not None}

    def observe(node: Node, before: ByMask, after: ByMask) -> None:
        study = by_point.get(node.name)
        if study is not None:
            rounded = after[max(after)]
            study.add(before[max(before)], rounded)
            study.compare(after[0], rounded)

    outcomes, mixtures = (Outcome(), Outcome()), [replay.float, replay.quantised]
    chunk = choose_chunk(replay, mixtures, memory)
    for start in range(0, int(inputs[0].shape[0]), chunk):
        part = tuple(tensor[start : start + chunk] for tensor in inputs)
        truth = None if labels is None else labels[start : start + chunk]
        add_outcomes(outcomes, replay.run(part, mixtures, observe), truth)
    for study in studies:
        study.drop_db = _drop(network, study, by_point)
    return NetworkStudy(studies, *outcomes, labels is not None)


def _start(replay: Replay, layer: Layer) -> LayerStudy:
    network, node = replay.network, replay.network.graph[layer.name]
    parameters = {role: _study_parameter(replay, key) for role, key in layer.parameters}
    activation = None
    if layer.point is not None:
        rule = network.rule("activation", network.graph[layer.point])
        six = any(_was_relu6(network.graph[name]) for name in (layer.name, layer.point))
        activation = ActivationStudy(network.steps.output[layer.point], rule, clipped_by_six=six)
    return LayerStudy(layer, parameters, _spread(replay, node, parameters), activation)


def _was_relu6(node: Node) -> bool:
    return node.module_type == "ReLU6" and node.traits.neutral is OpKind.RELU


def _study_parameter(replay: Replay, key: str) -> TensorStudy:
    network = replay.network
    study = TensorStudy(network.steps.param[key], network.rule(*network.owner(key)))
    study.add(replay.exact_parameter(key), network.quantised_parameter(key))
    return study


def _spread(replay: Replay, node: Node, parameters: dict[str, TensorStudy]) -> ChannelSpread | None:
    study = parameters.get("weight")
    transposed = node.traits.group is Group.TRANSPOSED
    if study is None or (transposed and node.attributes["groups"] != 1):
        return None
    axis, key = 1 if transposed else 0, node.parameters["weight"]
    rounded = replay.network.quantised_parameter(key)
    return spread_channels(replay.exact_parameter(key), rounded, axis)


def _drop(network: QuantisedGraph, study: LayerStudy, by_point: dict[str | None, ActivationStudy]) -> float | None:
    """Return the worst input's SQNR minus the result's."""
    points = [network.points.point_of[name] for name in network.graph[study.layer.name].input_names()]
    sources: Sequence[ActivationStudy] = [by_point[point] for point in points if point in by_point]
    levels = [source.carried.sqnr_db for source in sources]
    known = [level for level in levels if level is not None]
    after = study.activation.carried.sqnr_db if study.activation else None
    return None if after is None or not known else min(known) - after
