"""Positions and small drawings for the HTML page: ranges on a scale, the network's edges, heat maps as PNG."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROW_PX = 30  # height of a row of the network
LANE_PX = 9
_HEAT = ((13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33))  # plasma


def scale_ladder(rungs: Sequence[Mapping[str, Any]], gate: float | None) -> dict[str, Any]:
    """Return the axis of the ladder (low, high, ticks) and for each rung left, start and width in percent of it.

    gate is the lowest accuracy that the gate allows, None without one; its place is "gate".
    """
    values = [
        value for rung in rungs if rung["top1"] is not None for value in (rung["top1"], *(rung["interval"] or ()))
    ]
    values += [gate] if gate is not None else []
    if not values:
        return {"low": 0.0, "high": 100.0, "ticks": [], "rows": [None] * len(rungs), "gate": None}
    low, high = _widen(min(values), max(values))
    rows = [_place_rung(rung, low, high) for rung in rungs]
    ticks = [(tick, share(tick, low, high)) for tick in make_ticks(low, high)]
    return {"low": low, "high": high, "ticks": ticks, "rows": rows, "gate": _maybe(gate, low, high)}


def _widen(low: float, high: float) -> tuple[float, float]:
    pad = max(0.5, 0.15 * (high - low))
    return max(0.0, low - pad), min(100.0, high + pad)


def _maybe(value: float | None, low: float, high: float) -> float | None:
    return None if value is None else share(value, low, high)


def _place_rung(rung: Mapping[str, Any], low: float, high: float) -> dict[str, float] | None:
    if rung["top1"] is None:
        return None
    start, end = rung["interval"] or (rung["top1"], rung["top1"])
    left = share(start, low, high)
    return {"at": share(rung["top1"], low, high), "left": left, "width": round(share(end, low, high) - left, 2)}


def share(value: float, low: float, high: float) -> float:
    """Return where a value lies between low and high, in percent with two decimals."""
    return round(100 * (value - low) / (high - low), 2) if high > low else 0.0


def make_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values between low and high, at most this many."""
    raw = (high - low) / most
    if raw <= 0:
        return [low]
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 6) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def scale_boards(boards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the logarithmic axis of frame rates, and for each board the place of its band, middle and measurement."""
    values = [value for row in boards for value in (*(row["fps"] or ()), row["measured_fps"]) if value]
    if not values:
        return {"ticks": [], "rows": [None] * len(boards)}
    low, high = math.log10(min(values) / 1.2), math.log10(max(values) * 1.1)

    def place(value: float | None) -> float | None:
        return _maybe(math.log10(value) if value else None, low, high)

    rows: list[dict[str, Any] | None] = []
    for row in boards:
        bounds = [share(math.log10(value), low, high) for value in row["fps"] or () if value]
        if len(bounds) != 3:
            rows.append(None)
            continue
        band = {"left": bounds[0], "width": round(bounds[2] - bounds[0], 2), "at": bounds[1]}
        rows.append({**band, "measured": place(row["measured_fps"])})
    return {"ticks": [(tick, share(math.log10(tick), low, high)) for tick in _log_ticks(low, high)], "rows": rows}


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten within the axis; powers of ten alone where that is many."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2 else (1,)
    ticks = [
        float(factor * 10**power) if power >= 0 else factor * 10.0**power for power in powers for factor in factors
    ]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def draw_edges(graph: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of the network's edges: one dot a row, straight lines to the next row, arcs for what skips rows."""
    arcs = [(source, row, lane) for source, row, lane in assign_lanes(graph)]
    lanes = max((lane for _, _, lane in arcs), default=0)
    width, height = 20 + LANE_PX * (lanes + 1), ROW_PX * len(graph)
    trunk = width - 10
    parts = [f'<svg class="edges" aria-hidden="true" width="{width}" height="{height}" viewBox="0 0 {width} {height}">']
    for source, row, lane in arcs:
        top, bottom = _middle(source), _middle(row)
        if lane == 0:
            parts.append(f'<path class="edge" d="M{trunk} {top}V{bottom}"/>')
        else:
            x = trunk - LANE_PX * lane
            parts.append(f'<path class="edge skip" d="M{trunk} {top}C{x} {top} {x} {top} {x} {top + 14}')
            parts.append(f'V{bottom - 14}C{x} {bottom} {x} {bottom} {trunk} {bottom}"/>')
    for number, operator in enumerate(graph):
        parts.append(f'<circle class="dot {operator["device"]}" cx="{trunk}" cy="{_middle(number)}" r="5"/>')
    return "".join(parts) + "</svg>"


def _middle(row: int) -> int:
    return row * ROW_PX + ROW_PX // 2


def assign_lanes(graph: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """Return (row read, reading row, lane) of every edge: lane 0 to the next row, else the first that is free."""
    found, taken = [], list[int]()
    for number, row in enumerate(graph):
        for source in row["reads"]:
            if source == number - 1:
                found.append((source, number, 0))
            elif source < number:
                found.append((source, number, -1))
    placed = []
    for source, number, lane in sorted(found, key=lambda edge: (edge[0], edge[1])):
        if lane == 0:
            placed.append((source, number, 0))
            continue
        free = next((index for index, until in enumerate(taken) if until <= source), len(taken))
        taken[free:] = [number, *taken[free + 1 :]]
        placed.append((source, number, free + 1))
    return placed


def encode_map(rows: Sequence[Sequence[float]]) -> str:
    """Return values from 0 to 1 as a small PNG in base64: coloured, and the more transparent the smaller."""
    lines = b"".join(b"\0" + b"".join(_colour(value) for value in row) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    packed = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + packed).decode()


def _colour(value: float) -> bytes:
    level = min(max(value, 0.0), 1.0)
    place = level * (len(_HEAT) - 1)
    low = min(int(place), len(_HEAT) - 2)
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(_HEAT[low], _HEAT[low + 1], strict=True))
    return bytes((*mixed, round(40 + 170 * level)))


def place_classes(names: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the confusion matrix for the page: all names, and [true, predicted, float, int8] by their places."""
    order = list(dict.fromkeys([*names, *(name for row in rows for name in (row["true"], row["predicted"]))]))
    places = {name: place for place, name in enumerate(order)}
    cells = [[places[row["true"]], places[row["predicted"]], row.get("float", 0), row.get("int8", 0)] for row in rows]
    return {"names": order, "cells": cells}
