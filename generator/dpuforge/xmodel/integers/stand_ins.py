"""Which ops of an xmodel could not be run, found without running it: tensors stand in that hold shapes alone.

Nothing that passes here stops later: ops that could are computed, on stand-ins, by the functions that run the file.
"""

from __future__ import annotations

import numpy as np

from dpuforge.errors import FormatError
from dpuforge.xmodel.integers.calls import read_calls
from dpuforge.xmodel.integers.fixed_point import Value
from dpuforge.xmodel.integers.operands import Machine
from dpuforge.xmodel.integers.operators import WEIGHTED, check_operands, run_op
from dpuforge.xmodel.nouns import Graph, Op
from dpuforge.xmodel.read import order_ops

# They take whatever has a shape, or their shapes were computed with them.
_TAKE_ALL = frozenset({
    "fix", "relu", "relu6", "leaky-relu", "hard-sigmoid", "hard-swish", "hard-tanh", "add", "sub", "mul", "scale",
    "sigmoid", "tanh", "gelu", "softmax", "maxpool2d", "avgpool2d", "div", "neg", "exp", "elu", "selu", "mish", "swish",
    "aten::silu", "max", "min",
})  # fmt: skip
_SMALL = 64  # elements
_FLOATS = frozenset({"sigmoid", "tanh", "gelu", "softmax", "div", "exp", "elu", "selu", "mish", "swish", "aten::silu"})


def find_stops(graph: Graph) -> dict[str, str]:
    """Return why ops cannot be run, by op name; constants may be without data, of which only the shape counts."""
    machine, values, stops = Machine(use_torch=False, calls=read_calls(graph)), dict[str, Value](), dict[str, str]()
    known: dict[object, Value] = {}
    for op in order_ops(graph):
        try:
            values[op.name] = _stand_in(machine, op, values, known)
        except FormatError as error:
            stops[op.name] = error.message
            values[op.name] = _zeros(op, exact=False)
    return stops


def _stand_in(machine: Machine, op: Op, values: dict[str, Value], known: dict[object, Value]) -> Value:
    inputs = {arg.name: tuple(values[name] for name in arg.ops) for arg in op.args}
    if op.type == "data":
        return _zeros(op, exact=False)
    if op.type == "const" and not op.attrs["data"].value and all(op.dims):
        return _zeros(op, exact=True)
    if op.type in WEIGHTED:
        check_operands(op, inputs)
        return _zeros(op, exact=True)
    if op.type in _TAKE_ALL:
        moving = all(value.exact for value in inputs.get("input", ()))
        return _zeros(op, exact=op.type == "fix" or (moving and op.type not in _FLOATS))
    if op.name not in machine.calls:
        return run_op(machine, op, inputs)
    key = machine.calls[op.name].to_json(), op.dims, tuple(_signature(v) for group in inputs.values() for v in group)
    if key not in known:  # what the layers of a network repeat is computed once
        made = run_op(machine, op, inputs)
        known[key] = _zeros(op, made.exact)
    return known[key]


def _signature(value: Value) -> tuple[object, ...]:
    """Return what a call on stand-ins depends on: of small constants, which may be places, their numbers too."""
    content = value.data.tobytes() if value.data.size <= _SMALL else b""
    return value.data.shape, value.exact, value.divisor, content


def _zeros(op: Op, exact: bool) -> Value:
    """Return a tensor that takes no memory."""
    if exact:
        return Value(np.broadcast_to(np.int8(0), op.dims), 0, bound=128)
    return Value(np.broadcast_to(np.float64(0), op.dims), exact=False)
