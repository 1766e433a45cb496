"""Turns the ops of an xmodel, quantised or compiled, into neutral operators for the hardware model."""

from __future__ import annotations

from collections.abc import Mapping
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
    return _Translation(graph).run()


class _Translation:
    """One pass over the ops; alias maps an op that is left out to the one whose value it carries."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._alias: dict[str, str] = {}
        self._kinds: dict[str, OpKind] = {}
        self._constants: set[str] = set()

    def run(self) -> tuple[Operator, ...]:
        """Translate all ops."""
        found = []
        for op in order_ops(self._graph):
            kind, role = _op_type(op).neutral, _op_type(op).role
            inputs = tuple(self._alias.get(name, name) for name in op.inputs())
            if role is Role.CONSTANT or (role is Role.TRANSPORT and inputs and inputs[0] in self._constants):
                self._constants.add(op.name)
            elif self._only_scales(op, kind, inputs) or (role is Role.TRANSPORT and inputs):
                self._alias[op.name] = next(name for name in inputs if name not in self._constants)
            else:
                self._kinds[op.name] = kind
                found.append(self._operator(op, kind, inputs))
        return tuple(found)

    def _only_scales(self, op: Op, kind: OpKind, inputs: tuple[str, ...]) -> bool:
        """A constant factor behind an average pool or a hard sigmoid is part of it (the divisor's approximation)."""
        sources = [name for name in inputs if name not in self._constants]
        if kind is not OpKind.MUL or len(sources) != 1 or len(inputs) != 2:
            return False
        return self._kinds.get(sources[0]) in (OpKind.AVERAGE_POOL, OpKind.HARD_SIGMOID)

    def _operator(self, op: Op, kind: OpKind, inputs: tuple[str, ...]) -> Operator:
        sources = tuple(name for name in inputs if name not in self._constants)
        shapes = tuple(self._graph.by_name[name].dims for name in sources)
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
            constant=kind in (OpKind.ADD, OpKind.MUL) and len(sources) == 1 < len(inputs),
            is_global=bool(shapes) and len(shapes[0]) == 4 and kind in _POOLS and kernel == shapes[0][1:3],
            label=op.type,
            module=_module(op.name),
            attributes=_kept(kind, attributes),
            **window,
        )


_POOLS = (OpKind.MAX_POOL, OpKind.AVERAGE_POOL)
_WINDOWED = (*_POOLS, OpKind.CONV, OpKind.DEPTHWISE, OpKind.TRANSPOSED, OpKind.DEPTHWISE_TRANSPOSED)


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
