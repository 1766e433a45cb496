"""From the captured graph to the float graph that the DPU sees: names, batch-norm, dropout, relu6, coefficients.

The order of the passes is the real tool's (docs/quantizer.md, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from dpuforge.emulator.arithmetic import operations
from dpuforge.emulator.arithmetic.fake_quantise import average_pool_coefficient, square_root
from dpuforge.emulator.graph.kinds import Group, Point
from dpuforge.emulator.graph.nodes import Call, Graph, Node, Param, Ref
from dpuforge.emulator.prepare.constants import place_constants
from dpuforge.emulator.prepare.equalise import equalise_layers

_INT64_MIN = -(2**63)


@dataclass(frozen=True)
class PrepareOptions:
    """Which rewrites apply; the defaults are those of a DPU run without a config file."""

    equalisation: bool = True
    relu6_to_relu: bool = False
    silu_to_hswish: bool = False
    average_pool_coefficient: bool = True
    relu6_to_reluk: bool = False


def _float_same_convolutions(graph: Graph) -> Graph:
    """Leave convolutions whose padding was a word in float: the real tool knows no such operator."""
    nodes = (
        replace(node, kind="aten::_convolution_mode", parameters={}, attributes={})
        if isinstance(node.attributes.get("given_padding"), str)
        else node
        for node in graph.nodes
    )
    return graph.replace_nodes(nodes)


def prepare_graph(graph: Graph, options: PrepareOptions) -> Graph:
    """Return the graph folded, cleaned and equalised, with its own copies of the tensors it changes."""
    graph = _mark_scope(graph)
    if options.equalisation or options.relu6_to_relu:
        graph = _convert_relu6(graph, options.relu6_to_reluk)
    if options.silu_to_hswish:
        graph = _convert_silu(graph)
    graph = _float_same_convolutions(graph)
    graph = _separate_shared_parameters(graph)
    graph = _fold_batch_norms(graph)
    graph = _drop_identities(graph)
    graph = place_constants(graph)
    graph = graph.replace_nodes(_standard_call(node) for node in graph.nodes)
    if options.equalisation:
        graph = equalise_layers(graph)
    return _adopt_dpu_arithmetic(graph, options)


def _mark_scope(graph: Graph) -> Graph:
    """Mark what lies outside the stubs: all that no QuantStub reaches, or that is behind a DeQuantStub."""
    if not graph.has_stubs:
        return graph
    inside: set[str] = set()
    for node in graph.nodes:
        if node.begins_scope or (not node.ends_scope and any(name in inside for name in node.input_names())):
            inside.add(node.name)
    return graph.replace_nodes(replace(node, in_scope=node.name in inside) for node in graph.nodes)


def _convert_relu6(graph: Graph, limited: bool) -> Graph:
    """Turn nn.ReLU6 modules into ReLU; the functional relu6 stays (docs/quantizer.md, section 3).

    limited: keep a limit of 6 per channel, which equalisation scales with the channel.
    """
    found = {node.name for node in graph.nodes if node.module_type == "ReLU6" and node.kind == "nndct_relu6"}
    if limited:
        return _limit_relus(graph, found)
    nodes = (
        replace(node, kind="nndct_relu", call=Call(F.relu, (node.inputs[0],)), attributes={})
        if node.name in found
        else node
        for node in graph.nodes
    )
    return graph.replace_nodes(nodes).renamed({name: name.replace("/ReLU6[", "/ReLU[") for name in found})


def _limit_relus(graph: Graph, found: set[str]) -> Graph:
    tensors = dict(graph.tensors)
    nodes = []
    for node in graph.nodes:
        if node.name in found:
            key = f"{node.name}.limit"
            tensors[key] = torch.full((node.shape[1],), 6.0)
            call = Call(operations.relu_limited, (node.inputs[0], Param(key)))
            node = replace(node, kind="nndct_reluk", call=call, attributes={"limit": key})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), tensors=tensors)


def _convert_silu(graph: Graph) -> Graph:
    nodes = [
        replace(node, kind="nndct_hswish", call=Call(F.hardswish, (node.inputs[0],)), attributes={})
        if node.kind == "nndct_silu"
        else node
        for node in graph.nodes
    ]
    modules = (node.name for node in graph.nodes if node.kind == "nndct_silu" and node.module_type == "SiLU")
    return graph.replace_nodes(nodes).renamed({name: name.replace("/SiLU[", "/Hardswish[") for name in modules})


def _separate_shared_parameters(graph: Graph) -> Graph:
    """Give each further user of a parameter its own copy, named as the real tool names it."""
    tensors = dict(graph.tensors)
    used: set[str] = set()
    nodes = []
    for node in graph.nodes:
        if any(key in used for key in node.parameters.values()):
            node = _copy_parameters(node, tensors)
        used.update(node.parameters.values())
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), tensors=tensors)


def _copy_parameters(node: Node, tensors: dict[str, torch.Tensor]) -> Node:
    suffix = f".{_INT64_MIN + node.trace_index}"
    renamed = {role: key + suffix for role, key in node.parameters.items()}
    for role, key in node.parameters.items():
        tensors[renamed[role]] = tensors[key]
    swaps = {key: renamed[role] for role, key in node.parameters.items()}

    def visit(leaf: Any) -> Any:
        return Param(swaps[leaf.key]) if isinstance(leaf, Param) and leaf.key in swaps else leaf

    args = tuple(visit(leaf) for leaf in node.call.args)
    kwargs = {key: visit(leaf) for key, leaf in node.call.kwargs.items()}
    return replace(node, parameters=renamed, call=Call(node.call.function, args, kwargs))


def _fold_batch_norms(graph: Graph) -> Graph:
    """Fold every batch-norm into the convolution (or concat of convolutions) before it; others become scales."""
    consumers, tensors = graph.consumers(), dict(graph.tensors)
    changed: dict[str, Node] = {}
    folded: dict[str, Ref] = {}
    for node in graph.nodes:
        if node.kind != "nndct_batch_norm":
            continue
        scale, shift = _scale_and_shift(tensors, node)
        targets = tuple(changed.get(name, graph[name]) for name in _fold_targets(graph, node, consumers))
        if targets:
            changed.update(_fold_into(targets, tensors, scale, shift))
            folded[node.name] = node.inputs[0]
        else:
            changed[node.name] = _become_scale(node, tensors, scale, shift)
    nodes = tuple(changed.get(node.name, node) for node in graph.nodes)
    return replace(graph, nodes=nodes, tensors=tensors).without(folded)


def _fold_targets(graph: Graph, node: Node, consumers: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Return the convolutions that a batch-norm can be folded into, in channel order; empty if there are none."""
    source = graph[node.inputs[0].node]
    if len(consumers[source.name]) != 1:
        return ()
    if source.traits.convolution:
        return (source.name,)
    if source.traits.group is not Group.JOIN or source.attributes.get("dim") != 1:
        return ()
    parts = source.input_names()
    alone = all(graph[name].traits.convolution and len(consumers[name]) == 1 for name in parts)
    return parts if alone and len(set(parts)) == len(parts) else ()


def _scale_and_shift(tensors: Mapping[str, torch.Tensor], node: Node) -> tuple[torch.Tensor, torch.Tensor]:
    roles = node.parameters
    mean, variance = tensors[roles["running_mean"]], tensors[roles["running_var"]]
    if mean.is_meta:  # of a network that is foreseen only shapes are known
        return mean, mean
    gamma = tensors[roles["weight"]] if "weight" in roles else torch.ones_like(mean)
    beta = tensors[roles["bias"]] if "bias" in roles else torch.zeros_like(mean)
    scale = gamma / square_root(variance + node.attributes["eps"])
    return scale, beta - mean * scale


def _fold_into(
    targets: tuple[Node, ...], tensors: dict[str, torch.Tensor], scale: torch.Tensor, shift: torch.Tensor
) -> dict[str, Node]:
    folded: dict[str, Node] = {}
    start = 0
    for target in targets:
        stop = start + target.attributes["out_channels"]
        folded[target.name] = _fold_one(target, tensors, scale[start:stop], shift[start:stop])
        start = stop
    return folded


def _fold_one(target: Node, tensors: dict[str, torch.Tensor], scale: torch.Tensor, shift: torch.Tensor) -> Node:
    """w *= scale, b = b * scale + shift; a convolution without bias gets one."""
    weight_key = target.parameters["weight"]
    bias_key = target.parameters.get("bias", _bias_name(weight_key))
    if not scale.is_meta:
        tensors[weight_key] = tensors[weight_key] * _per_output_channel(target, scale)
    bias = tensors.get(bias_key) if "bias" in target.parameters else None
    tensors[bias_key] = shift if bias is None or scale.is_meta else bias * scale + shift
    return replace(target, parameters={**target.parameters, "bias": bias_key})


def _bias_name(weight_key: str) -> str:
    head, _, tail = weight_key.rpartition("weight")
    return f"{head}bias{tail}" if head else f"{weight_key}.bias"


def _per_output_channel(node: Node, values: torch.Tensor) -> torch.Tensor:
    """Shape one value per output channel so that it multiplies the node's weight."""
    rank = len(node.attributes["kernel"])
    if node.traits.group is not Group.TRANSPOSED:
        return values.view(-1, *(1,) * (rank + 1))
    groups = node.attributes["groups"]
    inside = node.attributes["in_channels"] // groups
    return values.view(groups, 1, -1).expand(groups, inside, -1).reshape(groups * inside, -1, *(1,) * rank)


def _become_scale(node: Node, tensors: dict[str, torch.Tensor], scale: torch.Tensor, shift: torch.Tensor) -> Node:
    """Keep a batch-norm that follows no convolution as a per-channel scale and bias."""
    weight_key = node.parameters.get("weight", node.parameters["running_mean"].replace("running_mean", "weight"))
    bias_key = node.parameters.get("bias", _bias_name(weight_key))
    tensors[weight_key], tensors[bias_key] = scale, shift
    call = Call(operations.channel_scale, (node.inputs[0], Param(weight_key), Param(bias_key)))
    return replace(node, call=call, parameters={"weight": weight_key, "bias": bias_key})


def _drop_identities(graph: Graph) -> Graph:
    dropped = (node for node in graph.nodes if node.traits.point is Point.DROPPED)
    return graph.without({node.name: node.inputs[0] for node in dropped})


# By rank, plain and transposed.
_CONVOLVE: Mapping[int, tuple[Callable[..., Any], Callable[..., Any]]] = {
    1: (F.conv1d, F.conv_transpose1d),
    2: (F.conv2d, F.conv_transpose2d),
    3: (F.conv3d, F.conv_transpose3d),
}


def _standard_call(node: Node) -> Node:
    """Rewrite convolutions and dense layers as plain functional calls (input, weight, bias, settings)."""
    if node.kind == "nndct_reshape":  # a view may have lost the contiguous() before it
        return replace(node, call=Call(torch.reshape, (node.inputs[0], node.attributes["shape"])))
    if not node.traits.weighted:
        return node
    weight = Param(node.parameters["weight"])
    bias = Param(node.parameters["bias"]) if "bias" in node.parameters else None
    if not node.traits.convolution:
        return replace(node, call=Call(F.linear, (node.inputs[0], weight, bias)))
    names = ("stride", "padding", "dilation", "groups", "output_padding")
    settings = {name: node.attributes[name] for name in names if name in node.attributes}
    convolve = _CONVOLVE[len(node.attributes["kernel"])][node.traits.group is Group.TRANSPOSED]
    return replace(node, call=Call(convolve, (node.inputs[0], weight, bias), settings))


# -- the DPU's own arithmetic ------------------------------------------------------------------------------------


def _adopt_dpu_arithmetic(graph: Graph, options: PrepareOptions) -> Graph:
    return graph.replace_nodes(_dpu_node(node, options) for node in graph.nodes)


def _dpu_node(node: Node, options: PrepareOptions) -> Node:
    adopt = DPU_CALLS.get(node.traits.dpu)
    return adopt(node, options) if adopt and node.in_scope else node


def _adopt_average_pool(node: Node, options: PrepareOptions) -> Node:
    return replace(node, call=_average_pool_call(node, node.inputs[0])) if options.average_pool_coefficient else node


def _adopt_adaptive_pool(node: Node, options: PrepareOptions) -> Node:
    if not node.attributes["kernel"] or not options.average_pool_coefficient:
        return node
    return replace(node, call=Call(operations.adaptive_average_pool, (node.inputs[0], node.attributes["output_size"])))


def _adopt_hard_sigmoid(node: Node, _: PrepareOptions) -> Node:
    return replace(node, call=Call(operations.hard_sigmoid, (node.inputs[0],)))


def _adopt_hard_swish(node: Node, _: PrepareOptions) -> Node:
    return replace(node, call=Call(operations.hard_swish, (node.inputs[0],)))


def _adopt_leaky_relu(node: Node, _: PrepareOptions) -> Node:
    slope = operations.LEAKY_SLOPE
    return replace(node, call=Call(F.leaky_relu, (node.inputs[0], slope)), attributes={"negative_slope": slope})


def _average_pool_call(node: Node, source: Ref) -> Call:
    settings: Mapping[str, Any] = node.attributes
    factor = average_pool_coefficient(*settings["kernel"])
    return Call(
        operations.average_pool,
        (source, factor),
        {
            "kernel_size": settings["kernel"],
            "stride": settings["stride"],
            "padding": settings["padding"],
            "ceil_mode": settings["ceil_mode"],
            "count_include_pad": settings["count_include_pad"],
            "divisor_override": settings["divisor_override"],
        },
    )


DPU_CALLS: Mapping[str, Callable[[Node, PrepareOptions], Node]] = {
    "average_pool": _adopt_average_pool,
    "adaptive_average_pool": _adopt_adaptive_pool,
    "hard_sigmoid": _adopt_hard_sigmoid,
    "hard_swish": _adopt_hard_swish,
    "leaky_relu": _adopt_leaky_relu,
}
