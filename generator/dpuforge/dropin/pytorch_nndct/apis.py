"""The names that scripts import from pytorch_nndct.apis."""

from dpuforge.emulator.api import dump_xmodel, torch_quantizer
from dpuforge.emulator.qat import QatProcessor

from .inspection import Inspector

__all__ = ["Inspector", "QatProcessor", "dump_xmodel", "torch_quantizer"]
