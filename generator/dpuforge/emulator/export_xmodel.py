"""A quantised network -> `<Net>_int.xmodel`, and the folder of checking data, as the real tool writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dpuforge.emulator.deploy_check import write_deploy_check
from dpuforge.emulator.lower_xmodel import ExportError, lower_graph
from dpuforge.emulator.quantised import QuantisedGraph
from dpuforge.xmodel.write import write_xmodel

Note = Callable[[str], Any]


def export_xmodel(
    quantised: QuantisedGraph,
    output_dir: Path | str,
    deploy_check: bool = False,
    inputs: Sequence[torch.Tensor] = (),
    note: Note | None = None,
) -> Path:
    """Write `<Net>_int.xmodel` into `output_dir` and return its path.

    With `deploy_check`, also write every tensor for `inputs` (NCHW, batch 1: those of the last test run) into
    `deploy_check_data_int/<Net>/`. `note` receives the real tool's progress lines. Raises ExportError where the batch
    is not 1, the target is no DPU, or an operator has no place in an xmodel.
    """
    note, name = note or _ignore, quantised.graph.name
    if quantised.settings.config.target_device != "DPU":
        message = "Not support to dump xmodel when target device is not DPU."
        raise ExportError(message, "set target_device to DPU, or export to ONNX or TorchScript")
    note("=>Converting to xmodel ...")
    lowered = lower_graph(quantised)
    folder = Path(output_dir)
    if deploy_check:
        if not inputs:
            raise ExportError("deploy_check needs the inputs of a test run", "run the quantised model once before")
        note(f"=>Dumping '{name}'' checking data...")
        write_deploy_check(quantised, lowered, inputs, folder / "deploy_check_data_int" / name)
        note(f"=>Finish dumping data.({name})")
    path = write_xmodel(lowered.graph, folder / f"{name}_int.xmodel")
    note(f"=>Successfully convert '{name}' to xmodel.({path})")
    return path


def _ignore(_: str) -> None:
    """Say nothing."""
