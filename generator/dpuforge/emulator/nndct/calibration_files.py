"""Reads and writes what calibration leaves for test: quant_info.json and bias_corr.pth."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dpuforge.emulator.graph.listing import graph_digest
from dpuforge.emulator.graph.nodes import Node
from dpuforge.emulator.nndct.log import QUANTIZER_VERSION, fail, warn
from dpuforge.emulator.prepare.constants import float_parameters
from dpuforge.emulator.quantise.steps import CastStep, Step, read_step
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.quant_config import TensorConfig

INFO_FILE = "quant_info.json"
BIAS_FILE = "bias_corr.pth"
PARAM_FILE = "param.pth"
EFFECTIVE_FILE = "effective_config.json"
_REMEDY = "calibrate this network with these settings first, and keep its output folder"


def write_info(quantised: QuantisedGraph, folder: Path, fast_finetuned: bool = False) -> Path:
    """Write quant_info.json in the real tool's layout and return its path."""
    names = quantised.graph.normalised_names()
    steps = quantised.steps
    tables = {
        "param": _parameter_rows(quantised),
        "output": {
            names[name]: [step.as_json()] for name, step in steps.output.items() if not isinstance(step, CastStep)
        },
        "input": {
            names[name]: [step.as_json() for step in row]
            for name, row in steps.input.items()
            if not any(isinstance(step, CastStep) for step in row)
        },
    }
    rest: dict[str, Any] = {
        "fast_finetuned": fast_finetuned,
        "bias_corrected": quantised.settings.bias_correction,
        "version": QUANTIZER_VERSION,
        "graph_md5": graph_digest(quantised.graph),
    }
    if quantised.types:
        rest["dtype"] = quantised.types
    path = folder / INFO_FILE
    replace_text(path, _layout(tables, rest))
    return path


def _parameter_rows(quantised: QuantisedGraph) -> dict[str, list[Any]]:
    """Return the rows of table param in topological order; a parameter that stays in float has no fix position."""
    steps, rows = quantised.steps.param, {}
    for node in quantised.graph.nodes:
        for key in (*node.parameters.values(), *float_parameters(node, quantised.graph)):
            step = steps.get(key)
            if key in quantised.graph.trained and step is None and not node.parameters:
                rows[key] = [[8, None]]
            elif step is not None and not isinstance(step, CastStep):
                rows[key] = [step.as_json()]
    return rows


def _layout(tables: Mapping[str, Mapping[str, Any]], rest: Mapping[str, Any]) -> str:
    blocks = []
    for name, table in tables.items():
        rows = ",\n".join(f"    {json.dumps(key)}:{_compact(value)}" for key, value in table.items())
        blocks.append(f"  {json.dumps(name)}:\n  {{\n{rows}\n  }}")
    blocks.extend(f"  {json.dumps(name)}:{_compact(value)}" for name, value in rest.items())
    return "{\n" + ",\n".join(blocks) + "\n}"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_effective_config(quantised: QuantisedGraph, folder: Path) -> Path:
    """Write effective_config.json: what the config file and the options amount to, tensor type by tensor type."""
    settings = quantised.settings
    config = settings.config
    layers = {**config.layer_types, **config.layer_names}
    document = {
        "target_device": config.target_device,
        "flags": dict(config.flags),
        "options": asdict(settings.options),
        "bit_width_argument": settings.bits,
        "tensors": {role: _plain(tensor) for role, tensor in config.tensors.items()},
        "layers": {
            name: {role: _plain(part) for role, part in layer.tensors.items()} for name, layer in layers.items()
        },
    }
    path = folder / EFFECTIVE_FILE
    replace_text(path, json.dumps(document, indent=2) + "\n")
    return path


def _plain(tensor: TensorConfig) -> dict[str, Any]:
    """Return a tensor's settings without where they came from."""
    return {key: value for key, value in asdict(tensor).items() if key != "origin"}


def write_bias(quantised: QuantisedGraph, folder: Path) -> Path:
    """Write bias_corr.pth as the real tool does: lists of floats by node name, None where there is no bias."""
    names = quantised.graph.normalised_names()
    table = {}
    for node in corrected_nodes(quantised):
        correction = quantised.corrections.get(node.parameters.get("bias", ""))
        table[names[node.name]] = None if correction is None else correction.cpu().tolist()
    path = folder / BIAS_FILE
    temporary = folder / f".{BIAS_FILE}.{os.getpid()}"
    torch.save(table, temporary)
    temporary.replace(path)
    return path


def load_table(path: Path) -> Any:
    """Return what torch.save wrote: a dict of lists, tensors or numpy arrays; nothing of it is executed."""
    from numpy import dtype, ndarray
    from numpy.dtypes import Float32DType, Float64DType

    newer = find_spec("numpy._core") is not None  # since numpy 2
    rebuild = import_module("numpy._core.multiarray" if newer else "numpy.core.multiarray")._reconstruct
    with torch.serialization.safe_globals([rebuild, ndarray, dtype, Float32DType, Float64DType]):
        return torch.load(path, map_location="cpu", weights_only=True)


def corrected_nodes(quantised: QuantisedGraph) -> list[Node]:
    """Return the nodes of bias_corr.pth in its order: those of one dimension come last."""
    nodes = [node for node in quantised.graph.nodes if node.traits.weighted]
    return sorted(nodes, key=lambda node: len(node.attributes.get("kernel", ())) == 1)


def read_bias(quantised: QuantisedGraph, folder: Path) -> None:
    """Load bias corrections into the network; raises QuantizerError where they are missing or do not fit."""
    path = folder / BIAS_FILE
    if not path.is_file():
        text = "Bias correction result file does not exist. "
        raise fail("BIAS_CORRECTION", f"{text}Please check calibration with bias correction is done or not.", _REMEDY)
    table = load_table(path)
    names = quantised.graph.normalised_names()
    for node in corrected_nodes(quantised):
        key = node.parameters.get("bias")
        if key is None:
            continue
        bias, value = quantised.graph.tensors[key], table.get(names[node.name])
        correction = None if value is None else torch.as_tensor(value, dtype=bias.dtype, device=bias.device)
        if correction is None or correction.shape != bias.shape:
            text = "Bias correction file in quantization result directory does not match current model."
            raise fail("BIAS_CORRECTION", text, f"{_REMEDY}; {names[node.name]} has none that fits")
        quantised.corrections[key] = correction


def read_info(quantised: QuantisedGraph, folder: Path) -> dict[str, Any]:
    """Load steps into the network and return the JSON; raises QuantizerError where names do not match."""
    path = folder / INFO_FILE
    if not path.is_file():
        raise fail("NO_CALIBRATION", f"Quantization calibration result file does not exist: {path}.", _REMEDY)
    info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    quantised.follow_numbers(info)
    names = quantised.graph.normalised_names()
    back = {normalised: name for name, normalised in names.items()}
    _merge_types(info)
    expected = quantised.expected_names()
    known = {"param": expected["param"], "output": {names[name] for name in expected["output"]}}
    _check_digest(info, quantised)
    for table in ("param", "output"):
        _check_names(set(info.get(table, {})), known[table])
    quantised.steps.param = _read_table(info["param"], {key: key for key in expected["param"]})
    quantised.steps.output = _read_table(info["output"], back)
    quantised.steps.input = {
        back[name]: [read_step(row) for row in rows] for name, rows in info.get("input", {}).items() if name in back
    }
    return info


def _merge_types(info: dict[str, Any]) -> None:
    """Put the float types of the dtype table beside the integer steps."""
    for table, rows in info.get("dtype", {}).items():
        for name, types in rows.items():
            if all(kind != "int" for kind in types):
                info.setdefault(table, {})[name] = [[kind] for kind in types]


def _check_digest(info: Mapping[str, Any], quantised: QuantisedGraph) -> None:
    """Refuse a calibration of another graph; a file without a digest is accepted, as the real tool does."""
    found = info.get("graph_md5")
    if found is not None and found != graph_digest(quantised.graph):
        text = "The graph of the network is not the one that was calibrated."
        raise fail("CALIB_RESULT_MISMATCH", text, f"{_REMEDY}; graph_md5 of {INFO_FILE} differs")


def _check_names(found: set[str], expected: set[str]) -> None:
    """Refuse a calibration that lacks a row; further rows are ignored, as by the real tool."""
    if expected - found:
        text = (
            "Node name mismatch is found when   loading quantization steps of tensors.   Please make sure "
            "Vai_q_pytorch version and pytorch version for test mode   are the same as those in calibration "
            "(or QAT training) mode."
        )
        strange = ", ".join(sorted(expected - found)[:4])
        raise fail("CALIB_RESULT_MISMATCH", text, f"{_REMEDY}; these names differ: {strange}")


def _read_table(rows: Mapping[str, Sequence[Sequence[Any]]], back: Mapping[str, str]) -> dict[str, Step]:
    """Return the steps of the rows that the network has; one without a fix position leaves its tensor in float."""
    steps = {}
    for name, row in rows.items():
        if name in back and None in row[0]:
            warn("TENSOR_NOT_QUANTIZED", f"Tensor {name} is not quantized: it has no fix position.")
        elif name in back:
            steps[back[name]] = read_step(row[0])
    return steps


def list_graph(quantised: QuantisedGraph) -> str:
    """Return a Python file whose tuple NODES lists index, kind, inputs, parameters, shape, point and source line."""
    graph = quantised.graph
    names = graph.normalised_names()
    lines = [
        f'"""{graph.name} as the emulator of dpuforge quantises it: one row per operator, in order of execution.',
        "",
        "(name, inputs, parameters, output shape, quantised at its output, module)",
        '"""',
        "",
        "NODES = (",
    ]
    for node in graph.nodes:
        row = (
            names[node.name],
            tuple(names[name] for name in node.input_names()),
            tuple(node.parameters.values()),
            node.shape,
            node.name in quantised.points,
            node.module_path,
        )
        lines.append(f"    {row!r},")
    return "\n".join([*lines, ")", ""])
