"""The fast test path against the float reference path: every quantised value of every recorded network, bit by bit."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.integer import exact, integer_forms
from dpuforge.emulator.integer.integer_plan import Integers
from dpuforge.emulator.integer.integer_run import EvaluationPath
from dpuforge.emulator.quantise.settings import default_settings
from dpuforge.emulator.quantised_graph import QuantisedGraph
from tests.emulator.recorded import Recording, large_recording, small_recording
from tests.emulator.small_networks import SMALL_NETWORKS

needs_kernels = pytest.mark.skipif(
    not exact.integer_support().available, reason=f"no exact int8 kernels: {exact.integer_support().reason}"
)
# What has no integer form yet, by network: average pools and the like.
FLOAT_NODES = {"tiny": 1, "ops_a": 3, "ops_b": 3, "ops_c": 7, "ops_e": 0}


def calibrated(recording: Recording, batches: int = 5) -> QuantisedGraph:
    """Return a network calibrated on batches of two images."""
    torch.set_num_threads(1)
    quantised = QuantisedGraph(capture_graph(recording.module, (recording.images[:2],)), recording.settings)
    for first in range(0, 2 * batches, 2):
        quantised.calibrate((recording.images[first : first + 2],))
    quantised.finish_calibration()
    return quantised


@cache
def small_network(name: str) -> QuantisedGraph:
    """Return a calibrated small network, made once."""
    return calibrated(small_recording(name))


def both_paths(quantised: QuantisedGraph, inputs: torch.Tensor) -> tuple[Any, Any]:
    """Return the outputs of the path that test chooses, and of the float path (which observers get)."""
    return quantised.test((inputs,)), quantised.test((inputs,), lambda name, value: None)


def path_of(quantised: QuantisedGraph) -> EvaluationPath:
    """Return the path that was chosen."""
    assert quantised.evaluation_path is not None
    return quantised.evaluation_path


def check_every_value(quantised: QuantisedGraph, inputs: torch.Tensor) -> None:
    """Compare every quantised value, and the outputs, of the two paths."""
    fast, exact = both_paths(quantised, inputs)
    assert torch.equal(fast, exact)
    assert path_of(quantised).integers, path_of(quantised).reason
    expected: dict[str, Any] = {}
    quantised.test((inputs,), expected.__setitem__)
    seen: dict[str, Any] = {}
    assert quantised._evaluation is not None
    assert quantised._evaluation._network is not None
    quantised._evaluation._network.run((inputs,), seen.__setitem__)
    assert set(seen) == set(quantised.steps.output)
    assert [name for name in seen if not torch.equal(seen[name], expected[name])] == []


@needs_kernels
@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_small_network_has_the_same_bits_on_both_paths(name: str) -> None:
    """Every quantised value of eleven images is the same on integers and in float."""
    check_every_value(small_network(name), small_recording(name).images)
    assert len(path_of(small_network(name)).float_nodes) <= FLOAT_NODES[name]


@needs_kernels
@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_size_has_the_same_bits(batch: int) -> None:
    """The path chosen on one batch size is exact on others."""
    fast, exact = both_paths(small_network("ops_a"), small_recording("ops_a").images[:batch])
    assert torch.equal(fast, exact)


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg_small", "resnet18", "mobilenet_v2"])
def test_large_network_has_the_same_bits_on_both_paths(name: str, golden: Path) -> None:
    """Every quantised value at 224x224 is the same on integers and in float, and all layers run on integers."""
    recording = large_recording(name, golden)
    quantised = calibrated(recording)
    check_every_value(quantised, recording.images)
    kinds = {quantised.graph[node].kind for node in path_of(quantised).float_nodes}
    assert kinds <= {"nndct_adaptive_avg_pool2d", "nndct_avgpool"}


class Extremes(nn.Module):
    """Saturating weights, a grouped, a dilated and a strided convolution, clamps, a shared concat input, a table."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 16, 5, padding=2)
        self.grouped = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4)
        self.strided = nn.Conv2d(16, 8, (1, 3), stride=(2, 1), padding=(0, 1), bias=False)
        self.head = nn.Linear(32, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.wide(x))
        b = nn.functional.relu6(self.grouped(a))
        c = torch.cat([a, b], 1)
        d = nn.functional.hardtanh(self.strided(a + b), -1.5, 2.25)
        e = nn.functional.max_pool2d(nn.functional.leaky_relu(d, 0.1), 2, ceil_mode=True)
        f = nn.functional.hardswish(c.mean((2, 3)))
        return self.head(f) + e.flatten(1)[:, :7]


@needs_kernels
def test_unusual_operators_have_the_same_bits() -> None:
    """Grouped, dilated, strided and saturating layers, clamps and tables agree on both paths."""
    torch.manual_seed(3)
    module = Extremes().eval()
    with torch.no_grad():
        module.wide.weight.mul_(40)
        module.grouped.bias.mul_(1e-3)  # type: ignore[union-attr]
    images = torch.randn(6, 3, 15, 13)
    check_every_value(calibrated(Recording(Path(), module, images, default_settings()), 3), images)


class Gated(nn.Module):
    """A batch-norm that stands alone, a gate over channels, products of equal shape, tables, pools and shuffles."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.last = nn.Conv2d(12, 12, 3, padding=1, groups=12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.stem(self.norm(x)))
        gate = nn.functional.adaptive_avg_pool2d(x, 1)
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(gate))))
        x = x.view(x.shape[0], 3, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        y = self.last(x)
        z = nn.functional.avg_pool2d(x * y, 3, stride=2, padding=1)
        return torch.cat([z, nn.functional.max_pool2d(torch.tanh(y), 2, ceil_mode=True)], 1).mean((2, 3))


@needs_kernels
def test_gates_shuffles_and_tables_have_the_same_bits() -> None:
    """Products, lone batch-norms, smooth functions and shuffles run on integers with the bits of the float path."""
    torch.manual_seed(4)
    module = Gated().eval()
    with torch.no_grad():
        module.norm.running_mean.normal_()  # type: ignore[union-attr]
        module.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    images = torch.randn(6, 3, 17, 17)
    quantised = calibrated(Recording(Path(), module, images, default_settings()), 3)
    check_every_value(quantised, images)
    kinds = {quantised.graph[node].kind for node in path_of(quantised).float_nodes}
    assert kinds <= {"nndct_adaptive_avg_pool2d", "nndct_avgpool", "aten::mean", "nndct_mean"}


@needs_kernels
def test_a_batch_without_integers_takes_the_float_path() -> None:
    """A NaN in one image does not become an integer; the next batch is on integers again."""
    quantised, images = small_network("tiny"), small_recording("tiny").images
    broken = images[:2].clone()
    broken[1, 0, 3, 3] = float("nan")
    fast, exact = both_paths(quantised, broken)
    assert torch.equal(fast.nan_to_num(7.0), exact.nan_to_num(7.0))
    assert torch.isnan(fast[1]).any()
    assert torch.equal(*both_paths(quantised, images[:2]))
    assert path_of(quantised).integers


@needs_kernels
def test_a_wrong_kernel_is_found_on_the_first_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the integers differ from the floats, the float path is taken, and the reason names the place."""
    honest = integer_forms.BUILDERS["add"]

    def wrong(node: Any, place: Any) -> Any:
        run = honest(node, place)
        assert run is not None
        return lambda values, batch: Integers(run(values, batch).values ^ 1, run(values, batch).fix)

    monkeypatch.setitem(integer_forms.BUILDERS, "add", wrong)  # type: ignore[arg-type]
    quantised = calibrated(small_recording("tiny"), 1)
    fast, exact = both_paths(quantised, small_recording("tiny").images)
    assert torch.equal(fast, exact)
    assert not path_of(quantised).integers
    assert "differ" in str(path_of(quantised))


def test_other_bit_widths_take_the_float_path() -> None:
    """A network of 16 bits says why it is not on integers."""
    recording = small_recording("tiny", settings=default_settings(bits=16))
    quantised = calibrated(recording, 1)
    assert torch.equal(*both_paths(quantised, recording.images))
    assert not path_of(quantised).integers
    assert "16 bits" in path_of(quantised).reason or not exact.integer_support().available


def test_a_machine_without_kernels_takes_the_float_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without exact kernels the reason given is the machine's."""
    monkeypatch.setattr(exact, "integer_support", lambda: exact.Support(False, "no such processor"))
    quantised = calibrated(small_recording("tiny"), 1)
    assert torch.equal(*both_paths(quantised, small_recording("tiny").images))
    assert str(path_of(quantised)) == "exact float path (no such processor)"


@needs_kernels
def test_replaced_steps_are_planned_anew() -> None:
    """A fix position changed between two batches counts at once."""
    quantised, images = calibrated(small_recording("tiny"), 1), small_recording("tiny").images
    before, _ = both_paths(quantised, images)
    name = next(iter(quantised.steps.output))
    step = quantised.steps.output[name]
    quantised.steps.output[name] = type(step)(step.bits, step.fix - 2)  # type: ignore[union-attr, call-arg]
    fast, exact = both_paths(quantised, images)
    assert torch.equal(fast, exact)
    assert not torch.equal(fast, before)
