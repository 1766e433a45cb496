"""Many mixtures of float and quantised layers in one pass: the same values as one run each, and far fewer of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dpuforge.emulator.diagnosis import replay as replaying
from dpuforge.emulator.diagnosis.layers import Layer, choose_layers, list_layers
from dpuforge.emulator.diagnosis.replay import Replay
from dpuforge.emulator.diagnosis.sensitivity import list_mixtures
from dpuforge.emulator.graph.evaluate import Evaluator, Values
from dpuforge.emulator.graph.nodes import Node
from dpuforge.emulator.quantise.steps import apply_step
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.errors import UsageError
from tests.emulator.diagnosis_networks import Branches, Chain, Pyramid, enliven, images, quantise

NETWORKS = {
    "chain": (Chain, (images(),)),
    "hardswish": (lambda: Chain(nn.Hardswish), (images(),)),
    "branches": (Branches, (images(),)),
    "pyramid": (Pyramid, (images(), images(channels=2, seed=2))),
}


def _float_scales() -> dict[str, Any]:
    overall = {"scale_type": "float", "method": "maxmin", "calib_statistic_method": "max", "round_mode": "half_even"}
    return {"target_device": "CPU", "overall_quantize_config": overall}


@pytest.fixture(params=[*NETWORKS, "float scales"])
def case(request: pytest.FixtureRequest) -> tuple[QuantisedGraph, tuple[torch.Tensor, ...]]:
    """Return a calibrated network and its inputs."""
    if request.param == "float scales":
        return quantise(enliven(Chain()), images(), config=_float_scales()), (images(),)
    build, inputs = NETWORKS[request.param]
    return quantise(enliven(build()), *inputs), inputs


def _run_by_hand(
    network: QuantisedGraph, inputs: tuple[torch.Tensor, ...], wanted: set[str]
) -> tuple[torch.Tensor, ...]:
    """Return the outputs with only the named layers quantised, by a plain run from scratch."""
    layers = [layer for layer in list_layers(network) if layer.name in wanted]
    points = {layer.point for layer in layers}
    keys = {key for layer in layers for _, key in layer.parameters}
    tensors = {**network.graph.tensors, **{key: network.quantised_parameter(key) for key in keys}}

    def after(node: Node, value: Any, values: Values) -> Any:
        if node.name not in points:
            return value
        return apply_step(value, network.steps.output[node.name], network.rule("activation", node))

    with torch.no_grad():
        return _flat(Evaluator(network.graph).run(inputs, tensors, after))


def _flat(output: Any) -> tuple[torch.Tensor, ...]:
    if isinstance(output, dict):
        return tuple(output.values())
    return output if isinstance(output, tuple) else (output,)


def _equal(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_two_ends_are_the_float_and_the_quantised_network(
    case: tuple[QuantisedGraph, tuple[torch.Tensor, ...]],
) -> None:
    """No layer quantised is the float graph and all layers quantised is the test run, bit for bit."""
    network, inputs = case
    replay = Replay(network, list_layers(network))
    exact, quantised = replay.run(inputs, [replay.float, replay.quantised])
    assert _equal(exact, _flat(network.evaluate_float(inputs)))
    assert _equal(quantised, _flat(network.test(inputs)))


def test_every_mixture_equals_a_run_from_scratch(case: tuple[QuantisedGraph, tuple[torch.Tensor, ...]]) -> None:
    """Each layer alone and each layer left out gives the bits of a plain evaluation with just those layers."""
    network, inputs = case
    layers = list_layers(network)
    replay = Replay(network, layers)
    results = replay.run(inputs, list_mixtures(replay, layers))
    names = {layer.name for layer in layers}
    for layer, alone, without in zip(layers, results[2::2], results[3::2], strict=True):
        assert _equal(alone, _run_by_hand(network, inputs, {layer.name})), layer
        assert _equal(without, _run_by_hand(network, inputs, names - {layer.name})), layer


def test_each_value_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's two mixtures compute only the nodes downstream of it; the rest comes from the float and int8 runs."""
    network = quantise(enliven(Chain()), images())
    layers = list_layers(network)
    replay = Replay(network, layers)
    calls: list[str] = []
    real = replaying.call_node

    def count(node: Node, *rest: Any) -> Any:
        calls.append(node.name)
        return real(node, *rest)

    monkeypatch.setattr(replaying, "call_node", count)
    replay.run((images(),), list_mixtures(replay, layers))
    computing = [node.name for node in network.graph.nodes if node.kind != "nndct_input"]
    seen = {name: sum(position <= place for position in _places(network, layers)) for place, name in _placed(network)}
    # With k layers upstream: float, quantised, and two per layer; of one or two layers those are not all different.
    expected = sum({1: 2, 2: 4}.get(seen[name], 2 + 2 * seen[name]) for name in computing)
    assert len(calls) == expected
    assert len(calls) < 0.65 * len(computing) * len(list_mixtures(replay, layers))


def _placed(network: QuantisedGraph) -> list[tuple[int, str]]:
    return [(place, node.name) for place, node in enumerate(network.graph.nodes)]


def _places(network: QuantisedGraph, layers: tuple[Layer, ...]) -> list[int]:
    """Return where each layer first changes a value that others read: at its own node if it has weights, else after."""
    place = {name: number for number, name in _placed(network)}
    return [place[layer.name] + (0 if layer.parameters else 1) for layer in layers]


def test_replaying_leaves_the_network_as_it_was() -> None:
    """Steps, parameters and the bits of a test run are the same before and after."""
    network = quantise(enliven(Branches()), images())
    before, steps = network.test((images(),)), dict(network.steps.output)
    replay = Replay(network, list_layers(network))
    replay.run((images(),), list_mixtures(replay, replay.layers))
    assert torch.equal(network.test((images(),)), before)
    assert network.steps.output == steps


def test_the_estimate_of_work_counts_shared_values_once() -> None:
    """Float and quantised are two passes and rounding; all mixtures cost less than one by one."""
    network = quantise(enliven(Chain()), images())
    replay = Replay(network, list_layers(network))
    assert replay.cost([replay.float]) == pytest.approx(1.0)
    mixtures = list_mixtures(replay, replay.layers)
    assert replay.cost([replay.float] * 5) == pytest.approx(1.0)
    assert replay.cost(mixtures) < sum(replay.cost([mixture]) for mixture in mixtures)
    first, last = (replay.downstream_cost(replay.layers[place]) for place in (1, -1))
    assert first > 10 * last


def test_layers_carry_the_users_names() -> None:
    """A layer is found under its module's path, spans convolution to relu, and lists its rounded parameters."""
    network = quantise(enliven(Chain()), images())
    layers = list_layers(network)
    assert [layer.kind for layer in layers] == ["input", "conv2d", "conv2d", "conv2d", "adaptive_avg_pool2d", "dense"]
    (first,) = choose_layers(layers, ["features.0.0"])
    assert first.label == "features.0.0"
    assert network.graph[first.point or ""].kind == "nndct_relu"
    assert [role for role, _ in first.parameters] == ["weight", "bias"]


def test_an_unknown_layer_is_refused_with_the_known_ones() -> None:
    """The error names what was asked for and lists what there is."""
    network = quantise(enliven(Chain()), images())
    with pytest.raises(UsageError, match=r"'conv9'[\s\S]*features\.1\.0"):
        choose_layers(list_layers(network), ["conv9"])
