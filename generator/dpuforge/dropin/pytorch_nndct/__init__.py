"""Stands in for AMD's pytorch_nndct where this folder is on PYTHONPATH: the API, computed by dpuforge's emulator."""

import dpuforge_dropin  # type: ignore[import-not-found]  # makes dpuforge importable

dpuforge_dropin.require_torch()

# isort: split
from dpuforge.emulator.nndct.log import QUANTIZER_VERSION as __version__  # noqa: E402
from dpuforge.emulator.nndct.qat import QatProcessor  # noqa: E402
from dpuforge.execute.toolchain import hash_emulator  # noqa: E402

from . import nn  # noqa: E402
from .pruning import (  # noqa: E402
    IterativePruningRunner,
    OFAPruner,
    OneStepPruningRunner,
    SparsePruner,
    get_pruning_runner,
)

__emulator__ = True  # how a result records which toolchain made it
__sources__ = hash_emulator()

__all__ = [
    "IterativePruningRunner",
    "OFAPruner",
    "OneStepPruningRunner",
    "QatProcessor",
    "SparsePruner",
    "__version__",
    "get_pruning_runner",
    "nn",
]
