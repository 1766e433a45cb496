"""Every tensor of one test run as raw files, to compare a board or an interpreter with: deploy_check_data_int/.

For each op that holds a node's value: `<op>.bin`, float32 after rounding to the fix position, in the layout of the
xmodel, and where it is a quantisation point `<op>_fix.bin`, int8. The same for parameters. `shape.txt` lists the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpuforge.emulator.export.lower_network import Lowered
from dpuforge.emulator.export.xmodel_builder import Held, Layout
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.xmodel.nouns import Graph, Op

Array = NDArray[Any]


def write_deploy_check(
    quantised: QuantisedGraph, lowered: Lowered, inputs: Sequence[torch.Tensor], folder: Path
) -> None:
    """Run the quantised network on `inputs` (batch 1) and write its tensors into `folder`."""
    observed: dict[str, Any] = {}
    quantised.test(inputs, observed.__setitem__)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for held in lowered.held:
        data = _held_value(held, observed[held.node])
        _write(folder, lowered.graph.by_name[held.op], data, _fix_of(lowered.graph, held.op))
        lines.append(f"{list(lowered.graph.by_name[held.op].dims)}: {held.name}\n")
    for op, fix in _parameters(lowered.graph):
        data = np.frombuffer(op.attrs["data"].value, "<f4").reshape(op.dims)
        _write(folder, op, _unflipped(lowered.graph, fix, data), fix, fixed=data)
    (folder / "shape.txt").write_text("".join(lines), encoding="utf-8")


def _held_value(held: Held, value: Any) -> Array:
    """Bring the value of a node, NCHW, into the layout of the op that holds it."""
    tensor: torch.Tensor = value if held.index is None else value[held.index]
    if held.flattened:
        tensor = tensor.reshape(-1, *held.flattened).permute(0, 2, 3, 1)
    elif held.layout is Layout.NHWC:
        tensor = tensor.permute(0, 2, 3, 1)
    elif held.layout is Layout.NWC:
        tensor = tensor.permute(0, 2, 1)
    result: Array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    return result


def _fix_of(graph: Graph, name: str) -> Op | None:
    return next((graph.by_name[r] for r in graph.consumers[name] if graph.by_name[r].type == "fix"), None)


def _parameters(graph: Graph) -> list[tuple[Op, Op]]:
    """Return the constants that have a fix, with it."""
    pairs = [(op, _fix_of(graph, op.name)) for op in graph.ops if op.type == "const"]
    return [(op, fix) for op, fix in pairs if fix is not None]


def _unflipped(graph: Graph, fix: Op, data: Array) -> Array:
    """Turn back the weights of transposed convolutions: the real tool's float files hold them unflipped."""
    readers = (graph.by_name[name] for name in graph.consumers[fix.name])
    transposed = any(op.type.startswith("transposed") and fix.name in op.inputs("weights") for op in readers)
    return data[:, ::-1, ::-1] if transposed else data


def _write(folder: Path, op: Op, data: Array, fix: Op | None, fixed: Array | None = None) -> None:
    np.ascontiguousarray(data, "<f4").tofile(folder / f"{op.name}.bin")
    if fix is not None:
        integers = np.rint(
            np.ldexp((data if fixed is None else fixed).astype(np.float64), fix.attrs["fix_point"].value)
        )
        integers.astype("<i2" if fix.attrs["bit_width"].value > 8 else np.int8).tofile(folder / f"{op.name}_fix.bin")
