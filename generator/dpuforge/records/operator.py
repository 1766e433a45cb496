"""One operator of a network in neutral terms: what capture and the xmodel reader produce, and hardware judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

Shape = tuple[int, ...]


class OpKind(str, Enum):
    """What an operator computes, whatever the framework calls it."""

    INPUT = "input"
    CONV = "conv2d"
    DEPTHWISE = "depthwise-conv2d"
    TRANSPOSED = "transposed-conv2d"
    DEPTHWISE_TRANSPOSED = "depthwise-transposed-conv2d"
    CONV3D = "conv3d"
    DENSE = "fully connected"
    MAX_POOL = "max pool"
    AVERAGE_POOL = "average pool"
    ADD = "add"
    MUL = "mul"
    CONCAT = "concat"
    BATCH_NORM = "batch norm"
    RELU = "relu"
    RELU6 = "relu6"
    LEAKY_RELU = "leaky relu"
    PRELU = "prelu"
    HARD_SIGMOID = "hard sigmoid"
    HARD_SWISH = "hard swish"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    SOFTMAX = "softmax"
    SILU = "silu"
    GELU = "gelu"
    RESIZE = "resize"
    PAD = "pad"
    RESHAPE = "reshape"
    PERMUTE = "permute"
    SLICE = "slice"
    IDENTITY = "identity"
    ARGMAX = "argmax"
    REDUCE_MAX = "reduce max"
    PIXEL_SHUFFLE = "pixel shuffle"
    OTHER = "other"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Operator:
    """One operator with NHWC shapes; kernel, stride, dilation are (height, width), pad is (top, bottom, left, right).

    nonlinear names a fused activation ("relu", "relu_six", "leaky_relu", "hsigmoid", "hswish"); constant says that one
    operand is a constant; label is the framework's own name of the type; merged lists the operators fused into this;
    stop says why neither a DPU nor a CPU could run it.
    """

    name: str
    kind: OpKind
    inputs: tuple[str, ...] = ()
    in_shapes: tuple[Shape, ...] = ()
    out_shape: Shape = ()
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    nonlinear: str = ""
    constant: bool = False
    is_global: bool = False
    label: str = ""
    module: str = ""
    source: str = ""
    attributes: Mapping[str, object] = field(default_factory=dict)
    merged: tuple[str, ...] = ()
    stop: str = ""

    @property
    def in_channels(self) -> int:
        """Channels of the first input."""
        return self.in_shapes[0][-1] if self.in_shapes and self.in_shapes[0] else 0

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.out_shape[-1] if self.out_shape else 0

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output; 1 x 1 where it has no such axes."""
        return (self.out_shape[1], self.out_shape[2]) if len(self.out_shape) == 4 else (1, 1)

    @property
    def weights(self) -> int:
        """Number of weights, bias not counted."""
        area = self.kernel[0] * self.kernel[1]
        if self.kind in (OpKind.CONV, OpKind.TRANSPOSED, OpKind.DENSE):
            return area * self.in_channels * self.out_channels // self.groups
        if self.kind in (OpKind.DEPTHWISE, OpKind.DEPTHWISE_TRANSPOSED):
            return area * self.out_channels
        return 0


def count_elements(shape: Shape) -> int:
    """Return the number of elements of a tensor."""
    total = 1
    for size in shape:
        total *= size
    return total
