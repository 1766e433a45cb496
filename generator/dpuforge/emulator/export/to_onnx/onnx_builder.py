"""Collects ONNX nodes and initialisers while the nodes of a network are written; QuantizeLinear pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dpuforge.emulator.export.xmodel_builder import ExportError
from dpuforge.emulator.graph.nodes import BatchSize, Graph, Node, Param, Ref
from dpuforge.emulator.quantise.steps import CastStep, FixStep, ScaleStep, Step, TensorRule
from dpuforge.emulator.quantised_graph import QuantisedGraph

SMALLEST_OPSET = 13  # per-channel QuantizeLinear
_INT16_OPSET = 21
_OPEN_END = 2**31 - 1  # shape inference overflows on larger ones with a stride
Array = NDArray[Any]


@dataclass
class OnnxBuilder:
    """Collects ONNX nodes and initialisers while the nodes of a network are written in order."""

    quantised: QuantisedGraph
    graph: Graph
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    values: dict[tuple[str, int | None], str] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def value(self, ref: Ref) -> str:
        """Return the ONNX name of a value."""
        return self.values.get((ref.node, ref.index)) or self.values[ref.node, None]

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Return the shape of a value, as captured."""
        return self.graph[ref.node].shapes[ref.index or 0]

    def unique(self, name: str) -> str:
        """Return `name`, with a number behind it where it is taken."""
        chosen, count = name, 0
        while chosen in self._names:
            count += 1
            chosen = f"{name}_{count}"
        self._names.add(chosen)
        return chosen

    def emit(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add an operator of one output and return the output's name; attributes that are None are left out."""
        output = self.unique(name)
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{output}/{op}", **given))
        return output

    def constant(self, name: str, data: Any, dtype: Any = np.float32) -> str:
        """Add an initialiser and return its name."""
        chosen = self.unique(name)
        self.initializers.append(numpy_helper.from_array(np.asarray(data, dtype=dtype), chosen))
        return chosen

    def parameter(self, node: Node, role: str, shape: Sequence[int] | None = None) -> str:
        """Add a parameter on its grid, as float behind a Q/DQ pair where it is quantised, and return its name."""
        key = node.parameters[role]
        data = self.quantised.quantised_parameter(key).detach().cpu().numpy()
        step = self.quantised.steps.param.get(key)
        name = self.constant(key, data if shape is None else data.reshape(shape))
        if step is None:
            return name
        rule = self.quantised.rule("weights" if role == "weight" else role, node)
        return self.quantise(name, step, rule)

    def quantise(self, name: str, step: Step, rule: TensorRule) -> str:
        """Put a QuantizeLinear and DequantizeLinear pair (or two Casts) behind a value; return the new value's name."""
        if isinstance(step, CastStep):
            return self._cast(name, step)
        low, high, dtype = self._range(step, rule)
        fix = isinstance(step, FixStep)
        scale = np.asarray(2.0**-step.fix if isinstance(step, FixStep) else step.scale, np.float32)
        zero = np.zeros(scale.shape) if isinstance(step, FixStep) else np.asarray(step.zero_point)
        info = np.iinfo(dtype)
        if (low, high) != (info.min, info.max):
            name = self._clip(name, (low - zero) * scale, (high - zero) * scale)
        scales = self.constant(f"{name}_scale", scale), self.constant(f"{name}_zero_point", zero, dtype)
        axis = None if fix or not scale.ndim else rule.axis
        quantised = self.emit("QuantizeLinear", (name, *scales), f"{name}_quantized", axis=axis)
        return self.emit("DequantizeLinear", (quantised, *scales), f"{name}_dequantized", axis=axis)

    def _cast(self, name: str, step: CastStep) -> str:
        kinds = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
        if step.datatype not in kinds:
            return name
        short = self.emit("Cast", (name,), f"{name}_{step.datatype}", to=kinds[step.datatype])
        return self.emit("Cast", (short,), f"{name}_float", to=TensorProto.FLOAT)

    def _range(self, step: FixStep | ScaleStep, rule: TensorRule) -> tuple[int, int, Any]:
        if isinstance(step, FixStep):
            low, high = -(2 ** (step.bits - 1)), 2 ** (step.bits - 1) - 1
        else:
            low, high = rule.grid.low, rule.grid.high
        if high - low > 255:
            if self.opset < _INT16_OPSET or not -(2**15) <= low <= high < 2**16:
                message = f"{step.bits} bits cannot be written to ONNX opset {self.opset}"
                raise ExportError(message, f"8 bits can; 16 bits need opset_version={_INT16_OPSET} or more")
            return low, high, np.int16 if low < 0 else np.uint16
        return low, high, np.int8 if low < 0 else np.uint8

    def _clip(self, name: str, low: Array, high: Array) -> str:
        """Limit a value to a range that is narrower than its integer type (4 bits, narrow_range)."""
        if np.ndim(low):
            return name  # per-channel weights lie on their grid already
        limits = self.constant(f"{name}_low", low), self.constant(f"{name}_high", high)
        return self.emit("Clip", (name, *limits), f"{name}_clipped")

    def sliced(self, source: str, name: str, parts: Mapping[int, slice]) -> str:
        """Write a slice of some axes."""
        bounds = [(part.start or 0, self._end(part.stop), part.step or 1) for part in parts.values()]
        starts, ends, steps = zip(*bounds, strict=True)
        columns = starts, ends, tuple(parts), steps
        names = [self.constant(f"{name}_slice", list(column), np.int64) for column in columns]
        return self.emit("Slice", [source, *names], name)

    @staticmethod
    def _end(stop: int | None) -> int:
        return _OPEN_END if stop is None else stop

    def resolve(self, value: Any) -> Any:
        """Return an integer that may depend on the batch."""
        return value.resolve(self.graph.batch) if isinstance(value, BatchSize) else value

    def operand(self, node: Node, value: Any, role: str) -> str:
        """Return the name of a constant operand of `node`."""
        if isinstance(value, Param):
            return self.constant(value.key, self.graph.tensors[value.key].detach().cpu().numpy())
        return self.constant(f"{node.name}_{role}", self.resolve(value))


def trace_batch(value: torch.Size | Sequence[int], batch: int) -> list[int]:
    """Return a shape for Reshape in which the leading batch is left open."""
    sizes = [int(size) for size in value]
    if sizes and sizes[0] == batch:
        sizes[0] = -1
    return sizes


Writer = Callable[[OnnxBuilder, Node], str | tuple[str, ...]]


def first_input(builder: OnnxBuilder, node: Node) -> str:
    """Return the name of what a node reads first."""
    return builder.value(node.inputs[0])


def one_operator(op: str) -> Writer:
    """Return the writer of one operator of one input, without attributes."""
    return lambda builder, node: builder.emit(op, [first_input(builder, node)], node.name)
