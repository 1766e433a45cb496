"""From a float network and its quantised graph to the network that is trained, and back to float parameters."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.graph.kinds import Group
from dpuforge.emulator.graph.nodes import Graph, Node
from dpuforge.emulator.graph.vocabulary import base_name
from dpuforge.emulator.qat.modules import REPLACED, QuantizedConvBatchNorm2d
from dpuforge.emulator.qat.quantizer import TQTQuantizer
from dpuforge.emulator.qat.switches import add_methods
from dpuforge.emulator.quantise.steps import FixStep
from dpuforge.emulator.quantised_graph import QuantisedGraph, Steps

Warn = Callable[[str, str], None]
_FUNCTIONAL = "pytorch_nndct.nn.modules.functional."
# Functions whose results are quantised, and the module that the tool wants in their place.
_WANTED: Mapping[str, tuple[str, str]] = {
    "relu": ("torch.nn.functional.relu", "torch.nn.modules.activation.ReLU"),
    "relu6": ("torch.nn.functional.relu6", "torch.nn.modules.activation.ReLU6"),
    "leaky_relu": ("torch.nn.functional.leaky_relu", "torch.nn.modules.activation.LeakyReLU"),
    "hardtanh": ("torch.nn.functional.hardtanh", "torch.nn.modules.activation.Hardtanh"),
    "hardswish": ("torch.nn.functional.hardswish", "torch.nn.modules.activation.Hardswish"),
    "hardsigmoid": ("torch.nn.functional.hardsigmoid", "torch.nn.modules.activation.Hardsigmoid"),
    "max_pool2d": ("torch.nn.functional.max_pool2d", "torch.nn.modules.pooling.MaxPool2d"),
    "avg_pool2d": ("torch.nn.functional.avg_pool2d", "torch.nn.modules.pooling.AvgPool2d"),
    "adaptive_avg_pool2d": (
        "torch.nn.functional.adaptive_avg_pool2d",
        "torch.nn.modules.pooling.AdaptiveAvgPool2d",
    ),
    "interpolate": ("torch.nn.functional.interpolate", _FUNCTIONAL + "Interpolate"),
    "pad": ("torch.nn.functional.pad", _FUNCTIONAL + "Pad"),
    "softmax": ("torch.nn.functional.softmax", _FUNCTIONAL + "Softmax"),
    **{
        name: (f"torch.{name}", _FUNCTIONAL + name.capitalize())
        for name in ("add", "cat", "clamp", "matmul", "max", "mean", "mul", "sqrt", "sub", "sum", "transpose")
    },
}


_DEPLOYED_ONLY = ("hard_sigmoid", "hard_swish")  # words of column `dpu` in kinds.py


class RefusedError(Exception):
    """The network cannot be trained or deployed; code and text are those of the tool's error line."""

    def __init__(self, code: str, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.code, self.text, self.remedy = code, text, remedy


@dataclass(frozen=True)
class TrainingPlan:
    """What becomes of a network's modules, by their paths.

    layers: nodes with parameters; outputs: nodes whose result is quantised; norms: batch norm -> its convolution.
    """

    quantised: QuantisedGraph
    layers: tuple[Node, ...]
    outputs: tuple[Node, ...]
    norms: Mapping[str, str]


def plan_training(model: nn.Module, captured: Graph, quantised: QuantisedGraph) -> TrainingPlan:
    """Return what is to be replaced; raises RefusedError where the tool refuses the network."""
    if not captured.has_stubs:
        text = "Input is not quantized. Please use QuantStub/DeQuantStub to define quantization scope."
        raise RefusedError("INPUT_NOT_QUANTIZED", text, "put a QuantStub before the first layer that is quantised")
    graph = quantised.graph
    layers = tuple(node for node in graph.nodes if node.parametric and node.parameters)
    outputs = tuple(graph[name] for name in quantised.points.outputs)
    modules = dict(model.named_modules())
    for node in (*layers, *outputs):
        if not _is_module(modules.get(node.module_path)):
            raise _not_a_module(captured[node.name])
    norms = dict(_folded_norms(captured, graph))
    for node in layers:
        found = type(modules[node.module_path])
        if found not in (nn.Conv2d, nn.Linear):
            text = f"{node.module_path} ({found.__name__}): only Conv2d and Linear are emulated in training."
            raise RefusedError("NOT_EMULATED", text, "leave it outside the stubs, or train in AMD's container")
    return TrainingPlan(quantised, layers, outputs, norms)


def _is_module(module: nn.Module | None) -> bool:
    """Say whether a node comes from a layer of torch or of the tool, not from a function that was called."""
    return module is not None and type(module).__module__.startswith(("torch.nn.modules", "pytorch_nndct.nn"))


def _not_a_module(node: Node) -> RefusedError:
    name, _ = base_name(node.call.function)
    function, wanted = _WANTED.get(name, (name, "torch.nn.Module"))
    text = (
        f'Quantized operation({node.name}) must be instance of "torch.nn.Module", please replace {function} with '
        f"<class '{wanted}'>.The original source range is:\n{node.source}"
    )
    return RefusedError("NOT_A_MODULE", text, f"make a {wanted.rpartition('.')[2]} in __init__ and call it in forward")


def _folded_norms(captured: Graph, prepared: Graph) -> Iterator[tuple[str, str]]:
    """Yield (path of a batch norm, path of the convolution that it is folded into)."""
    for node in captured.nodes:
        if node.traits.group is not Group.NORMALISATION or node.name in prepared.index:
            continue
        source = captured[node.inputs[0].node]
        if not source.traits.convolution:
            text = f"{node.module_path}: a batch norm behind {source.kind} is not emulated in training."
            raise RefusedError("NOT_EMULATED", text, "put the batch norm right behind its convolution")
        if prepared[source.name].in_scope:
            yield node.module_path, source.module_path


def check_reuse(plan: TrainingPlan, allowed: bool, warn: Warn) -> None:
    """Refuse modules that are called more than once, or warn of them."""
    for path in _reused(plan):
        if not allowed:
            text = (
                f'Quantized module "{path}" has been called multiple times in forward pass. If you want to share '
                'quantized parameters in multiple calls, call trainable_model with "allow_reused_module=True"'
            )
            raise RefusedError("REUSED_MODULE", text, "give each call a module of its own")
        text = f"Reused module ({path}) may lead to low accuracy of QAT, make sure this is what you expect."
        warn("REUSED_MODULE", text)


def _reused(plan: TrainingPlan) -> list[str]:
    """Return the paths of modules that several nodes come from, in order."""
    order = {node.name: position for position, node in enumerate(plan.quantised.graph.nodes)}
    names = sorted({node.name for node in (*plan.layers, *plan.outputs)}, key=order.__getitem__)
    paths = [plan.quantised.graph[name].module_path for name in names]
    return [path for path in dict.fromkeys(paths) if paths.count(path) > 1]


def differing_arithmetic(plan: TrainingPlan) -> list[str]:
    """Return the modules whose arithmetic on the DPU is not that of the trainable network (hard sigmoid and swish)."""
    nodes = plan.quantised.graph.nodes
    return [node.module_path for node in nodes if node.in_scope and node.traits.dpu in _DEPLOYED_ONLY]


def make_trainable(model: nn.Module, plan: TrainingPlan) -> nn.Module:
    """Return a copy of the float network with quantised modules, quantizers and the nine methods."""
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    for norm, convolution in plan.norms.items():
        _fold(model, modules, norm, convolution)
    for node in (*plan.layers, *plan.quantised.graph.nodes):
        module = modules.get(node.module_path)
        if module is not None and node.in_scope and type(module) in REPLACED:
            module.__class__ = REPLACED[type(module)]
    for node in plan.layers:
        for role, name in (("weight", "weight_quantizer"), ("bias", "bias_quantizer")):
            if role in node.parameters:
                _add_quantizer(modules[node.module_path], name, plan, "weights" if role == "weight" else role, node)
    for node in plan.outputs:
        module = modules[node.module_path]
        if not hasattr(module, "output_quantizer"):
            _add_quantizer(module, "output_quantizer", plan, "activation", node)
            module.register_forward_hook(_quantise_output)
    add_methods(model)
    return model


def _fold(model: nn.Module, modules: Mapping[str, nn.Module], norm: str, convolution: str) -> None:
    """Make the batch norm a child of its convolution, and an Identity where it was."""
    found = modules[convolution]
    found.__class__ = QuantizedConvBatchNorm2d
    assert isinstance(found, QuantizedConvBatchNorm2d)
    found.bn = modules[norm]  # type: ignore[assignment]
    found.statistics_frozen = found.fused = False
    parent, _, name = norm.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.Identity())


def _add_quantizer(module: nn.Module, name: str, plan: TrainingPlan, role: str, node: Node) -> None:
    if hasattr(module, name):
        return
    rule = plan.quantised.rule(role, node)
    quantizer = TQTQuantizer(rule.config.bit_width, rule.rounding, role != "activation")
    device = next((tensor.device for tensor in plan.quantised.graph.tensors.values()), torch.device("cpu"))
    setattr(module, name, quantizer.to(device))


def _quantise_output(module: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
    quantizer = module.output_quantizer
    assert isinstance(quantizer, TQTQuantizer)
    quantised: torch.Tensor = quantizer(output)
    return quantised


def quantizers_by_tensor(model: nn.Module, plan: TrainingPlan) -> dict[tuple[str, str], TQTQuantizer]:
    """Return the quantizer of every row of quant_info.json: ("param", key) or ("output", node name), in order."""
    modules = {path: module for path, module in model.named_modules() if isinstance(module, TQTQuantizer)}
    found: dict[tuple[str, str], TQTQuantizer] = {}
    for node in plan.layers:
        for role, key in node.parameters.items():
            found["param", key] = modules[f"{node.module_path}.{role}_quantizer"]
    for node in plan.outputs:
        found["output", node.name] = modules[f"{node.module_path}.output_quantizer"]
    return found


def load_steps(model: nn.Module, plan: TrainingPlan, steps: Steps) -> None:
    """Start from the fix positions of a calibration."""
    for (table, name), quantizer in quantizers_by_tensor(model, plan).items():
        step = (steps.param if table == "param" else steps.output)[name]
        assert isinstance(step, FixStep)
        quantizer.start_from(step.fix)


def trained_steps(model: nn.Module, plan: TrainingPlan) -> tuple[Steps, list[str]]:
    """Return the steps that the thresholds stand for, and the tensors whose threshold was never set."""
    steps, untrained = Steps(), []
    for (table, name), quantizer in quantizers_by_tensor(model, plan).items():
        tables = steps.param if table == "param" else steps.output
        tables[name] = FixStep(int(quantizer.bitwidth), quantizer.fix)
        if bool(quantizer.warmup_enabled):
            untrained.append(name)
    return steps, untrained


def float_state(model: nn.Module, plan: TrainingPlan, names: Mapping[str, Any]) -> OrderedDict[str, torch.Tensor]:
    """Return the trained values under the float network's own names, batch norms not folded.

    Raises RefusedError where batch norms were folded for good.
    """
    if any(isinstance(module, QuantizedConvBatchNorm2d) and module.fused for module in model.modules()):
        text = (
            "The given trained model has bn fused to conv and cannot be converted to a deployable model. "
            "Make sure model.fuse_conv_bn()is not called."
        )
        raise RefusedError("QAT_DEPLOYABLE_MODEL_ERROR", text, "train without fuse_conv_bn")
    trained = model.state_dict()
    found: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name in names:
        path, _, leaf = name.rpartition(".")
        source = f"{plan.norms[path]}.bn.{leaf}" if path in plan.norms else name
        found[name] = trained[source].detach().cpu().clone()
    return found
