"""The fast test path: a quantised network on integers, with the float path as the judge of its first image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dpuforge.emulator.graph.evaluate import last_readers
from dpuforge.emulator.graph.kinds import plain_name
from dpuforge.emulator.graph.nodes import Node, map_template
from dpuforge.emulator.integer import exact
from dpuforge.emulator.integer.integer_forms import BUILDERS
from dpuforge.emulator.integer.integer_plan import Quantised, Values, as_floats, plan_nodes, refusal, resolver
from dpuforge.emulator.quantise.steps import Step

Observe = Callable[[str, Any], None]


@dataclass(frozen=True)
class EvaluationPath:
    """How a quantised network is evaluated: on integers or in float, why, and what stays in float on the way."""

    integers: bool
    reason: str
    float_nodes: tuple[str, ...] = ()
    float_kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.integers:
            return f"exact float path ({self.reason})"
        kinds = ", ".join(map(plain_name, self.float_kinds))
        rest = f"; {len(self.float_nodes)} operators in float: {kinds}" if self.float_nodes else ""
        return f"integer path ({self.reason}{rest})"


class IntegerNetwork:
    """A quantised network planned for integers."""

    def __init__(self, quantised: Quantised) -> None:
        self._graph = quantised.graph
        self._tensors = quantised.tensors
        self._points = frozenset(quantised.output)
        self._nodes = plan_nodes(quantised, BUILDERS)
        self._dying = last_readers(quantised.graph)

    @property
    def float_nodes(self) -> tuple[Node, ...]:
        """The nodes that compute in float."""
        return tuple(planned.node for planned in self._nodes if not planned.on_integers)

    def run(self, inputs: Sequence[torch.Tensor], observe: Observe | None = None) -> Any:
        """Return the network's float outputs; observe(name, value) sees every quantised value as floats.

        Raises exact.UnrepresentableError where a value has no integer.
        """
        values: Values = {}
        batch = int(inputs[0].shape[0]) if inputs and inputs[0].dim() else 1
        for planned, dying in zip(self._nodes, self._dying, strict=True):
            name = planned.node.name
            if planned.node.is_input:
                values[name] = inputs[planned.node.call.args[0]]
            values[name] = planned.run(values, batch)
            if observe is not None and name in self._points:
                observe(name, as_floats(values[name]))
            for dead in dying:
                del values[dead]
        return map_template(self._graph.outputs, resolver(values, self._tensors, batch))


class Evaluation:
    """Evaluates one frozen network on the path chosen at its first batch.

    exact(inputs, observe) is the float path: the judge of the first image, and the way out where integers cannot go.
    """

    def __init__(self, quantised: Quantised, exact: Callable[[Sequence[torch.Tensor], Observe | None], Any]) -> None:
        self._quantised = quantised
        self._exact = exact
        self._network: IntegerNetwork | None = None
        self.path: EvaluationPath | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy chooses and packs anew: packed weights cannot be copied."""
        return {**self.__dict__, "_network": None, "path": None}

    def fits(self, output: Mapping[str, Step], own_inputs: Mapping[str, Any]) -> bool:
        """Say whether the evaluation was made for these steps."""
        return self._quantised.output == output and self._quantised.own_inputs == bool(own_inputs)

    def run(self, inputs: Sequence[torch.Tensor]) -> Any:
        """Return the network's outputs, the same bits on either path."""
        if any(values.dtype != torch.float32 or values.device.type != "cpu" for values in inputs):
            return self._exact(inputs, None)
        try:
            if self.path is None:
                self.path = self._choose(inputs)
            if self._network is not None:
                return self._network.run(inputs)
        except exact.UnrepresentableError:
            pass  # not a property of the network but of this batch
        return self._exact(inputs, None)

    def _choose(self, inputs: Sequence[torch.Tensor]) -> EvaluationPath:
        support = exact.integer_support()
        reason = "" if support.available else support.reason
        reason = reason or refusal(self._quantised)
        if reason:
            return EvaluationPath(False, reason)
        try:
            network = IntegerNetwork(self._quantised)
            differing = self._compare(network, [values[:1] if values.dim() else values for values in inputs])
        except RuntimeError as error:  # a call that bytes, or their layout, do not suit
            return EvaluationPath(False, f"integers failed: {str(error).splitlines()[0]}")
        if differing:
            return EvaluationPath(False, f"the integers differ from the floats at {differing}")
        self._network = network
        names = tuple(node.name for node in network.float_nodes)
        return EvaluationPath(True, support.reason, names, tuple(dict.fromkeys(n.kind for n in network.float_nodes)))

    def _compare(self, network: IntegerNetwork, inputs: Sequence[torch.Tensor]) -> str:
        """Return the first quantised value that differs between the two paths, or an empty text."""
        expected: dict[str, torch.Tensor] = {}
        found: dict[str, torch.Tensor] = {}
        self._exact(inputs, lambda name, value: expected.__setitem__(name, value))
        network.run(inputs, found.__setitem__)
        return next((name for name, value in found.items() if not torch.equal(value, expected[name])), "")
