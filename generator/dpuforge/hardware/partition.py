"""Divides a network between DPU and CPU: each operator's device, the limit that decided, and the DPU subgraphs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dpuforge.hardware.fuse import fuse_operators
from dpuforge.hardware.limits import Target, find_refusal
from dpuforge.records.operator import Operator, OpKind


@dataclass(frozen=True)
class Placement:
    """Where one operator runs ("user" for the network's input); subgraph numbers the DPU subgraphs from 0."""

    operator: Operator
    device: str
    reason: str = ""
    remedy: str = ""
    subgraph: int = -1


@dataclass(frozen=True)
class Partition:
    """A whole network divided between DPU and CPU."""

    target: Target
    placements: tuple[Placement, ...]

    @property
    def dpu_subgraphs(self) -> int:
        """Number of DPU subgraphs that the compiler will make."""
        return len({placement.subgraph for placement in self.placements if placement.device == "dpu"})

    @property
    def cpu(self) -> tuple[Placement, ...]:
        """The operators that run on the CPU."""
        return tuple(placement for placement in self.placements if placement.device == "cpu")

    @property
    def dpu(self) -> tuple[Placement, ...]:
        """The operators that run on the DPU."""
        return tuple(placement for placement in self.placements if placement.device == "dpu")


# Operators that only rearrange stay where their producer ran.
_FOLLOWERS = (OpKind.RESHAPE, OpKind.IDENTITY)


def partition_operators(operators: Iterable[Operator], target: Target) -> Partition:
    """Place every operator and number the DPU subgraphs.

    A subgraph holds DPU operators that are connected and separated from the input by equally many CPU stretches: two
    that a CPU operator separates can never be one, since the board runs a subgraph in one go.
    """
    fused = fuse_operators(operators, target.dpu)
    devices: dict[str, str] = {}
    found: list[Placement] = []
    for operator in fused:
        placement = _place(operator, target, devices)
        devices[operator.name] = placement.device
        found.append(placement)
    numbers = _number_subgraphs(found)
    return Partition(target, tuple(_numbered(placement, numbers) for placement in found))


def _place(operator: Operator, target: Target, devices: dict[str, str]) -> Placement:
    if operator.kind is OpKind.INPUT:
        return Placement(operator, "user")
    if operator.stop:
        return Placement(operator, "cpu", f"cannot be run: {operator.stop}", "replace it, or end the network before it")
    refusal = find_refusal(operator, target)
    if refusal is not None:
        return Placement(operator, "cpu", refusal.reason, refusal.remedy)
    if operator.attributes.get("in_float"):
        return Placement(operator, "cpu", f"{operator.label or operator.kind}: its input is in float on the CPU")
    before = [devices.get(name, "user") for name in operator.inputs]
    if operator.kind in _FOLLOWERS and "dpu" not in before:
        return Placement(operator, "cpu", f"{operator.label or operator.kind}: its input is on the CPU")
    return Placement(operator, "dpu")


def _number_subgraphs(placements: list[Placement]) -> dict[str, int]:
    """Return the subgraph of every DPU operator, by union of neighbours at the same depth of CPU stretches."""
    depth: dict[str, int] = {}
    device = {placement.operator.name: placement.device for placement in placements}
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for placement in placements:
        name, inputs = placement.operator.name, placement.operator.inputs
        inputs = tuple(source for source in inputs if source in device)
        crossed = [depth[s] + (placement.device == "dpu" and device[s] == "cpu") for s in inputs]
        depth[name] = max(crossed, default=0)
        if placement.device != "dpu":
            continue
        parent[name] = name
        for source in inputs:
            if device[source] == "dpu" and depth[source] == depth[name]:
                parent[root(name)] = root(source)
    order = {found: index for index, found in enumerate(dict.fromkeys(root(name) for name in parent))}
    return {name: order[root(name)] for name in parent}


def _numbered(placement: Placement, numbers: dict[str, int]) -> Placement:
    number = numbers.get(placement.operator.name, -1)
    return Placement(placement.operator, placement.device, placement.reason, placement.remedy, number)
