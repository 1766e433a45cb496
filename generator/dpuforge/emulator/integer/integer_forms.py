"""Builds the integer form of a node for the fast test path; None where that would not be exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dpuforge.emulator.arithmetic.fake_quantise import Rounding, quantise_integers
from dpuforge.emulator.graph.kinds import Point
from dpuforge.emulator.graph.nodes import BatchSize, Node, Ref, Shape, map_template
from dpuforge.emulator.integer import exact
from dpuforge.emulator.integer.integer_plan import Builder, Integers, Placement, Run, Values
from dpuforge.emulator.quantise.steps import FixStep

Bounds = tuple[float | None, float | None]


@dataclass(frozen=True)
class _Layer:
    """The integers of a weighted layer: weight int8, bias in accumulator units, and how the result is rounded."""

    weight: torch.Tensor
    bias: torch.Tensor
    how: exact.Requantisation
    fix: int
    relu: bool


def _read(values: Values, ref: Ref) -> torch.Tensor:
    """Return the uint8 tensor that a reference names."""
    held = values[ref.node].values
    picked: torch.Tensor = held if ref.index is None else held[ref.index]
    return picked


def _keep_relu(node: Node, place: Placement) -> bool:
    """Say whether a node may apply the relu that alone reads it, and note that it does."""
    reader = place.only_reader(node.name)
    point = node.name in place.source.output
    if point or reader is None or reader.traits.integer != "relu":
        return False
    place.with_relu.add(node.name)
    return True


def _build_input(node: Node, place: Placement) -> Run | None:
    """The network's input stands among the values already, as floats."""
    target, name = place.target.get(node.name), node.name
    if target is None:
        return lambda values, batch: values[name]
    place.fix[name] = target
    return lambda values, batch: Integers(exact.quantise_floats(values[name], target), target)


# -- layers with weights -----------------------------------------------------------------------------------------


def _layer(node: Node, place: Placement) -> _Layer | None:
    """Return a layer's integers if its float sums are exact and its shifts fit, so that both paths agree."""
    fixes, target = place.input_fix(node), place.target.get(node.name)
    step = place.source.param.get(node.parameters["weight"])
    if fixes is None or len(fixes) != 1 or target is None or not isinstance(step, FixStep) or step.bits > 8:
        return None
    key = node.parameters.get("bias")
    bias_step = place.source.param.get(key) if key is not None else None
    if key is not None and not isinstance(bias_step, FixStep):
        return None
    tensors = place.source.tensors
    weight = tensors[node.parameters["weight"]] * 2.0**step.fix
    units = 2.0 ** (step.fix + fixes[0])
    bias = tensors[key].double() * units if key is not None else torch.zeros(weight.shape[0], dtype=torch.float64)
    bias_fix = bias_step.fix if isinstance(bias_step, FixStep) else None
    how = exact.plan_requantisation(step.fix, fixes[0], bias_fix, target)
    finest = min(0, step.fix + fixes[0] - bias_fix) if bias_fix is not None else 0
    low = 0 if node.inputs[0].node in place.not_negative else -128
    largest = exact.largest_partial_sum(weight, bias, low, 127, finest)
    if largest > exact.EXACT_FLOAT or not exact.holds_exactly(bias, how, finest):
        return None
    place.fix[node.name] = target
    return _Layer(weight.to(torch.int8), bias, how, target, _keep_relu(node, place))


def _build_convolution(node: Node, place: Placement) -> Run | None:
    settings = node.attributes
    shape = _input_shape(node.inputs[0], place)
    if isinstance(settings["padding"], str) or len(settings["kernel"]) != 2 or len(shape) != 4:
        return None
    layer = _layer(node, place)
    if layer is None:
        return None
    sizes = (list(settings["stride"]), list(settings["padding"]), list(settings["dilation"]), int(settings["groups"]))
    compute = exact.Convolution(layer.weight, layer.bias, layer.how, sizes, list(shape), layer.relu)
    return _apply(node, compute, layer.fix)


def _build_dense(node: Node, place: Placement) -> Run | None:
    layer = _layer(node, place)
    if layer is None:
        return None
    compute = exact.Dense(layer.weight, layer.bias, layer.how, place.source.graph.batch, layer.relu)
    return _apply(node, compute, layer.fix)


def _apply(node: Node, compute: Any, fix: int) -> Run:
    """Return the run of an operator with one input."""
    ref = node.inputs[0]
    return lambda values, batch: Integers(compute(_read(values, ref)), fix)


# -- operators that commute with rounding ------------------------------------------------------------------------


def _moved(node: Node, place: Placement) -> tuple[tuple[int, ...], int] | None:
    """Return the fix positions of a node's inputs and of its result, if each input can be moved to the latter."""
    fixes = place.input_fix(node)
    if fixes is None:
        return None
    target = place.target.get(node.name, fixes[0])
    if node.name not in place.target and any(fix != target for fix in fixes):
        return None
    movable = all(fix == target or exact.sum_width((fix,), target) is not None for fix in fixes)
    return (fixes, target) if movable else None


def _at(values: torch.Tensor, fix: int, target: int) -> torch.Tensor:
    return values if fix == target else exact.add_integers((values,), (fix,), target)


def _build_clamp(node: Node, place: Placement, bounds: Bounds | None = None) -> Run | None:
    """relu and its kin: rounding first and limiting then gives the same, as both keep the order of values."""
    moved, bounds = _moved(node, place), bounds or _bounds(node)
    if moved is None or bounds is None or len(node.inputs) != 1:
        return None
    (fix,), target = moved
    ref = node.inputs[0]
    place.fix[node.name] = target
    if ref.node in place.with_relu and fix == target and node.traits.integer == "relu":
        return lambda values, batch: values[ref.node]
    low, high = (_integer_bound(bound, target, default) for bound, default in zip(bounds, (-128, 127), strict=True))
    return lambda values, batch: Integers(exact.clamp_integers(_at(_read(values, ref), fix, target), low, high), target)


def _bounds(node: Node) -> Bounds | None:
    low, high = node.attributes.get("min"), node.attributes.get("max")
    numbers = all(bound is None or isinstance(bound, (int, float)) for bound in (low, high))
    return (low, high) if numbers and (low, high) != (None, None) else None


def _integer_bound(bound: float | None, fix: int, default: int) -> int:
    if bound is None:
        return default
    return int(quantise_integers(torch.tensor([bound], dtype=torch.float32), 8, fix, Rounding.HALF_UP))


def _build_max_pool(node: Node, place: Placement) -> Run | None:
    moved, settings = _moved(node, place), node.attributes
    if moved is None or len(node.inputs) != 1 or len(node.shape) != 4 or len(node.shapes) > 1:
        return None
    (fix,), target = moved
    sizes = [list(settings[name]) for name in ("kernel", "stride", "padding", "dilation")]
    ceil_mode, ref = bool(settings["ceil_mode"]), node.inputs[0]
    place.fix[node.name] = target

    def run(values: Values, batch: int) -> Integers:
        pooled = exact.max_pool(_read(values, ref), sizes[0], sizes[1], sizes[2], sizes[3], ceil_mode)
        return Integers(_at(pooled, fix, target), target)

    return run


def _build_concat(node: Node, place: Placement) -> Run | None:
    moved, dim = _moved(node, place), node.attributes.get("dim")
    if moved is None or not isinstance(dim, int):
        return None
    fixes, target = moved
    place.fix[node.name] = target

    def run(values: Values, batch: int) -> Integers:
        parts = [_at(_read(values, ref), fix, target) for ref, fix in zip(node.inputs, fixes, strict=True)]
        return Integers(torch.cat(parts, dim), target)

    return run


def _build_move(node: Node, place: Placement) -> Run | None:
    """Reshapes, slices and permutations: the call itself, on bytes."""
    moved, call = _moved(node, place), node.call
    own = node.name in place.source.output
    if moved is None or len(node.inputs) != 1 or (own and node.traits.point is Point.MOVES):
        return None
    (fix,), target = moved
    target = target if own else fix
    place.fix[node.name] = target

    def run(values: Values, batch: int) -> Integers:
        def resolve(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return _read(values, leaf)
            return leaf.resolve(batch) if isinstance(leaf, BatchSize) else leaf

        result = call.function(*map_template(call.args, resolve), **map_template(dict(call.kwargs), resolve))
        return Integers(_at(result, fix, target), target)

    return run


# -- arithmetic --------------------------------------------------------------------------------------------------


def _build_add(node: Node, place: Placement) -> Run | None:
    fixes, target = place.input_fix(node), place.target.get(node.name)
    if fixes is None or target is None or not _is_plain_pair(node, place):
        return _build_scalar(node, place)
    if exact.sum_width(fixes, target) is None:
        return None
    relu, (first, second) = _keep_relu(node, place), node.inputs
    place.fix[node.name] = target

    def run(values: Values, batch: int) -> Integers:
        operands = (_read(values, first), _read(values, second))
        return Integers(exact.add_integers(operands, fixes, target, relu), target)

    return run


def _build_multiply(node: Node, place: Placement) -> Run | None:
    fixes, target = place.input_fix(node), place.target.get(node.name)
    if fixes is None or len(fixes) != 2 or target is None or not _is_plain_call(node) or len(node.shape) != 4:
        return _build_scalar(node, place)
    cut = sum(fixes) - target
    shapes = [_input_shape(ref, place) for ref in node.inputs]
    order = _broadcast_order(shapes, node.shape)
    if order is None or exact.product_width(cut) is None:
        return _build_scalar(node, place)
    first, second = node.inputs[order[0]], node.inputs[order[1]]
    place.fix[node.name] = target
    return lambda values, batch: Integers(
        exact.multiply_integers(_read(values, first), _read(values, second), cut), target
    )


def _broadcast_order(shapes: list[Shape], result: Shape) -> tuple[int, int] | None:
    """Return which operand has the result's shape and which may be spread over height and width."""
    channels = (*result[:2], 1, 1)
    for one, other in ((0, 1), (1, 0)):
        if shapes[one] == result and shapes[other] in (result, channels):
            return one, other
    return None


def _input_shape(ref: Ref, place: Placement) -> Shape:
    node = place.source.graph[ref.node]
    return (node.shapes or (node.shape,))[ref.index or 0]


def _is_plain_call(node: Node) -> bool:
    """Say whether a node combines two values without further arguments (alpha)."""
    return len(node.call.args) == 2 and not node.call.kwargs and all(isinstance(arg, Ref) for arg in node.call.args)


def _is_plain_pair(node: Node, place: Placement) -> bool:
    """Say whether a node combines two tensors of its own shape."""
    return _is_plain_call(node) and all(_input_shape(ref, place) == node.shape for ref in node.inputs)


def _build_table(node: Node, place: Placement) -> Run | None:
    """A function of one activation has 256 results: compute them once, with the node's own call.

    A vectorised function may differ in the last bit from the one that serves the end of a tensor; where that shows
    after rounding, there is no table.
    """
    fixes, target = place.input_fix(node), place.target.get(node.name)
    if fixes is None or len(fixes) != 1 or target is None or len(node.inputs) != 1:
        return None
    every = (torch.arange(256, dtype=torch.float32) - exact.ZERO) * 2.0 ** -fixes[0]
    table = _tabulate(node, every, target)
    if not torch.equal(table, torch.cat([_tabulate(node, one, target) for one in torch.split(every, 1)])):
        return None
    place.fix[node.name] = target
    ref = node.inputs[0]
    return lambda values, batch: Integers(exact.look_up(_read(values, ref), table), target)


def _tabulate(node: Node, values: torch.Tensor, fix: int) -> torch.Tensor:
    """Return the uint8 results of a node's call on these values."""
    args = map_template(node.call.args, lambda leaf: values.clone() if isinstance(leaf, Ref) else leaf)
    results = node.call.function(*args, **dict(node.call.kwargs))
    return (quantise_integers(results, 8, fix, Rounding.HALF_UP) + exact.ZERO).to(torch.uint8)


def _build_scale(node: Node, place: Placement) -> Run | None:
    """A batch-norm that stands alone is a depthwise convolution of one pixel."""
    shape = _input_shape(node.inputs[0], place)
    layer = _layer(node, place) if len(shape) == 4 and {"weight", "bias"} <= set(node.parameters) else None
    if layer is None:
        return None
    channels = layer.weight.shape[0]
    sizes = ([1, 1], [0, 0], [1, 1], channels)
    weight = layer.weight.view(channels, 1, 1, 1)
    return _apply(node, exact.Convolution(weight, layer.bias, layer.how, sizes, list(shape), layer.relu), layer.fix)


# By the word in column `integer` of kinds.py.
def _build_constant(node: Node, place: Placement) -> Run | None:
    """A number or buffer is on its grid from the start."""
    target = place.target.get(node.name)
    if target is None:
        return None
    (param,) = node.call.args
    held = Integers(exact.quantise_floats(place.source.tensors[param.key].float(), target), target)
    place.fix[node.name] = target
    return lambda values, batch: held


def _build_scalar(node: Node, place: Placement) -> Run | None:
    """Arithmetic with one number is a function of the other value: a table."""
    graph = place.source.graph
    scalar = [ref.node for ref in node.inputs if graph[ref.node].traits.integer == "constant"]
    others = [ref for ref in node.inputs if ref.node not in scalar]
    target = place.target.get(node.name)
    if len(scalar) != 1 or len(others) != 1 or target is None or graph[scalar[0]].shape:
        return None
    (other,), name = others, scalar[0]
    if name not in place.fix or other.node not in place.fix:
        return None
    value = place.source.tensors[graph[name].call.args[0].key].float()
    number = exact.dequantise(exact.quantise_floats(value.reshape(1), place.fix[name]), place.fix[name]).reshape(())
    every = (torch.arange(256, dtype=torch.float32) - exact.ZERO) * 2.0 ** -place.fix[other.node]
    leaves = {Ref(name): number}

    def tabulate(values: torch.Tensor) -> torch.Tensor:
        args = map_template(
            node.call.args, lambda leaf: leaves.get(leaf, values.clone()) if isinstance(leaf, Ref) else leaf
        )
        results = node.call.function(*args, **dict(node.call.kwargs))
        return (quantise_integers(results, 8, target, Rounding.HALF_UP) + exact.ZERO).to(torch.uint8)

    table = tabulate(every)
    if not torch.equal(table, torch.cat([tabulate(one) for one in torch.split(every, 1)])):
        return None
    place.fix[node.name] = target
    return lambda values, batch: Integers(exact.look_up(_read(values, other), table), target)


BUILDERS: Mapping[str, Builder] = {
    "input": _build_input,
    "convolution": _build_convolution,
    "dense": _build_dense,
    "scale": _build_scale,
    "relu": partial(_build_clamp, bounds=(0.0, None)),
    "relu6": partial(_build_clamp, bounds=(0.0, 6.0)),
    "clamp": _build_clamp,
    "max_pool": _build_max_pool,
    "concat": _build_concat,
    "move": _build_move,
    "add": _build_add,
    "multiply": _build_multiply,
    "table": _build_table,
    "constant": _build_constant,
    "scalar": _build_scalar,
}
