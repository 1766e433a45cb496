"""Capture: what a module does becomes the same graph, whatever its Python looks like."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dpuforge.emulator.graph.capture import capture_graph, capture_shapes
from dpuforge.emulator.graph.evaluate import Evaluator
from dpuforge.emulator.graph.nodes import Graph
from dpuforge.errors import UsageError

torchvision = pytest.importorskip("torchvision")


def replay(graph: Graph, *inputs: torch.Tensor) -> torch.Tensor:
    """Return the graph's output for these inputs."""
    return Evaluator(graph).run(inputs, graph.tensors)


def check_replay(module: nn.Module, inputs: torch.Tensor, *others: torch.Tensor) -> Graph:
    """Capture on inputs and compare module and graph on these and on other batches."""
    module.eval()
    graph = capture_graph(module, (inputs,))
    with torch.no_grad():
        for batch in (inputs, *others):
            assert torch.equal(replay(graph, batch), module(batch))
    return graph


class Shapes(nn.Module):
    """Arithmetic on shapes, a channel shuffle, slices, in-place operators, a loop, a shared module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        for _ in range(2):
            x = self.shared(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, int(x.shape[2]), w)
        left, right = x.chunk(2, dim=1)
        left += right
        left.relu_()
        x = torch.cat([left, right[:, :, ::1]], 1)
        x = F.adaptive_avg_pool2d(x, (2, 2))
        return self.fc(x.flatten(1))


def test_python_that_only_arithmetic_can_follow() -> None:
    """Shape arithmetic, loops, in-place operators and shared modules replay exactly, at any batch size."""
    images = torch.randn(2, 3, 8, 8)
    graph = check_replay(Shapes(), images, torch.randn(5, 3, 8, 8), torch.randn(1, 3, 8, 8))
    kinds = [node.kind for node in graph.nodes]
    assert kinds.count("nndct_conv2d") == 3
    assert "nndct_strided_slice" in kinds


def test_nodes_know_module_and_source_line() -> None:
    """Every node carries the module's path, its debug name and the line of the user's code."""
    graph = capture_graph(Shapes().eval(), (torch.randn(2, 3, 8, 8),))
    conv = next(node for node in graph.nodes if node.kind == "nndct_conv2d")
    assert (conv.module_path, conv.module_type, conv.name) == ("conv", "Conv2d", "Shapes::Shapes/Conv2d[conv]/ret.3")
    assert conv.source.rpartition(":")[0] == __file__


class ReadsValues(nn.Module):
    """Takes a branch that depends on the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def test_a_branch_on_data_is_reported() -> None:
    """A branch that Python takes on a tensor's value is frozen, and its line is named."""
    graph = capture_graph(ReadsValues(), (torch.ones(1, 3),))
    assert [line.rpartition(":")[0] for line in graph.frozen] == [__file__]
    assert [node.kind for node in graph.nodes] == ["nndct_input", "nndct_elemwise_add"]


class Standardised(nn.Module):
    """A convolution whose weight is computed from a parameter, and a constant made on the fly."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return F.conv2d(x, weight) * torch.arange(4).view(1, 4, 1, 1)


def test_what_depends_on_no_input_is_folded() -> None:
    """Computed weights become constants, so that the convolution is an ordinary one."""
    graph = check_replay(Standardised(), torch.randn(2, 3, 8, 8), torch.randn(3, 3, 8, 8))
    assert [node.kind for node in graph.nodes] == ["nndct_input", "nndct_conv2d", "nndct_elemwise_mul"]


@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "densenet121", "googlenet", "regnet_y_400mf"]
)
def test_torchvision_networks_replay_exactly(name: str) -> None:
    """Networks of every style replay bit by bit, at other batch sizes too."""
    options = {"init_weights": False} if name == "googlenet" else {}
    module = torchvision.models.get_model(name, weights=None, **options)
    check_replay(module, torch.randn(2, 3, 64, 64), torch.randn(3, 3, 64, 64))


def test_shapes_need_no_arithmetic() -> None:
    """On shapes alone the same nodes and shapes come out, and the module's tensors stay where they were."""
    module = torchvision.models.get_model("resnet18", weights=None).eval()
    dry, wet = capture_shapes(module, (1, 3, 64, 64)), capture_graph(module, (torch.randn(1, 3, 64, 64),))
    assert [(node.name, node.kind, node.shapes) for node in dry.nodes] == [
        (node.name, node.kind, node.shapes) for node in wet.nodes
    ]
    assert module.conv1.weight.device.type == "cpu"


class Hidden(nn.Module):
    """Computes outside torch's sight, as a scripted module or an extension does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.cumsum(x.numpy(), axis=1))


def test_a_module_that_hides_its_work_stays_one_float_node() -> None:
    """What a submodule computes outside torch is kept as one opaque operator, and nothing is frozen into the graph."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), Hidden(), nn.ReLU())
    graph = check_replay(module, torch.randn(2, 3, 4, 4), torch.randn(3, 3, 4, 4))
    assert [node.kind for node in graph.nodes] == ["nndct_input", "nndct_conv2d", "aten::Hidden", "nndct_relu"]


def test_a_network_that_hides_everything_is_refused() -> None:
    """A network of which nothing can be seen is refused, not quantised as a constant."""
    with pytest.raises(UsageError, match="could be seen"):
        capture_graph(Hidden(), (torch.randn(1, 3),))


def test_training_mode_is_left_as_it_was() -> None:
    """Capture looks at the evaluation mode and changes neither flags nor batch-norm statistics."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = module[1].running_mean.clone()
    capture_graph(module, (torch.randn(2, 3, 4, 4),))
    assert all(part.training for part in module.modules())
    assert torch.equal(module[1].running_mean, before)
