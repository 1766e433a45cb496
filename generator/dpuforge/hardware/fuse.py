"""Merges the operators that the compiler merges: batch norm, padding and activations into what computes before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from dpuforge.records.hardware import Dpu
from dpuforge.records.operator import Operator, OpKind

ACTIVATIONS: dict[OpKind, str] = {
    OpKind.RELU: "relu",
    OpKind.RELU6: "relu_six",
    OpKind.LEAKY_RELU: "leaky_relu",
    OpKind.PRELU: "prelu",
    OpKind.HARD_SIGMOID: "hsigmoid",
    OpKind.HARD_SWISH: "hswish",
}
# Which engine computes a kind of operator, in the order the compiler prefers.
ENGINES: dict[OpKind, tuple[str, ...]] = {
    OpKind.CONV: ("conv",),
    OpKind.TRANSPOSED: ("conv",),
    OpKind.DENSE: ("conv",),
    OpKind.DEPTHWISE: ("alu", "dwconv"),
    OpKind.DEPTHWISE_TRANSPOSED: ("alu", "dwconv"),
    OpKind.MAX_POOL: ("alu", "pool"),
    OpKind.AVERAGE_POOL: ("alu", "pool"),
    OpKind.ADD: ("eltwise", "alu"),
    OpKind.MUL: ("eltwise", "alu"),
}
_WITH_WEIGHTS = (OpKind.CONV, OpKind.DENSE, OpKind.DEPTHWISE, OpKind.TRANSPOSED, OpKind.DEPTHWISE_TRANSPOSED)
_PADDED = (*_WITH_WEIGHTS, OpKind.MAX_POOL, OpKind.AVERAGE_POOL)


def fuse_operators(operators: Iterable[Operator], dpu: Dpu) -> tuple[Operator, ...]:
    """Return the operators as the compiler would schedule them on dpu, in order; merged names are kept.

    A batch norm with nothing to fold into becomes a 1 x 1 depthwise convolution (UG1414 3.5); a fully connected layer
    behind a flattening becomes a convolution over the whole feature map.
    """
    return _Fusion(tuple(operators), dpu).run()


class _Fusion:
    """One pass over the operators, with the results so far by name."""

    def __init__(self, operators: tuple[Operator, ...], dpu: Dpu) -> None:
        self._operators = operators
        self._dpu = dpu
        self._readers = Counter(name for operator in operators for name in operator.inputs)
        self._done: dict[str, Operator] = {}
        self._alias: dict[str, str] = {}

    def run(self) -> tuple[Operator, ...]:
        """Fuse all operators."""
        for operator in self._operators:
            self._add(replace(operator, inputs=tuple(self._alias.get(name, name) for name in operator.inputs)))
        return tuple(self._done.values())

    def _add(self, operator: Operator) -> None:
        before = self._done.get(operator.inputs[0]) if operator.inputs else None
        alone = before is not None and self._readers[_last_name(before)] == 1
        if before is not None and (operator.kind is OpKind.IDENTITY or _keeps_everything(operator)):
            self._merge(before, operator)
        elif before is not None and alone and self._takes(before, operator):
            self._merge(replace(before, nonlinear=ACTIVATIONS.get(operator.kind, before.nonlinear)), operator)
        elif before is not None and alone and before.kind is OpKind.PAD and operator.kind in _PADDED:
            self._absorb_pad(before, operator)
        elif operator.kind is OpKind.BATCH_NORM:
            self._done[operator.name] = replace(operator, kind=OpKind.DEPTHWISE, groups=operator.out_channels)
        elif before is not None and operator.kind is OpKind.DENSE:
            self._done[operator.name] = _over_feature_map(operator, before)
        else:
            self._done[operator.name] = operator

    def _takes(self, before: Operator, operator: Operator) -> bool:
        if operator.kind is OpKind.BATCH_NORM:
            return before.kind in _WITH_WEIGHTS and not before.nonlinear
        activation = ACTIVATIONS.get(operator.kind)
        if activation is None or before.nonlinear or before.kind not in ENGINES:
            return False
        engine = next((self._dpu.engines[name] for name in ENGINES[before.kind] if name in self._dpu.engines), None)
        return engine is not None and activation in engine.nonlinear

    def _merge(self, before: Operator, operator: Operator) -> None:
        """Let before stand for operator too; readers of operator now read before."""
        self._done[before.name] = replace(before, merged=(*before.merged, operator.name), out_shape=operator.out_shape)
        self._alias[operator.name] = before.name

    def _absorb_pad(self, before: Operator, operator: Operator) -> None:
        del self._done[before.name]
        merged = replace(operator, inputs=(*before.inputs, *operator.inputs[1:]), in_shapes=before.in_shapes)
        top, left = _pad_of(before)
        pad = (operator.pad[0] + top, operator.pad[1] + top, operator.pad[2] + left, operator.pad[3] + left)
        self._done[operator.name] = replace(merged, pad=pad, merged=(before.name,))


def _keeps_everything(operator: Operator) -> bool:
    """Tell a pool that changes nothing; the compiler says "input and output is unchanged, so it will be removed"."""
    still = operator.kernel == operator.stride == (1, 1) and not any(operator.pad)
    return still and operator.kind in (OpKind.MAX_POOL, OpKind.AVERAGE_POOL)


def _last_name(operator: Operator) -> str:
    """Return the name under which the network's next operator reads a fused operator's result."""
    return operator.merged[-1] if operator.merged else operator.name


def _pad_of(pad: Operator) -> tuple[int, int]:
    """Return the rows and columns added on one side, from the shapes."""
    before, after = pad.in_shapes[0], pad.out_shape
    return (after[1] - before[1]) // 2, (after[2] - before[2]) // 2


def _over_feature_map(operator: Operator, before: Operator) -> Operator:
    """flatten(h, w, c) then fully connected is a convolution with an h x w kernel."""
    shape = before.in_shapes[0] if before.kind is OpKind.RESHAPE and before.in_shapes else ()
    if len(shape) != 4 or shape[1] * shape[2] == 1 or before.attributes.get("channels_first"):
        return operator
    outputs = operator.out_channels
    return replace(operator, kernel=(shape[1], shape[2]), in_shapes=(shape,), out_shape=(shape[0], 1, 1, outputs))
