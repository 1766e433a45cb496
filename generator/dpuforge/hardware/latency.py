"""Predicts how long a network takes on a board, layer by layer, from a few parameters fitted on published frame rates.

The parameters are data (latency_parameters.json), written by benchmarks/fit_latency.py; docs/latency_model.md tells
what they mean, how they were fitted and how large the error is on networks that were left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dpuforge.hardware.limits import Target
from dpuforge.hardware.partition import Partition
from dpuforge.hardware.workload import Work, alu_engine, convolution_work, measure_work
from dpuforge.records.hardware import BoardTarget
from dpuforge.records.operator import Operator, OpKind, count_elements

if TYPE_CHECKING:
    import numpy as np

# The larger of computing and moving data decides, with a soft corner: (x^4 + y^4)^(1/4).
SHARPNESS = 4.0
_LARGEST_ON_CHIP = 1 << 26
# host_ms is the host's time for an image of 224 x 224, the input of most classifiers whose published frame rates the
# parameters were fitted on (docs/latency_model.md).
REFERENCE_PIXELS = 224 * 224
_PARAMETERS = Path(__file__).with_name("latency_parameters.json")


# One layer's figures are numbers; the fit works on those of all layers at once, as arrays.
Numbers = TypeVar("Numbers", float, "np.ndarray[Any, np.dtype[np.float64]]")


@dataclass(frozen=True)
class Cost(Generic[Numbers]):
    """What a DPU operator costs for one image: engine cycles at full rate, and bytes over the memory bus.

    bank_bytes is the on-chip memory for feature maps. dense is 1 for a matrix times a vector, else 0: every weight is
    used once, so that only the bus counts.
    """

    conv_cycles: Numbers
    depthwise_cycles: Numbers
    misc_cycles: Numbers
    weight_bytes: Numbers
    input_bytes: Numbers
    output_bytes: Numbers
    bank_bytes: Numbers
    dense: Numbers


@dataclass(frozen=True)
class Layer:
    """One DPU operator with its work and its cost."""

    operator: Operator
    work: Work
    cost: Cost[float]


@dataclass(frozen=True)
class Parameters:
    """The fitted constants of one group of boards; factors multiply the time at full rate, times are milliseconds."""

    conv_factor: float
    depthwise_factor: float
    misc_factor: float
    layer_ms: float
    run_ms: float
    host_ms: float
    weight_factor: float
    dense_factor: float
    reuse: float
    bandwidth: float
    contention: float
    host_parallel_ms: float

    def with_cores(self, cores: int) -> Parameters:
        """Return the parameters while several cores share the memory."""
        return replace(self, bandwidth=self.bandwidth / (1 + self.contention * (cores - 1)))


@dataclass(frozen=True)
class Fit:
    """Parameters for one board with their 80 % band: factors on the single- and multi-threaded frame rate."""

    parameters: Parameters
    single_band: tuple[float, float]
    multi_band: tuple[float, float]
    group: str
    fitted: bool
    source: str


@dataclass(frozen=True)
class LayerTime:
    """One layer of the per-layer table; bound says what decides its time: "compute", "memory" or "start"."""

    layer: Layer
    milliseconds: float
    compute_ms: float
    memory_ms: float
    bound: str


def list_layers(partition: Partition) -> tuple[Layer, ...]:
    """Return every operator on the DPU with its cost; those that only rename a tensor cost nothing and are left out."""
    return tuple(
        _make_layer(placement.operator, partition.target)
        for placement in partition.dpu
        if placement.operator.kind not in (OpKind.RESHAPE, OpKind.IDENTITY, OpKind.CONCAT)
    )


def _make_layer(operator: Operator, target: Target) -> Layer:
    dpu = target.dpu
    work = measure_work(operator, dpu, target.family)
    rate = target.rule("conv_ops_per_cycle", dpu.peak_ops_per_cycle)
    conv = depthwise = misc = 0.0
    if operator.kind in (OpKind.CONV, OpKind.DENSE):
        conv = convolution_work(operator, dpu).on_arch / rate
    elif operator.kind is OpKind.TRANSPOSED:
        conv = work.on_arch / rate
    elif operator.kind is OpKind.DEPTHWISE:
        depthwise = work.on_arch / _rate(target, "alu", "dwconv")
    elif operator.kind in (OpKind.MAX_POOL, OpKind.AVERAGE_POOL):
        misc = work.on_arch / _rate(target, "alu", "pool")
    elif operator.kind in (OpKind.ADD, OpKind.MUL):
        misc = work.on_arch / _rate(target, "eltwise", "alu")
    inputs = float(sum(count_elements(shape) for shape in operator.in_shapes))
    outputs = float(count_elements(operator.out_shape))
    dense = float(operator.out_size == (1, 1))
    kept = image_bytes(target)
    return Layer(operator, work, Cost(conv, depthwise, misc, float(operator.weights), inputs, outputs, kept, dense))


def image_bytes(target: Target) -> float:
    """Return the on-chip memory of one batch engine for feature maps (0 where its banks lie in HBM, as on 8L)."""
    banks = [target.dpu.bank(name) for name in target.dpu.engines["conv"].input_banks]
    size = sum(bank.size_bytes for bank in banks if bank is not None)
    return float(size) if size < _LARGEST_ON_CHIP else 0.0


def compute_and_memory_ms(
    cost: Cost[Numbers], parameters: Parameters, clock_mhz: float, batch: int
) -> tuple[Numbers, Numbers]:
    """Return the milliseconds that the engines compute, and that data move, in one run over batch images.

    The engines of a batch compute side by side, so that compute is that of one image; they share each weight.
    """
    cycles = (
        parameters.conv_factor * cost.conv_cycles
        + parameters.depthwise_factor * cost.depthwise_cycles
        + parameters.misc_factor * cost.misc_cycles
    )
    factor = parameters.weight_factor + (parameters.dense_factor - parameters.weight_factor) * cost.dense
    kept = parameters.reuse * cost.bank_bytes
    maps = spilled_bytes(cost.input_bytes, kept) + spilled_bytes(cost.output_bytes, kept)
    moved = factor * cost.weight_bytes + batch * maps
    return cycles / (clock_mhz * 1e3), moved / (parameters.bandwidth * 1e6)


def spilled_bytes(size: Numbers, kept: Numbers) -> Numbers:
    """Return the bytes of a feature map that leave the chip: all of a large one, few of one that fits into kept."""
    return size * size / (size + kept + 1.0)


def soft_max(left: Numbers, right: Numbers) -> Numbers:
    """Return the larger of two times with a soft corner."""
    larger: Numbers = (left**SHARPNESS + right**SHARPNESS) ** (1 / SHARPNESS)
    return larger


def predict_layer(layer: Layer, parameters: Parameters, clock_mhz: float, batch: int) -> LayerTime:
    """Return the time of one layer in a run over batch images, and what decides it."""
    compute, memory = compute_and_memory_ms(layer.cost, parameters, clock_mhz, batch)
    total = soft_max(compute, memory) + parameters.layer_ms
    bound = "start" if parameters.layer_ms > max(compute, memory) else "compute" if compute >= memory else "memory"
    return LayerTime(layer, total, compute, memory, bound)


def predict_run_ms(layers: tuple[Layer, ...], parameters: Parameters, clock_mhz: float, batch: int) -> float:
    """Return the milliseconds of one DPU run: all layers, and starting it (Parameters.run_ms)."""
    times = (predict_layer(layer, parameters, clock_mhz, batch).milliseconds for layer in layers)
    return sum(times) + parameters.run_ms


def single_latency_ms(run_ms: float, parameters: Parameters, batch: int, pixels: int) -> float:
    """Return the end-to-end latency of one thread: host work on each image of the batch, then the DPU run.

    Host work grows with the side of the input (0.2 to 1 ms at 224 x 224).
    """
    return run_ms + batch * parameters.host_ms * float((pixels / REFERENCE_PIXELS) ** 0.5)


def multi_fps(run_ms: float, parameters: Parameters, batch: int, cores: int) -> float:
    """Return frames per second with enough threads: all cores busy, or the host's own limit."""
    return 1e3 / soft_max(run_ms / (batch * cores), parameters.host_parallel_ms)


@cache
def _document() -> Mapping[str, Any]:
    document: dict[str, Any] = json.loads(_PARAMETERS.read_text(encoding="utf-8"))
    return document


def find_fit(board: BoardTarget, isa: int) -> Fit | None:
    """Return the parameters for a board and release, or None where no published figure covers its DPU family.

    A board that was not measured gets the geometric mean of its group and a band twice as wide (in logarithms).
    """
    groups = [group for group in _document()["groups"] if group["family"] == board.family]
    if not groups:
        return None
    group = min(groups, key=lambda item: (_distance(item, board), item["isa"] != isa, _strangeness(item, board)))
    keys = [key for key in (board.configuration, board.board) if key in group["boards"]]
    values = group["boards"][keys[0]] if keys else _average(list(group["boards"].values()))
    widen = 1.0 if keys and group["isa"] == isa and board.release in group["releases"] else 2.0
    bands = [tuple(edge**widen for edge in group["band"][name]) for name in ("single", "multi")]
    return Fit(
        Parameters(**group["parameters"], **values),
        (bands[0][0], bands[0][1]),
        (bands[1][0], bands[1][1]),
        group["name"],
        bool(keys),
        _document()["source"],
    )


def _distance(group: Mapping[str, Any], board: BoardTarget) -> float:
    """How far a board's release is from those of a group: the same, then the nearest."""
    wanted = _ordinal(board.release)
    return min(abs(_ordinal(release) - wanted) for release in group["releases"])


def _strangeness(group: Mapping[str, Any], board: BoardTarget) -> int:
    """0 where the group has figures of the very configuration, 1 of the board, 2 of neither."""
    names = (board.configuration, board.board)
    return next((rank for rank, name in enumerate(names) if name in group["boards"]), len(names))


def _ordinal(release: str) -> float:
    major, _, rest = release.partition(".")
    return float(f"{major}.{rest.replace('.', '')}")


def _average(values: list[Mapping[str, float]]) -> dict[str, float]:
    """Return the geometric mean of each constant over the boards of a group."""
    return {key: prod(value[key] for value in values) ** (1 / len(values)) for key in values[0]}


def _rate(target: Target, *names: str) -> int:
    """Operations per cycle of an engine: a multiply and an add for each channel of each pixel."""
    engine = alu_engine(target.dpu, *names)
    return 2 * engine.channels * engine.pixels
