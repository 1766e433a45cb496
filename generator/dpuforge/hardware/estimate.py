"""Answers `dpuforge estimate`: partition, workload, latency and frame rate of a network on a board, with a band."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dpuforge.hardware.dpu_features import find_dpu
from dpuforge.hardware.latency import (
    Fit,
    LayerTime,
    find_fit,
    list_layers,
    multi_fps,
    predict_layer,
    predict_run_ms,
    single_latency_ms,
)
from dpuforge.hardware.limits import Target
from dpuforge.hardware.partition import Partition, partition_operators
from dpuforge.hardware.workload import Work, measure_work
from dpuforge.records.hardware import BoardTarget, Catalogue
from dpuforge.records.operator import Operator, OpKind, count_elements

# Not fitted: no published figure isolates a CPU operator. One float element read or written by a Cortex-A53, with its
# conversion from and to int8, and one multiply-add of a convolution that fell back.
ASSUMED_CPU_NS = 2.0
ASSUMED_CPU_MAC_NS = 0.25
ASSUMED_CPU_THREADS = 4
ASSUMED_CLOCK_MHZ = 300.0

Band = tuple[float, float, float]


@dataclass(frozen=True)
class Estimate:
    """What a network does on a board: bands are (low, mid, high) at 80 %; None where nothing was published to fit."""

    board: BoardTarget
    partition: Partition
    work: Work
    layers: tuple[LayerTime, ...]
    latency_ms: Band | None
    fps_single: Band | None
    fps_multi: Band | None
    peak_gops: float
    bandwidth_gb_per_s: float
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the document of `estimate --json`."""
        return {
            "target": self.board.target,
            "board": self.board.board,
            "release": self.board.release,
            "dpu_subgraphs": self.partition.dpu_subgraphs,
            "cpu_ops": [
                {
                    "op": placement.operator.name,
                    "module": placement.operator.module,
                    "reason": placement.reason,
                    "help": placement.remedy,
                    "source": placement.operator.source,
                    "stop": placement.operator.stop,
                }
                for placement in self.partition.cpu
            ],
            "workload": self.work.workload,
            "workload_on_arch": self.work.on_arch,
            "latency_ms": _rounded(self.latency_ms),
            "fps": {"single": _rounded(self.fps_single), "multi": _rounded(self.fps_multi)},
            "layers": [_layer_json(time) for time in self.layers],
            "roofline": {"peak_gops": self.peak_gops, "bandwidth_gb_per_s": self.bandwidth_gb_per_s},
            "notes": list(self.notes),
        }


def find_target(catalogue: Catalogue, board: BoardTarget) -> Target:
    """Return the DPU of a resolved board with the rules of its family."""
    dpu = find_dpu(catalogue, board.target, board.fingerprint, board.release)
    return Target(dpu, catalogue.families[board.family])


def estimate_operators(operators: Iterable[Operator], board: BoardTarget, target: Target) -> Estimate:
    """Predict partition, workload, latency and frame rates of a network (operators of one image) on a board."""
    network = tuple(operators)
    partition = partition_operators(network, target)
    work = sum((measure_work(p.operator, target.dpu, target.family) for p in partition.dpu), Work())
    clock = board.clock_mhz or ASSUMED_CLOCK_MHZ
    fit = find_fit(board, target.dpu.isa)
    rate = target.rule("conv_ops_per_cycle", target.dpu.peak_ops_per_cycle)
    peak = rate * board.batch * clock / 1e3
    if fit is None:
        notes = (f"no published frame rate covers {board.family}: the time is not estimated",)
        return Estimate(board, partition, work, (), None, None, None, peak, 0.0, notes)
    layers = list_layers(partition)
    times = tuple(predict_layer(layer, fit.parameters, clock, board.batch) for layer in layers)
    latency, single, multi = _rates(partition, network, board, target, fit, clock)
    bandwidth = fit.parameters.bandwidth
    return Estimate(
        board, partition, work, times, latency, single, multi, peak, bandwidth, _notes(partition, board, fit)
    )


def _rates(
    partition: Partition, network: tuple[Operator, ...], board: BoardTarget, target: Target, fit: Fit, clock: float
) -> tuple[Band, Band, Band]:
    layers, parameters, batch = list_layers(partition), fit.parameters, board.batch
    cores = 1 if target.rule("engines_are_batch", False) else board.cores
    restarts = max(0, partition.dpu_subgraphs - 1) * parameters.run_ms
    cpu = _cpu_ms(partition) * batch
    alone = predict_run_ms(layers, parameters, clock, batch) + restarts
    together = predict_run_ms(layers, parameters.with_cores(cores), clock, batch) + restarts
    latency = single_latency_ms(alone, parameters, batch, _pixels(network)) + cpu
    busy = max(together, cpu * cores / ASSUMED_CPU_THREADS)
    low, high = fit.single_band
    single = batch * 1e3 / latency
    multi = multi_fps(busy, parameters, batch, cores)
    widen = _doubt(partition, cpu, latency)
    return (
        (latency / (high * widen), latency, latency / (low / widen)),
        (single * low / widen, single, single * high * widen),
        (multi * fit.multi_band[0] / widen, multi, multi * fit.multi_band[1] * widen),
    )


def _doubt(partition: Partition, cpu: float, latency: float) -> float:
    """Widen the band by what the assumed CPU times could add: their share of the latency, taken twice."""
    return 1.0 + 2.0 * min(1.0, cpu / latency) if partition.cpu else 1.0


def _cpu_ms(partition: Partition) -> float:
    nanoseconds = 0.0
    for placement in partition.cpu:
        operator = placement.operator
        if operator.kind is not OpKind.RESHAPE:
            moved = sum(count_elements(shape) for shape in (*operator.in_shapes, operator.out_shape))
            sums = operator.weights * operator.out_size[0] * operator.out_size[1]
            nanoseconds += moved * ASSUMED_CPU_NS + sums * ASSUMED_CPU_MAC_NS
    return nanoseconds * 1e-6


def _pixels(network: tuple[Operator, ...]) -> int:
    shape = next((o.out_shape for o in network if o.kind is OpKind.INPUT and len(o.out_shape) == 4), (1, 224, 224, 3))
    return shape[1] * shape[2]


def _notes(partition: Partition, board: BoardTarget, fit: Fit) -> tuple[str, ...]:
    notes = [f"estimated from published frame rates ({fit.group}); not measured"]
    if not fit.fitted:
        notes.append(f"no published figure for {board.board}: mean of its group, band twice as wide")
    if board.clock_mhz is None:
        notes.append(f"clock of {board.board} is not known: {ASSUMED_CLOCK_MHZ:g} MHz assumed")
    if partition.cpu:
        notes.append(f"time of CPU operators is assumed ({ASSUMED_CPU_NS:g} ns per element), not fitted")
    return tuple(notes)


def _layer_json(time: LayerTime) -> Mapping[str, Any]:
    layer, operator, cost = time.layer, time.layer.operator, time.layer.cost
    moved = cost.weight_bytes + cost.input_bytes + cost.output_bytes
    return {
        "op": operator.name,
        "type": str(operator.kind),
        "module": operator.module,
        "shape": list(operator.out_shape),
        "workload": layer.work.workload,
        "workload_on_arch": layer.work.on_arch,
        "ms": round(time.milliseconds, 5),
        "compute_ms": round(time.compute_ms, 5),
        "memory_ms": round(time.memory_ms, 5),
        "bound": time.bound,
        "ops_per_byte": round(layer.work.workload / moved, 2) if moved else 0.0,
    }


def _rounded(values: Band | None) -> list[float] | None:
    return [round(value, 3) for value in values] if values is not None else None
