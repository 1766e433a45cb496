"""Turns one recorded call into a Node with an nndct kind and normalised attributes (table: vocabulary.FUNCTIONS)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from dpuforge.emulator.graph.kinds import SHAPE, Group, traits_of
from dpuforge.emulator.graph.nodes import Call, Graph, Node, Param, Ref, Shape, leaves, map_template
from dpuforge.emulator.graph.shadows import Shadow
from dpuforge.emulator.graph.vocabulary import FUNCTIONS

Bound = dict[str, Any]


def describe_call(node: Node, name: str, tensors: Mapping[str, torch.Tensor], earlier: Sequence[Node]) -> Node:
    """Return node with kind, inputs, attributes and parameters filled in from its call.

    name is the plain function name; earlier holds the nodes recorded before (for input shapes).
    """
    inputs = tuple(leaf for leaf in leaves((node.call.args, dict(node.call.kwargs))) if isinstance(leaf, Ref))
    row = FUNCTIONS.get(name)
    if row is None or not inputs:
        return replace(node, kind=f"aten::{name}", inputs=inputs)
    bound = row.bind(node.call.args, node.call.kwargs)
    roles = {role: bound[role].key for role in row.parameters if isinstance(bound.get(role), Param)}
    if "weight" in row.parameters and isinstance(bound.get("weight"), Ref):
        return replace(node, kind=f"aten::{name}", inputs=inputs)
    rest = {key: value for key, value in bound.items() if key not in row.parameters and key not in _NOT_ATTRIBUTES}
    rest = {key: value for key, value in rest.items() if not isinstance(value, (Ref, Param))}
    shapes = _input_shapes(inputs, earlier)
    node = replace(node, kind=row.kind, inputs=inputs, parameters=roles, attributes=rest)
    refine = REFINEMENTS.get(traits_of(row.kind).describe)
    return refine(node, bound, tensors, shapes) if refine else node


_NOT_ATTRIBUTES = frozenset({"input", "other", "tensors", "inplace", "training"})


def _input_shapes(inputs: Sequence[Ref], earlier: Sequence[Node]) -> tuple[Shape, ...]:
    wanted = {ref.node for ref in inputs}
    shapes: dict[str, tuple[Shape, ...]] = {}
    for node in reversed(earlier):
        if node.name in wanted:
            shapes[node.name] = node.shapes
            if len(shapes) == len(wanted):
                break
    return tuple(shapes[ref.node][ref.index or 0] for ref in inputs)


def spread(value: Any, count: int = 2) -> tuple[int, ...]:
    """Return an integer or a sequence of them as a tuple of count integers."""
    if isinstance(value, (tuple, list)):
        return tuple(int(item) for item in value) * (count if len(value) == 1 else 1)
    return (int(value),) * count


def _describe_convolution(node: Node, bound: Bound, tensors: Mapping[str, torch.Tensor], _: Any) -> Node:
    weight = tensors[node.parameters["weight"]]
    rank = weight.dim() - 2
    transposed = node.traits.group is Group.TRANSPOSED
    groups = int(bound["groups"])
    kernel, dilation = tuple(weight.shape[2:]), spread(bound["dilation"], rank)
    inside, outside = int(weight.shape[1]) * groups, int(weight.shape[0])
    if transposed:
        inside, outside = outside, int(weight.shape[1]) * groups
    padding = bound["padding"]
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple(extra // 2 for extra in total) if all(extra % 2 == 0 for extra in total) else "same"
    attributes = {
        "kernel": kernel,
        "given_padding": bound["padding"],
        "stride": spread(bound["stride"], rank),
        "padding": padding if padding == "same" else spread(0 if padding == "valid" else padding, rank),
        "dilation": dilation,
        "groups": groups,
        "in_channels": inside,
        "out_channels": outside,
    }
    if transposed:
        attributes["output_padding"] = spread(bound["output_padding"], rank)
    kind = node.kind
    if rank == 2 and groups > 1 and groups == inside:
        kind = kind.replace("nndct_", "nndct_depthwise_")
    return replace(node, kind=kind, attributes=attributes)


def _describe_dense(node: Node, _: Bound, tensors: Mapping[str, torch.Tensor], __: Any) -> Node:
    out_features, in_features = tensors[node.parameters["weight"]].shape
    return replace(node, attributes={"in_features": int(in_features), "out_features": int(out_features)})


def _describe_batch_norm(node: Node, bound: Bound, tensors: Mapping[str, torch.Tensor], _: Any) -> Node:
    if "running_mean" not in node.parameters:
        return replace(node, kind="aten::batch_norm")
    features = int(tensors[node.parameters["running_mean"]].shape[0])
    return replace(node, attributes={"eps": float(bound["eps"]), "features": features})


def _describe_pool(node: Node, bound: Bound, _: Any, __: Any) -> Node:
    count = 1 if node.kind.endswith("1d") else 3 if node.kind.endswith("3d") else 2
    if bound.get("return_indices"):
        return replace(node, kind="aten::max_pool_with_indices")
    kernel = spread(bound["kernel_size"], count)
    stride = bound["stride"]
    attributes = {
        "kernel": kernel,
        "stride": kernel if stride is None or stride == [] else spread(stride, count),
        "padding": spread(bound["padding"], count),
        "ceil_mode": bool(bound["ceil_mode"]),
    }
    if "dilation" in bound:
        attributes["dilation"] = spread(bound["dilation"], count)
    else:
        attributes["count_include_pad"] = bool(bound["count_include_pad"])
        attributes["divisor_override"] = bound["divisor_override"]
    return replace(node, attributes=attributes)


def _describe_adaptive(node: Node, bound: Bound, _: Any, shapes: tuple[Shape, ...]) -> Node:
    asked = bound["output_size"]
    given = tuple(shapes[0][-2:]) if shapes and len(shapes[0]) >= 2 else (0, 0)
    wanted = tuple(asked) if isinstance(asked, (tuple, list)) else (asked, asked)
    wanted = tuple(int(size) if size is not None else int(old) for size, old in zip(wanted, given, strict=True))
    attributes: dict[str, Any] = {"output_size": wanted, "kernel": None, "stride": None}
    if all(given) and all(old % new == 0 for old, new in zip(given, wanted, strict=True)):
        kernel = tuple(old // new for old, new in zip(given, wanted, strict=True))
        attributes.update(kernel=kernel, stride=kernel)
    return replace(node, attributes=attributes)


def _describe_resize(node: Node, bound: Bound, _: Any, shapes: tuple[Shape, ...]) -> Node:
    scale = bound["scale_factor"]
    by_size = scale is None
    size = tuple(node.shape[2:])
    given = shapes[0][2:] if shapes and shapes[0] else ()
    if scale is None and given:
        scale = tuple(new / old for new, old in zip(size, given, strict=True))
    elif isinstance(scale, (int, float)):
        scale = (float(scale),) * len(size)
    attributes = {"scale": scale, "size": size, "mode": bound["mode"], "align_corners": bool(bound["align_corners"])}
    attributes["by_size"] = by_size
    return replace(node, attributes=attributes)


def _describe_arithmetic(node: Node, bound: Bound, _: Any, __: Any) -> Node:
    """Keep elementwise kinds for two activations; an operand that is a number or constant is noted."""
    attributes: dict[str, Any] = {}
    for role in ("input", "other"):
        if not isinstance(bound.get(role), Ref):
            attributes["constant"] = bound.get(role)
            attributes["constant_side"] = role
    if "alpha" in bound:
        attributes["alpha"] = bound["alpha"]
    if "rounding_mode" in bound:
        return replace(node, kind="aten::div_rounded", attributes=attributes)
    return replace(node, attributes=attributes)


def _describe_reshape(node: Node, bound: Bound, _: Any, __: Any) -> Node:
    shape = bound["shape"]
    if isinstance(shape, torch.dtype):
        return replace(node, kind="aten::view_dtype")
    given = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    return replace(node, attributes={"shape": given})


def _describe_permute(node: Node, bound: Bound, _: Any, __: Any) -> Node:
    order = bound["order"] if "order" in bound else bound.get("dims", ())
    given = tuple(order) if isinstance(order, (tuple, list)) else (order,)
    return replace(node, attributes={"order": given})


def _describe_clamp(node: Node, bound: Bound, _: Any, __: Any) -> Node:
    low, high = bound.get("min", bound.get("min_val")), bound.get("max", bound.get("max_val"))
    if node.kind == "nndct_hardtanh" and (low, high) == (0, 6):
        return replace(node, kind="nndct_relu6", attributes={})
    return replace(node, attributes={"min": low, "max": high})


Refinement = Callable[[Node, Bound, Mapping[str, torch.Tensor], tuple[Shape, ...]], Node]
REFINEMENTS: Mapping[str, Refinement] = {
    "convolution": _describe_convolution,
    "dense": _describe_dense,
    "batch_norm": _describe_batch_norm,
    "pool": _describe_pool,
    "adaptive_pool": _describe_adaptive,
    "resize": _describe_resize,
    "arithmetic": _describe_arithmetic,
    "reshape": _describe_reshape,
    "permute": _describe_permute,
    "clamp": _describe_clamp,
}


def expand_splits(graph: Graph) -> Graph:
    """Replace each chunk and split along a dimension other than the batch by one slice per part, as the tool does."""
    parts: dict[Ref, Ref] = {}
    shadows = list(graph.shadows)

    def visit(leaf: Any) -> Any:
        return parts.get(leaf, leaf) if isinstance(leaf, Ref) else leaf

    nodes: list[Node] = []
    for node in graph.nodes:
        node = replace(node, call=node.call.rewrite(visit), inputs=tuple(visit(ref) for ref in node.inputs))
        slices = _slices(node) if node.traits.group is Group.SPLIT else ()
        if slices and not isinstance(node.attributes.get("split_size"), (list, tuple)):
            slices = (*slices[:-1], _end_with_size(slices[-1], shadows))
        parts.update({Ref(node.name, index): Ref(part.name) for index, part in enumerate(slices)})
        nodes.extend(slices or (node,))
    return replace(graph, nodes=tuple(nodes), outputs=map_template(graph.outputs, visit), shadows=tuple(shadows))


def _end_with_size(last: Node, shadows: list[Shadow]) -> Node:
    """Note the size that the last part ends with: a node of the real tool's graph."""
    name = f"{last.name}_size"
    shadows.append(Shadow(name, SHAPE, (last.inputs[0].node,), last.trace_index, before=last.name))
    return replace(last, shadow_inputs=(name,))


def _slices(node: Node) -> tuple[Node, ...]:
    dim = node.attributes.get("dim")
    if not isinstance(dim, int) or dim % len(node.shape) == 0:
        return ()
    dim, start, slices = dim % len(node.shape), 0, []
    for position, shape in enumerate(node.shapes):
        index = (*(slice(None),) * dim, slice(start, start + shape[dim]))
        start += shape[dim]
        call = Call(torch.Tensor.__getitem__, (node.inputs[0], index))
        part = replace(node, kind="nndct_strided_slice", call=call, attributes={"index": index})
        slices.append(replace(part, name=_part_name(node.name, position), shape=shape, shapes=(shape,)))
    return tuple(slices)


def _part_name(name: str, position: int) -> str:
    """Number the parts on from the first; beyond what lies between two labels a suffix keeps them apart."""
    head, _, label = name.rpartition("/")
    if position and label.isdigit() and position < 13:
        return f"{head}/{int(label) + position}"
    return f"{name}_{position}" if position else name
