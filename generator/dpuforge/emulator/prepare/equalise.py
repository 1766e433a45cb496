"""Cross-layer equalisation: balances the channels of neighbouring convolutions before quantisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from dpuforge.emulator.arithmetic.fake_quantise import square_root
from dpuforge.emulator.graph.kinds import Fact, Group
from dpuforge.emulator.graph.nodes import Graph, Node

_WEIGHT_FLOOR = 1e-7
_RANGE_FLOOR = 0.5


def equalise_layers(graph: Graph) -> Graph:
    """Return the graph with every neighbouring pair of convolutions equalised, once (docs/quantizer.md, section 6)."""
    tensors = dict(graph.tensors)
    for first, second, limits in _pairs(graph):
        scale = _equalise_pair(first, second, tensors)
        for key in limits:
            scaled = tensors[key].to(scale.device) / scale
            tensors[key] = scaled.max().expand_as(scaled)  # measured: one limit, the loosest, for all channels
    return replace(graph, tensors=tensors)


def _pairs(graph: Graph) -> Iterator[tuple[Node, Node, tuple[str, ...]]]:
    """Yield neighbouring convolutions and the limits (reluk) that lie between them."""
    consumers, watched = graph.consumers(), graph.watched()
    for node in graph.nodes:
        if not node.traits.convolution:
            continue
        current = node
        limits: list[str] = []
        while True:
            readers = consumers[current.name]
            if len(readers) != 1 or readers[0] == "return" or current.name in watched:
                break
            current = graph[readers[0]]
            if current.traits.convolution:
                if _matches(node, current):
                    yield node, current, tuple(limits)
                break
            if Fact.SCALES not in current.traits.facts:
                break
            if "limit" in current.attributes:
                limits.append(str(current.attributes["limit"]))


def _matches(first: Node, second: Node) -> bool:
    return bool(first.attributes["out_channels"] == second.attributes["in_channels"])


def _output_rows(node: Node, weight: torch.Tensor) -> torch.Tensor:
    """Return the weight as a matrix with one row per output channel."""
    if node.traits.group is not Group.TRANSPOSED:
        return weight.flatten(1)
    groups = node.attributes["groups"]
    parts = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
    return parts.transpose(1, 2).reshape(node.attributes["out_channels"], -1)


def _input_rows(node: Node, weight: torch.Tensor) -> torch.Tensor:
    """Return the weight as a matrix with one row per input channel: what the outputs of its own group take from it."""
    if node.traits.group is Group.TRANSPOSED:
        return weight.flatten(1)
    return _by_group(node, weight).transpose(1, 2).reshape(node.attributes["in_channels"], -1)


def _by_group(node: Node, weight: torch.Tensor) -> torch.Tensor:
    """Return a convolution's weight as (groups, outputs of a group, inputs of a group, kernel...)."""
    groups = node.attributes["groups"]
    return weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])


def _scale_outputs(node: Node, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Divide each output channel of a weight by its scale."""
    if node.traits.group is not Group.TRANSPOSED:
        return weight / scale.view(-1, *(1,) * (weight.dim() - 1))
    groups = node.attributes["groups"]
    parts = weight.view(groups, weight.shape[0] // groups, *weight.shape[1:])
    divisor = scale.view(groups, 1, -1, *(1,) * (weight.dim() - 2))
    return (parts / divisor).reshape(weight.shape)


def _scale_inputs(node: Node, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiply each input channel of a weight by its scale."""
    if node.traits.group is Group.TRANSPOSED:
        return weight * scale.view(-1, *(1,) * (weight.dim() - 1))
    parts = _by_group(node, weight)
    factor = scale.view(parts.shape[0], 1, parts.shape[2], *(1,) * (weight.dim() - 2))
    return (parts * factor).reshape(weight.shape)


def _equalise_pair(first: Node, second: Node, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Balance the range of first's output channels with that of second's input channels; return the scale."""
    weight_key, next_key = first.parameters["weight"], second.parameters["weight"]
    bias_key = first.parameters.get("bias")
    rows = _output_rows(first, tensors[weight_key])
    range_out = rows.abs().amax(1)
    if bias_key is not None:
        bias = tensors[bias_key]
        range_out = torch.maximum(range_out, bias.abs() / _shrink(rows, bias))
    range_in = _input_rows(second, tensors[next_key]).abs().amax(1)
    root = square_root(range_out * range_in)
    scale = torch.where(root == 0, torch.ones_like(root), range_out / root)
    scale = torch.where(range_out + range_in < _RANGE_FLOOR, torch.ones_like(scale), scale)
    tensors[weight_key] = _scale_outputs(first, tensors[weight_key], scale)
    if bias_key is not None:
        tensors[bias_key] = tensors[bias_key] / scale
    tensors[next_key] = _scale_inputs(second, tensors[next_key], scale)
    return scale


def _shrink(rows: torch.Tensor, bias: torch.Tensor) -> float:
    """Return by how much a bias counts less than a weight, from how far the biases exceed the weights."""
    magnitudes = rows.abs()
    alive = magnitudes.amax(1) > 0
    smallest = torch.where(magnitudes > 0, magnitudes, torch.inf).amin(1, keepdim=True)
    filled = torch.where(magnitudes > 0, magnitudes, smallest).clamp(min=_WEIGHT_FLOOR)
    filled = torch.where(alive[:, None], filled, torch.ones_like(filled))
    sizes = torch.where(alive, bias.abs(), torch.zeros_like(bias))
    factor = sizes[:, None] / filled
    median, mean = float(np.median(factor.cpu().numpy())), float(factor.mean())
    largest = float(bias.abs().max())
    widest = float(magnitudes.max())
    if largest < 10 and largest < 20 * widest:
        return 5.0 if median > 100 or mean > 1000 else 2.0
    if median > 30 or mean > 500:
        return 20.0
    return 10.0 if median > 15 or mean > 100 else 5.0
