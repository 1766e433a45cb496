"""Quantised networks for the export tests: golden ones with their recorded steps, others with random parameters."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.nndct.calibration_files import read_info
from dpuforge.emulator.quantise.settings import default_settings
from dpuforge.emulator.quantised_graph import QuantisedGraph


class Tiny(nn.Module):
    """The golden network `tiny`, whose recorded data travel with the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(x + self.conv2(x))
        return self.fc(torch.flatten(self.gap(x), 1))


def load_steps(quantised: QuantisedGraph, folder: Path) -> QuantisedGraph:
    """Give a network the fix positions and bias corrections that the real tool recorded."""
    read_info(quantised, folder)
    names = {name: key for key, name in quantised.graph.normalised_names().items()}
    recorded = np.load(folder / "bias_corr.npz")
    for name in recorded.files:
        node = quantised.graph[names[name.replace("|", "/")]]
        quantised.corrections[node.parameters["bias"]] = torch.from_numpy(recorded[name])
    quantised.freeze_parameters()
    return quantised


def recorded_tiny(folder: Path, batch: int = 1) -> QuantisedGraph:
    """Return `tiny` as the real tool quantised it."""
    module = Tiny().eval()
    state = np.load(folder / "state_dict.npz")
    module.load_state_dict({key: torch.from_numpy(state[key]) for key in state.files}, strict=False)
    graph = capture_graph(module, (torch.zeros(batch, 3, 32, 32),))
    return load_steps(QuantisedGraph(graph, default_settings()), folder)


def golden_models(golden: Path) -> Any:
    """Import the recorded models' definitions."""
    name = "golden_models"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, golden / "models.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def golden_images(golden: Path, size: int) -> torch.Tensor:
    """Return the float test image, (1, 3, H, W)."""
    images = np.load(golden / "inputs" / f"images_u8_hw{size}_seed0_n11.npz")["u8"][10:]
    return torch.from_numpy(golden_models(golden).norm(images))


def recorded_network(golden: Path, net: str, batch: int = 1) -> tuple[QuantisedGraph, torch.Tensor]:
    """Return a golden network as the real tool quantised it, and its test image."""
    module, size = golden_models(golden).build(net)
    state, folder = module.state_dict(), golden / "nets" / net
    buffers = np.load(folder / "bn_buffers.npz")
    state.update({key.replace("|", "/"): torch.from_numpy(buffers[key]) for key in buffers.files})
    module.load_state_dict(state)
    image = golden_images(golden, size)
    graph = capture_graph(module.eval(), (image.repeat(batch, 1, 1, 1),))
    return load_steps(QuantisedGraph(graph, default_settings()), folder), image


def random_network(module: nn.Module, shape: tuple[int, ...]) -> tuple[QuantisedGraph, torch.Tensor]:
    """Calibrate a module on noise, with batch-norm statistics of that noise, and return it with one input."""
    noise = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = 1.0
    with torch.no_grad():
        module.train()(noise)
    module.eval()
    calibrated = QuantisedGraph(capture_graph(module, (noise,)), default_settings())
    calibrated.calibrate((noise,))
    calibrated.finish_calibration()
    quantised = QuantisedGraph(capture_graph(module, (noise[:1],)), default_settings())
    quantised.steps, quantised.corrections = calibrated.steps, calibrated.corrections
    quantised.freeze_parameters()
    return quantised, noise[:1]
