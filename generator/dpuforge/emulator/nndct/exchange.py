"""Calibration files from elsewhere: does a quant_info.json with its bias_corr.pth belong to this network?

Every mismatch is one line; the network's own weights decide what positions their parameters must have. The real tool
checks graph_md5 and names alone.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dpuforge.emulator.graph.listing import graph_digest
from dpuforge.emulator.nndct.calibration_files import BIAS_FILE, INFO_FILE, corrected_nodes, load_table
from dpuforge.emulator.quantise.steps import Step, apply_step, read_step, search_step
from dpuforge.emulator.quantised_graph import QuantisedGraph

_SHOWN = 20  # lines of one kind; the rest is counted
_SHARE_OF_OTHERS = 0.1  # of the parameters' positions: beyond it the file is of other weights
_DAMAGED = (OSError, ValueError, EOFError, RuntimeError, pickle.UnpicklingError)


def find_mismatches(quantised: QuantisedGraph, folder: Path) -> tuple[list[str], list[str]]:
    """Return (what keeps the files of a folder from being this network's, what is only worth a note)."""
    info = _read_info(folder / INFO_FILE)
    if isinstance(info, str):
        return [info], []
    notes: list[str] = []
    quantised.follow_numbers(info)
    wrong = [*_shorten(_compare_graph(info, quantised, notes)), *_shorten(_compare_rows(info, quantised, notes))]
    if quantised.settings.bias_correction:
        wrong += _shorten(_compare_bias(quantised, folder / BIAS_FILE))
    if not wrong:
        wrong += _compare_weights(info, quantised, notes)
    return wrong, notes


def _read_info(path: Path) -> dict[str, Any] | str:
    """Return quant_info.json, or what is wrong with it."""
    if not path.is_file():
        return f"{INFO_FILE} is missing"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{INFO_FILE} is damaged: {error}"
    if not isinstance(info, dict) or not all(isinstance(info.get(name), dict) for name in ("param", "output")):
        return f"{INFO_FILE} is no calibration: it lacks the tables param and output"
    return info


def _shorten(lines: Iterator[str]) -> list[str]:
    """Return the first lines, and how many more there are."""
    found = list(lines)
    return found[:_SHOWN] + ([f"and {len(found) - _SHOWN} more of this kind"] if len(found) > _SHOWN else [])


def _compare_graph(info: Mapping[str, Any], quantised: QuantisedGraph, notes: list[str]) -> Iterator[str]:
    here, found = graph_digest(quantised.graph), info.get("graph_md5")
    if found is None:
        notes.append("graph_md5 is missing: only names, positions and biases were held against the network")
    elif found != here:
        yield f"graph_md5 is {found}, this network's is {here}: it was calibrated with another structure"
    if info.get("fast_finetuned"):
        yield (
            "fast_finetuned is true: its weights are in AMD's param.pth, which is not read here; import a plain "
            "calibration"
        )


def _expected(quantised: QuantisedGraph) -> dict[str, dict[str, int]]:
    """Return the bit width of every row that the network's quant_info.json has, by table and name."""
    names, expected = quantised.graph.normalised_names(), quantised.expected_names()
    table: dict[str, dict[str, int]] = {"param": {}, "output": {}}
    for key in sorted(expected["param"]):
        table["param"][key] = quantised.rule(*quantised.owner(key)).config.bit_width
    for name in sorted(expected["output"]):
        table["output"][names[name]] = quantised.rule("activation", quantised.graph[name]).config.bit_width
    return table


def _compare_rows(info: Mapping[str, Any], quantised: QuantisedGraph, notes: list[str]) -> Iterator[str]:
    for table, rows in _expected(quantised).items():
        found = info[table]
        yield from (f"{table}: {name} has no row" for name in rows if name not in found)
        yield from (f"{table}: {name}: {what}" for name, what in _judge_rows(rows, found))
        notes += [f"{table}: {name} is not in this network and is ignored" for name in found if name not in rows]
        empty = [name for name in rows if name in found and _is_empty(found[name])]
        notes += [f"{table}: {name} has no position and stays in float" for name in empty]


def _is_empty(row: Any) -> bool:
    return isinstance(row, list) and bool(row) and isinstance(row[0], list) and None in row[0]


def _judge_rows(rows: Mapping[str, int], found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the rows that are no positions, or are of another bit width."""
    for name, bits in rows.items():
        if name not in found or _is_empty(found[name]):
            continue
        step = _read_row(found[name])
        if step is None:
            yield name, f"{json.dumps(found[name])} is no row of [[bit width, fix position]]"
        elif step.bits != bits:
            yield name, f"{step.bits} bits, int8_config.json asks for {bits}"


def _read_row(row: Any) -> Step | None:
    """Return the step of a row of integers, or of the four numbers of a float scale."""
    first = row[0] if isinstance(row, list) and row else None
    if not isinstance(first, list) or len(first) not in (2, 4):
        return None
    if not isinstance(first[0], int) or (len(first) == 2 and not isinstance(first[1], int)):
        return None
    return read_step(first)


def _compare_bias(quantised: QuantisedGraph, path: Path) -> Iterator[str]:
    try:
        table = load_table(path)
    except FileNotFoundError:
        yield f"{BIAS_FILE} is missing, and include_bias_corr is on"
        return
    except _DAMAGED as error:
        yield f"{BIAS_FILE} cannot be read: {str(error).splitlines()[0]}"
        return
    if not isinstance(table, dict):
        yield f"{BIAS_FILE} holds a {type(table).__name__}, not a table of corrections by node"
        return
    names = quantised.graph.normalised_names()
    for node in corrected_nodes(quantised):
        key = node.parameters.get("bias")
        if key is not None:
            what = _judge_correction(table.get(names[node.name]), quantised.graph.tensors[key])
            yield from (f"{BIAS_FILE}: {names[node.name]} {text}" for text in [what] if text)


def _judge_correction(value: Any, bias: torch.Tensor) -> str:
    if value is None:
        return "has no correction, and the layer has a bias"
    try:
        found = torch.as_tensor(value, dtype=bias.dtype)
    except (TypeError, ValueError, RuntimeError):
        return "holds no numbers"
    if found.shape != bias.shape:
        return f"has {found.numel()} values, the layer has {bias.numel()} channels"
    return "" if bool(torch.isfinite(found).all()) else "holds NaN or infinity"


def _compare_weights(info: Mapping[str, Any], quantised: QuantisedGraph, notes: list[str]) -> list[str]:
    """Hold the parameters' positions against those that these weights lead to."""
    lines, count = [], 0
    for key in sorted(quantised.expected_names()["param"]):
        found = None if _is_empty(info["param"][key]) else read_step(info["param"][key][0])
        rule = quantised.rule(*quantised.owner(key))
        if found is None or not hasattr(found, "fix"):
            continue
        count += 1
        here = getattr(search_step(quantised.graph.tensors[key], rule), "fix", None)
        if here != found.fix:
            lines.append(f"param: {key} has position {found.fix}, these weights lead to {here}")
    if len(lines) <= _SHARE_OF_OTHERS * count:
        notes += lines
        return []
    first = f"{len(lines)} of {count} positions of parameters are not those that these weights lead to: it was "
    return [f"{first}calibrated with other weights", *_shorten(iter(lines))]


def compare_calibrations(quantised: QuantisedGraph, folder: Path, other: Path) -> dict[str, Any]:
    """Return how two calibrations of this network differ: positions row by row, and biases once rounded.

    Both folders hold files that find_mismatches accepts. folder is "found", other is "here".
    """
    pair = [json.loads((place / INFO_FILE).read_text(encoding="utf-8")) for place in (folder, other)]
    rows = [(table, name) for table, part in _expected(quantised).items() for name in part]
    different = [
        {"tensor": name, "found": pair[0][table].get(name), "here": pair[1][table].get(name)}
        for table, name in rows
        if pair[0][table].get(name) != pair[1][table].get(name)
    ]
    found = {"positions": len(rows), "positions_different": different}
    if not quantised.settings.bias_correction:
        return found
    tables = [load_table(place / BIAS_FILE) for place in (folder, other)]
    return {**found, **_count_biases(quantised, pair, tables)}


def _count_biases(quantised: QuantisedGraph, infos: list[Any], tables: list[Any]) -> dict[str, Any]:
    """Count corrections that differ at all, and quantised biases that differ for it."""
    names, total, floats, rounded, largest = quantised.graph.normalised_names(), 0, 0, 0, 0.0
    for node in corrected_nodes(quantised):
        key = node.parameters.get("bias")
        if key is None:
            continue
        bias, rule = quantised.graph.tensors[key], quantised.rule("bias", node)
        values = [torch.as_tensor(table[names[node.name]], dtype=bias.dtype) for table in tables]
        steps = [read_step(info["param"][key][0]) for info in infos]
        both = [apply_step(bias - value, step, rule) for value, step in zip(values, steps, strict=True)]
        total += bias.numel()
        floats += int((values[0] != values[1]).sum())
        rounded += int((both[0] != both[1]).sum())
        largest = max(largest, float((values[0] - values[1]).abs().max()))
    return {
        "biases": total,
        "corrections_different": floats,
        "largest_difference": largest if math.isfinite(largest) else None,
        "biases_different": rounded,
    }
