"""Networks with QuantStub and DeQuantStub; import it with the drop-in folder on the path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pytorch_nndct import nn as nndct_nn  # type: ignore[import-not-found]
from pytorch_nndct.nn.modules import functional  # type: ignore[import-not-found]
from torch import nn

from tests.emulator.recorded import arrays

DATA = Path(__file__).resolve().parent.parent / "golden_data" / "qat"


class Block(nn.Module):
    """Two convolutions with batch norms, a residual sum, a pool and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = nndct_nn.QuantStub(), nndct_nn.DeQuantStub()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.skip, self.pool, self.fc = functional.Add(), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.relu1(self.bn1(self.conv1(self.quant(x))))
        b = self.relu2(self.skip(self.bn2(self.conv2(a)), a))
        return self.dequant(self.fc(torch.flatten(self.pool(b), 1)))


class Plain(nn.Module):
    """A functional relu, which cannot be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = nndct_nn.QuantStub(), nndct_nn.DeQuantStub()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.quant(x)
        return self.dequant(torch.relu(self.conv(x) + x))


class PartialTwo(nn.Module):
    """Two quantised parts with a float part between."""

    def __init__(self) -> None:
        super().__init__()
        self.quant1, self.dequant1 = nndct_nn.QuantStub(), nndct_nn.DeQuantStub()
        self.quant2, self.dequant2 = nndct_nn.QuantStub(), nndct_nn.DeQuantStub()
        self.one, self.between, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dequant1(torch.relu(self.one(self.quant1(x))))
        return self.dequant2(self.two(self.quant2(torch.tanh(self.between(x)))))


class Stubbed(nn.Module):
    """Any network between stubs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.quant, self.inner, self.dequant = nndct_nn.QuantStub(), inner, nndct_nn.DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(self.inner(self.quant(x)))


RECORDED: dict[str, type[nn.Module]] = {
    "block": Block,
    "block_freeze_after_step_1": Block,
    "plain": Plain,
    "partial_two": PartialTwo,
}


def build(name: str) -> nn.Module:
    """Return a recorded network with the weights that it was recorded with, in training mode."""
    network = RECORDED[name]()
    values = arrays(DATA / name / "float_before.npz")
    network.load_state_dict({key: torch.from_numpy(value) for key, value in values.items()})
    return network


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images and labels of the recordings."""
    draw = np.random.RandomState(1)
    images = draw.standard_normal((64, 3, 16, 16)).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(draw.randint(0, 3, 64).astype(np.int64))
