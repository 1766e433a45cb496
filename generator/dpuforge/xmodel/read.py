"""Bytes of an .xmodel -> Graph; whatever is wrong with the file becomes a FormatError."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from dpuforge.errors import FormatError
from dpuforge.xmodel.nouns import (
    Argument,
    ArgumentDefinition,
    Attribute,
    AttributeDefinition,
    Graph,
    Kind,
    Op,
    OpDefinition,
    SubGraph,
    Tensor,
)
from dpuforge.xmodel.wire import REMEDY, check_wire, message_class

MAX_FILE_BYTES = (2 << 30) - 1  # protobuf's own limit for one message


def read_xmodel(path: Path | str) -> Graph:
    """Read the .xmodel at `path`, compiled or not.

    Raises FormatError where the file is absent, too large, not an .xmodel, cut short, or holds a broken graph
    (an op named twice, an input that does not exist, a cycle).
    """
    return parse_xmodel(_read_bytes(Path(path)), str(path))


def parse_xmodel(data: bytes, source: str = "<bytes>") -> Graph:
    """Parse the bytes of an .xmodel; `source` names them in error messages. Raises FormatError."""
    try:
        check_wire(data)
        message = message_class("Graph").FromString(data)
        graph = _graph(message)
        check_graph(graph)
    except FormatError as error:
        raise FormatError(f"{source}: {error.message}", error.remedy) from error
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(f"{source}: not an .xmodel: {error}", REMEDY) from error
    return graph


def check_graph(graph: Graph) -> None:
    """Raise FormatError unless names are unique, every input exists and no op waits for itself."""
    if not graph.ops:
        raise FormatError("not an .xmodel: it has no ops", REMEDY)
    if len(graph.by_name) != len(graph.ops):
        seen: set[str] = set()
        twice = next(op.name for op in graph.ops if op.name in seen or seen.add(op.name))  # type: ignore[func-returns-value]
        raise FormatError(f"broken graph: two ops are named {twice!r}", REMEDY)
    for op in graph.ops:
        for name in op.all_inputs:
            if name not in graph.by_name:
                raise FormatError(f"broken graph: op {op.name!r} reads {name!r}, which does not exist", REMEDY)
    order_ops(graph)


def order_ops(graph: Graph) -> tuple[Op, ...]:
    """Return the ops so that inputs come first, else in the order of the file. Raises FormatError on a cycle."""
    done: set[str] = set()
    order: list[Op] = []
    for first in graph.ops:
        stack = [(first, iter(first.all_inputs))] if first.name not in done else []
        waiting = {first.name}
        while stack:
            op, inputs = stack[-1]
            name = next((name for name in inputs if name not in done), None)
            if name is None:
                stack.pop()
                waiting.discard(op.name)
                done.add(op.name)
                order.append(op)
            elif name in waiting:
                raise FormatError(f"broken graph: op {name!r} waits for itself", REMEDY)
            else:
                waiting.add(name)
                stack.append((graph.by_name[name], iter(graph.by_name[name].all_inputs)))
    return tuple(order)


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{path}: not a file", REMEDY)
        if status.st_size > MAX_FILE_BYTES:
            raise FormatError(f"{path}: {status.st_size} bytes, an .xmodel has at most {MAX_FILE_BYTES}", REMEDY)
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}", "check the path and its permissions") from error


def _graph(message: Any) -> Graph:
    return Graph(
        name=message.graph_name,
        ops=tuple(_op(node) for node in message.op_node),
        root=_subgraph(message.subg_root) if message.HasField("subg_root") else None,
        attrs=_attributes(message.graph_attr),
        definitions=tuple(_definition(definition) for definition in message.op_defs),
    )


def _op(node: Any) -> Op:
    return Op(
        name=node.op_name,
        type=node.op_type,
        attrs=_attributes(node.op_attr),
        args=tuple(Argument(arg.arg_name, tuple(arg.arg_ops)) for arg in node.args),
        tensor=_tensor(node.output_tensor) if node.HasField("output_tensor") else None,
    )


def _tensor(message: Any) -> Tensor:
    return Tensor(
        name=message.tensor_name,
        dims=tuple(message.tensor_dim),
        data_type=message.data_type,
        bit_width=message.tensor_bit_width,
        attrs=_attributes(message.tensor_attr),
    )


def _subgraph(message: Any) -> SubGraph:
    return SubGraph(
        name=message.subgraph_name,
        ops=tuple(message.op_name),
        attrs=_attributes(message.subg_attr),
        children=tuple(_subgraph(child) for child in message.subg_child),
    )


def _definition(message: Any) -> OpDefinition:
    args = (ArgumentDefinition(arg.name, arg.occur_type, arg.data_type, arg.annotation) for arg in message.input_args)
    attrs = (
        AttributeDefinition(
            attr.name, attr.occur_type, _attribute(attr.default_value), attr.list_length, attr.annotation
        )
        for attr in message.attrs
    )
    return OpDefinition(message.name, tuple(args), tuple(attrs), message.annotation)


def _attributes(messages: Mapping[str, Any]) -> dict[str, Attribute]:
    return {key: _attribute(messages[key]) for key in sorted(messages)}


def _attribute(message: Any) -> Attribute:
    name = message.WhichOneof("value")
    if name is None:
        return Attribute(Kind.EMPTY, None)
    kind, value = Kind(name.removesuffix("_value")), getattr(message, name)
    if kind is Kind.BYTES:
        return Attribute(kind, value.value)
    if kind.is_vector:
        return Attribute(kind, tuple(value.value))
    if kind.is_map:
        return Attribute(kind, tuple((key, _map_item(kind, value.value[key])) for key in sorted(value.value)))
    return Attribute(kind, value)


def _map_item(kind: Kind, item: Any) -> Any:
    if kind is Kind.MAP_BYTES:
        return item.value
    return tuple(item.value) if kind.value.endswith("_vec") else item
