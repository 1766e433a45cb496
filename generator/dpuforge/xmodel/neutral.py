"""Turns the ops of an xmodel, quantised or compiled, into neutral operators for the hardware model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dpuforge.records.operator import Operator, OpKind
from dpuforge.xmodel.nouns import Graph, Op
from dpuforge.xmodel.op_types import OpType, Role, find_op_type
from dpuforge.xmodel.read import order_ops

_NONLINEAR = {
    "RELU": "relu",
    "RELU6": "relu_six",
    "LEAKYRELU": "leaky_relu",
    "HSIGMOID": "hsigmoid",
    "HSWISH": "hswish",
}


def neutral_operators(graph: Graph) -> tuple[Operator, ...]:
    """Return the operators of an xmodel in execution order; fix, constants and transport ops are left out."""
    return translate(graph).operators


@dataclass(frozen=True)
class Translated:
    """The operators of an xmodel, and for ops that are left out the operator whose value they carry."""

    operators: tuple[Operator, ...]
    alias: Mapping[str, str]


def translate(graph: Graph) -> Translated:
    """Return the operators of an xmodel, and which of them each other op stands for."""
    return _Translation(graph).run()


class _Translation:
    """One pass over the ops; alias maps an op that is left out to the one whose value it carries."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._alias: dict[str, str] = {}
        self._found: dict[str, Operator] = {}
        self._constants: set[str] = set()
        self._floats: set[str] = set()

    def run(self) -> Translated:
        """Translate all ops."""
        for op in order_ops(self._graph):
            kind, role = _op_type(op).neutral, _op_type(op).role
            inputs = tuple(self._alias.get(name, name) for name in op.all_inputs)
            moved = role is Role.TRANSPORT or _changes_layout(op)
            if op.type != "fix" and (_computes_in_float(op, kind) or self._floats.intersection(op.all_inputs)):
                self._floats.add(op.name)
            if role is Role.CONSTANT or (inputs and all(name in self._constants for name in inputs)):
                self._constants.add(op.name)
            elif self._only_scales(kind, inputs) or (moved and inputs):
                self._alias[op.name] = next(name for name in inputs if name not in self._constants)
            else:
                self._found[op.name] = self._hard_swish(op, kind, inputs) or self._operator(op, kind)
        return Translated(tuple(self._found.values()), self._alias)

    def _only_scales(self, kind: OpKind, inputs: tuple[str, ...]) -> bool:
        """A constant factor behind an average pool or a hard sigmoid is part of it (the divisor's approximation)."""
        sources = [name for name in inputs if name not in self._constants]
        if kind is not OpKind.MUL or len(sources) != 1 or len(inputs) != 2:
            return False
        return self._found[sources[0]].kind in (OpKind.AVERAGE_POOL, OpKind.HARD_SIGMOID)

    def _hard_swish(self, op: Op, kind: OpKind, inputs: tuple[str, ...]) -> Operator | None:
        """x times its own hard sigmoid is a hard swish: the compiler has one operator for it."""
        if kind is not OpKind.MUL or len(inputs) != 2:
            return None
        for gate, source in (inputs, inputs[::-1]):
            inner = self._found.get(gate)
            gates = inner is not None and inner.kind is OpKind.HARD_SIGMOID and inner.inputs == (source,)
            if inner is not None and gates and len(self._graph.consumers[gate]) == 1:
                del self._found[gate]
                self._alias[gate] = op.name
                return replace(inner, name=op.name, kind=OpKind.HARD_SWISH, label="hard-swish")
        return None

    def _operator(self, op: Op, kind: OpKind) -> Operator:
        direct = [name for name in op.all_inputs if self._alias.get(name, name) not in self._constants]
        sources = tuple(self._alias.get(name, name) for name in direct)
        shapes = tuple(self._graph.by_name[name].dims for name in direct)
        if kind is OpKind.DENSE and len(sources) > 1:
            kind = OpKind.OTHER  # a product of two activations
        attributes = {name: attribute.value for name, attribute in op.attrs.items()}
        window = _window(attributes) if kind in _WINDOWED else {}
        kernel = window.get("kernel", (1, 1))
        return Operator(
            name=op.name,
            kind=kind,
            inputs=sources,
            in_shapes=shapes,
            out_shape=op.dims,
            groups=int(attributes.get("group", 1)) if kind in (OpKind.CONV, OpKind.TRANSPOSED) else 1,
            nonlinear=_NONLINEAR.get(str(attributes.get("nonlinear", "NONE")), ""),
            constant=kind in (OpKind.ADD, OpKind.MUL) and len(sources) == 1 < len(op.all_inputs),
            is_global=bool(shapes) and len(shapes[0]) == 4 and kind in _POOLS and kernel == shapes[0][1:3],
            label=op.type,
            module=_module(op.name),
            attributes=_kept(kind, attributes) | self._layout(kind, direct) | self._number_format(direct),
            **window,
        )

    def _number_format(self, direct: list[str]) -> dict[str, object]:
        """Note an operator that reads what a CPU operator left in float: a DPU reads integers alone."""
        return {"in_float": True} if self._floats.intersection(direct) else {}

    def _layout(self, kind: OpKind, direct: list[str]) -> dict[str, object]:
        """Note where a reshape reads an image whose channels are not last: flattened, it is no image of the DPU."""
        source = self._graph.by_name[direct[0]] if kind is OpKind.RESHAPE and direct else None
        while source is not None and source.type == "fix":
            source = self._graph.by_name[source.inputs()[0]]
        first = source is not None and ("::" in source.type or source.type == "transpose")
        return {"channels_first": True} if first else {}


_POOLS = (OpKind.MAX_POOL, OpKind.AVERAGE_POOL)
_WINDOWED = (*_POOLS, OpKind.CONV, OpKind.DEPTHWISE, OpKind.TRANSPOSED, OpKind.DEPTHWISE_TRANSPOSED)


_IN_FLOAT = (OpKind.OTHER, OpKind.SIGMOID, OpKind.TANH, OpKind.SOFTMAX, OpKind.GELU, OpKind.SILU)


def _computes_in_float(op: Op, kind: OpKind) -> bool:
    """Tell an op of an uncompiled graph whose value is no integer until a `fix` rounds it."""
    return kind in _IN_FLOAT and not op.type.endswith("-fix") and find_op_type(op.type).role is Role.OPERATOR


def _changes_layout(op: Op) -> bool:
    """Tell a transpose that the quantizer put around an op which wants PyTorch's layout: no operator of the network."""
    order = op.attrs["order"].value if op.type == "transpose" and "order" in op.attrs else ()
    put = "_sink_transpose_" in op.name or "_swim_transpose_" in op.name
    return put and order in ((0, 3, 1, 2), (0, 2, 3, 1), (0, 2, 1))


def _op_type(op: Op) -> OpType:
    variant = op.attrs.get("type")
    return find_op_type(op.type, str(variant.value) if variant is not None else "")


def _window(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """XIR writes kernel, stride and dilation as [w, h] and pad as [left, right, top, bottom]."""
    kernel, stride = attributes["kernel"], attributes["stride"]
    dilation = attributes.get("dilation") or (1, 1)
    left, right, top, bottom = attributes.get("pad") or (0, 0, 0, 0)
    return {
        "kernel": (kernel[1], kernel[0]),
        "stride": (stride[1], stride[0]),
        "dilation": (dilation[1], dilation[0]),
        "pad": (top, bottom, left, right),
    }


def _kept(kind: OpKind, attributes: Mapping[str, Any]) -> dict[str, object]:
    """The attributes that limits ask for, in the spelling of the captured graph (dim counts NCHW axes)."""
    if kind is OpKind.CONCAT:
        axis = attributes.get("axis", 3)
        return {"dim": 1 if axis in (3, -1) else axis}
    if kind in (OpKind.TRANSPOSED, OpKind.DEPTHWISE_TRANSPOSED):
        left, right, top, bottom = attributes.get("pad") or (0, 0, 0, 0)
        return {"output_padding": (max(top - bottom, 0), max(left - right, 0))}
    if kind is OpKind.RESIZE:
        scale = attributes.get("scale") or ()
        return {
            "scale": tuple(float(factor) for factor in scale[::-1]),
            "mode": str(attributes.get("mode", "")).lower(),
            "align_corners": bool(attributes.get("align_corners", False)),
        }
    return {"mode": str(attributes["mode"]).lower()} if kind is OpKind.PAD and "mode" in attributes else {}


def _module(name: str) -> str:
    """ "ResNet__ResNet_Conv2d_conv1__input_3_fix" names the module path with underscores; keep it readable."""
    return name.split("__", 1)[1].rsplit("__", 1)[0] if name.count("__") > 1 else ""
