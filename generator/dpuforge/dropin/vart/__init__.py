"""Stands in for AMD's vart where this folder is on PYTHONPATH: runs an uncompiled xmodel on dpuforge's integers."""

import dpuforge_dropin  # type: ignore[import-not-found]  # noqa: F401

# isort: split
from .buffers import TensorBuffer
from .runner import Runner, RunnerExt

__emulator__ = True  # how a result records which toolchain made it

__all__ = ["Runner", "RunnerExt", "TensorBuffer"]
