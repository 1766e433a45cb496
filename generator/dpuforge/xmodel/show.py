"""Graph -> what a person wants to know of it: op types, fix positions, parameters, MACs, subgraphs on devices."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from dpuforge.xmodel.nouns import Attributes, Graph, Op, SubGraph
from dpuforge.xmodel.op_types import find_op_type
from dpuforge.xmodel.read import read_xmodel

PARAMETER_ARGS = frozenset({"weights", "bias", "scale"})


@dataclass(frozen=True)
class DeviceSubGraph:
    """A part of a compiled graph that one device runs; fingerprint is "0x..." or "" off the DPU."""

    name: str
    device: str
    dpu_name: str
    fingerprint: str


@dataclass(frozen=True)
class CompiledSummary:
    """What compiling gave: the number of DPU subgraphs, and the distinct targets and fingerprints that they name."""

    dpu_subgraphs: int
    targets: tuple[str, ...]
    fingerprints: tuple[str, ...]


def show_xmodel(graph: Graph) -> dict[str, Any]:
    """Return the summary that `dpuforge xmodel show --json` prints; `fix` maps each fixed op to its fix position."""
    return {
        "graph_name": graph.name,
        "op_types": dict(sorted(Counter(op.type for op in graph.ops).items())),
        "parameters": count_parameters(graph),
        "macs": count_macs(graph),
        "fix": fix_positions(graph),
        "subgraphs": [asdict(subgraph) for subgraph in device_subgraphs(graph)],
    }


def read_compiled(path: Path | str) -> CompiledSummary:
    """Read an .xmodel that vai_c_xir wrote and return what it targets. Raises FormatError on a broken file."""
    dpu = [subgraph for subgraph in device_subgraphs(read_xmodel(path)) if subgraph.device == "DPU"]
    return CompiledSummary(
        dpu_subgraphs=len(dpu),
        targets=tuple(sorted({subgraph.dpu_name for subgraph in dpu if subgraph.dpu_name})),
        fingerprints=tuple(sorted({subgraph.fingerprint for subgraph in dpu if subgraph.fingerprint})),
    )


def count_parameters(graph: Graph) -> int:
    """Return the number of trained values: elements of the constants that weights, biases and scales come from."""
    found: dict[str, int] = {}
    for op in graph.ops:
        for name in _parameter_inputs(op):
            source = _constant_behind(graph, graph.by_name[name])
            if source is not None:
                found[source.name] = prod(source.dims)
    return sum(found.values())


def count_macs(graph: Graph) -> int:
    """Return multiply-accumulates per image of convolutions and dense layers; a bias counts nothing."""
    return sum(_op_macs(graph, op) for op in graph.ops)


def fix_positions(graph: Graph) -> dict[str, int]:
    """Return the fix position of every op that has one: of a `fix` op's input, or of a compiled op's own tensor."""
    positions: dict[str, int] = {}
    for op in graph.ops:
        if op.type == "fix" and "fix_point" in op.attrs and op.inputs():
            positions[op.inputs()[0]] = op.attrs["fix_point"].value
        elif op.tensor is not None and "fix_point" in op.tensor.attrs:
            positions[op.name] = op.tensor.attrs["fix_point"].value
    return positions


def device_subgraphs(graph: Graph) -> tuple[DeviceSubGraph, ...]:
    """Return the subgraphs under the root that name a device; none before compiling."""
    children = graph.root.children if graph.root else ()
    return tuple(_device_subgraph(child) for child in children if "device" in child.attrs)


def _device_subgraph(subgraph: SubGraph) -> DeviceSubGraph:
    fingerprint = subgraph.attrs.get("dpu_fingerprint")
    text = "" if fingerprint is None else hex(fingerprint.value) if isinstance(fingerprint.value, int) else "?"
    return DeviceSubGraph(subgraph.name, _text(subgraph.attrs, "device"), _text(subgraph.attrs, "dpu_name"), text)


def _text(attrs: Attributes, key: str) -> str:
    return str(attrs[key].value) if key in attrs else ""


def _parameter_inputs(op: Op) -> tuple[str, ...]:
    names = tuple(name for arg in op.args if arg.name in PARAMETER_ARGS for name in arg.ops)
    return names + op.inputs()[1:] if op.type == "matmul" else names


def _constant_behind(graph: Graph, op: Op) -> Op | None:
    if op.type == "fix" and op.inputs():
        op = graph.by_name[op.inputs()[0]]
    return op if op.type.removesuffix("-fix") == "const" else None


def _op_macs(graph: Graph, op: Op) -> int:
    kind = op.type.removesuffix("-fix")
    if find_op_type(kind).convolution and op.inputs("weights"):
        weight = graph.by_name[op.inputs("weights")[0]].dims
        if kind.startswith("transposed"):  # every input pixel meets the whole kernel
            return prod(graph.by_name[op.inputs()[0]].dims[1:3]) * prod(weight) if op.inputs() else 0
        if kind == "depthwise-conv2d":
            return prod(op.dims[1:]) * prod(weight[1:3])
        return prod(op.dims[1:]) * prod(weight[1:])
    if kind == "matmul" and len(op.inputs()) == 2:
        return prod(op.dims[1:]) * graph.by_name[op.inputs()[0]].dims[-1] if graph.by_name[op.inputs()[0]].dims else 0
    return 0
