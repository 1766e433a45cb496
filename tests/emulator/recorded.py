"""Networks and results recorded from the real quantizer, and the runs of the emulator that are compared with them."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.quantise.settings import Settings, ToolOptions, default_settings
from dpuforge.emulator.quantised_graph import QuantisedGraph
from tests.emulator.small_networks import SMALL_NETWORKS

DATA = Path(__file__).resolve().parent.parent / "golden_data" / "emulator"
MEAN = np.array([0.485, 0.456, 0.406], np.float32)[None, :, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[None, :, None, None]


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file; "|" in a key stands for "/"."""
    with np.load(path) as archive:
        return {key.replace("|", "/"): archive[key] for key in archive.files}


@cache
def images(path: Path) -> torch.Tensor:
    """Return the eleven normalised images of an input file: ten for calibration, one for test."""
    u8 = arrays(path)["u8"].astype(np.float32)
    return torch.from_numpy(((u8 / np.float32(255) - MEAN) / STD).astype(np.float32))


@dataclass(frozen=True)
class Recording:
    """One recorded run: folder of its results, float module, images, settings."""

    folder: Path
    module: nn.Module
    images: torch.Tensor
    settings: Settings


def small_recording(name: str, folder: Path | None = None, settings: Settings | None = None) -> Recording:
    """Return a recording of one of the small networks, whose data is part of this repository."""
    build, size = SMALL_NETWORKS[name]
    module = build().eval()
    own = DATA / "nets" / name
    module.load_state_dict({key: torch.from_numpy(value) for key, value in arrays(own / "state_dict.npz").items()})
    pixels = images(DATA / "inputs" / f"images_u8_hw{size}_seed0_n11.npz")
    return Recording(folder or own, module, pixels, settings or default_settings())


def load_models(golden: Path) -> Any:
    """Return the shared module that builds the recorded networks."""
    spec = importlib.util.spec_from_file_location("golden_models", golden / "models.py")
    assert spec is not None
    assert spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    return models


def large_recording(name: str, golden: Path) -> Recording:
    """Return a recording of a network whose weights the shared generator makes."""
    models = load_models(golden)
    module, size = models.build(name)
    folder = golden / "nets" / name
    buffers = {key: torch.from_numpy(value) for key, value in arrays(folder / "bn_buffers.npz").items()}
    module.load_state_dict(buffers, strict=False)
    return Recording(
        folder, module, images(golden / "inputs" / f"images_u8_hw{size}_seed0_n11.npz"), default_settings()
    )


@dataclass
class Outcome:
    """What the emulator made of a recording."""

    quantised: QuantisedGraph
    histories: dict[str, list[Any]]
    output: np.ndarray
    activations: dict[str, np.ndarray]


def calibrate_and_test(recording: Recording) -> Outcome:
    """Run five calibration batches of two images, finish, and test the eleventh image, on one thread."""
    torch.set_num_threads(1)
    quantised = QuantisedGraph(capture_graph(recording.module, (recording.images[:2],)), recording.settings)
    for first in range(0, 10, 2):
        quantised.calibrate((recording.images[first : first + 2],))
    names = quantised.graph.normalised_names()
    histories = {names[name]: [step.as_json()[1:] for step in steps] for name, steps in quantised.history.items()}
    quantised.finish_calibration()
    seen: dict[str, np.ndarray] = {}

    def observe(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            seen[names[name]] = value.numpy()

    output = quantised.test((recording.images[10:11],), observe)
    return Outcome(quantised, histories, output.numpy(), seen)


def tables(quantised: QuantisedGraph) -> dict[str, dict[str, Any]]:
    """Return the steps as quant_info.json lists them."""
    names, steps = quantised.graph.normalised_names(), quantised.steps
    return {
        "param": {key: [step.as_json()] for key, step in steps.param.items()},
        "output": {names[name]: [step.as_json()] for name, step in steps.output.items()},
        "input": {names[name]: [step.as_json() for step in row] for name, row in steps.input.items()},
    }


def recorded_tables(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the steps that the real tool wrote."""
    info = json.loads((folder / "quant_info.json").read_text())
    return {table: info[table] for table in ("param", "output", "input")}


def recorded_histories(folder: Path) -> dict[str, list[Any]]:
    """Return the real tool's step per batch of every quantised output."""
    history = json.loads((folder / "graph.json").read_text())["history"]["output"]
    return {name: rows[0] for name, rows in history.items()}


def count_flips(mine: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]]) -> list[tuple[str, Any, Any]]:
    """Return the fix positions that differ."""
    return [
        (name, mine[table].get(name), theirs[table].get(name))
        for table in theirs
        for name in {**mine[table], **theirs[table]}
        if mine[table].get(name) != theirs[table].get(name)
    ]


def options_of(variant: str) -> ToolOptions:
    """Return the tool options behind a variant's name."""
    return {
        "opt_nocle": ToolOptions(equalisation=False),
        "opt_nobc": ToolOptions(bias_correction=False),
        "opt_maxfix15": ToolOptions(largest_fix=15),
        "opt_avgpool_noapprox": ToolOptions(average_pool_coefficient=False),
        "opt_reluk": ToolOptions(relu6_to_reluk=True),
        "dpu_opt_maxmin": ToolOptions(maxmin=True),
        "dpu_change_add": ToolOptions(change_add_input_fix=True),
        "dpu_insert_concat": ToolOptions(insert_concat_fix=True),
    }.get(variant, ToolOptions())
