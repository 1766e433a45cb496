"""A quantised network -> `<Net>_int.pt`: TorchScript traced on the reference path, floats that lie on their grids."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.quantised import QuantisedGraph


def export_torch_script(
    quantised: QuantisedGraph, path: Path | str, inputs: Sequence[torch.Tensor]
) -> torch.jit.ScriptModule:
    """Trace the quantised network with `inputs`, write it to `path` and return the traced module.

    The tracer freezes the batch size where the network's code reads it, as the real tool's does.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every Python number it freezes
        module = _Reference(quantised).eval()
        traced = torch.jit.trace(module, tuple(inputs), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(path))
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced


class _Reference(nn.Module):
    """Runs a quantised network operator by operator: the fast integer path cannot be traced."""

    def __init__(self, quantised: QuantisedGraph) -> None:
        super().__init__()
        self.__dict__["quantised"] = quantised

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return the quantised network's outputs."""
        return self.__dict__["quantised"].test(inputs, observe=_ignore)


def _ignore(_: str, __: Any) -> None:
    """Observe nothing; being observed makes the network take the reference path."""
