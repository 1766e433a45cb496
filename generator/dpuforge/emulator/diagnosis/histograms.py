"""Histograms of weights and activations against the integer grid, and a module's result in the quantised network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dpuforge.emulator.diagnosis.layers import Layer, list_layers
from dpuforge.emulator.diagnosis.replay import ByMask, Replay
from dpuforge.emulator.graph.nodes import Node
from dpuforge.emulator.quantise.steps import FixStep, Step
from dpuforge.emulator.quantised_graph import QuantisedGraph

BINS = 64  # over the grid: four codes of eight bits each


@dataclass
class Histogram:
    """How many values fall into each bin of a fixed-point grid, and how many below and above it."""

    step: FixStep
    counts: torch.Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.int64))
    below: int = 0
    above: int = 0
    levels: set[int] = field(default_factory=set)
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, exact: torch.Tensor) -> None:
        """Count values before rounding."""
        top = 2 ** (self.step.bits - 1)
        codes = exact.detach().flatten().double() * 2.0**self.step.fix
        rounded = (codes + 0.5).floor()
        self.below += int((rounded < -top).sum())
        self.above += int((rounded > top - 1).sum())
        self.low = min(self.low, float(exact.min()))
        self.high = max(self.high, float(exact.max()))
        inside = rounded[(rounded >= -top) & (rounded <= top - 1)]
        bins = ((inside + top) * (BINS / (2 * top))).long()
        self.counts += torch.bincount(bins, minlength=BINS)
        self.levels |= set(torch.bincount((inside + top).long()).nonzero().flatten().tolist())

    def as_json(self) -> dict[str, Any]:
        """Return the counts with what places them: bits, fix position, smallest and largest value, levels in use."""
        return {
            "bits": self.step.bits,
            "fix": self.step.fix,
            "counts": self.counts.tolist(),
            "below": self.below,
            "above": self.above,
            "low": float(f"{self.low:.5g}"),
            "high": float(f"{self.high:.5g}"),
            "levels": len(self.levels),
        }


def histogram_layers(network: QuantisedGraph, inputs: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
    """Return one row per layer, in execution order: histograms of its weights and of its result on these images.

    inputs: (images, ...) per input of the network. Layers on a grid that is no power of two are left out.
    """
    replay = Replay(network, list_layers(network))
    results = {layer.point: _on_grid(network.steps.output[layer.point]) for layer in replay.layers if layer.point}

    def observe(node: Node, before: ByMask, after: ByMask) -> None:
        histogram = results.get(node.name)
        if histogram is not None:
            histogram.add(before[max(before)])

    for image in range(int(inputs[0].shape[0])):
        replay.run([part[image : image + 1] for part in inputs], [replay.quantised], observe)
    return [row for layer in replay.layers if (row := _describe(replay, layer, results))]


def _describe(replay: Replay, layer: Layer, results: dict[str, Histogram | None]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for role, key in layer.parameters:
        weights = _on_grid(replay.network.steps.param[key]) if role == "weight" else None
        if weights is not None:
            weights.add(replay.exact_parameter(key))
            row["weights"] = weights.as_json()
    found = results.get(layer.point or "")
    if found is not None:
        row["activation"] = found.as_json()
    return {"layer": layer.label, "node": layer.name, "kind": layer.kind, **row} if row else {}


def _on_grid(step: Step) -> Histogram | None:
    return Histogram(step) if isinstance(step, FixStep) else None


def find_features(
    network: QuantisedGraph, inputs: Sequence[torch.Tensor], modules: Sequence[str]
) -> tuple[str, torch.Tensor | None]:
    """Return the last result of the first of these modules that the quantised network has, with the module's path.

    The result is (images, channels, height, width); "" and None where no module is among the graph's.
    """
    known = {node.module_path: node.name for node in network.graph.nodes}
    module = next((path for path in modules if path in known), "")
    if not module:
        return "", None
    replay, found = Replay(network, list_layers(network)), []

    def observe(node: Node, before: ByMask, after: ByMask) -> None:
        if node.name == known[module]:
            found.append(after[max(after)])

    replay.run(inputs, [replay.quantised], observe)
    return module, found[0] if found else None
