"""Modules that networks for quantisation-aware training are written with."""

from torch import nn


class QuantStub(nn.Module):
    """Marks where quantisation begins: the network's inputs, which the emulator quantises anyway."""

    def forward(self, x):  # type: ignore[no-untyped-def]
        return x


class DeQuantStub(nn.Module):
    """Marks where quantisation ends."""

    def forward(self, x):  # type: ignore[no-untyped-def]
        return x


__all__ = ["DeQuantStub", "QuantStub"]
