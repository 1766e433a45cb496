"""The names that scripts import from pytorch_nndct.apis."""

from dpuforge.emulator.api import torch_quantizer

__all__ = ["torch_quantizer"]
