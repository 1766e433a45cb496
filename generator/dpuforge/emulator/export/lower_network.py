"""A quantised network -> the Graph of an .xmodel: nodes lowered in the real tool's order, sections put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from dpuforge.emulator.export.layouts import wants_channels_last
from dpuforge.emulator.export.lower_operators import lower_node
from dpuforge.emulator.export.tidy_moves import Tidied
from dpuforge.emulator.export.xmodel_builder import Builder, ExportError, Held, Operand, Quantised
from dpuforge.emulator.graph.nodes import Graph, Node
from dpuforge.xmodel.definitions import assemble_graph
from dpuforge.xmodel.forward_outputs import OUTPUTS, outputs_attribute
from dpuforge.xmodel.integers.calls import CALLS, calls_attribute
from dpuforge.xmodel.nouns import Graph as XmodelGraph
from dpuforge.xmodel.nouns import Op


@dataclass(frozen=True)
class Lowered:
    """The xmodel, and what its ops hold, in the order of the network's nodes.

    origins: the node that each op was made for, and the op's name before spelling; values: the op that holds a node's
    value; refusals: why nodes have no place in an xmodel, where that was asked for.
    """

    graph: XmodelGraph
    held: tuple[Held, ...]
    origins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, ExportError] = field(default_factory=dict)


def lower_graph(quantised: Quantised, collect: bool = False) -> Lowered:
    """Return the xmodel of a quantised network captured with batch 1.

    Raises ExportError where the batch is not 1 or an operator has no place in an xmodel; with `collect` an op of no
    known type stands for such an operator, and all refusals are returned.
    """
    if quantised.graph.batch != 1:
        message = f"Batch size must be 1 when exporting xmodel, got {quantised.graph.batch}"
        raise ExportError(message, "quantise in test mode with an input of batch 1 before export_xmodel")
    consumers = quantised.graph.consumers()
    wanted = wants_channels_last(quantised.graph, consumers)
    builder = Builder(quantised, quantised.fix, consumers=consumers, wanted=wanted)
    refusals: dict[str, ExportError] = {}
    for position, node in _last_in_first_out(quantised.graph, builder.consumers):
        builder.position, builder.node = position, node.name
        try:
            lower_node(builder, node)
        except ExportError as error:
            if not collect:
                raise
            refusals[node.name] = error
            _stand_for(builder, node)
    ops = _assemble(quantised.graph, builder)
    order = {node.name: position for position, node in enumerate(quantised.graph.nodes)}
    held = sorted(builder.held, key=lambda held: order[held.node])
    calls = {op.name: builder.calls[op.name] for op in ops if op.name in builder.calls}
    attrs = {CALLS: calls_attribute(calls)} if calls else {}
    returned = [builder.operand(ref).op for ref in quantised.graph.output_refs]
    attrs |= {OUTPUTS: outputs_attribute(returned)} if len(returned) > 1 else {}
    values = {node: operand.op for (node, index), operand in builder.operands.items() if not index}
    graph = assemble_graph(quantised.graph.name, ops, attrs)
    return Lowered(graph, tuple(held), builder.origins, values, refusals)


def _assemble(graph: Graph, builder: Builder) -> list[Op]:
    """Put the sections together, the moves tidied, without what nothing reads."""
    for ref in graph.output_refs:  # a constant that is an output has no reader that would have asked for it
        builder.operand(ref)
    extras, constants, parameters = (
        _by_position(groups)[::-1] for groups in (builder.extras, builder.constants, builder.parameters)
    )
    sections = [*extras, builder.inputs, *constants, *parameters, builder.body]
    ops = _drop_unread(graph, builder, [op for section in sections for op in section])
    kept = [builder.operand(ref).op for ref in graph.output_refs]
    tidied = Tidied(ops, builder.layout_changes, kept, builder.sizes)
    for key, operand in builder.operands.items():
        builder.operands[key] = replace(operand, op=tidied.renamed.get(operand.op, operand.op))
    builder.held[:] = _held(builder.held, tidied)
    return _drop_unread(graph, builder, [*tidied.added, *tidied.ops])


def _held(held: list[Held], tidied: Tidied) -> Iterator[Held]:
    """Yield what the ops hold after tidying: a transpose that took another in holds what that one held."""
    names, outers = {one.op: one.name for one in held}, {outer: inner for inner, outer in tidied.moved.items()}
    for one in held:
        if one.op in outers:
            inner = outers[one.op]
            yield replace(one, op=inner, name=names[inner])
        elif one.op not in tidied.moved:
            yield one


def _stand_for(builder: Builder, node: Node) -> None:
    """Put an op in the place of a node that cannot be lowered, so that its readers can."""
    sources = [builder.operand(ref).op for ref in node.inputs]
    for index, shape in enumerate(node.shapes):
        op = builder.emit(f"{node.name}_{index}", f"refused::{node.kind}", tuple(shape), {}, sources)
        builder.operands[node.name, index] = Operand(op, tuple(shape))
        if len(node.shapes) == 1:
            builder.operands[node.name, None] = Operand(op, tuple(shape))


def _by_position(groups: list[tuple[int, list[Op]]]) -> list[list[Op]]:
    return [ops for _, ops in sorted(groups, key=lambda group: group[0])]


def _last_in_first_out(graph: Graph, consumers: Mapping[str, list[str]]) -> Iterator[tuple[int, Node]]:
    """Yield (position, node) in the order of the real tool's ops: of the nodes that are ready, the newest first."""
    order = {node.name: position for position, node in enumerate(graph.nodes)}
    missing = {node.name: len(set(node.input_names())) for node in graph.nodes}
    ready = [node.name for node in graph.nodes if missing[node.name] == 0][::-1]
    while ready:
        name = ready.pop()
        yield order[name], graph[name]
        for reader in consumers[name]:
            if reader in missing:
                missing[reader] -= 1
                if missing[reader] == 0:
                    ready.append(reader)


def _drop_unread(graph: Graph, builder: Builder, ops: list[Op]) -> list[Op]:
    """Leave out ops that no output depends on (their values were computed for nothing)."""
    by_name = {op.name: op for op in ops}
    todo = [builder.operand(ref).op for ref in graph.output_refs] + [op.name for op in builder.inputs]
    wanted: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo.extend(by_name[name].all_inputs)
    builder.held[:] = [held for held in builder.held if held.op in wanted]
    return [op for op in ops if op.name in wanted]
