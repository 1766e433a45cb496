"""Modules that networks for quantisation-aware training are written with."""

from .modules import functional
from .modules.quant_stubs import DeQuantStub, QuantStub

__all__ = ["DeQuantStub", "QuantStub", "functional"]
