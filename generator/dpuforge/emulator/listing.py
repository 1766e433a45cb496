"""Writes the quantised graph as a text that a person can read: the tool's <Network>.py."""

from __future__ import annotations

from dpuforge.emulator.quantised import QuantisedGraph


def list_graph(quantised: QuantisedGraph) -> str:
    """Return a Python file whose tuple NODES lists index, kind, inputs, parameters, shape, point and source line."""
    graph = quantised.graph
    names = graph.normalised_names()
    lines = [
        f'"""{graph.name} as the emulator of dpuforge quantises it: one row per operator, in order of execution.',
        "",
        "(name, inputs, parameters, output shape, quantised at its output, module)",
        '"""',
        "",
        "NODES = (",
    ]
    for node in graph.nodes:
        row = (
            names[node.name],
            tuple(names[name] for name in node.input_names()),
            tuple(node.parameters.values()),
            node.shape,
            node.name in quantised.points,
            node.module_path,
        )
        lines.append(f"    {row!r},")
    return "\n".join([*lines, ")", ""])
