"""One row per op type of XIR, under its name before compiling: which operator it is, or what it does instead.

What an op computes stands in operators.py (OPERATORS), its arguments and attributes in op_definitions.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from dpuforge.records.operator import OpKind


class Role(Enum):
    """What an op is for."""

    OPERATOR = "an operator of the network"
    CONSTANT = "a constant"
    TRANSPORT = "carries data from one device or number format to another"


@dataclass(frozen=True)
class OpType:
    """One row: what the hardware model calls the op, and its role."""

    neutral: OpKind = OpKind.OTHER
    role: Role = Role.OPERATOR

    @property
    def convolution(self) -> bool:
        """Whether it is a 2-D convolution, transposed or not."""
        return self.neutral in _CONVOLUTIONS


_CONVOLUTIONS = (OpKind.CONV, OpKind.DEPTHWISE, OpKind.TRANSPOSED, OpKind.DEPTHWISE_TRANSPOSED)
_CONSTANT, _TRANSPORT = OpType(role=Role.CONSTANT), OpType(role=Role.TRANSPORT)

OP_TYPES: Mapping[str, OpType] = {
    "data": OpType(OpKind.INPUT),
    "const": _CONSTANT,
    "stack": _CONSTANT,
    "fix": _TRANSPORT,
    "fix2float": _TRANSPORT,
    "float2fix": _TRANSPORT,
    "upload": _TRANSPORT,
    "download": _TRANSPORT,
    "identity": _TRANSPORT,
    "conv2d": OpType(OpKind.CONV),
    "depthwise-conv2d": OpType(OpKind.DEPTHWISE),
    "transposed-conv2d": OpType(OpKind.TRANSPOSED),
    "transposed-depthwise-conv2d": OpType(OpKind.DEPTHWISE_TRANSPOSED),
    "conv1d": OpType(),
    "conv3d": OpType(OpKind.CONV3D),
    "matmul": OpType(OpKind.DENSE),
    "scale": OpType(OpKind.BATCH_NORM),
    "maxpool2d": OpType(OpKind.MAX_POOL),
    "avgpool2d": OpType(OpKind.AVERAGE_POOL),
    "aten::mean": OpType(),
    "add": OpType(OpKind.ADD),
    "sub": OpType(),
    "mul": OpType(OpKind.MUL),
    "div": OpType(),
    "neg": OpType(),
    "max": OpType(),
    "min": OpType(),
    "concat": OpType(OpKind.CONCAT),
    "relu": OpType(OpKind.RELU),
    "relu6": OpType(OpKind.RELU6),
    "leaky-relu": OpType(OpKind.LEAKY_RELU),
    "prelu": OpType(OpKind.PRELU),
    "hard-tanh": OpType(),
    "hard-sigmoid": OpType(OpKind.HARD_SIGMOID),
    "hard-swish": OpType(OpKind.HARD_SWISH),
    "sigmoid": OpType(OpKind.SIGMOID),
    "tanh": OpType(OpKind.TANH),
    "softmax": OpType(OpKind.SOFTMAX),
    "gelu": OpType(OpKind.GELU),
    "exp": OpType(),
    "elu": OpType(),
    "selu": OpType(),
    "mish": OpType(),
    "swish": OpType(OpKind.SILU),
    "aten::silu": OpType(OpKind.SILU),
    "resize": OpType(OpKind.RESIZE),
    "pad": OpType(OpKind.PAD),
    "reshape": OpType(OpKind.RESHAPE),
    "flatten": OpType(OpKind.RESHAPE),
    "squeeze": OpType(OpKind.RESHAPE),
    "transpose": OpType(OpKind.PERMUTE),
    "strided_slice": OpType(OpKind.SLICE),
    "pixel-shuffle": OpType(OpKind.PIXEL_SHUFFLE),
    "argmax": OpType(OpKind.ARGMAX),
    "reduction_max": OpType(OpKind.REDUCE_MAX),
    "reduction_mean": OpType(),
    "reduction_sum": OpType(),
    "reduction_product": OpType(),
    "l2_normalize": OpType(),
}
# Compiled ops of one type that compute different things, by their attribute `type`.
_COMPILED: Mapping[tuple[str, str], OpType] = {
    ("pool", "MAX"): OP_TYPES["maxpool2d"],
    ("pool", "AVG"): OP_TYPES["avgpool2d"],
    ("eltwise", "ADD"): OP_TYPES["add"],
    ("eltwise", "MUL"): OP_TYPES["mul"],
}
_UNKNOWN = OpType()


def find_op_type(name: str, variant: str = "") -> OpType:
    """Return the row of an op type, compiled ("conv2d-fix") or not; variant is the op's attribute `type`."""
    stem = name.removesuffix("-fix")
    return _COMPILED.get((stem, variant)) or OP_TYPES.get(stem, _UNKNOWN)
