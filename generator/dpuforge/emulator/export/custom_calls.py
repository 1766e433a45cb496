"""A node's recorded call -> the call that an xmodel carries for an op that XIR does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dpuforge.emulator.graph.nodes import BatchSize, Node, Param, Ref
from dpuforge.emulator.graph.vocabulary import base_name
from dpuforge.xmodel.integers.calls import Call

# Calls whose function is a module of the emulator's own (prepare/passes.py) go by torch's name.
_OTHER_NAMES = {"relu_limited": "clamp_between", "adaptive_average_pool": "adaptive_avg_pool2d"}
# Calls that cut fractions: to("int"), .long() and the like; those to float change nothing that float64 holds.
_INTEGERS = frozenset({torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8})


@dataclass(frozen=True)
class CustomCall:
    """A call, and the tensors that it takes in the order in which the call counts them."""

    call: Call
    tensors: tuple[Ref | Param, ...]


def describe_custom(node: Node, tensors: Mapping[str, torch.Tensor], result: int | None = None) -> CustomCall:
    """Return the call of a node as an xmodel carries it; result picks one of several results."""
    found: list[Ref | Param] = []
    args = tuple(_encode(leaf, found, tensors) for leaf in node.call.args)
    kwargs = {name: _encode(leaf, found, tensors) for name, leaf in node.call.kwargs.items() if name != "out"}
    return CustomCall(Call(_function_name(node), args, kwargs, result), tuple(found))


def _function_name(node: Node) -> str:
    """Return the name of the function called, a cast to integers by a name of its own."""
    if not hasattr(node.call.function, "__name__"):
        return type(node.call.function).__name__
    name, _ = base_name(node.call.function)
    name = "rmatmul" if getattr(node.call.function, "__name__", "") == "__rmatmul__" else name
    given = (*node.call.args, *node.call.kwargs.values())
    if name in ("to", "type") and any(isinstance(leaf, torch.dtype) and leaf in _INTEGERS for leaf in given):
        return "cast_integer"
    return _OTHER_NAMES.get(name, name)


def _encode(leaf: Any, found: list[Ref | Param], tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return what JSON holds in place of an argument; what is no number (a dtype, a device) goes by its name."""
    if isinstance(leaf, (Ref, Param)):
        if leaf not in found:
            found.append(leaf)
        truth = isinstance(leaf, Param) and tensors[leaf.key].dtype is torch.bool
        return {"input": found.index(leaf), **({"bool": True} if truth else {})}
    if isinstance(leaf, BatchSize):
        return {"batch": [leaf.scale, leaf.offset]}
    if isinstance(leaf, tuple):
        return {"tuple": [_encode(item, found, tensors) for item in leaf]}
    if isinstance(leaf, list):
        return [_encode(item, found, tensors) for item in leaf]
    if isinstance(leaf, slice):
        return {"slice": [_encode(part, found, tensors) for part in (leaf.start, leaf.stop, leaf.step)]}
    if leaf is Ellipsis:
        return {"ellipsis": True}
    if isinstance(leaf, float) and leaf in (float("inf"), float("-inf")):
        return {"float": str(leaf)}
    return leaf if leaf is None or isinstance(leaf, (bool, int, float, str)) else str(leaf)
