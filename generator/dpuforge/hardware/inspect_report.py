"""Writes the Inspector's report: the tool's own file inspect_<target>.txt field by field, and a summary for people.

The fields and their names are those of pytorch_nndct 2.5 to 3.5; no recorded file was at hand, so that spacing and
order beyond the field list are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from dpuforge.hardware.partition import Partition, Placement
from dpuforge.records.operator import Operator, OpKind

_RULE = "=" * 80


def inspect_file_name(target: str) -> str:
    """Return the name of the tool's report for a target name or fingerprint."""
    return f"inspect_{target}.txt"


def render_inspect_file(partition: Partition, operators: Iterable[Operator], emulated: bool = True) -> str:
    """Return the text of inspect_<target>.txt: one block per operator of the captured network, fused or not.

    An operator that was merged into another is assigned where that one is.
    """
    places = _places(partition)
    readers = _readers(tuple(operators := list(operators)))
    head = [f"target: {partition.target.dpu.target}", f"DPU subgraphs: {partition.dpu_subgraphs}"]
    if emulated:
        head.insert(0, "emulated by dpuforge: predicted from published operator limits, not by AMD's compiler")
    blocks = [_block(operator, places[operator.name], readers) for operator in operators if operator.name in places]
    return "\n".join([*head, _RULE, *blocks]) + "\n"


def render_summary(partition: Partition) -> str:
    """Return what a person wants to know: subgraphs, and for each distinct reason its modules and what to change."""
    cpu = partition.cpu
    total = len(cpu) + len(partition.dpu)
    lines = [f"{partition.target.dpu.target}: {total - len(cpu)} of {total} operators on the DPU"]
    lines[0] += f", {partition.dpu_subgraphs} DPU subgraph{'s' if partition.dpu_subgraphs != 1 else ''}"
    counts = Counter((placement.reason, placement.remedy) for placement in cpu)
    for (reason, remedy), count in counts.most_common():
        examples = [placement.operator for placement in cpu if placement.reason == reason][:3]
        where = "; ".join(_where(operator) for operator in examples) + (" ..." if count > len(examples) else "")
        lines.append(f"  CPU ({count}x): {reason}")
        lines.append(f"    at {where}")
        if remedy:
            lines.append(f"    help: {remedy}")
    return "\n".join(lines) + "\n"


def cpu_rows(partition: Partition) -> tuple[tuple[str, str, str], ...]:
    """Return (node, type, reason) of the table that Inspector prints for operators on the CPU."""
    return tuple((p.operator.name, p.operator.label or str(p.operator.kind), p.reason) for p in partition.cpu)


def _places(partition: Partition) -> Mapping[str, Placement]:
    found: dict[str, Placement] = {}
    for placement in partition.placements:
        for name in (placement.operator.name, *placement.operator.merged):
            found[name] = placement
    return found


def _readers(operators: tuple[Operator, ...]) -> Mapping[str, list[str]]:
    readers: dict[str, list[str]] = {operator.name: [] for operator in operators}
    for operator in operators:
        for name in dict.fromkeys(operator.inputs):
            readers.setdefault(name, []).append(operator.name)
    return readers


def _block(operator: Operator, placement: Placement, readers: Mapping[str, list[str]]) -> str:
    merged = operator.name != placement.operator.name
    message = f"merged into {placement.operator.name}" if merged else placement.remedy
    rows = [
        ("node name", operator.name),
        ("input nodes", ", ".join(operator.inputs) or "-"),
        ("output nodes", ", ".join(readers.get(operator.name, [])) or "-"),
        ("op type", operator.label or str(operator.kind)),
        ("output shape", str(list(operator.out_shape))),
        ("op attributes", _attributes(operator)),
        ("assigned device", placement.device),
        ("hardware constraints", placement.reason or "-"),
        ("node messages", message or "-"),
        ("source range", operator.source or "-"),
    ]
    return "\n".join([*(f"{name}: {value}" for name, value in rows), _RULE])


_WITH_WINDOW = (
    OpKind.CONV,
    OpKind.DEPTHWISE,
    OpKind.TRANSPOSED,
    OpKind.DEPTHWISE_TRANSPOSED,
    OpKind.MAX_POOL,
    OpKind.AVERAGE_POOL,
)


def _attributes(operator: Operator) -> str:
    values = dict(operator.attributes)
    if operator.kind in _WITH_WINDOW:
        values |= {"kernel": operator.kernel, "stride": operator.stride, "pad": operator.pad}
        values |= {"dilation": operator.dilation, "groups": operator.groups}
    return ", ".join(f"{name}={value}" for name, value in sorted(values.items())) or "-"


def _where(operator: Operator) -> str:
    place = operator.module or operator.name
    return f"{place} ({operator.source})" if operator.source else place
