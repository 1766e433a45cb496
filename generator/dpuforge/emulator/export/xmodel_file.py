"""A quantised network -> `<Net>_int.xmodel`, and the folder of checking data, as the real tool writes them.

With stubs each quantised part has a file of its own: `<Net>_0_int.xmodel`, `<Net>_1_int.xmodel`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dpuforge.emulator.export.deploy_check import write_deploy_check
from dpuforge.emulator.export.lower_network import lower_graph
from dpuforge.emulator.export.parts import quantised_parts
from dpuforge.emulator.export.tool_limits import with_tool_shapes
from dpuforge.emulator.export.xmodel_builder import ExportError, FixPositions, Quantised
from dpuforge.emulator.graph.nodes import Graph
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.xmodel.write import write_xmodel

Note = Callable[[str], Any]


def export_xmodel(
    quantised: QuantisedGraph,
    output_dir: Path | str,
    deploy_check: bool = False,
    inputs: Sequence[torch.Tensor] = (),
    note: Note | None = None,
) -> Path:
    """Write `<Net>_int.xmodel` into `output_dir` and return its path (of several parts the first).

    `inputs` are those of the last test run (NCHW; of a batch the first is taken): they give the shapes of a network
    that was captured with a larger batch, and with `deploy_check` every tensor is also written for them, into
    `deploy_check_data_int/<Net>/`. `note` receives the real tool's progress lines. Raises ExportError where there are
    no inputs although they are needed, the target is no DPU, or an operator has no place in an xmodel.
    """
    note = note or _ignore
    if quantised.settings.config.target_device != "DPU":
        message = "Not support to dump xmodel when target device is not DPU."
        raise ExportError(message, "set target_device to DPU, or export to ONNX or TorchScript")
    note("=>Converting to xmodel ...")
    single = _as_single(quantised, inputs)
    parts = quantised_parts(single.graph)
    paths = [_export_part(quantised, part, Path(output_dir), inputs if deploy_check else None, note) for part in parts]
    return paths[0]


def _export_part(
    quantised: QuantisedGraph, part: Graph, folder: Path, inputs: Sequence[torch.Tensor] | None, note: Note
) -> Path:
    name = part.name
    lowered = lower_graph(_Single(with_tool_shapes(part), quantised.fix, quantised.quantised_parameter))
    if inputs is not None:
        note(f"=>Dumping '{name}'' checking data...")
        write_deploy_check(quantised, lowered, _first_of_batch(inputs), folder / "deploy_check_data_int" / name)
        note(f"=>Finish dumping data.({name})")
    path = write_xmodel(lowered.graph, folder / f"{name}_int.xmodel")
    note(f"=>Successfully convert '{name}' to xmodel.({path})")
    return path


@dataclass(frozen=True)
class _Single:
    """A quantised network seen with batch 1."""

    graph: Graph
    fix: FixPositions
    quantised_parameter: Callable[[str], torch.Tensor]


def _as_single(quantised: QuantisedGraph, inputs: Sequence[torch.Tensor]) -> Quantised:
    """Return the network as captured with batch 1."""
    if quantised.graph.batch == 1:
        return quantised
    graph = with_batch_of(quantised, _first_of_batch(inputs))
    return _Single(graph, quantised.fix, quantised.quantised_parameter)


def with_batch_of(quantised: QuantisedGraph, inputs: Sequence[torch.Tensor]) -> Graph:
    """Return the network's graph with the shapes that these inputs give, found by one run on them."""
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def observe(name: str, value: Any) -> None:
        shapes[name] = tuple(tuple(tensor.shape) for tensor in (value if isinstance(value, tuple | list) else (value,)))

    quantised.test(inputs, observe)
    nodes = (replace(node, shape=shapes[node.name][0], shapes=shapes[node.name]) for node in quantised.graph.nodes)
    return replace(quantised.graph, nodes=tuple(nodes), batch=int(inputs[0].shape[0]))


def _first_of_batch(inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    if not inputs:
        raise ExportError("this export needs the inputs of a test run", "run the quantised model on one image before")
    return tuple(tensor[:1] for tensor in inputs)


def _ignore(_: str) -> None:
    """Say nothing."""
