"""QuantisedGraph: a prepared graph with its quantisation points and steps; calibration fills it, test runs it.

This is the object that export, the xmodel writer and the diagnosis read; see the docstring of graph.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from dpuforge.emulator.graph.evaluate import Evaluator, Values, call_node
from dpuforge.emulator.graph.kinds import Fact, Group
from dpuforge.emulator.graph.listing import graph_digest, order_constants
from dpuforge.emulator.graph.nodes import Graph, Node, Ref
from dpuforge.emulator.integer.calibration_calls import economise_calls
from dpuforge.emulator.integer.integer_plan import Quantised
from dpuforge.emulator.integer.integer_run import Evaluation, EvaluationPath
from dpuforge.emulator.prepare.passes import prepare_graph
from dpuforge.emulator.quantise.bias_correction import BiasCorrector, count_near_border
from dpuforge.emulator.quantise.points import Points, is_compute, place_points, place_typed_points
from dpuforge.emulator.quantise.settings import Settings
from dpuforge.emulator.quantise.shift_limits import FixPositions, adjust_positions
from dpuforge.emulator.quantise.steps import CastStep, FixStep, Step, TensorRule, apply_step, combine_steps, search_step

Warn = Callable[[str, str], None]


@dataclass
class Steps:
    """The steps of a network: by parameter key, by node name, and by reading node (several inputs each)."""

    param: dict[str, Step] = field(default_factory=dict)
    output: dict[str, Step] = field(default_factory=dict)
    input: dict[str, list[Step]] = field(default_factory=dict)


class FixView:
    """Fix positions of a DPU network as (bit width, fix position)."""

    def __init__(self, steps: Steps) -> None:
        self.param = {key: (step.bits, step.fix) for key, step in steps.param.items() if isinstance(step, FixStep)}
        self.output = {name: (step.bits, step.fix) for name, step in steps.output.items() if isinstance(step, FixStep)}


class QuantisedGraph:
    """A network with its points, steps, float parameters and bias corrections."""

    def __init__(self, captured: Graph, settings: Settings, warn: Warn | None = None) -> None:
        self.settings = settings
        self.graph = prepare_graph(captured, settings.prepare_options())
        self.points: Points = self._place_points()
        self.steps = Steps()
        self.history: dict[str, list[Step]] = {}
        self.input_history: dict[tuple[str, int], list[Step]] = {}
        self.corrections: dict[str, torch.Tensor] = {}
        self.batches = 0
        self.adjusted = False
        self._frozen = False
        self._evaluation: Evaluation | None = None
        self._warn = warn or (lambda code, text: None)
        self._correctors: dict[str, BiasCorrector] = {}
        self._quantised: dict[str, torch.Tensor] = {}
        self._evaluator = Evaluator(self.graph)

    def _place_points(self) -> Points:
        if self.settings.typed:
            return place_typed_points(self.graph, self.settings.config.tensors["activation"].datatype != "int")
        plain = place_points(self.graph)
        return replace(plain, inputs=tuple(node.name for node in self.graph.nodes if self._narrows(node, plain)))

    def _narrows(self, node: Node, points: Points) -> bool:
        """Say whether a node reads its input in another bit width than it was quantised to.

        That is so for a layer with settings of its own, and for the readers of the network's inputs.
        """
        if node.is_input or not is_compute(node) or not node.inputs:
            return False
        source = points.point_of[node.inputs[0].node]
        if source is None:
            return False
        special = self.settings.layer(node) is not None
        if not special and (not node.parametric or not self._is_source(self.graph[source])):
            return False
        given = self.rule("activation", self.graph[source]).config
        return given.datatype == "int" and given.bit_width != self.input_rule(node).config.bit_width

    @staticmethod
    def _is_source(node: Node) -> bool:
        """Say whether quantised values come in at a node: an input of the network, or a QuantStub."""
        return node.is_input or node.begins_scope

    def input_rule(self, node: Node) -> TensorRule:
        """Return how a node's inputs are quantised anew: in the bit width of its weights, if it has any."""
        rule = self.rule("activation", node)
        if not node.parametric or rule.config.datatype != "int" or self.settings.typed:
            return rule
        bits = self.rule("weights", node).config.bit_width
        return replace(rule, config=replace(rule.config, bit_width=bits))

    def replace_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Compute with other float tensors (moved or trained); quantised copies follow their device."""
        self.graph = replace(self.graph, tensors=tensors)
        devices = {key: tensor.device for key, tensor in tensors.items()}
        for table in (self.corrections, self._quantised):
            table.update({key: value.to(devices[key]) for key, value in table.items()})
        for key, corrector in self._correctors.items():
            corrector.bias = corrector.bias.to(devices[key])
        self._frozen = False

    def follow_numbers(self, info: Mapping[str, Any]) -> None:
        """Number the network's constants as a quant_info.json of the same graph does, where that is another order."""
        order = order_constants(self.graph, info.get("output", {}))
        renumbered = replace(self.graph, constants=order)
        if order and graph_digest(renumbered) == info.get("graph_md5"):
            self.graph = renumbered

    def expected_names(self) -> dict[str, set[str]]:
        """Return the parameter keys and node names that a calibration gives steps to."""
        params = {key for node in self.graph.nodes if node.parametric for key in node.parameters.values()}
        return {"param": params, "output": set(self.points.outputs)}

    @property
    def types(self) -> dict[str, Any]:
        """The dtype table of quant_info.json; empty where everything is integer."""
        if not self.settings.typed:
            return {}
        names = self.graph.normalised_names()
        returned = self.rule("activation", self.graph.nodes[-1]).config.datatype
        inputs: dict[str, list[str]] = {}
        if returned != "int":
            inputs[names[f"{self.graph.name}::return_0"]] = [returned for _ in self.graph.output_refs]
        inputs.update({names[name]: [_type(step) for step in row] for name, row in self.steps.input.items()})
        return {
            "param": {key: [_type(step)] for key, step in self.steps.param.items()},
            "output": {names[name]: [_type(step)] for name, step in self.steps.output.items()},
            "input": inputs,
        }

    @property
    def fix(self) -> FixView:
        """The fix positions of a DPU network."""
        return FixView(self.steps)

    def parameter(self, key: str) -> torch.Tensor:
        """Return a float parameter after folding, equalisation and bias correction."""
        value = self.graph.tensors[key]
        return value - self.corrections[key] if key in self.corrections else value

    def quantised_parameter(self, key: str) -> torch.Tensor:
        """Return a parameter on its grid (as floats)."""
        role, node = self.owner(key)
        step = self.steps.param.get(key)
        value = self.parameter(key)
        return value if step is None else apply_step(value, step, self.rule(role, node))

    def owner(self, key: str) -> tuple[str, Node]:
        """Return the role ("weights", "bias") and the node of a parameter."""
        for node in self.graph.nodes:
            for role, name in node.parameters.items():
                if name == key:
                    return ("weights" if role == "weight" else role), node
        raise KeyError(key)

    def rule(self, role: str, node: Node) -> TensorRule:
        """Return how one of a node's tensors is quantised."""
        if role == "activation" and self._is_source(node):
            role = "input"
        return self.settings.rule(role, node)

    # -- calibration -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def calibrate(self, inputs: Sequence[torch.Tensor]) -> Any:
        """Run one calibration batch: search steps, correct biases; return the quantised network's outputs."""
        if self.batches == 0:
            self._quantise_parameters()
        tensors = {**self.graph.tensors, **self._quantised}
        tensors.update({key: corrector.bias for key, corrector in self._correctors.items()})
        before = self._calibrate_inputs if self.points.inputs else None
        calibrator = Evaluator(economise_calls(self.graph, self.steps.output))
        result = calibrator.run(inputs, tensors, self._calibrate_node, before)
        self.batches += 1
        return result

    def restart_calibration(self) -> None:
        """Forget what calibration has found, keep the parameters."""
        self.steps, self.history, self.input_history = Steps(), {}, {}
        self.corrections, self._correctors, self._quantised = {}, {}, {}
        self.batches, self.adjusted, self._frozen = 0, False, False

    def _quantise_parameters(self) -> None:
        for node in self.graph.nodes:
            if not node.parametric:
                continue
            for role, key in node.parameters.items():
                rule = self.rule("weights" if role == "weight" else role, node)
                self.steps.param[key] = search_step(self.graph.tensors[key], rule)
                self._quantised[key] = apply_step(self.graph.tensors[key], self.steps.param[key], rule)
            if self.settings.bias_correction and "bias" in node.parameters and node.traits.weighted:
                key = node.parameters["bias"]
                self._correctors[key] = BiasCorrector(self._quantised[key])

    def _calibrate_node(self, node: Node, value: Any, values: Values) -> Any:
        result = self._calibrate_output(node, value) if node.name in self.points else value
        corrector = self._correctors.get(node.parameters.get("bias", ""))
        if corrector is not None and not corrector.stopped:
            exact = call_node(node, values, self.graph.tensors, 1)
            corrector.observe(result, exact, _channel_axis(node, exact))
        return result

    def _calibrate_output(self, node: Node, value: torch.Tensor) -> torch.Tensor:
        if not self._is_finite(node, value):
            return value
        rule = self.rule("activation", node)
        history = self.history.setdefault(node.name, [])
        history.append(search_step(value, rule))
        self.steps.output[node.name] = combine_steps(history, rule)
        return apply_step(value, self.steps.output[node.name], rule, _makes_new(node))

    def _calibrate_inputs(self, node: Node, values: Values) -> Values:
        if node.name not in self.points.inputs:
            return values
        rule = self.input_rule(node)
        steps = []
        for position, ref in enumerate(node.inputs):
            history = self.input_history.setdefault((node.name, position), [])
            history.append(search_step(_pick(values, ref), rule))
            steps.append(combine_steps(history, rule))
        self.steps.input[node.name] = steps
        return self._quantise_inputs(node, values)

    def _quantise_inputs(self, node: Node, values: Values) -> Values:
        """Return values with a node's inputs on the grids of their own."""
        steps = self.steps.input.get(node.name)
        if not steps:
            return values
        rule, changed = self.input_rule(node), dict(values)
        for ref, step in zip(node.inputs, steps, strict=True):
            value = apply_step(_pick(values, ref), step, rule)
            changed[ref.node] = value if ref.index is None else _put(changed[ref.node], ref.index, value)
        return changed

    def _is_finite(self, node: Node, value: torch.Tensor) -> bool:
        if value.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(value))).all()):
            return True
        self._warn(
            "TENSOR_VALUE_INVALID",
            f'The tensor type of {node.name} have "inf" or "nan" value.'
            "The quantization for this tensor is ignored.Please check it.",
        )
        return False

    def finish_calibration(self) -> None:
        """Collect bias corrections and adjust fix positions, as export does; safe to call again."""
        self.corrections = {
            key: self.graph.tensors[key] - corrector.bias for key, corrector in self._correctors.items()
        }
        if self.settings.bias_correction:
            self.corrections |= self._corrections_outside()
        self.steps.output = {name: self.steps.output[name] for name in self.points.outputs if name in self.steps.output}
        if self.settings.config.target_device == "DPU" and not self.adjusted:
            self._adjust()
            self.adjusted = True

    def count_unsure_biases(self) -> tuple[int, int]:
        """Return how many corrected biases lie too near a rounding border to be sure of, and how many there are."""
        steps = {key: step for key in self.corrections if isinstance(step := self.steps.param.get(key), FixStep)}
        near = sum(count_near_border(self.parameter(k), self.corrections[k], step.fix) for k, step in steps.items())
        return near, sum(self.corrections[key].numel() for key in steps)

    def _corrections_outside(self) -> dict[str, torch.Tensor]:
        """Return the corrections of layers that stay in float: the real tool lists them, as zeros."""
        outside = (node for node in self.graph.nodes if node.traits.weighted and not node.in_scope)
        keys = [node.parameters["bias"] for node in outside if "bias" in node.parameters]
        return {key: torch.zeros_like(self.graph.tensors[key]) for key in keys}

    def _adjust(self) -> None:
        positions = FixPositions(
            {key: step.fix for key, step in self.steps.param.items() if isinstance(step, FixStep)},
            {name: step.fix for name, step in self.steps.output.items() if isinstance(step, FixStep)},
        )
        adjust_positions(self.graph, self.points, positions, self.settings.adjust_options(), self._warn_shift)
        for key, fix in positions.param.items():
            self.steps.param[key] = FixStep(self.steps.param[key].bits, fix)
        for name, fix in positions.output.items():
            self.steps.output[name] = FixStep(self.steps.output[name].bits, fix)

    def _warn_shift(self, what: str, name: str, old: int, new: int) -> None:
        label = "weight" if what == "weight" else what
        self._warn(
            "SHIFT_CHECK",
            f"{label} {name} value is too small, so adjust the fix position from {old} to {new}",
        )

    # -- test --------------------------------------------------------------------------------------------------

    def freeze_parameters(self) -> None:
        """Quantise the parameters with the steps in force; test does so where it has not been done."""
        self._frozen = True
        self._quantised = {key: self.quantised_parameter(key) for key in self.steps.param}
        self._evaluation = None

    def _current_evaluation(self) -> Evaluation:
        """Return the evaluation of the steps in force; they may have been replaced since the last batch."""
        if not self._frozen:
            self.freeze_parameters()
        if self._evaluation is None or not self._evaluation.fits(self.steps.output, self.steps.input):
            tensors = {**self.graph.tensors, **self._quantised}
            steps = Quantised(self.graph, dict(self.steps.output), self.steps.param, tensors, bool(self.steps.input))
            self._evaluation = Evaluation(steps, self._test_in_float)
        return self._evaluation

    @property
    def evaluation_path(self) -> EvaluationPath | None:
        """How test computes, chosen at its first batch: on integers or in float, with the same bits; None before."""
        return self._evaluation.path if self._evaluation is not None else None

    @torch.no_grad()
    def test(self, inputs: Sequence[torch.Tensor], observe: Callable[[str, Any], None] | None = None) -> Any:
        """Return the quantised network's outputs; observe(node name, value) sees every node's value."""
        evaluation = self._current_evaluation()
        return evaluation.run(inputs) if observe is None else self._test_in_float(inputs, observe)

    def _test_in_float(self, inputs: Sequence[torch.Tensor], observe: Callable[[str, Any], None] | None) -> Any:
        """The reference: every operator on floats that lie on their grids, fake-quantised at each point."""

        def after(node: Node, value: Any, values: Values) -> Any:
            step = self.steps.output.get(node.name)
            rule = self.rule("activation", node)
            result = value if step is None else apply_step(value, step, rule, _makes_new(node))
            if observe is not None:
                observe(node.name, result)
            return result

        before = self._quantise_inputs if self.steps.input else None
        return self._evaluator.run(inputs, {**self.graph.tensors, **self._quantised}, after, before)

    @torch.no_grad()
    def evaluate_float(self, inputs: Sequence[torch.Tensor]) -> Any:
        """Return the outputs of the prepared float graph."""
        return self._evaluator.run(inputs, self.graph.tensors)


def _makes_new(node: Node) -> bool:
    return Fact.NEW_TENSOR in node.traits.facts


def _type(step: Step) -> str:
    return step.datatype if isinstance(step, CastStep) else "int"


def _pick(values: Values, ref: Ref) -> torch.Tensor:
    value = values[ref.node]
    picked: torch.Tensor = value if ref.index is None else value[ref.index]
    return picked


def _put(items: Any, index: int, value: torch.Tensor) -> tuple[Any, ...]:
    return (*items[:index], value, *items[index + 1 :])


def _channel_axis(node: Node, value: torch.Tensor) -> int | None:
    """Return the axis whose errors bias correction keeps apart; None for Conv1d, which the real tool averages whole."""
    if node.traits.group is Group.DENSE:
        return value.dim() - 1
    return 1 if value.dim() > 3 else None
