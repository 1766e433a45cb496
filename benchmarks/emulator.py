"""Measures the emulator side by side with the float network: evaluation, calibration, set-up, peak memory.

    python benchmarks/emulator.py [--repetitions 7] [--networks resnet18 ...] [--write docs/benchmark_emulator.md]

Every repetition runs float, evaluation and calibration one after the other on the same images, so that a busy machine
slows all of them; times are medians, ratios are medians of the repetitions' ratios. Memory is the peak of processes of
their own.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.quantise.settings import default_settings
from dpuforge.emulator.quantised_graph import QuantisedGraph

NETWORKS = ("resnet18", "mobilenet_v2")
BATCHES = (32, 1)
THREADS = (1, 2)
SIZE_PX = 224
EVALUATION_GOAL, CALIBRATION_GOAL = 0.35, 2.0  # times the float forward
EVALUATION_MEMORY_GOAL, CALIBRATION_MEMORY_GOAL = 1.5, 2.5  # times the float run's peak
SETUP_GOAL_S = 3.0
MEMORY_RUNS = ("float", "evaluate", "calibrate")


@dataclass(frozen=True)
class Timing:
    """Medians of one network at one batch size and number of threads: milliseconds per image, ratios to float."""

    network: str
    batch: int
    threads: int
    float_ms: float
    evaluation_ms: float
    calibration_ms: float
    evaluation_ratio: float
    calibration_ratio: float
    evaluation_cpu_ratio: float
    calibration_cpu_ratio: float
    load: float


def build(name: str) -> torch.nn.Module:
    """Return a network with reproducible weights (speed does not depend on them) in evaluation mode."""
    torch.manual_seed(0)
    network: torch.nn.Module = getattr(torchvision.models, name)(weights=None)
    return network.eval()


def make_images(count: int) -> torch.Tensor:
    """Return reproducible images (count, 3, 224, 224) of about the usual spread."""
    return torch.randn(count, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(1))


def set_up(network: torch.nn.Module) -> QuantisedGraph:
    """Capture, fold and equalise a network."""
    return QuantisedGraph(capture_graph(network, (make_images(1),)), default_settings())


def calibrated(network: torch.nn.Module) -> QuantisedGraph:
    """Return a network ready for evaluation, calibrated on one image."""
    quantised = set_up(network)
    quantised.calibrate((make_images(1),))
    quantised.finish_calibration()
    return quantised


def clock(run: Callable[[], object]) -> tuple[float, float]:
    """Return wall and processor seconds of one run."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(name: str, batch: int, threads: int, repetitions: int) -> Timing:
    """Time one network, interleaved."""
    torch.set_num_threads(threads)
    network, images = build(name), make_images(batch)
    evaluated, learning = calibrated(network), set_up(network)
    runs: tuple[Callable[[], object], ...] = (
        lambda: network(images),
        lambda: evaluated.test((images,)),
        lambda: learning.calibrate((images,)),
    )
    load = os.getloadavg()[0]
    with torch.no_grad():
        for run in runs:
            run()
        rows = [[clock(run) for run in runs] for _ in range(repetitions)]
    assert evaluated.evaluation_path is not None
    found = summarise(name, batch, threads, rows, load)
    print(f"{name}, batch {batch}, {threads} thread(s): {evaluated.evaluation_path}: {found}", file=sys.stderr)
    return found


def summarise(name: str, batch: int, threads: int, rows: list[list[tuple[float, float]]], load: float) -> Timing:
    """Reduce the repetitions to medians."""

    def per_image(position: int) -> float:
        return statistics.median(row[position][0] for row in rows) / batch * 1e3

    def ratio(position: int, kind: int) -> float:
        return statistics.median(row[position][kind] / row[0][kind] for row in rows)

    times = (per_image(0), per_image(1), per_image(2))
    return Timing(name, batch, threads, *times, ratio(1, 0), ratio(2, 0), ratio(1, 1), ratio(2, 1), load)


# -- memory and set-up -------------------------------------------------------------------------------------------


def own_peak_mib() -> float:
    """Return this process's peak memory; rusage would count the parent's, from before the program was loaded."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def run_for_memory(kind: str, name: str) -> None:
    """Print this process's peak memory, in MiB, before the network is built and after three batches of one kind."""
    torch.set_num_threads(1)
    print(own_peak_mib())
    network, images = build(name), make_images(BATCHES[0])
    with torch.no_grad():
        if kind == "float":
            run: Callable[[], object] = lambda: network(images)  # noqa: E731
        elif kind == "evaluate":
            evaluated = calibrated(network)
            run = lambda: evaluated.test((images,))  # noqa: E731
        else:
            learning = set_up(network)
            run = lambda: learning.calibrate((images,))  # noqa: E731
        for _ in range(3):
            run()
    print(own_peak_mib())


def peak_mib(kind: str, name: str) -> tuple[float, float]:
    """Return the peak memory of a process that runs one kind: of the whole, and of what came after the imports."""
    command = [sys.executable, __file__, "--memory-run", kind, name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    start, peak = map(float, done.stdout.split())
    return peak, peak - start


def setup_seconds(name: str, repetitions: int) -> float:
    """Return the median seconds of capture, folding and equalisation, on one thread."""
    torch.set_num_threads(1)
    network = build(name)
    return statistics.median(clock(lambda: set_up(network))[0] for _ in range(repetitions))


# -- the report --------------------------------------------------------------------------------------------------


def machine() -> str:
    """Return the processor's model, its cores and the versions that matter."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{model}, {os.cpu_count()} cores, {capability}; Python {platform.python_version()}, torch {torch.__version__}"
    )


def verdict(value: float, goal: float) -> str:
    """Return the value with whether it meets its goal."""
    return f"{value:.2f} ({'goal met' if value <= goal else 'goal missed'}: {goal:g})"


def timing_lines(timings: list[Timing]) -> Iterator[str]:
    """Yield the table of times."""
    yield "| network | batch | threads | float ms/image | evaluation ms/image | ratio | of processor time |" + (
        " calibration ms/image | ratio | of processor time | load before |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for row in timings:
        yield (
            f"| {row.network} | {row.batch} | {row.threads} | {row.float_ms:.1f} | {row.evaluation_ms:.1f} "
            f"| **{row.evaluation_ratio:.2f}** | {row.evaluation_cpu_ratio:.2f} | {row.calibration_ms:.1f} "
            f"| **{row.calibration_ratio:.2f}** | {row.calibration_cpu_ratio:.2f} | {row.load:.1f} |"
        )


def memory_lines(networks: list[str]) -> Iterator[str]:
    """Measure and yield the table of peak memory."""
    yield "| network | float MiB | evaluation MiB | ratio | calibration MiB | ratio | both ratios without the imports |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name in networks:
        (plain, plain_own), (evaluated, own), (learning, learning_own) = (peak_mib(kind, name) for kind in MEMORY_RUNS)
        yield (
            f"| {name} | {plain:.0f} | {evaluated:.0f} | {verdict(evaluated / plain, EVALUATION_MEMORY_GOAL)} "
            f"| {learning:.0f} | {verdict(learning / plain, CALIBRATION_MEMORY_GOAL)} "
            f"| {own / plain_own:.2f}, {learning_own / plain_own:.2f} |"
        )


def goal_lines(timings: list[Timing]) -> Iterator[str]:
    """Yield which goals the times meet."""
    for row in timings:
        where = f"{row.network}, batch {row.batch}, {row.threads} thread{'s' * (row.threads > 1)}"
        yield f"- {where}: evaluation {verdict(row.evaluation_ratio, EVALUATION_GOAL)}, " + (
            f"calibration {verdict(row.calibration_ratio, CALIBRATION_GOAL)}"
        )


def report(networks: list[str], repetitions: int) -> str:
    """Measure everything and return the report as Markdown."""
    cases = [(name, batch, threads) for name in networks for batch in BATCHES for threads in THREADS]
    timings = [measure(*case, repetitions * (3 if case[1] == 1 else 1)) for case in cases]
    setups = [f"- {name}: {verdict(setup_seconds(name, 3), SETUP_GOAL_S)} s" for name in networks]
    lines = [
        "# The emulator's speed",
        "",
        f"Measured on {datetime.date.today().isoformat()} with",
        f"`python benchmarks/emulator.py --repetitions {repetitions}`.",
        "",
        f"Machine: {machine()}.",
        "The load before each case is in the table: above the number of threads, other work ran at the same time, and",
        "wall-clock figures, most of all those of two threads, are worth less than processor time.",
        "",
        f"Random weights, {SIZE_PX} x {SIZE_PX} pixels. Float is the network as PyTorch runs it; evaluation gives",
        "the bits of the reference path. Calibration has bias correction on. Ratios are to float, per repetition.",
        "",
        *timing_lines(timings),
        "",
        "Goals, as ratios of wall-clock time:",
        "",
        *goal_lines(timings),
        "",
        f"Peak memory of whole processes, batch {BATCHES[0]}, one thread:",
        "",
        *memory_lines(networks),
        "",
        "Set-up (capture, folding, equalisation), one thread:",
        "",
        *setups,
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, print or write."""
    parser = argparse.ArgumentParser(description="time the emulator against the float network")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--write", type=Path, help="write the report here instead of printing it")
    parser.add_argument("--memory-run", nargs=2, metavar=("KIND", "NETWORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_run:
        run_for_memory(*options.memory_run)
        return
    text = report(options.networks, options.repetitions)
    if options.write:
        options.write.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
