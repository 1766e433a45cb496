"""Which ops hold what forward returns, in its order.

A file's own order is another, and an output that is read inside is no leaf. AMD's files do not say it; dpuforge's carry
it in one attribute of the graph where there are several outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from dpuforge.xmodel.nouns import Attribute, Graph, Kind

OUTPUTS = "dpuforge_outputs"


def outputs_attribute(names: Sequence[str]) -> Attribute:
    """Return the graph's attribute that names the ops of forward's outputs."""
    return Attribute(Kind.STRING_VEC, tuple(names))


def knows_forward(graph: Graph) -> bool:
    """Say whether the order of a file's outputs is forward's: there is one, or the file says it."""
    return OUTPUTS in graph.attrs or len(graph.outputs) == 1


def forward_outputs(graph: Graph) -> tuple[str, ...]:
    """Return the names of the ops that hold the outputs: in forward's order where the file says it, else the leaves."""
    found = graph.attrs.get(OUTPUTS)
    told = found.value if found is not None and found.kind is Kind.STRING_VEC else ()
    known = bool(told) and all(name in graph.by_name for name in told)
    return tuple(told) if known else tuple(op.name for op in graph.outputs)
