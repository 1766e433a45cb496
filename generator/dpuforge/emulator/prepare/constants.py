"""Constants of a network as nodes of their own, as the real tool has them: quantised like an activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from dpuforge.emulator.graph.kinds import CONST, Group
from dpuforge.emulator.graph.nodes import BatchSize, Call, Graph, Node, Param, Ref, leaves
from dpuforge.emulator.graph.shadows import Shadow


def place_constants(graph: Graph) -> Graph:
    """Return the graph with a node before its inputs for each number and buffer that arithmetic reads.

    A trained parameter in arithmetic stays where it is, in float. Tensors that other operators read are shadows.
    """
    tensors, shadows = dict(graph.tensors), list(graph.shadows)
    constants: list[Node] = []
    nodes: list[Node] = []
    for node in graph.nodes:
        if _has_constant(node, graph):
            constant = _constant_node(node, tensors)
            constants.append(constant)
            nodes.append(_read_constant(node, constant))
        else:
            nodes.append(_note_tensors(node, graph, shadows))
    return replace(graph, nodes=(*constants, *nodes), tensors=tensors, shadows=tuple(shadows))


def _has_constant(node: Node, graph: Graph) -> bool:
    value = node.attributes.get("constant")
    if node.traits.group is not Group.ARITHMETIC or value is None or isinstance(value, BatchSize) or node.shadow_inputs:
        return False
    return not isinstance(value, Param) or value.key not in graph.trained


def float_parameters(node: Node, graph: Graph) -> tuple[str, ...]:
    """Return the trained parameters that a node's arithmetic reads: the real tool leaves them in float."""
    value = node.attributes.get("constant")
    return (value.key,) if isinstance(value, Param) and value.key in graph.trained else ()


def _constant_node(node: Node, tensors: dict[str, torch.Tensor]) -> Node:
    value, name = node.attributes["constant"], f"{node.name}_const"
    held = isinstance(value, Param)
    key = value.key if held else name
    if not held:
        tensors[key] = torch.tensor(float(value), device=_device(tensors))
    shape = tuple(tensors[key].shape)
    call = Call(_held_value, (Param(key),))
    made = Node(name, CONST, call, shape=shape, shapes=(shape,), module_path=node.module_path, in_scope=node.in_scope)
    return replace(
        made,
        module_type=node.module_type,
        source=node.source,
        trace_index=node.trace_index,
        attributes={"tensor": held},
    )


def _device(tensors: Mapping[str, torch.Tensor]) -> torch.device:
    return next((tensor.device for tensor in tensors.values()), torch.device("cpu"))


def _held_value(values: torch.Tensor) -> torch.Tensor:
    """Return a constant as floats, in a tensor of its own."""
    return values.to(torch.float32, copy=True)


def _read_constant(node: Node, constant: Node) -> Node:
    """Let arithmetic read the constant's node where the constant stood."""
    value = node.attributes["constant"]

    def swap(leaf: Any) -> Any:
        return Ref(constant.name) if leaf is value or (isinstance(leaf, Param) and leaf == value) else leaf

    args = tuple(swap(leaf) for leaf in node.call.args)
    kwargs = {key: swap(leaf) if key == "other" else leaf for key, leaf in node.call.kwargs.items()}
    rest = {key: item for key, item in node.attributes.items() if not key.startswith("constant")}
    call = Call(node.call.function, args, kwargs)
    first = node.attributes["constant_side"] == "input"
    inputs = (Ref(constant.name), *node.inputs) if first else (*node.inputs, Ref(constant.name))
    return replace(node, call=call, inputs=inputs, attributes=rest)


def _note_tensors(node: Node, graph: Graph, shadows: list[Shadow]) -> Node:
    """Note buffers and other tensors that an operator reads beside its inputs and parameters."""
    known = {*node.parameters.values(), *graph.trained, node.attributes.get("limit")}
    read = {leaf.key for leaf in leaves((node.call.args, dict(node.call.kwargs))) if isinstance(leaf, Param)} - known
    if not read or node.kind == CONST:
        return node
    names = tuple(f"{node.name}_tensor_{number}" for number, _ in enumerate(sorted(read)))
    shadows.extend(Shadow(name, CONST, (), node.trace_index, before=node.name) for name in names)
    return replace(node, shadow_inputs=(*node.shadow_inputs, *names))
