"""Graph -> bytes of an .xmodel, the same bytes for the same graph on every machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from dpuforge.xmodel.nouns import Attribute, Attributes, Graph, Kind, Op, OpDefinition, SubGraph, Tensor
from dpuforge.xmodel.wire import message_class


def write_xmodel(graph: Graph, path: Path | str) -> Path:
    """Write `graph` to `path` in one step (a reader never sees half a file) and return the path."""
    path = Path(path)
    data = serialise_xmodel(graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)  # mkstemp gives 0600; an .xmodel is read by other users of a board
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def serialise_xmodel(graph: Graph) -> bytes:
    """Return the bytes of `graph`; maps are written in the order of their keys, so the bytes are deterministic."""
    message = message_class("Graph")(graph_name=graph.name)
    for op in graph.ops:
        _fill_op(message.op_node.add(), op)
    if graph.root is not None:
        _fill_subgraph(message.subg_root, graph.root)
    _fill_attributes(message.graph_attr, graph.attrs)
    for definition in graph.definitions:
        _fill_definition(message.op_defs.add(), definition)
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def _fill_op(message: Any, op: Op) -> None:
    message.op_name, message.op_type = op.name, op.type
    _fill_attributes(message.op_attr, op.attrs)
    for arg in op.args:
        message.args.add(arg_name=arg.name, arg_ops=arg.ops)
    if op.tensor is not None:
        _fill_tensor(message.output_tensor, op.tensor)


def _fill_tensor(message: Any, tensor: Tensor) -> None:
    message.SetInParent()
    message.tensor_name = tensor.name
    message.tensor_dim.extend(tensor.dims)
    message.data_type, message.tensor_bit_width = int(tensor.data_type), tensor.bit_width
    _fill_attributes(message.tensor_attr, tensor.attrs)


def _fill_subgraph(message: Any, subgraph: SubGraph) -> None:
    message.SetInParent()
    message.subgraph_name = subgraph.name
    message.op_name.extend(subgraph.ops)
    _fill_attributes(message.subg_attr, subgraph.attrs)
    for child in subgraph.children:
        _fill_subgraph(message.subg_child.add(), child)


def _fill_definition(message: Any, definition: OpDefinition) -> None:
    message.name, message.annotation = definition.name, definition.annotation
    for arg in definition.args:
        message.input_args.add(name=arg.name, occur_type=arg.occurs, data_type=arg.data_type, annotation=arg.annotation)
    for attr in definition.attrs:
        entry = message.attrs.add(
            name=attr.name, occur_type=attr.occurs, list_length=attr.list_length, annotation=attr.annotation
        )
        if attr.default.kind is not Kind.EMPTY:
            _fill_attribute(entry.default_value, attr.default)


def _fill_attributes(target: Any, attrs: Attributes) -> None:
    for key, attribute in attrs.items():
        _fill_attribute(target[key], attribute)


def _fill_attribute(message: Any, attribute: Attribute) -> None:
    kind, field = attribute.kind, f"{attribute.kind.value}_value"
    if kind is Kind.EMPTY:
        return
    if kind is Kind.BYTES:
        part = getattr(message, field)
        part.SetInParent()
        part.value = attribute.value
    elif kind.is_vector:
        part = getattr(message, field)
        part.SetInParent()
        part.value.extend(attribute.value)
    elif kind.is_map:
        part = getattr(message, field)
        part.SetInParent()
        for key, item in attribute.value:
            _fill_map_item(part.value, kind, key, item)
    else:
        setattr(message, field, attribute.value)


def _fill_map_item(target: Any, kind: Kind, key: str, item: Any) -> None:
    if kind is Kind.MAP_BYTES:
        target[key].value = item
    elif kind.value.endswith("_vec"):
        target[key].value.extend(item)
    else:
        target[key] = item
