"""A quantised network -> `<Net>_int.onnx`: float operators between QuantizeLinear and DequantizeLinear pairs.

The scales are powers of two and the zero points 0 for a DPU. ONNX rounds ties to even, the DPU upwards: a runtime may
therefore differ by one step on an exact tie (the real tool's file does so too); everything else is equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper

from dpuforge.emulator.export.to_onnx.onnx_builder import SMALLEST_OPSET, OnnxBuilder
from dpuforge.emulator.export.to_onnx.onnx_operators import write_node
from dpuforge.emulator.export.xmodel_builder import ExportError
from dpuforge.emulator.export.xmodel_file import with_batch_of
from dpuforge.emulator.quantised_graph import QuantisedGraph

TOOL_OPSET = 17  # what the real tool writes
_IR_VERSIONS = ((21, 10), (19, 9), (15, 8), (0, 7))  # first opset of an IR version


def export_onnx(
    quantised: QuantisedGraph,
    path: Path | str,
    opset_version: int = SMALLEST_OPSET,
    dynamic_batch: bool = False,
    inputs: Sequence[torch.Tensor] = (),
) -> Path:
    """Write the quantised network as ONNX, check it with onnx.checker, and return the path.

    The file takes as many images as `inputs` hold (else as the network was captured with), or any number with
    `dynamic_batch`.
    Raises ExportError for an opset below 13, a bit width or an operator that has no ONNX form here.
    """
    if opset_version < SMALLEST_OPSET:
        message = f"opset_version {opset_version} has no per-channel QuantizeLinear"
        raise ExportError(message, f"use opset_version={SMALLEST_OPSET} or more")
    other = bool(inputs) and int(inputs[0].shape[0]) != quantised.graph.batch
    builder = OnnxBuilder(quantised, with_batch_of(quantised, inputs) if other else quantised.graph, opset_version)
    for node in builder.graph.nodes:
        write_node(builder, node)
        step = quantised.steps.output.get(node.name)
        if step is not None:
            rule = quantised.rule("activation", node)
            builder.values[node.name, None] = builder.quantise(builder.values[node.name, None], step, rule)
    model = _model(builder, dynamic_batch)
    onnx.checker.check_model(model, full_check=True)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def choose_opset(asked: int | None, configured: int) -> int:
    """Return the opset of a file: what the call asks for, else the config (not positive: nothing), else the tool's."""
    return asked or (max(configured, SMALLEST_OPSET) if configured > 0 else TOOL_OPSET)


def _model(builder: OnnxBuilder, dynamic_batch: bool) -> onnx.ModelProto:
    graph = builder.graph

    def info(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
        dims: list[int | str] = list(shape)
        if dynamic_batch and dims and dims[0] == graph.batch:
            dims[0] = "batch"
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    inputs = [info(node.name, node.shape) for node in graph.inputs]
    outputs = [info(builder.value(ref), builder.shape(ref)) for ref in graph.output_refs]
    made = helper.make_graph(builder.nodes, graph.name, inputs, outputs, builder.initializers)
    version = next(version for first, version in _IR_VERSIONS if builder.opset >= first)
    opsets = [helper.make_opsetid("", builder.opset)]
    return helper.make_model(made, opset_imports=opsets, producer_name="dpuforge", ir_version=version)
