"""What the CPU computes in float beside the DPU: torch's functions by name on numpy arrays, in float64, NCHW."""

from __future__ import annotations

from collections.abc import Mapping

from dpuforge.xmodel.integers.float_functions.arrays import Function
from dpuforge.xmodel.integers.float_functions.attention import ATTENTION
from dpuforge.xmodel.integers.float_functions.elementwise import ELEMENTWISE
from dpuforge.xmodel.integers.float_functions.norms import NORMS
from dpuforge.xmodel.integers.float_functions.rearrange import MOVES
from dpuforge.xmodel.integers.float_functions.reductions import REDUCTIONS
from dpuforge.xmodel.integers.float_functions.windows import WINDOWS

FLOAT_FUNCTIONS: Mapping[str, Function] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **NORMS,
    **WINDOWS,
    **MOVES,
    **ATTENTION,
}
