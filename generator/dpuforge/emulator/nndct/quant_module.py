"""The torch module that users get as quant_model: it calibrates or tests the quantised graph when it is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.graph.nodes import leaves
from dpuforge.emulator.nndct.log import note
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.errors import UsageError


class QuantModule(nn.Module):
    """Runs a QuantisedGraph like the network it stands for; its parameters are the folded float ones.

    Parameter names are those of the float network with dots written as underscores.
    """

    def __init__(self, quantised: QuantisedGraph, calibrating: bool) -> None:
        super().__init__()
        self.__dict__["quantised"] = quantised
        self.calibrating = calibrating
        self.forwards = 0
        self.last_inputs: tuple[torch.Tensor, ...] = ()
        self._own: dict[str, str] = {}
        self._recorded: list[tuple[torch.Tensor, ...]] | None = None
        for node in quantised.graph.nodes:
            for key in node.parameters.values():
                name = key.partition("::")[2].replace(".", "_")
                self._own[name] = key
                own = quantised.graph.tensors[key].clone()  # the float network keeps its own through fast_finetune
                self.register_parameter(name, nn.Parameter(own, requires_grad=False))
        self._share()

    @property
    def graph_object(self) -> QuantisedGraph:
        """The quantised graph that the module runs."""
        found: QuantisedGraph = self.__dict__["quantised"]
        return found

    def _share(self) -> None:
        """Let the graph compute with this module's parameters."""
        tensors = dict(self.graph_object.graph.tensors)
        tensors.update({key: self.get_parameter(name).detach() for name, key in self._own.items()})
        self.graph_object.replace_tensors(tensors)

    def adopt(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over other values of the float parameters."""
        with torch.no_grad():
            for name, key in self._own.items():
                self.get_parameter(name).copy_(tensors[key])
        self._share()

    def record(self, run: Callable[[], Any]) -> list[tuple[torch.Tensor, ...]]:
        """Return the inputs of every call made while run() runs; the module computes in float meanwhile."""
        self._recorded = []
        try:
            run()
            return self._recorded
        finally:
            self._recorded = None

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> QuantModule:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        rest = {
            key: fn(tensor) for key, tensor in self.graph_object.graph.tensors.items() if key not in self._own.values()
        }
        self.graph_object.replace_tensors({**self.graph_object.graph.tensors, **rest})
        self._share()
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load parameters and quantise them anew."""
        result = super().load_state_dict(*args, **kwargs)
        self._share()
        return result

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the quantised network's outputs; in calibration mode also learn from the inputs."""
        inputs = tuple(leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        wanted = self.graph_object.graph.inputs
        if len(inputs) != len(wanted):
            raise UsageError(
                f"{self.graph_object.graph.name} takes {len(wanted)} input tensors, got {len(inputs)}",
                "call quant_model like the float network",
            )
        if self._recorded is not None:
            self._recorded.append(tuple(value.detach() for value in inputs))
            return self.graph_object.evaluate_float(inputs)
        self.forwards += 1
        self.last_inputs = tuple(value.detach() for value in inputs)
        if self.calibrating:
            return self.graph_object.calibrate(inputs)
        result = self.graph_object.test(inputs)
        if self.forwards == 1:
            note(f"dpuforge's emulator evaluates on the {self.graph_object.evaluation_path}.")
        return result


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
