"""What each layer's quantisation costs the whole network, and what leaving it in float would give back.

All layers are measured side by side in one pass (replay.py): a layer costs only the nodes downstream of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dpuforge.emulator.diagnosis.fidelity import Comparison
from dpuforge.emulator.diagnosis.layers import Layer, list_layers
from dpuforge.emulator.diagnosis.replay import Mixture, Replay
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.errors import UsageError

Inputs = tuple[torch.Tensor, ...]
MEMORY = 256 * 2**20  # bytes that the values of one pass may take
_LARGEST_CHUNK = 32  # images; more do not make convolutions faster


@dataclass
class Outcome:
    """What one mixture of layers does to the network's outputs, against the float network's.

    images: how many were seen; correct: of them, right by the labels; agreeing: the top-1 class is the float one's.
    """

    output: Comparison = field(default_factory=Comparison)
    images: int = 0
    correct: int = 0
    agreeing: int = 0
    classifies: bool = True

    def add(self, exact: Inputs, found: Inputs, labels: torch.Tensor | None) -> None:
        """Count one batch of output tensors; exact are those of the float network."""
        for one, other in zip(exact, found, strict=True):
            self.output.add(one, other)
        self.images += int(exact[0].shape[0])
        self.classifies = self.classifies and exact[0].dim() == 2
        if self.classifies:
            chosen = found[0].argmax(1)
            self.agreeing += int((chosen == exact[0].argmax(1)).sum())
            if labels is not None:
                self.correct += int((chosen == labels).sum())

    @property
    def agreement(self) -> float | None:
        """Percent of the images with the float network's class; None where the output is not (images, classes)."""
        return 100.0 * self.agreeing / self.images if self.classifies and self.images else None

    @property
    def accuracy(self) -> float | None:
        """Percent of the images with the right class; meaningful only where labels were given."""
        return 100.0 * self.correct / self.images if self.classifies and self.images else None


@dataclass(frozen=True)
class Sensitivity:
    """One layer's figures: the network with this layer alone quantised, and with this layer alone in float."""

    layer: Layer
    alone: Outcome
    without: Outcome


@dataclass(frozen=True)
class SensitivityStudy:
    """All layers' figures beside the float and the quantised network's, and what they cost.

    complete: whether every layer of the network is among them. passes: estimated work in forward passes of the float
    network per image; naive_passes: that of one evaluation from scratch per mixture.
    """

    images: int
    labelled: bool
    exact: Outcome
    quantised: Outcome
    layers: tuple[Sensitivity, ...]
    passes: float
    naive_passes: float
    complete: bool

    def as_json(self) -> list[dict[str, Any]]:
        """Return a row per layer, the costliest first.

        alone_sqnr_db: SQNR of the network's output when only this layer is quantised; gain_db: by how much the
        quantised network's output SQNR rises when only this layer stays in float; accuracy figures in percentage
        points, accuracy_lost and accuracy_gained only with labels.
        """
        rows = [self._row(item) for item in self.layers]
        return sorted(rows, key=lambda row: _order(row["gain_db"]), reverse=True)

    def _row(self, item: Sensitivity) -> dict[str, Any]:
        row = {
            "layer": item.layer.label,
            "node": item.layer.name,
            "alone_sqnr_db": item.alone.output.sqnr_db,
            "alone_disagreement": _minus(self.exact.agreement, item.alone.agreement),
            "gain_db": _minus(item.without.output.sqnr_db, self.quantised.output.sqnr_db),
            "agreement_gained": _minus(item.without.agreement, self.quantised.agreement),
        }
        if self.labelled:
            row["accuracy_lost"] = _minus(self.exact.accuracy, item.alone.accuracy)
            row["accuracy_gained"] = _minus(item.without.accuracy, self.quantised.accuracy)
        return row


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _order(value: float | None) -> float:
    return -1e9 if value is None else value


def list_mixtures(replay: Replay, layers: Sequence[Layer]) -> list[Mixture]:
    """Return the mixtures of a study: float, quantised, and per layer alone and all others."""
    pairs = [mixture for layer in layers for mixture in (replay.alone(layer), replay.without(layer))]
    return [replay.float, replay.quantised, *pairs]


def choose_chunk(replay: Replay, mixtures: Sequence[Mixture], memory: int = MEMORY) -> int:
    """Return how many images one pass may take so that its values fit into memory (bytes); at least one."""
    return max(1, min(_LARGEST_CHUNK, int(memory / max(replay.bytes_per_image(mixtures), 1.0))))


def measure_sensitivity(
    network: QuantisedGraph | Replay,
    layers: Sequence[Layer],
    inputs: Inputs,
    labels: torch.Tensor | None = None,
    memory: int = MEMORY,
) -> SensitivityStudy:
    """Measure layers (of list_layers) on images: inputs are the network's inputs, (images, ...) each.

    labels: class indices, (images,); they need outputs of shape (images, classes), UsageError otherwise.
    """
    replay = network if isinstance(network, Replay) else Replay(network, list_layers(network))
    mixtures = list_mixtures(replay, layers)
    outcomes = [Outcome() for _ in mixtures]
    chunk = choose_chunk(replay, mixtures, memory)
    for start in range(0, int(inputs[0].shape[0]), chunk):
        part = tuple(tensor[start : start + chunk] for tensor in inputs)
        truth = None if labels is None else labels[start : start + chunk]
        add_outcomes(outcomes, replay.run(part, mixtures), truth)
    pairs = zip(layers, outcomes[2::2], outcomes[3::2], strict=True)
    return SensitivityStudy(
        outcomes[0].images,
        labels is not None,
        outcomes[0],
        outcomes[1],
        tuple(Sensitivity(layer, alone, without) for layer, alone, without in pairs),
        replay.cost(mixtures),
        sum(replay.cost([mixture]) for mixture in mixtures),
        len(layers) == len(replay.layers),
    )


def add_outcomes(outcomes: Sequence[Outcome], results: Sequence[Inputs], labels: torch.Tensor | None) -> None:
    """Count one batch for every mixture; the first result is the float network's, against which all are held."""
    if labels is not None and results[0][0].dim() != 2:
        shape = tuple(results[0][0].shape)
        raise UsageError(
            f"labels need a network whose first output is (images, classes), got {shape}", "leave the labels out"
        )
    for outcome, result in zip(outcomes, results, strict=True):
        outcome.add(results[0], result, labels)
