"""fast_finetune: after a first calibration, trains each layer's weights to repeat the float layer's result.

Layer by layer in graph order, on the images that the user's function feeds; the float and the quantised network are
walked side by side, so every layer is run once. A layer keeps its new weights only if its error became smaller, and
the network keeps them only if the error of its outputs did.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dpuforge.emulator.graph.evaluate import Values, call_node
from dpuforge.emulator.graph.kinds import Fact, Point
from dpuforge.emulator.graph.nodes import Graph, Node, leaves
from dpuforge.emulator.nndct import log
from dpuforge.emulator.nndct.calibration_files import PARAM_FILE
from dpuforge.emulator.nndct.quant_module import QuantModule
from dpuforge.emulator.quantise.steps import Step, apply_step
from dpuforge.emulator.quantise.straight_through import quantise_through
from dpuforge.emulator.quantised_graph import QuantisedGraph

_FLOAT_BYTES = 4
_MEMORY_SHARE = 0.8
_ROUNDS = 40  # optimiser steps per layer
_RATE = 0.05  # of a quantisation step, per optimiser step
Batch = tuple[torch.Tensor, ...]


def finetune_layers(module: QuantModule, folder: Path, run_fn: Callable[..., Any], run_args: Sequence[Any]) -> None:
    """Finetune a module that calibrates on what run_fn(*run_args) feeds to it, and write folder/param.pth."""
    log.note("=>Preparing data for fast finetuning module parameters ...")
    recorded = module.record(lambda: run_fn(*run_args))
    if not recorded:
        text = "fast_finetune: the function did not call quant_model"
        raise log.fail("NO_FORWARD", text, "run_fn(*run_args) must feed images to torch_quantizer.quant_model")
    log.note("=>Find initial quantization steps for fast finetuning...")
    quantised = module.graph_object
    batches = fitting_batches(quantised, recorded)
    for batch in batches:
        quantised.calibrate(batch)
    log.note("=>Fast finetuning module parameters for better quantization accuracy...")
    before, after = finetune_graph(quantised, batches)
    log.note(f"=>Mean squared error of the quantised outputs: {before:.6g} before, {after:.6g} after finetuning.")
    log.note("=>Export fast finetuned parameters ...")
    path = folder / PARAM_FILE
    log.note(f"=>Exporting quant model parameters.({path})")
    save_parameters(quantised, path)
    quantised.restart_calibration()
    module.adopt(quantised.graph.tensors)


def fitting_batches(quantised: QuantisedGraph, batches: Sequence[Batch]) -> Sequence[Batch]:
    """Return as many batches as fit into 80 % of the free memory, and say so where not all do."""
    per_image = 2 * _FLOAT_BYTES * _largest_cut(quantised.graph) / max(quantised.graph.batch, 1)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    images = [int(batch[0].shape[0]) for batch in batches]
    log.note(f"Memory cost by fast finetuning is {per_image * sum(images) / 2**30:.2f} G.")
    fitting, used = 0, 0.0
    while fitting < len(batches) and used + per_image * images[fitting] <= _MEMORY_SHARE * free:
        used += per_image * images[fitting]
        fitting += 1
    if fitting < len(batches):
        text = f"{fitting} of {len(batches)} batches fit into memory: fast finetuning uses these."
        if not fitting:
            raise log.fail("FAST_FINETUNE", "Not one batch fits into memory.", "use smaller batches")
        log.warn("FAST_FINETUNE", text)
    return batches[:fitting]


def _largest_cut(graph: Graph) -> int:
    """Return the largest number of elements alive at one place of the graph, for the captured batch."""
    last = {name: place for place, node in enumerate(graph.nodes) for name in (node.name, *node.input_names())}
    sizes = {node.name: sum(math.prod(shape) for shape in node.shapes) for node in graph.nodes}
    alive, most = 0, 0
    for place, node in enumerate(graph.nodes):
        alive += sizes[node.name]
        most = max(most, alive)
        alive -= sum(sizes[name] for name in {node.name, *node.input_names()} if last[name] == place)
    return most


def load_finetuned(quantised: QuantisedGraph, module: QuantModule, folder: Path) -> None:
    """Load folder/param.pth into the network and its module; QuantizerError where it is missing or does not fit."""
    path = folder / PARAM_FILE
    if not path.is_file():
        text = f"Fast finetuned parameter file does not exist: {path}."
        raise log.fail("FAST_FINETUNE", text, "run fast_finetune in mode calib first")
    table = torch.load(path, map_location="cpu", weights_only=True)
    tensors = dict(quantised.graph.tensors)
    if any(key not in tensors or tensors[key].shape != value.shape for key, value in table.items()):
        text = "Fast finetuned parameter file does not match current model."
        raise log.fail("FAST_FINETUNE", text, "finetune and calibrate this network again")
    module.adopt({**tensors, **{key: value.to(tensors[key].device) for key, value in table.items()}})
    log.note(f"=>Loading quant model parameters.({path})")


def save_parameters(quantised: QuantisedGraph, path: Path) -> None:
    """Write the float parameters of the prepared graph."""
    keys = [key for node in quantised.graph.nodes for key in node.parameters.values()]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save({key: quantised.graph.tensors[key].cpu().clone() for key in keys}, temporary)
    temporary.replace(path)


def finetune_graph(quantised: QuantisedGraph, batches: Sequence[Batch]) -> tuple[float, float]:
    """Finetune in place; return the mean squared error of the network's outputs before and after (never larger)."""
    original = dict(quantised.graph.tensors)
    targets = [_flat(quantised.evaluate_float(batch)) for batch in batches]
    quantised.freeze_parameters()
    before = _network_error(quantised, batches, targets)
    tuned = _Walk(quantised, batches).run()
    quantised.replace_tensors({**original, **tuned})
    quantised.freeze_parameters()
    after = _network_error(quantised, batches, targets)
    if after >= before:
        quantised.replace_tensors(original)
        quantised.freeze_parameters()
        return before, before
    return before, after


def _flat(outputs: Any) -> torch.Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in leaves(outputs) if isinstance(leaf, torch.Tensor)])


def _network_error(quantised: QuantisedGraph, batches: Sequence[Batch], targets: Sequence[torch.Tensor]) -> float:
    errors = [
        float((_flat(quantised.test(batch)) - target).square().mean())
        for batch, target in zip(batches, targets, strict=True)
    ]
    return sum(errors) / len(errors)


class _Walk:
    """Walks the float and the quantised network through all batches together, tuning each layer on the way."""

    def __init__(self, quantised: QuantisedGraph, batches: Sequence[Batch]) -> None:
        self.quantised = quantised
        self.batches = batches
        self.exact: list[Values] = [{} for _ in batches]
        self.rough: list[Values] = [{} for _ in batches]
        self.tuned: dict[str, torch.Tensor] = {}

    def run(self) -> dict[str, torch.Tensor]:
        """Return the tuned parameters."""
        graph = self.quantised.graph
        last = {
            name: position for position, node in enumerate(graph.nodes) for name in (node.name, *node.input_names())
        }
        for position, node in enumerate(graph.nodes):
            self._advance(self.exact, node, graph.tensors, rough=False)
            if node.traits.weighted:
                self._tune(node)
            self._advance(self.rough, node, self._tensors(node), rough=True)
            for values in (*self.exact, *self.rough):
                for name in [name for name in values if last[name] <= position]:
                    del values[name]
        return self.tuned

    def _tensors(self, node: Node) -> dict[str, torch.Tensor]:
        """Return the tensors with this node's parameters quantised."""
        tensors = dict(self.quantised.graph.tensors)
        for role, key in node.parameters.items():
            value = self.tuned.get(key, tensors[key])
            step = self.quantised.steps.param.get(key)
            tensors[key] = value if step is None else apply_step(value, step, self._rule(role, node))
        return tensors

    def _rule(self, role: str, node: Node) -> Any:
        return self.quantised.rule("weights" if role == "weight" else role, node)

    @torch.no_grad()
    def _advance(self, states: list[Values], node: Node, tensors: Any, rough: bool) -> None:
        for values, batch in zip(states, self.batches, strict=True):
            if node.is_input:
                value: Any = batch[node.call.args[0]]
            else:
                value = call_node(node, values, tensors, int(batch[0].shape[0]))
            values[node.name] = self._round(node, value) if rough else value

    def _round(self, node: Node, value: Any) -> Any:
        step = self.quantised.steps.output.get(node.name)
        return value if step is None else apply_step(value, step, self.quantised.rule("activation", node))

    def _tune(self, node: Node) -> None:
        """Train one layer's parameters and keep them if its error became smaller."""
        steps = self.quantised.steps.param
        keys = [key for key in node.parameters.values() if key in steps]
        start = {key: self.quantised.graph.tensors[key] for key in keys}
        relu = self._followed_by_relu(node)
        trained = {key: value.clone().requires_grad_(True) for key, value in start.items()}
        groups = [{"params": [trained[key]], "lr": _RATE * _size(steps[key])} for key in keys]
        optimiser = torch.optim.Adam(groups)
        best, best_error = dict(start), self._error(node, start, relu)
        with torch.enable_grad():
            for turn in range(_ROUNDS):
                optimiser.zero_grad()
                self._loss(node, trained, turn % len(self.batches), relu).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        if self._error(node, trained, relu) < best_error:
            best = {key: self._on_grid(node, key, value.detach()) for key, value in trained.items()}
        self.tuned.update(best)

    def _on_grid(self, node: Node, key: str, value: torch.Tensor) -> torch.Tensor:
        """Return the quantised values themselves: bias correction and another calibration leave these alone."""
        role = next(role for role, name in node.parameters.items() if name == key)
        return apply_step(value, self.quantised.steps.param[key], self._rule(role, node))

    def _followed_by_relu(self, node: Node) -> bool:
        readers = self.quantised.graph.consumers()[node.name]
        return len(readers) == 1 and readers[0] != "return" and self._is_relu(readers[0])

    def _is_relu(self, name: str) -> bool:
        traits = self.quantised.graph[name].traits
        return traits.point is Point.JOINS and Fact.NOT_NEGATIVE in traits.facts

    def _loss(self, node: Node, parameters: dict[str, torch.Tensor], index: int, relu: bool) -> torch.Tensor:
        tensors = dict(self.quantised.graph.tensors)
        for role, key in node.parameters.items():
            if key in parameters:
                step = self.quantised.steps.param[key]
                tensors[key] = quantise_through(parameters[key], step, self._rule(role, node))
        batch = int(self.batches[index][0].shape[0])
        found = call_node(node, self.rough[index], tensors, batch)
        wanted = self.exact[index][node.name]
        difference: torch.Tensor = (found.relu() - wanted.relu()) if relu else (found - wanted)
        return difference.square().mean()

    @torch.no_grad()
    def _error(self, node: Node, parameters: dict[str, torch.Tensor], relu: bool) -> float:
        return sum(float(self._loss(node, parameters, index, relu)) for index in range(len(self.batches)))


def _size(step: Step) -> float:
    """Return the distance between neighbouring values of a step."""
    scale = getattr(step, "scale", None)
    if scale is None:
        return float(2.0 ** -getattr(step, "fix", 8))
    return float(max(scale)) if isinstance(scale, tuple) else float(scale)
