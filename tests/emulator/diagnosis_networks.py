"""Small networks with lively weights for the tests of the diagnosis, and how they are quantised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.quantise.settings import Settings, default_settings
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.quant_config import resolve_config

SIDE = 16


class Chain(nn.Module):
    """Convolution, batch-norm and relu three times, a pool and a classifier; act makes the activations."""

    def __init__(self, act: Callable[[], nn.Module] = nn.ReLU, width: int = 8) -> None:
        super().__init__()
        sizes = ((3, width), (width, 2 * width), (2 * width, 2 * width))
        self.features = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), act())
                for inside, outside in sizes
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


class Branches(nn.Module):
    """A residual sum, a concat, squeeze and excitation, a float operator, a split and a shared module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.swish, self.fc = nn.Hardswish(), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        x = F.relu(self.stem(x))
        x = F.relu(self.same(x) + x)
        x = self.same(x)
        x = torch.cat([self.left(x), self.right(x)], 1)
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        one, other = self.swish(x * scale).chunk(2, 1)
        return self.fc(torch.cat([one, other * 0.5], 1).mean((2, 3)))


class Pyramid(nn.Module):
    """Two inputs and two outputs that are no class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.up = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 3, 2, 2)

    def forward(self, image: torch.Tensor, depth: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return two maps."""
        both = F.relu(self.one(image)) + self.other(depth)
        return {"coarse": both, "fine": self.up(F.leaky_relu(both))}


class Mobile(nn.Module):
    """A stem and an inverted bottleneck with nn.ReLU6, as MobileNetV2 has them."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 8, 3, 1), (8, 24, 1, 1), (24, 24, 3, 24), (24, 8, 1, 1))
        self.features = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inside, outside, size, padding=size // 2, groups=groups),
                    nn.BatchNorm2d(outside),
                    nn.ReLU6() if outside > inside or groups > 1 else nn.Identity(),
                )
                for inside, outside, size, groups in sizes
            )
        )
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))


class Biased(nn.Module):
    """One convolution whose weights all lie above, or all below, their rounded values, channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.pool, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return class scores."""
        return self.fc(torch.flatten(self.pool(F.relu(self.one(x))), 1))


def uneven_mobile() -> tuple[nn.Module, torch.Tensor]:
    """Return a network that needs equalisation, with values above 6 before a ReLU6, and grey images for it.

    One channel's large weights cancel on images whose colours are alike: they cost precision and change no result.
    """
    module, batch = enliven(Mobile()), images(144).clone()
    batch[:, 1] = batch[:, 0]
    with torch.no_grad():
        module.features[0][0].weight[3, 0] += 100
        module.features[0][0].weight[3, 1] -= 100
        module.features[0][1].weight[5] *= 4
    return module, batch


def biased() -> tuple[nn.Module, torch.Tensor]:
    """Return a network whose rounding errors add up, and bright images of low contrast."""
    module, batch = enliven(Biased()), 1.5 + 0.3 * images(144)
    step, random = 2.0**-7, torch.Generator().manual_seed(3)
    with torch.no_grad():
        weight = module.one.weight
        weight.copy_((weight / weight.abs().max() * 0.5 / step).round() * step)
        weight -= weight.mean((1, 2, 3), keepdim=True)
        signs = torch.randint(0, 2, (16, 1, 1, 1), generator=random) * 2 - 1
        weight.copy_(((weight / step).round() + 0.42 * signs) * step)
        weight[0, 0, 0, 0] = 0.99
        module.one.bias.copy_(-F.conv2d(batch, weight).mean((0, 2, 3)) + 0.1)
        module.fc.bias -= module(batch).mean(0)
    return module, batch


def enliven(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module reproducible weights and batch-norm statistics that keep the values of every layer near 1."""
    random = torch.Generator().manual_seed(seed)

    def draw(shape: torch.Size, scale: float, offset: float = 0.0) -> torch.Tensor:
        return torch.randn(shape, generator=random) * scale + offset

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)):
                part.weight.copy_(draw(part.weight.shape, part.weight[0].numel() ** -0.5 * 1.4))
                part.bias.copy_(draw(part.bias.shape, 0.2))
            elif isinstance(part, nn.BatchNorm2d):
                part.weight.copy_(draw(part.weight.shape, 0.1, 1.0))
                part.bias.copy_(draw(part.bias.shape, 0.1))
                part.running_var.copy_(draw(part.running_var.shape, 0.1, 1.5))
    return module.eval()


def images(count: int = 8, channels: int = 3, seed: int = 1) -> torch.Tensor:
    """Return reproducible images of different colour and contrast, values within -2..2."""
    random = torch.Generator().manual_seed(seed)
    colour = torch.randn((count, channels, 1, 1), generator=random)
    contrast = torch.rand((count, 1, 1, 1), generator=random)
    return (torch.randn((count, channels, SIDE, SIDE), generator=random) * contrast + colour).clamp(-2, 2)


def quantise(
    module: nn.Module, *inputs: torch.Tensor, batches: int = 2, config: dict[str, Any] | None = None, **fields: Any
) -> QuantisedGraph:
    """Return a network calibrated on inputs; fields replace those of the Settings."""
    settings = Settings(resolve_config(config)) if config else default_settings()
    network = QuantisedGraph(capture_graph(module, tuple(part[:1] for part in inputs)), replace(settings, **fields))
    for parts in zip(*(part.chunk(batches) for part in inputs), strict=True):
        network.calibrate(parts)
    network.finish_calibration()
    network.freeze_parameters()
    return network


def flags(**changes: bool) -> dict[str, Any]:
    """Return a DPU config with these flags."""
    return {
        "target_device": "DPU",
        **changes,
        "overall_quantize_config": {"round_mode": "std_round"},
        "tensor_quantize_config": {"activation": {"round_mode": "half_up"}},
    }
