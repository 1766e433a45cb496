"""Moves fix positions so that the DPU's shifts stay within their range (docs/quantizer.md, section 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dpuforge.emulator.graph.nodes import Graph, Node
from dpuforge.emulator.quantise.points import Points

_LARGEST_SHIFT = 16
_ACCUMULATOR_BITS = 24
_BITS = 8
_HSIGMOID_FIX = 7

Warn = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class AdjustOptions:
    """Which inputs take the fix position of the output."""

    pool_inputs: bool = False
    concat_inputs: bool = False
    add_inputs: bool = False

    def takes_output(self, align: str) -> bool:
        """Say whether the inputs of operators with this word in column `align` take the position of the output."""
        return {"pool": self.pool_inputs, "concat": self.concat_inputs, "add": self.add_inputs}.get(align, False)


@dataclass
class FixPositions:
    """Fix positions by parameter key and by node name, changed in place."""

    param: dict[str, int]
    output: dict[str, int]


def adjust_positions(graph: Graph, points: Points, positions: FixPositions, options: AdjustOptions, warn: Warn) -> None:
    """Adjust positions in place; warn(what, name, old, new) is called for each change of the forward pass."""
    for node in reversed(graph.nodes):
        if options.takes_output(node.traits.align):
            _align_inputs(node, points, positions)
    for node in graph.nodes:
        adjust = ADJUSTMENTS.get(node.traits.adjust)
        if adjust is not None:
            adjust(node, points, positions, warn)


def _align_inputs(node: Node, points: Points, positions: FixPositions) -> None:
    target = points.point_of[node.name]
    for name in node.input_names():
        source = points.point_of[name]
        if target in positions.output and source in positions.output:
            positions.output[source] = positions.output[target]


def _ends(node: Node, points: Points, positions: FixPositions) -> tuple[str, str] | None:
    """Return the points of the first input and of the output, when both are quantised."""
    source = points.point_of[node.inputs[0].node]
    target = points.point_of[node.name]
    if source is None or target is None or source not in positions.output or target not in positions.output:
        return None
    return source, target


def _copy_input(node: Node, points: Points, positions: FixPositions, _: Warn) -> None:
    ends = _ends(node, points, positions)
    if ends and ends[1] == node.name:
        positions.output[ends[1]] = positions.output[ends[0]]


def _adjust_resize(node: Node, points: Points, positions: FixPositions, warn: Warn) -> None:
    if str(node.attributes.get("mode", "")).startswith("nearest"):
        _copy_input(node, points, positions, warn)


def _adjust_hsigmoid(node: Node, points: Points, positions: FixPositions, _: Warn) -> None:
    ends = _ends(node, points, positions)
    if ends:
        positions.output[ends[1]] = max(positions.output[ends[1]], _HSIGMOID_FIX)
        positions.output[ends[0]] = max(positions.output[ends[0]], 0)


def _adjust_hswish(node: Node, points: Points, positions: FixPositions, _: Warn) -> None:
    ends = _ends(node, points, positions)
    if ends:
        positions.output[ends[0]] = max(positions.output[ends[0]], 0)
        limit = positions.output[ends[0]] + _HSIGMOID_FIX
        positions.output[ends[1]] = min(positions.output[ends[1]], limit)


def _adjust_weighted(node: Node, points: Points, positions: FixPositions, warn: Warn) -> None:
    """Keep shift_cut = w + i - o within 0..16 and shift_bias = w + i - b within its range."""
    ends = _ends(node, points, positions)
    weight, bias = node.parameters.get("weight", ""), node.parameters.get("bias", "")
    if ends is None or weight not in positions.param:
        return
    cut = positions.param[weight] + positions.output[ends[0]] - positions.output[ends[1]]
    if cut < 0:
        _move(positions.output, ends[1], cut, "output", warn)
    elif cut > _LARGEST_SHIFT:
        _move(positions.param, weight, _LARGEST_SHIFT - cut, "weight", warn)
    if bias not in positions.param:
        return
    shift = positions.param[weight] + positions.output[ends[0]] - positions.param[bias]
    lowest = min(0, -(_ACCUMULATOR_BITS - (_BITS + cut)))
    if shift < lowest:
        _move(positions.param, bias, shift - lowest, "bias", warn)
    elif shift > _LARGEST_SHIFT:
        _move(positions.param, weight, _LARGEST_SHIFT - shift, "weight", warn)


def _move(table: dict[str, int], name: str, by: int, what: str, warn: Warn) -> None:
    table[name] += by
    warn(what, name, table[name] - by, table[name])


ADJUSTMENTS: Mapping[str, Callable[[Node, Points, FixPositions, Warn], None]] = {
    "weighted": _adjust_weighted,
    "copy_input": _copy_input,
    "resize": _adjust_resize,
    "hard_sigmoid": _adjust_hsigmoid,
    "hard_swish": _adjust_hswish,
}
