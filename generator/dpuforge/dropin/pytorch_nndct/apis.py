"""The names that scripts import from pytorch_nndct.apis."""

from dpuforge.emulator.nndct.qat import QatProcessor
from dpuforge.emulator.nndct.torch_quantizer import dump_xmodel, torch_quantizer

from .inspection import Inspector

__all__ = ["Inspector", "QatProcessor", "dump_xmodel", "torch_quantizer"]
