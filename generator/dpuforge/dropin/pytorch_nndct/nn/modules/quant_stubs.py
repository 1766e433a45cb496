"""The borders of what is quantised, as modules: QuantStub before it, DeQuantStub behind it."""

import torch
from torch import nn

from dpuforge.emulator.arithmetic.operations import dequant_stub, quant_stub


class QuantStub(nn.Module):
    """Marks where quantisation begins; returns its input."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return quant_stub(input)


class DeQuantStub(nn.Module):
    """Marks where quantisation ends; returns its input."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return dequant_stub(input)


__all__ = ["DeQuantStub", "QuantStub"]
