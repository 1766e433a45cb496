"""The graph noun of the emulator: what capture records, the passes rewrite, and quantisation, xmodel and hardware read.

How the pieces hang together, for those who build on them:

- `capture.capture_graph(module, example_inputs)` records a `Graph` of `Node`s in execution order, of nndct-style kinds
  ("nndct_conv2d", "nndct_relu", "nndct_elemwise_add", ...). Batch-norm, dropout and relu6 are still as written. It also
  works on the meta device; `capture.capture_shapes(module, (1, 3, 224, 224))` does it for a module on any device.
- `prepare.prepare_graph(graph, options)` returns the float graph as the DPU sees it: batch-norm folded, dropout
  removed, cross-layer equalised.
- `quantised.QuantisedGraph` is the one public object of a quantised network: `.graph` (the prepared graph),
  `.points` (which node's output is quantised), `.fix.output[node name] -> (bit width, fix position)`,
  `.fix.param[parameter key] -> (bit width, fix position)`, `.parameter(key)` (folded float tensor, bias corrected) and
  `.quantised_parameter(key)` (after fake quantisation; times 2**fix position it is the integer).

A Node's value is a tensor, or a tuple of tensors for split, chunk, topk and the like; a `Ref` with an index picks one.
Every node can be replayed by its `call`; the kinds the DPU knows also carry normalised `attributes`:

| kind | attributes |
|---|---|
| conv1d, conv2d, conv3d, depthwise_conv2d, conv_transpose_2d | kernel, stride, padding, dilation (tuples, [h, w]), |
| depthwise_conv_transpose_2d | the same: groups, in_channels, out_channels, and output_padding where transposed |
| dense | in_features, out_features |
| batch_norm | eps, features |
| maxpool, maxpool1d, avgpool | kernel, stride, padding, dilation, ceil_mode, count_include_pad, divisor_override |
| adaptive_avg_pool2d | output_size, kernel, stride (both None where the size does not divide) |
| leaky_relu | negative_slope; hardtanh, clamp: min, max; softmax, concat: dim |
| flatten | start_dim, end_dim; permute: order; reshape: shape; pad_nd: pad, mode, value |
| resize | scale, size, mode, align_corners |
| split, chunk, strided_slice, squeeze, unsqueeze, mean, sum, ... | the call's own arguments by name |

Parameters are named as in quant_info.json: "<Network>::<path in the module>", for example "ResNet::conv1.weight".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from dpuforge.emulator.graph.kinds import INPUT, Group, Point, Traits, traits_of
from dpuforge.emulator.graph.listing import number_names, watched_nodes
from dpuforge.emulator.graph.shadows import Shadow

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """The value of another node; index picks one tensor of a tuple."""

    node: str
    index: int | None = None


@dataclass(frozen=True)
class Param:
    """A tensor of the graph's store: parameter, buffer or constant."""

    key: str


@dataclass(frozen=True)
class BatchSize:
    """An integer that depends on the batch: scale * batch + offset."""

    scale: int
    offset: int = 0

    def resolve(self, batch: int) -> int:
        """Return the integer for a batch of this many inputs."""
        return self.scale * batch + self.offset


@dataclass(frozen=True)
class Call:
    """A recorded call; args and kwargs hold Ref, Param and BatchSize where tensors and batch sizes stood."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def rewrite(self, visit: Callable[[Any], Any]) -> Call:
        """Return the call with visit applied to every leaf of its arguments."""
        return Call(self.function, map_template(self.args, visit), map_template(dict(self.kwargs), visit))


@dataclass(frozen=True)
class Node:
    """One operator: its nndct kind, where its inputs come from, and where in the user's code it stands.

    shape is that of the (first) result; shapes lists them all where the value is a tuple. floating is False for
    integer and boolean results, which are never quantised; in_scope for what lies outside the stubs that delimit
    quantisation. inplace: the user's call wrote into its argument.
    shadow_inputs: the shapes and integers (Graph.shadows) that the call reads in the real tool's graph.
    """

    name: str
    kind: str
    call: Call
    inputs: tuple[Ref, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    shape: Shape = ()
    shapes: tuple[Shape, ...] = ()
    module_path: str = ""
    module_type: str = ""
    source: str = ""
    trace_index: int = 0
    floating: bool = True
    in_scope: bool = True
    inplace: bool = False
    shadow_inputs: tuple[str, ...] = ()

    @property
    def traits(self) -> Traits:
        """What is known of the node's kind: its row of kinds.py."""
        return traits_of(self.kind)

    @property
    def is_input(self) -> bool:
        """Whether the node is an input of the network."""
        return self.kind == INPUT

    @property
    def begins_scope(self) -> bool:
        """Whether quantisation begins here (QuantStub)."""
        return self.traits.group is Group.BORDER and self.traits.point is Point.OWN

    @property
    def ends_scope(self) -> bool:
        """Whether quantisation ends here (DeQuantStub)."""
        return self.traits.group is Group.BORDER and self.traits.point is Point.FLOAT

    @property
    def parametric(self) -> bool:
        """Whether the node has parameters that are quantised."""
        return self.traits.parametric and self.in_scope

    def input_names(self) -> tuple[str, ...]:
        """Return the names of the nodes read, in argument order, repeats kept."""
        return tuple(ref.node for ref in self.inputs)


def map_template(template: Any, visit: Callable[[Any], Any]) -> Any:
    """Rebuild nested lists, tuples, dicts and slices with visit applied to every leaf."""
    if isinstance(template, list):
        return [map_template(item, visit) for item in template]
    if isinstance(template, tuple):
        items = [map_template(item, visit) for item in template]
        return type(template)(*items) if hasattr(template, "_fields") else tuple(items)
    if isinstance(template, dict):
        return {key: map_template(item, visit) for key, item in template.items()}
    if isinstance(template, slice):
        return slice(*(map_template(part, visit) for part in (template.start, template.stop, template.step)))
    return visit(template)


def leaves(template: Any) -> Iterator[Any]:
    """Yield the leaves of nested lists, tuples, dicts and slices, in order."""
    if isinstance(template, (list, tuple)):
        for item in template:
            yield from leaves(item)
    elif isinstance(template, dict):
        for item in template.values():
            yield from leaves(item)
    elif isinstance(template, slice):
        yield from (template.start, template.stop, template.step)
    else:
        yield template


@dataclass(frozen=True)
class Graph:
    """A captured network: nodes in execution order and the tensors they use.

    frozen: lines where Python read a tensor's value, so that what followed holds for the example inputs only.
    shadows: nodes of the real tool's graph that compute nothing here. trained: keys of tensors that are parameters.
    constants: names of constants in the order of their numbers, where a calibration from elsewhere gave them others.
    """

    name: str
    nodes: tuple[Node, ...]
    outputs: Any
    tensors: Mapping[str, torch.Tensor]
    batch: int = 1
    frozen: tuple[str, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    trained: frozenset[str] = frozenset()
    constants: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Node:
        return self.index[name]

    @cached_property
    def index(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The network's inputs."""
        return tuple(node for node in self.nodes if node.is_input)

    @property
    def output_refs(self) -> tuple[Ref, ...]:
        """The values the network returns, in order."""
        return tuple(leaf for leaf in leaves(self.outputs) if isinstance(leaf, Ref))

    @property
    def has_stubs(self) -> bool:
        """Whether QuantStubs say what is quantised; else everything is."""
        return any(node.begins_scope for node in self.nodes)

    def consumers(self) -> dict[str, list[str]]:
        """Return, per node, the names of the nodes that read it, in order, each once; "return" for an output."""
        found: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.input_names()):
                found[name].append(node.name)
        for name in dict.fromkeys(ref.node for ref in self.output_refs):
            found[name].append("return")
        return found

    def watched(self) -> frozenset[str]:
        """Return the nodes whose shape the network reads: in the real tool's graph that is one more reader."""
        return watched_nodes(self)

    def replace_nodes(self, nodes: Iterable[Node]) -> Graph:
        """Return the graph with other nodes and the same tensors."""
        return replace(self, nodes=tuple(nodes))

    def without(self, substitutes: Mapping[str, Ref]) -> Graph:
        """Return the graph without some nodes; their readers read the substitutes (which may be removed, too)."""

        def visit(leaf: Any) -> Any:
            while isinstance(leaf, Ref) and leaf.node in substitutes:
                leaf = substitutes[leaf.node]
            return leaf

        nodes = tuple(
            replace(node, call=node.call.rewrite(visit), inputs=tuple(visit(ref) for ref in node.inputs))
            for node in self.nodes
            if node.name not in substitutes
        )
        gone = {name: visit(Ref(name)).node for name in substitutes}
        shadows = tuple(shadow.renamed(gone) for shadow in self.shadows)
        return replace(self, nodes=nodes, outputs=map_template(self.outputs, visit), shadows=shadows)

    def renamed(self, names: Mapping[str, str]) -> Graph:
        """Return the graph with some nodes under other names."""

        def visit(leaf: Any) -> Any:
            return Ref(names[leaf.node], leaf.index) if isinstance(leaf, Ref) and leaf.node in names else leaf

        nodes = tuple(
            replace(
                node,
                name=names.get(node.name, node.name),
                call=node.call.rewrite(visit),
                inputs=tuple(visit(ref) for ref in node.inputs),
            )
            for node in self.nodes
        )
        shadows = tuple(shadow.renamed(names) for shadow in self.shadows)
        return replace(self, nodes=nodes, outputs=map_template(self.outputs, visit), shadows=shadows)

    def without_dead(self) -> Graph:
        """Return the graph without nodes whose values reach no output; inputs stay."""
        alive = {ref.node for ref in self.output_refs}
        for node in reversed(self.nodes):
            if node.name in alive:
                alive.update(node.input_names())
        return self.replace_nodes(node for node in self.nodes if node.name in alive or node.is_input)

    def normalised_names(self) -> dict[str, str]:
        """Return quant_info.json's name per node, "<Net>::nndct_<type>_<number>", and the return node's."""
        return number_names(self)
