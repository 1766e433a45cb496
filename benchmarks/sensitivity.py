"""Measures what incremental sensitivity saves against one full evaluation per layer from scratch.

    OMP_NUM_THREADS=1 python benchmarks/sensitivity.py            prints the table
    OMP_NUM_THREADS=1 python benchmarks/sensitivity.py --write    and writes docs/sensitivity_benchmark.md

Both ways compute the same mixtures (float, quantised, every layer alone quantised, every layer alone in float) with the
same operators, on random weights; the results are compared bit for bit. Times are CPU seconds of this process, so that
other work on the machine counts little; the two ways take turns and medians are shown. Needs torchvision.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision import models

from dpuforge.emulator.diagnosis.diagnose import quantise
from dpuforge.emulator.diagnosis.layer_study import study_layers
from dpuforge.emulator.diagnosis.layers import list_layers
from dpuforge.emulator.diagnosis.replay import Replay
from dpuforge.emulator.diagnosis.sensitivity import list_mixtures

REPORT = Path(__file__).resolve().parent.parent / "docs" / "sensitivity_benchmark.md"


@dataclass(frozen=True)
class Case:
    """A torchvision network, the side of its square images, and how many of them."""

    network: str
    side_px: int
    images: int


CASES = (Case("resnet18", 224, 2), Case("mobilenet_v2", 224, 2), Case("resnet18", 64, 8), Case("squeezenet1_1", 96, 8))


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Return the medians of a case in CPU seconds, and what the estimate said."""
    torch.manual_seed(0)
    module = models.get_model(case.network, weights=None).eval()
    images = torch.randn(case.images, 3, case.side_px, case.side_px)
    network = quantise(module, (images,))
    layers = list_layers(network)
    replay = Replay(network, layers)
    mixtures = list_mixtures(replay, layers)
    found: dict[str, list[Any]] = {"incremental": [], "naive": [], "float": [], "study": []}
    for _ in range(repeats):
        found["float"].append(_time(lambda: network.evaluate_float((images,)))[0])
        seconds, shared = _time(lambda: replay.run((images,), mixtures))
        found["incremental"].append(seconds)
        seconds, separate = _time(lambda: [replay.run((images,), [mixture])[0] for mixture in mixtures])
        found["naive"].append(seconds)
        found["study"].append(_time(lambda: study_layers(replay, (images,)))[0])
        assert all(
            torch.equal(*pair) for both in zip(shared, separate, strict=True) for pair in zip(*both, strict=True)
        )
    medians = {name: statistics.median(values) for name, values in found.items()}
    estimate = replay.cost(mixtures) / sum(replay.cost([mixture]) for mixture in mixtures)
    return {**medians, "layers": len(layers), "estimate": estimate, "mb": replay.bytes_per_image(mixtures) / 1e6}


def _time(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def write_table(repeats: int) -> str:
    """Measure all cases and return the report as Markdown."""
    rows = [
        "| network | images | layers | float, s | one by one, s | incremental, s "
        "| ratio | planned | study, s | MB each |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        got = measure(case, repeats)
        rows.append(
            f"| {case.network} | {case.images} x {case.side_px} px | {got['layers']} | {got['float']:.3f} "
            f"| {got['naive']:.2f} | {got['incremental']:.2f} | {got['incremental'] / got['naive']:.2f} "
            f"| {got['estimate']:.2f} | {got['study']:.2f} | {got['mb']:.0f} |"
        )
        print(rows[-1], flush=True)
    return "\n".join(rows)


HEADER = """# Incremental sensitivity against one evaluation per layer

Written by `OMP_NUM_THREADS=1 python benchmarks/sensitivity.py --write` on {date}, {machine}, torch {torch}, one thread.
Every layer is measured twice, alone quantised and alone in float. "One by one" evaluates the whole network for each of
these from scratch; "incremental" runs all of them down the graph side by side and computes every shared value once.
Both give the same bits. Times are CPU seconds, medians of {repeats} runs; "planned" is the ratio that `Replay.cost`
plans budgets with; "study" is the pass that compares every layer with float; MB are what one image's
values take at most.

{table}
"""


def main() -> None:
    """Measure, print, and write the report if asked."""
    parser = argparse.ArgumentParser(description="incremental sensitivity against one evaluation per layer")
    parser.add_argument("--write", action="store_true", help=f"write docs/{REPORT.name}")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way; the median is shown")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = write_table(arguments.repeats)
    if arguments.write:
        machine = f"{platform.machine()} {platform.system()}"
        date = datetime.date.today().isoformat()
        text = HEADER.format(
            date=date, machine=machine, torch=torch.__version__, repeats=arguments.repeats, table=table
        )
        REPORT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
