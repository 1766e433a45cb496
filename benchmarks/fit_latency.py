"""Fits the latency model (hardware/latency.py) on published frame rates and reports its error in cross-validation.

    python benchmarks/fit_latency.py TABLE.csv      the published frame rates; not part of this repository

writes generator/dpuforge/hardware/latency_parameters.json and docs/latency_error.md. Needs torch, torchvision, timm,
numpy and scipy. Weak priors (a tenth of a row each) keep parameters that a left-out family alone would fix near
physical values. Takes about five minutes on one core.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from latency_groups import GROUPS, Group
from scipy.optimize import least_squares
from zoo_networks import Zoo, find_network

from dpuforge.emulator.export.network_operators import capture_operators
from dpuforge.hardware.latency import (
    Cost,
    Parameters,
    compute_and_memory_ms,
    list_layers,
    multi_fps,
    single_latency_ms,
    soft_max,
)
from dpuforge.hardware.limits import Target
from dpuforge.hardware.partition import partition_operators
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.records.operator import Operator

REPO = Path(__file__).resolve().parent.parent
PARAMETERS = REPO / "generator" / "dpuforge" / "hardware" / "latency_parameters.json"
REPORT = REPO / "docs" / "latency_error.md"
ROBUST_SCALE = 0.08  # residuals beyond 8 % count linearly
CATALOGUE = shipped_catalogue()


FAMILY_NAMES = {"DPUv3E": "DPUCAHX8H"}

# Parameter: (prior, standard deviation of its logarithm in units of PRIOR_WEIGHT). Physical sense: engines near their
# full rate, 6 us to start a layer, 20 us a run, half a millisecond of host work, weights moved a little more than once.
PRIORS = {
    "conv_factor": 1.08,
    "depthwise_factor": 0.7,
    "misc_factor": 1.0,
    "layer_ms": 0.006,
    "run_ms": 0.02,
    "host_ms": 0.45,
    "weight_factor": 1.2,
    "dense_factor": 1.2,
    "reuse": 0.001,
}
PER_BOARD = ("bandwidth", "contention", "host_parallel_ms")
CONTENTION, HOST_PARALLEL = 0.2, 0.02


@dataclass(frozen=True)
class Row:
    """One published figure of a network whose architecture is known; costs holds those of its layers as vectors."""

    network: str
    family: str
    board: str
    costs: Cost[np.ndarray]
    layers: int
    workload: float
    pixels: int
    clock_mhz: float
    cores: int
    batch: int
    single: float
    multi: float


def read_rows(path: Path, group: Group, operators: dict[tuple[str, int, int], tuple[Operator, ...]]) -> list[Row]:
    """Return the rows of the group whose network is known; each distinct figure once."""
    found: dict[tuple[object, ...], Row] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            zoo = find_network(row["zoo_name"])
            made = _row(row, group, zoo, operators) if zoo else None
            if made:
                found[made.network, made.board, made.single, made.multi, made.clock_mhz] = made
    return list(found.values())


def _row(
    row: dict[str, str], group: Group, zoo: Zoo, operators: dict[tuple[str, int, int], tuple[Operator, ...]]
) -> Row | None:
    release = row["release"].lstrip("v").replace("1.3.2", "1.3")
    board = group.rows.get((row["board_norm"], row["dpu_config"], row["cores"]))
    family = FAMILY_NAMES.get(row["family"], row["family"])
    if board is None or release not in group.releases or family != group.family or row["clock_mhz"] == "287":
        return None
    if board == "U50LV" and group.family == "DPUCAHX8L" and row["clock_mhz"] == "333":
        board = "U50"
    key = (zoo.pattern, int(row["input_h"]), int(row["input_w"]))
    if key not in operators:
        operators[key] = capture_operators(zoo.build, key[1], key[2])
    batch, cores = _parallel(row, group)
    costs, layers, workload = _costs(key, operators[key], group.target.get(board) or group.target[""])
    clock = group.clock_mhz or float(row["clock_mhz"].replace("(AIE-ML ", "").split()[-1].rstrip(")"))
    single, multi = (float(row[name] or 0) for name in ("fps_single", "fps_multi"))
    if not (single or multi):
        return None
    return Row(
        row["zoo_name"],
        zoo.family,
        board,
        costs,
        layers,
        workload,
        key[1] * key[2],
        clock,
        cores,
        batch,
        single,
        multi,
    )


def _parallel(row: dict[str, str], group: Group) -> tuple[int, int]:
    """Return (images in one run, runs side by side)."""
    if group.family == "DPUCVDX8H":
        return int(row["cores"].rstrip("PE")), 1
    return int(row["batch"] or 1), int(row["cores"])


_COSTS: dict[tuple[object, str], tuple[Cost[np.ndarray], int, float]] = {}


def _costs(
    key: tuple[str, int, int], operators: tuple[Operator, ...], target: str
) -> tuple[Cost[np.ndarray], int, float]:
    if (key, target) not in _COSTS:
        dpu = CATALOGUE.dpus[target]
        layers = list_layers(partition_operators(operators, Target(dpu, CATALOGUE.families[dpu.family])))
        names = [field.name for field in fields(Cost)]
        columns = {name: np.array([getattr(layer.cost, name) for layer in layers]) for name in names}
        workload = float(sum(layer.work.workload for layer in layers))
        _COSTS[key, target] = Cost(**columns), len(layers), workload
    return _COSTS[key, target]


def predict(row: Row, parameters: Parameters) -> tuple[float, float]:
    """Return (single, multi) frames per second of a row."""
    alone = _run(row, parameters)
    together = _run(row, parameters.with_cores(row.cores)) if row.cores > 1 else alone
    single = 1e3 * row.batch / single_latency_ms(alone, parameters, row.batch, row.pixels)
    return float(single), float(multi_fps(together, parameters, row.batch, row.cores))


def _run(row: Row, parameters: Parameters) -> float:
    times = soft_max(*compute_and_memory_ms(row.costs, parameters, row.clock_mhz, row.batch))
    return float(np.sum(times)) + parameters.layer_ms * row.layers + parameters.run_ms


@dataclass(frozen=True)
class Problem:
    """The vector that is fitted: logarithms of the common parameters, then bandwidth and contention per board."""

    boards: tuple[str, ...]
    group: Group

    @property
    def start(self) -> np.ndarray:
        """The priors."""
        slow = self.group.slow_engines
        changed = {
            "reuse": self.group.reuse,
            "misc_factor": slow,
            "depthwise_factor": PRIORS["depthwise_factor"] * slow,
        }
        per_board = [self.group.bandwidth, CONTENTION, HOST_PARALLEL] * len(self.boards)
        return np.log(np.array([*(PRIORS | changed).values(), *per_board]))

    def unpack(self, vector: np.ndarray) -> dict[str, Parameters]:
        """Return each board's parameters."""
        values = [float(value) for value in np.exp(vector)]
        common, rest = dict(zip(PRIORS, values, strict=False)), values[len(PRIORS) :]
        parts = (rest[i : i + len(PER_BOARD)] for i in range(0, len(rest), len(PER_BOARD)))
        return {
            board: Parameters(**common, **dict(zip(PER_BOARD, part, strict=True)))
            for board, part in zip(self.boards, parts, strict=True)
        }

    def residuals(self, vector: np.ndarray, rows: Iterable[Row]) -> np.ndarray:
        """Return the logarithm of predicted over published frame rates."""
        parameters = self.unpack(vector)
        found = []
        for row in rows:
            for guess, truth in zip(predict(row, parameters[row.board]), (row.single, row.multi), strict=True):
                if truth:
                    found.append(np.log(guess / truth))
        return np.array(found)

    def fit(self, rows: list[Row]) -> np.ndarray:
        """Return the vector that fits the rows best, with soft priors."""
        weights = np.full(len(self.start), self.group.prior_weight)
        weights[len(PRIORS) :: len(PER_BOARD)] = 0.05  # bandwidth is free

        def cost(vector: np.ndarray) -> np.ndarray:
            return np.concatenate([self.residuals(vector, rows), weights * (vector - self.start)])

        solution = least_squares(cost, self.start, loss="soft_l1", f_scale=ROBUST_SCALE, max_nfev=40)
        return np.asarray(solution.x)


def cross_validate(problem: Problem, rows: list[Row]) -> tuple[dict[str, list[float]], list[tuple[Row, float, float]]]:
    """Leave out one network family at a time; return its residuals by family, and each row with its predictions."""
    errors: dict[str, list[float]] = {}
    guesses = []
    for family in sorted({row.family for row in rows}):
        kept, left = [r for r in rows if r.family != family], [r for r in rows if r.family == family]
        if not kept:
            continue
        parameters = problem.unpack(problem.fit(kept))
        guesses += [(row, *predict(row, parameters[row.board])) for row in left]
        errors[family] = [
            float(np.log(g / t))
            for row, *pair in guesses[-len(left) :]
            for g, t in zip(pair, (row.single, row.multi), strict=True)
            if t
        ]
    return errors, guesses


def band(guesses: list[tuple[Row, float, float]], index: int) -> list[float]:
    """Return the 10 % and 90 % quantile of published over predicted, of families left out; 1 lies inside."""
    truths = [(row.single, row.multi)[index] for row, *_ in guesses]
    ratios = [truth / guess[index + 1] for guess, truth in zip(guesses, truths, strict=True) if truth]
    if not ratios:
        return band(guesses, 1 - index)
    low, high = np.quantile(ratios, [0.1, 0.9])
    return [round(float(min(low, 0.97)), 3), round(float(max(high, 1.03)), 3)]


def baseline(rows: list[Row]) -> list[float]:
    """Peak operations with one constant efficiency per board: its residuals on families left out, multi-threaded."""
    found: list[float] = []
    for row in (row for row in rows if row.multi):
        others = [other for other in rows if other.board == row.board and other.family != row.family and other.multi]
        if others:
            found.append(
                float(np.log(_ideal(row) / row.multi) - np.median([np.log(_ideal(o) / o.multi) for o in others]))
            )
    return found


def _ideal(row: Row) -> float:
    return row.batch * row.cores * row.clock_mhz / row.workload


def summarise(errors: list[float]) -> str:
    """Return the median and 90 % quantile of the relative error and the share within 25 %, as table cells."""
    sizes = np.abs(np.exp(np.array(errors)) - 1)
    return f"{np.median(sizes):.1%} | {np.quantile(sizes, 0.9):.1%} | {np.mean(sizes < 0.25):.1%}"


def fit_group(
    path: Path, group: Group, operators: dict[tuple[str, int, int], tuple[Operator, ...]]
) -> tuple[dict[str, object], list[str]]:
    """Fit one group; return its entry of the parameters and its lines of the report."""
    rows = read_rows(path, group, operators)
    problem = Problem(tuple(sorted({row.board for row in rows})), group)
    best = problem.fit(rows)
    fitted = problem.unpack(best)
    errors, guesses = cross_validate(problem, rows)
    everything = [error for part in errors.values() for error in part]
    first = next(iter(fitted.values()))
    common = {name: round(getattr(first, name), 5) for name in PRIORS}
    boards = {name: {key: round(getattr(value, key), 4) for key in PER_BOARD} for name, value in fitted.items()}
    entry = {"name": group.name, "family": group.family, "isa": group.isa, "releases": list(group.releases)}
    entry |= {"parameters": common, "boards": boards, "rows": len(rows)}
    entry["band"] = {"single": band(guesses, 0), "multi": band(guesses, 1)}
    inside = [float(error) for error in problem.residuals(best, rows)]
    lines = [
        f"| {group.name} | {len(rows)} | {summarise(everything)} | {summarise(baseline(rows))} | {summarise(inside)} |"
    ]
    lines += [f"| - without {name} | | {summarise(part)} | | | | | | |" for name, part in errors.items()]
    return entry, lines


def main() -> None:
    """Fit all groups and write parameters and report."""
    path = Path(sys.argv[1])
    operators: dict[tuple[str, int, int], tuple[Operator, ...]] = {}
    entries, lines = [], []
    for group in (group for group in GROUPS if len(sys.argv) < 3 or sys.argv[2] in group.name):
        entry, report = fit_group(path, group, operators)
        entries.append(entry)
        lines += report
        print(*report if "-v" in sys.argv else report[:1], sep="\n", flush=True)
    if len(sys.argv) > 2:  # a trial on some groups
        return
    source = "fitted by benchmarks/fit_latency.py on the published performance tables of the model zoo"
    PARAMETERS.write_text(json.dumps({"source": source, "groups": entries}, indent=1) + "\n", encoding="utf-8")
    columns = ["boards", "rows", "median error", "90 % of rows within", "rows within 25 %"]
    columns += ["baseline: median", "90 %", "within 25 %", "not left out: median", "90 %", "within 25 %"]
    head = "# Error of the latency model on network families left out\n\nWritten by benchmarks/fit_latency.py.\n\n"
    head += "| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|\n"
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
