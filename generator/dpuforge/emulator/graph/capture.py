"""Records what a module does on example inputs as a Graph: the first step of every quantisation and estimate.

The module runs once as it is, under a torch-function mode that sees every call, so Python control flow, shape
arithmetic, shared modules and functional calls need no tracing rules. A second run with another small batch finds the
integers that depend on the batch. On the meta device nothing is computed at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from dpuforge.emulator.graph.describe import describe_call, expand_splits
from dpuforge.emulator.graph.kinds import Group
from dpuforge.emulator.graph.nodes import BatchSize, Call, Graph, Node, Param, Ref, leaves, map_template
from dpuforge.emulator.graph.recorder import Recorder, named_tensors, plain_output
from dpuforge.emulator.graph.vocabulary import base_name
from dpuforge.errors import UsageError


def capture_graph(
    module: nn.Module, example_inputs: Sequence[Any], example_kwargs: Mapping[str, Any] | None = None
) -> Graph:
    """Record the graph of module on example inputs (any device, meta included), in evaluation mode.

    Unknown operators become opaque nodes of kind "aten::<name>". The module is left as it was.
    """
    kwargs = dict(example_kwargs or {})
    with _evaluating(module), torch.no_grad():
        recorder = _record(module, tuple(example_inputs), kwargs)
        graph = _merge_batches(recorder, module, tuple(example_inputs), kwargs)
    return expand_splits(_fold_constants(graph, recorder.results)).without_dead()


def capture_shapes(module: nn.Module, *shapes: Sequence[int]) -> Graph:
    """Record the graph of module for float inputs of these shapes without computing anything (milliseconds).

    The module may live on any device; its tensors are swapped for meta tensors while it runs. One that reads values
    runs on zeros instead, on its own device, and what they decided is frozen. For hardware estimates.
    """
    with _evaluating(module), torch.no_grad():
        recorder = _record_shapes(module, [tuple(shape) for shape in shapes])
        nodes = _name_last(recorder)
    graph = recorder.graph(nodes)
    return expand_splits(_fold_constants(graph, recorder.results)).without_dead()


def _record_shapes(module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> Recorder:
    try:
        return _record(_MetaTwin(module), tuple(torch.empty(shape, device="meta") for shape in shapes), {})
    except Exception:
        tensors = [tensor for _, tensor in named_tensors(module)]
        if any(tensor.is_meta for tensor in tensors):
            raise
        device = tensors[0].device if tensors else torch.device("cpu")
        return _record(module, tuple(torch.zeros(shape, device=device) for shape in shapes), {})


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode for a while."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recorder:
    recorder = Recorder(module, args, kwargs)
    hooks = (
        register_module_forward_pre_hook(recorder.enter),
        register_module_forward_hook(recorder.leave, always_call=True),
    )
    try:
        with recorder:
            result = module(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    recorder.outputs = map_template(plain_output(result), recorder.template)
    if not any(isinstance(leaf, Ref) for leaf in leaves(recorder.outputs)):
        raise UsageError(
            f"nothing that {recorder.network} computes from its inputs could be seen",
            "give the eager torch module, not a scripted or compiled one, and inputs that it uses",
        )
    return recorder


def _merge_batches(recorder: Recorder, module: nn.Module, args: Any, kwargs: Any) -> Graph:
    """Replace integers that follow the batch size by BatchSize, found by a second run with a small batch."""
    nodes = _name_last(recorder)
    graph = recorder.graph(nodes)
    other = _record_other_batch(module, args, kwargs, graph.batch)
    if other is None or len(other.nodes) != len(nodes):
        return graph
    batches = (graph.batch, other.batch)
    merged = []
    for node, twin in zip(graph.nodes, other.nodes, strict=True):
        call = Call(
            node.call.function,
            _merge(node.call.args, twin.call.args, batches),
            _merge(dict(node.call.kwargs), dict(twin.call.kwargs), batches),
        )
        merged.append(replace(node, call=call, attributes=_merge(dict(node.attributes), twin.attributes, batches)))
    return graph.replace_nodes(merged)


def _record_other_batch(module: nn.Module, args: Any, kwargs: Any, batch: int) -> Recorder | None:
    """Run the module on the first example twice, or thrice where two were given; None where it takes no other batch."""
    count = 3 if batch == 2 else 2

    def repeat(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.dim() or leaf.shape[0] != batch:
            return leaf
        return leaf[:1].expand(count, *leaf.shape[1:]).clone()

    try:
        return _record(module, map_template(args, repeat), map_template(kwargs, repeat))
    except Exception:
        return None  # written for one batch size only: it stays as recorded


class _MetaTwin(nn.Module):
    """Runs a module with its tensors swapped for meta tensors; its names, paths and network name are the module's."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["_twin"] = module
        self.__dict__["_meta"] = {name: tensor.detach().to("meta") for name, tensor in named_tensors(module)}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self.__dict__["_twin"], self.__dict__["_meta"], args, kwargs)


def _merge(first: Any, second: Any, batches: tuple[int, int]) -> Any:
    """Merge two templates; an integer that differs becomes linear in the batch."""
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        items = [_merge(one, two, batches) for one, two in zip(first, second, strict=True)]
        return items if isinstance(first, list) else tuple(items)
    if isinstance(first, dict) and isinstance(second, dict):
        return {key: _merge(value, second.get(key), batches) for key, value in first.items()}
    if isinstance(first, slice) and isinstance(second, slice):
        parts = ((first.start, second.start), (first.stop, second.stop), (first.step, second.step))
        return slice(*(_merge(one, two, batches) for one, two in parts))
    if type(first) is int and type(second) is int and first != second:
        scale, rest = divmod(second - first, batches[1] - batches[0])
        return first if rest else BatchSize(scale, first - scale * batches[0])
    return first


def _name_last(recorder: Recorder) -> list[Node]:
    """Give the last named value the plain label "ret", as the real tracer does, everywhere it is read."""
    named = [node.name for node in recorder.nodes if "/ret." in node.name or node.traits.group is Group.BORDER]
    if not named or "/ret." not in named[-1]:  # a stub that comes last has used the label up
        return recorder.nodes
    old = named[-1]
    new = old.rpartition("/")[0] + "/ret"

    def visit(leaf: Any) -> Any:
        return Ref(new, leaf.index) if isinstance(leaf, Ref) and leaf.node == old else leaf

    recorder.outputs = map_template(recorder.outputs, visit)
    recorder.shadows = [shadow.renamed({old: new}) for shadow in recorder.shadows]
    if old in recorder.results:
        recorder.results[new] = recorder.results.pop(old)
    nodes = []
    for node in recorder.nodes:
        call = node.call.rewrite(visit)
        inputs = tuple(visit(ref) for ref in node.inputs)
        nodes.append(replace(node, name=new if node.name == old else node.name, call=call, inputs=inputs))
    return nodes


def _fold_constants(graph: Graph, results: Mapping[str, Any]) -> Graph:
    """Replace nodes that depend on no input by their recorded values, kept as tensors of the graph."""
    constants: dict[Ref, Param] = {}
    tensors = dict(graph.tensors)

    def visit(leaf: Any) -> Any:
        return constants.get(leaf, leaf) if isinstance(leaf, Ref) else leaf

    nodes: list[Node] = []
    for node in graph.nodes:
        call = node.call.rewrite(visit)
        inside = list(leaves((call.args, call.kwargs)))
        fixed = not any(isinstance(leaf, (Ref, BatchSize)) for leaf in inside)
        if not node.is_input and fixed and node.name in results:
            _keep_constant(node.name, results[node.name], constants, tensors)
        elif any(ref in constants for ref in node.inputs):
            name, _ = base_name(node.call.function)  # with constants in place it may be an operator with weights
            nodes.append(describe_call(replace(node, call=call), name, tensors, nodes))
        else:
            nodes.append(replace(node, call=call))
    return replace(graph, nodes=tuple(nodes), tensors=tensors, outputs=map_template(graph.outputs, visit))


def _keep_constant(name: str, value: Any, constants: dict[Ref, Param], tensors: dict[str, torch.Tensor]) -> None:
    parts = [(Ref(name), value)] if isinstance(value, torch.Tensor) else []
    if isinstance(value, (tuple, list)):
        parts = [(Ref(name, position), part) for position, part in enumerate(value)]
    for ref, part in parts:
        if isinstance(part, torch.Tensor):
            key = name if ref.index is None else f"{name}:{ref.index}"
            tensors[key] = part.detach()
            constants[ref] = Param(key)
