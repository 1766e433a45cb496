"""What the real tool's exports do wrong, as recorded: warnings for users, and the shapes that its xmodels hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from dpuforge.emulator.graph.evaluate import call_node
from dpuforge.emulator.graph.kinds import Fact, Group
from dpuforge.emulator.graph.nodes import Call, Graph, Node
from dpuforge.emulator.prepare.constants import float_parameters

Meets = Callable[[Node, Graph], bool]


@dataclass(frozen=True)
class Limit:
    """One row: which nodes meet it, in which export, and what the real tool does there."""

    meets: Meets
    exporter: str
    says: str


def _pads_output(node: Node, _: Graph) -> bool:
    return node.traits.group is Group.TRANSPOSED and any(node.attributes.get("output_padding", ()))


def _groups_transposed(node: Node, _: Graph) -> bool:
    several = node.traits.xmodel == "transposed-conv2d" and node.attributes["groups"] > 1
    return several and node.attributes["groups"] != node.attributes["in_channels"]


LIMITS = (
    Limit(
        lambda node, graph: bool(float_parameters(node, graph)),
        "xmodel",
        "raises ValueError here: a parameter in arithmetic is not broadcast to NHWC",
    ),
    Limit(lambda node, _: Fact.NO_XMODEL in node.traits.facts, "xmodel", "raises TypeError on it"),
    Limit(
        _groups_transposed,
        "xmodel",
        "ends the process here: XIR refuses the weights of a grouped transposed convolution that is not depthwise",
    ),
    Limit(
        _pads_output,
        "xmodel",
        "leaves output_padding out: the map in the file is smaller than the network's, and so is what a board computes",
    ),
    Limit(
        lambda node, _: node.kind == "aten::_convolution_mode",
        "onnx",
        "logs QUANTIZER_TORCH_EXPORT_ONNX, writes no file and returns as if it had: padding='same' is not exported",
    ),
)


def describe_limits(graph: Graph, exporter: str) -> tuple[str, ...]:
    """Return what the real tool does wrong when it exports a network to "xmodel" or "onnx", a sentence each."""
    rows = [row for row in LIMITS if row.exporter == exporter]
    found = [(row, node) for row in rows for node in graph.nodes if row.meets(node, graph)]
    return tuple(f"{node.name}: the real quantizer {row.says}." for row, node in found)


def with_tool_shapes(graph: Graph) -> Graph:
    """Return the graph with the shapes that the real tool's xmodel has: without output_padding.

    Where what follows does not take the smaller maps, the graph as it is.
    """
    if not any(_pads_output(node, graph) for node in graph.nodes):
        return graph
    cut = graph.replace_nodes(_without_output_padding(node, graph) for node in graph.nodes)
    try:
        return _with_shapes(cut)
    except Exception:  # whatever refuses the smaller maps: torch functions raise as they like
        return graph


def _without_output_padding(node: Node, graph: Graph) -> Node:
    if not _pads_output(node, graph):
        return node
    none = (0,) * len(node.attributes["output_padding"])
    call = Call(node.call.function, node.call.args, {**node.call.kwargs, "output_padding": none})
    return replace(node, call=call, attributes={**node.attributes, "output_padding": none})


def _with_shapes(graph: Graph) -> Graph:
    tensors = {key: tensor.to("meta") for key, tensor in graph.tensors.items()}
    values: dict[str, object] = {}
    nodes = []
    for node in graph.nodes:
        given = (
            torch.empty(node.shape, device="meta") if node.is_input else call_node(node, values, tensors, graph.batch)
        )
        values[node.name] = given
        made = given if isinstance(given, (tuple, list)) else (given,)
        shapes = tuple(tuple(tensor.shape) for tensor in made)
        nodes.append(replace(node, shape=shapes[0], shapes=shapes))
    return graph.replace_nodes(nodes)
