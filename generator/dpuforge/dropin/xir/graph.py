"""Graphs, subgraphs and ops under the names that xir gives them, read from an .xmodel by dpuforge."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from graphlib import TopologicalSorter
from typing import Any

import dpuforge_dropin  # type: ignore[import-not-found]  # found at run time: this folder is on PYTHONPATH

from dpuforge.errors import FormatError
from dpuforge.xmodel import nouns
from dpuforge.xmodel.read import order_ops, read_xmodel

from .judge import TARGET_VARIABLE, asked_target, count_dpu_subgraphs
from .partition import Parts, is_compiled, split_graph
from .tensor import Attributed, Tensor, make_fixed_tensor, make_tensor, python_values

NOTICE = "xir and vart are dpuforge's; no DPU is used, and times say nothing about a board"


class Op(Attributed):
    """One node of a graph."""

    def __init__(self, graph: Graph, record: nouns.Op) -> None:
        super().__init__(f"op {record.name}", python_values(record.attrs))
        self._graph = graph
        self._record = record
        self._tensor = make_tensor(record.tensor or nouns.Tensor(record.name, ()), self)

    def get_name(self) -> str:
        """Return the name."""
        return self._record.name

    def get_type(self) -> str:
        """Return the type, such as "conv2d"."""
        return self._record.type

    def get_graph(self) -> Graph:
        """Return the graph it belongs to."""
        return self._graph

    def get_input_num(self, name: str | None = None) -> int:
        """Return the number of inputs, of one argument where it is named."""
        return len(self._record.all_inputs if name is None else self._record.inputs(name))

    def get_input_ops(self) -> dict[str, list[Op]]:
        """Return the ops that feed it, by argument."""
        return {argument.name: self.get_input_ops_by_name(argument.name) for argument in self._record.args}

    def get_input_ops_by_name(self, name: str) -> list[Op]:
        """Return the ops that feed one argument, in order."""
        return [self._graph.get_op(source) for source in self._record.inputs(name)]

    def get_input_op(self, name: str = "input", idx: int = 0) -> Op:
        """Return one op that feeds an argument."""
        return self.get_input_ops_by_name(name)[idx]

    def get_fanout_num(self) -> int:
        """Return the number of ops that read it."""
        return len(self.get_fanout_ops())

    def get_fanout_ops(self) -> list[Op]:
        """Return the ops that read it."""
        return [self._graph.get_op(name) for name in self._graph.record.consumers[self._record.name]]

    def get_input_tensors(self) -> list[Tensor]:
        """Return the tensors that it reads, argument by argument."""
        return [self._graph.get_op(name).get_output_tensor() for name in self._record.all_inputs]

    def get_input_tensors_by_name(self, name: str) -> list[Tensor]:
        """Return the tensors of one argument."""
        return [op.get_output_tensor() for op in self.get_input_ops_by_name(name)]

    def get_input_tensor(self, name: str = "input", idx: int = 0) -> Tensor:
        """Return one tensor of an argument."""
        return self.get_input_tensors_by_name(name)[idx]

    def get_output_tensor(self) -> Tensor:
        """Return the tensor that it makes, as the file declares it."""
        return self._tensor

    def __repr__(self) -> str:
        return f"<xir.Op named '{self.get_name()}'>"

    def __str__(self) -> str:
        return f"{{name: '{self.get_name()}', type: '{self.get_type()}', attrs: {self._attrs}}}"


class Subgraph(Attributed):
    """A named set of ops with attributes such as "device", and the smaller sets in it."""

    def __init__(
        self, graph: Graph, name: str, ops: Iterable[str], attrs: dict[str, Any], parent: Subgraph | None = None
    ) -> None:
        super().__init__(f"subgraph {name}", attrs)
        self._graph = graph
        self._title = name
        self._ops = tuple(ops)
        self._parent = parent
        self._children: tuple[Subgraph, ...] = ()

    def get_name(self) -> str:
        """Return the name."""
        return self._title

    def get_graph(self) -> Graph:
        """Return the graph it belongs to."""
        return self._graph

    def get_ops(self) -> set[Op]:
        """Return its ops."""
        return {self._graph.get_op(name) for name in self._ops}

    def get_op_num(self) -> int:
        """Return the number of its ops."""
        return len(self._ops)

    def has_op(self, op: str | Op) -> bool:
        """Tell whether an op, or the op of that name, is in it."""
        return (op if isinstance(op, str) else op.get_name()) in self._ops

    def toposort(self) -> list[Op]:
        """Return its ops, inputs first."""
        inside = set(self._ops)
        return [op for op in self._graph.toposort() if op.get_name() in inside]

    def get_input_tensors(self) -> set[Tensor]:
        """Return the tensors that it reads and does not make."""
        inside = set(self._ops)
        outside = {name for op in inside for name in self._graph.record.by_name[op].all_inputs} - inside
        return {self._graph.boundary_tensor(name) for name in outside}

    def get_output_tensors(self) -> set[Tensor]:
        """Return the tensors that it makes for others, or for nobody."""
        inside, consumers = set(self._ops), self._graph.record.consumers
        made = {name for name in inside if not consumers[name] or set(consumers[name]) - inside}
        return {self._graph.boundary_tensor(name) for name in made}

    def get_tensor_producer(self, tensor: Tensor) -> Op | None:
        """Return the op in it that makes a tensor, or None."""
        return next((op for op in self.get_ops() if op.get_output_tensor().name == tensor.name), None)

    @property
    def is_root(self) -> bool:
        """Whether it is the whole graph."""
        return self._parent is None

    @property
    def is_leaf(self) -> bool:
        """Whether it holds no smaller subgraphs."""
        return not self._children

    @property
    def root(self) -> Subgraph:
        """The whole graph."""
        return self if self._parent is None else self._parent.root

    @property
    def depth(self) -> int:
        """How far below the root it is."""
        return 0 if self._parent is None else self._parent.depth + 1

    def get_parent(self) -> Subgraph | None:
        """Return the subgraph that holds it."""
        return self._parent

    def get_children(self) -> set[Subgraph]:
        """Return the smaller subgraphs in it."""
        return set(self._children)

    def get_children_num(self) -> int:
        """Return the number of smaller subgraphs in it."""
        return len(self._children)

    def is_child(self, subgraph: Subgraph) -> bool:
        """Tell whether a subgraph is directly in it."""
        return subgraph in self._children

    def find_child_subgraph_by_op_name(self, name: str) -> Subgraph | None:
        """Return the child that holds the op of that name, or None."""
        return next((child for child in self._children if child.has_op(name)), None)

    def find_child_subgraph_by_op(self, op: Op) -> Subgraph | None:
        """Return the child that holds an op, or None."""
        return self.find_child_subgraph_by_op_name(op.get_name())

    def toposort_child_subgraph(self) -> list[Subgraph]:
        """Return the smaller subgraphs, those that feed others first."""
        owner = {name: child for child in self._children for name in child._ops}
        sorter: TopologicalSorter[Subgraph] = TopologicalSorter(dict.fromkeys(self._children, ()))
        for name, child in owner.items():
            sources = self._graph.record.by_name[name].all_inputs
            sorter.add(child, *{owner[source] for source in sources if owner.get(source, child) is not child})
        return list(sorter.static_order())

    def __repr__(self) -> str:
        return f"<xir.Subgraph named '{self._title}'>"

    def __str__(self) -> str:
        return f"{{name: '{self._title}', op_num: {len(self._ops)}, attrs: {self._attrs}}}"


class Graph(Attributed):
    """A whole xmodel; read one with Graph.deserialize.

    `record` is the graph as dpuforge reads it, `compiled` whether vai_c_xir wrote it.
    """

    def __init__(self, record: nouns.Graph) -> None:
        if not isinstance(record, nouns.Graph):
            raise RuntimeError("dpuforge's xir reads xmodels, it does not build them: use Graph.deserialize")
        super().__init__(f"graph {record.name}", python_values(record.attrs))
        self.record = record
        self.compiled = is_compiled(record)
        self._ops = {op.name: Op(self, op) for op in record.ops}
        self._fixed = {} if self.compiled else _fixed_tensors(record, self._ops)
        self._root = _compiled_root(self) if self.compiled else _emulated_root(self, split_graph(record))

    @staticmethod
    def deserialize(fname: str | os.PathLike[str]) -> Graph:
        """Read the .xmodel file; raise RuntimeError where it is none."""
        dpuforge_dropin.announce(NOTICE)
        try:
            return Graph(read_xmodel(os.fspath(fname)))
        except FormatError as error:
            raise RuntimeError(str(error)) from error

    def get_name(self) -> str:
        """Return the name."""
        return self.record.name

    def get_op(self, name: str) -> Op:
        """Return the op of that name; raise RuntimeError where there is none."""
        if name not in self._ops:
            raise RuntimeError(f"graph {self.record.name} has no op {name!r}")
        return self._ops[name]

    def get_ops(self) -> set[Op]:
        """Return all ops."""
        return set(self._ops.values())

    def get_op_num(self) -> int:
        """Return the number of ops."""
        return len(self._ops)

    def get_head_ops(self) -> set[Op]:
        """Return the ops that read nothing."""
        return {op for op in self._ops.values() if not op.get_input_num()}

    def get_tail_ops(self) -> set[Op]:
        """Return the ops that nothing reads."""
        return {self._ops[op.name] for op in self.record.outputs}

    def toposort(self) -> list[Op]:
        """Return all ops, inputs first."""
        return [self._ops[op.name] for op in order_ops(self.record)]

    def get_tensors(self) -> set[Tensor]:
        """Return the tensors of all ops."""
        return {op.get_output_tensor() for op in self._ops.values()}

    def get_tensor(self, name: str) -> Tensor:
        """Return the tensor of that name; raise RuntimeError where there is none."""
        for op in self._ops.values():
            if op.get_output_tensor().name == name:
                return op.get_output_tensor()
        raise RuntimeError(f"graph {self.record.name} has no tensor {name!r}")

    def get_tensor_producer(self, tensor: Tensor) -> Op | None:
        """Return the op that makes a tensor."""
        producer = self.get_tensor(tensor.name).producer
        return producer if isinstance(producer, Op) else None

    def get_root_subgraph(self) -> Subgraph:
        """Return the subgraph of everything."""
        return self._root

    def get_leaf_subgraph(self, op: Op) -> Subgraph | None:
        """Return the smallest subgraph that holds an op."""
        found = self._root
        while (child := found.find_child_subgraph_by_op(op)) is not None:
            found = child
        return None if found is self._root else found

    def boundary_tensor(self, name: str) -> Tensor:
        """Return what an op hands from one subgraph to another: integers where a `fix` of an uncompiled graph does."""
        return self._fixed.get(name) or self._ops[name].get_output_tensor()

    def __repr__(self) -> str:
        return f"<xir.Graph named '{self.record.name}'>"

    def __str__(self) -> str:
        return f"{{name: '{self.record.name}', op_num: {len(self._ops)}, attrs: {self._attrs}}}"


def _fixed_tensors(record: nouns.Graph, ops: dict[str, Op]) -> dict[str, Tensor]:
    wanted = ("fix_point", "bit_width", "if_signed", "round_mode")
    fixes = (op for op in record.ops if op.type == "fix" and op.tensor and all(name in op.attrs for name in wanted))
    return {op.name: make_fixed_tensor(op.tensor, ops[op.name]) for op in fixes if op.tensor}


def _compiled_root(graph: Graph) -> Subgraph:
    return _read_subgraph(graph, graph.record.root or nouns.SubGraph("root"), None)


def _read_subgraph(graph: Graph, record: nouns.SubGraph, parent: Subgraph | None) -> Subgraph:
    names = record.ops if parent else tuple(graph.record.by_name)
    known = [name for name in names if name in graph.record.by_name]
    made = Subgraph(graph, record.name, known, python_values(record.attrs), parent)
    made._children = tuple(_read_subgraph(graph, child, made) for child in record.children)
    return made


def _emulated_root(graph: Graph, parts: Parts) -> Subgraph:
    root = Subgraph(graph, "root", graph.record.by_name, _judged(graph) if parts.dpu else {})
    rows = (("USER", parts.user), ("DPU", parts.dpu), ("CPU", parts.cpu))
    root._children = tuple(_emulated_child(graph, root, device, names) for device, names in rows if names)
    return root


def _judged(graph: Graph) -> dict[str, Any]:
    """Return what the partition foresees, and say it where that is not the one DPU part shown here."""
    count = count_dpu_subgraphs(graph.record)
    if count is None:
        return {}
    if count != 1:
        text = f"the partition for {asked_target()} foresees {count} DPU subgraphs, shown here is one part"
        print(f"dpuforge: {text}: dpuforge estimate says why; {TARGET_VARIABLE} names another DPU", file=sys.stderr)
    return {"emulated": True, "target": asked_target(), "dpu_subgraphs": count}


def _emulated_child(graph: Graph, root: Subgraph, device: str, names: tuple[str, ...]) -> Subgraph:
    last = names[0] if device == "USER" else names[-1]
    attrs: dict[str, Any] = {"device": device, "emulated": True}
    if device == "DPU":
        attrs["runner"] = {"run": "dpuforge"}
    return Subgraph(graph, f"subgraph_{last.replace('/', '__')}", names, attrs, root)
