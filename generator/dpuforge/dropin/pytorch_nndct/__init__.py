"""Stands in for AMD's pytorch_nndct where this folder is on PYTHONPATH: the API, computed by dpuforge's emulator."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("dpuforge") is None:  # only this folder is on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dpuforge.emulator.log import QUANTIZER_VERSION as __version__

__emulator__ = True  # how a result records which toolchain made it

__all__ = ["__version__"]
