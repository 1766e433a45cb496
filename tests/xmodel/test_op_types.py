"""The table of XIR op types: complete for the interpreter, and spelled as XIR spells them."""

from __future__ import annotations

from dpuforge.records.operator import OpKind
from dpuforge.xmodel.definitions import known_definitions
from dpuforge.xmodel.integers.operators import OPERATORS
from dpuforge.xmodel.op_types import OP_TYPES, Role, find_op_type


def test_whatever_the_interpreter_runs_has_a_row() -> None:
    """No op type is computed without a row."""
    assert set(OPERATORS) <= set(OP_TYPES)


def test_rows_are_ops_of_xir() -> None:
    """Each row names an op that XIR defines, or a custom one of PyTorch's."""
    defined = {definition.name for definition in known_definitions()}
    assert {name for name in OP_TYPES if not name.startswith("aten::")} <= defined


def test_a_compiled_op_finds_the_row_of_what_it_computes() -> None:
    """The suffix of compiled ops falls away, pools and elementwise ops tell by their attribute."""
    assert find_op_type("conv2d-fix") is OP_TYPES["conv2d"]
    assert find_op_type("pool-fix", "AVG").neutral is OpKind.AVERAGE_POOL
    assert find_op_type("eltwise-fix", "MUL").neutral is OpKind.MUL
    assert find_op_type("const-fix").role is Role.CONSTANT
    assert find_op_type("pool-fix").neutral is OpKind.OTHER
