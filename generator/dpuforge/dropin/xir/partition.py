"""Uncompiled graph -> the parts that compiling would make: what the user feeds, what the DPU runs, what the CPU ends.

The emulation shows one DPU part, from the first `fix` to the last ones. Where an operator in between cannot run on a
DPU the compiler makes more: judge.py asks dpuforge's partition how many, and graph.py says it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dpuforge.xmodel.nouns import Graph, Op, SubGraph


@dataclass(frozen=True)
class Parts:
    """Names of the ops of each part, in the order of the file; all are empty where the graph is not quantised."""

    user: tuple[str, ...] = ()
    dpu: tuple[str, ...] = ()
    cpu: tuple[str, ...] = ()


def is_compiled(graph: Graph) -> bool:
    """Tell a graph that vai_c_xir wrote: its ops are the DPU's, or its root names devices."""
    children: Iterable[SubGraph] = graph.root.children if graph.root else ()
    return any(op.type.endswith("-fix") for op in graph.ops) or any("device" in child.attrs for child in children)


def split_graph(graph: Graph) -> Parts:
    """Return the parts of an uncompiled graph."""
    data = {op.name for op in graph.ops if op.type == "data"}
    entries = {op.name for op in graph.ops if op.type == "fix" and set(op.all_inputs) <= data and op.all_inputs}
    moving = _follow(graph, data)
    exits = _last_fixes(graph, [op for op in graph.outputs if op.name in moving])
    if not entries or not exits or exits & entries:
        return Parts()
    inside = _lead_to(graph, exits) - data - entries
    return Parts(
        tuple(op.name for op in graph.ops if op.name in data | entries),
        tuple(op.name for op in graph.ops if op.name in inside),
        tuple(op.name for op in graph.ops if op.name not in data | entries | inside),
    )


def _follow(graph: Graph, names: set[str]) -> set[str]:
    """Return what depends on the named ops, with them."""
    found, waiting = set(names), list(names)
    while waiting:
        for reader in graph.consumers[waiting.pop()]:
            if reader not in found:
                found.add(reader)
                waiting.append(reader)
    return found


def _lead_to(graph: Graph, names: set[str]) -> set[str]:
    """Return what the named ops depend on, with them."""
    found, waiting = set(names), list(names)
    while waiting:
        for source in graph.by_name[waiting.pop()].all_inputs:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def _last_fixes(graph: Graph, outputs: list[Op]) -> set[str]:
    """Return the nearest `fix` ops of moving data above every output (the outputs themselves where they are fixed)."""
    moving = _follow(graph, {op.name for op in graph.ops if op.type == "data"})
    found: set[str] = set()
    waiting = [op.name for op in outputs]
    seen = set(waiting)
    while waiting:
        op = graph.by_name[waiting.pop()]
        if op.type == "fix":
            found.add(op.name)
            continue
        above = [name for name in op.all_inputs if name in moving and name not in seen]
        seen.update(above)
        waiting += above
    return found
