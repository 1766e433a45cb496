"""How many DPU subgraphs compiling would make: asked of the one judge, dpuforge's partition, for a target."""

from __future__ import annotations

import os

from dpuforge.errors import UserError
from dpuforge.hardware.limits import Target
from dpuforge.hardware.partition import partition_operators
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.xmodel.neutral import translate
from dpuforge.xmodel.nouns import Graph

TARGET_VARIABLE = "DPUFORGE_TARGET"
_DEFAULT, _RELEASE = "DPUCZDX8G_ISA1_B4096", "3.5"


def asked_target() -> str:
    """Return the name of the DPU that scripts are tried for."""
    return os.environ.get(TARGET_VARIABLE, _DEFAULT)


def count_dpu_subgraphs(graph: Graph) -> int | None:
    """Return the number of DPU subgraphs that the partition foresees; None where the target or a file is not known."""
    catalogue = shipped_catalogue()
    try:
        dpu = catalogue.dpus[asked_target()].at_release(_RELEASE)
        operators = translate(graph).operators
    except (KeyError, UserError):
        return None
    return partition_operators(operators, Target(dpu, catalogue.families[dpu.family])).dpu_subgraphs
