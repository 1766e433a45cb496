"""Stands in for AMD's xir where this folder is on PYTHONPATH: reads xmodels, and shows the DPU part of an uncompiled
one as the subgraph that a compiled one has."""

import dpuforge_dropin  # type: ignore[import-not-found]  # noqa: F401

# isort: split
from .graph import Graph, Op, Subgraph
from .tensor import Tensor

__emulator__ = True  # how a result records which toolchain made it

__all__ = ["Graph", "Op", "Subgraph", "Tensor"]
