"""Corrects estimates by what was measured on a user's own boards: the same model, moved to where their boards are.

What an estimate is wrong by is taken as one part that a board brings to every network and one part of each network,
of equal variance, together as wide as the estimate's band (docs/board.md). Few measurements move it little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpuforge.board.measured import find_result_files
from dpuforge.errors import UsageError
from dpuforge.execute.results import read_result
from dpuforge.hardware.estimate import Band, Estimate

_Z80 = 1.2815515655446004  # 80 % of a normal distribution lie within this many standard deviations


@dataclass(frozen=True)
class Measured:
    """One network on one board: ln(measured / estimated) with one thread and with the best number of threads."""

    board: str
    configuration: str
    network: str
    single: float
    multi: float


def read_measurements(folder: Path) -> tuple[Measured, ...]:
    """Return the measurements in the result files below a folder; those of emulated boards are none.

    Raises UsageError where there are none at all.
    """
    files = find_result_files(folder)
    found, emulated = [], 0
    for path in files:
        result = read_result(path.parent)
        if result is None:
            continue
        emulated += bool(result.metrics.get("emulated"))
        measured = None if result.metrics.get("emulated") else _read(result.board, result.inputs, result.metrics)
        found += [measured] if measured else []
    if not found:
        why = f", {emulated} of emulated boards" if emulated else ""
        raise UsageError(
            f"{folder} holds no measurement of a board: {len(files)} result files{why}",
            "`dpuforge board bench` leaves them in build/<project>/board/<BOARD>/hosts/<HOST>/",
        )
    return tuple(found)


def _read(board: str, inputs: Mapping[str, str], metrics: Mapping[str, Any]) -> Measured | None:
    estimate, rows = metrics.get("estimate"), metrics.get("bench", {}).get("rows", ())
    rates = {row["threads"]: row["end_to_end"]["fps"] for row in rows}
    if not estimate or 1 not in rates:
        return None
    single, multi = rates[1] / estimate["single"][1], max(rates.values()) / estimate["multi"][1]
    return Measured(
        board, estimate["configuration"], ",".join(sorted(inputs.values())), math.log(single), math.log(multi)
    )


def correct_estimate(estimate: Estimate, measurements: Iterable[Measured]) -> Estimate:
    """Return an estimate moved by what was measured on such a board; unchanged where nothing was."""
    own = [
        m for m in measurements if (m.board, m.configuration) == (estimate.board.board, estimate.board.configuration)
    ]
    if not own or estimate.fps_single is None or estimate.fps_multi is None or estimate.latency_ms is None:
        return estimate
    single = _correct(estimate.fps_single, _by_network((m.network, m.single) for m in own))
    multi = _correct(estimate.fps_multi, _by_network((m.network, m.multi) for m in own))
    shift = estimate.fps_single[1] * estimate.latency_ms[1]  # latency and frame rate are two words for one time
    latency = (shift / single[2], shift / single[1], shift / single[0])
    count = len({m.network for m in own})
    note = f"corrected by measurements of {count} network(s) on your own {estimate.board.board}"
    return replace(estimate, latency_ms=latency, fps_single=single, fps_multi=multi, notes=(*estimate.notes, note))


def _by_network(values: Iterable[tuple[str, float]]) -> list[float]:
    """Return one value a network: the mean of its measurements."""
    found: dict[str, list[float]] = {}
    for network, value in values:
        found.setdefault(network, []).append(value)
    return [sum(rows) / len(rows) for rows in found.values()]


def _correct(band: Band, errors: list[float]) -> Band:
    """Return a band given ln(measured / estimated) of some networks: normal prior, normal likelihood."""
    total = (math.log(band[2] / band[0]) / (2 * _Z80)) ** 2
    common = alone = total / 2
    count = len(errors)
    weight = count * common / (count * common + alone) if total else 1.0
    middle = band[1] * math.exp(weight * sum(errors) / count)
    spread = math.exp(_Z80 * math.sqrt(alone + common * (1.0 - weight)))
    return middle / spread, middle, middle * spread
