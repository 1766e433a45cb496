"""DPU or CPU: the limit that decides, in a person's words, the subgraphs, and the same answer from graph and xmodel."""

import gzip
from pathlib import Path

import pytest
import torch
from torch import nn

from dpuforge.emulator.export.network_operators import backbone_operators, capture_operators, list_operators
from dpuforge.emulator.graph.capture import capture_shapes
from dpuforge.hardware.inspect_report import cpu_rows, inspect_file_name, render_inspect_file, render_summary
from dpuforge.hardware.limits import Target
from dpuforge.hardware.partition import Partition, partition_operators
from dpuforge.hardware.workload import Work, measure_work
from dpuforge.records.hardware import Catalogue
from dpuforge.xmodel.neutral import neutral_operators
from dpuforge.xmodel.read import parse_xmodel

ISA0, ISA1 = "DPUCZDX8G_ISA0_B4096_MAX_BG2", "DPUCZDX8G_ISA1_B4096"


def make_target(catalogue: Catalogue, name: str) -> Target:
    """Return a registered target with its family."""
    dpu = catalogue.dpus[name]
    return Target(dpu, catalogue.families[dpu.family])


def divide(catalogue: Catalogue, network: nn.Module, name: str = ISA1, size: int = 56, channels: int = 3) -> Partition:
    """Capture a network for one image and place it on a target."""
    graph = capture_shapes(network, (1, channels, size, size))
    return partition_operators(list_operators(graph), make_target(catalogue, name))


def count_work(partition: Partition) -> Work:
    """Add up the work of the operators on the DPU."""
    target = partition.target
    return sum((measure_work(p.operator, target.dpu, target.family) for p in partition.dpu), Work())


@pytest.mark.parametrize(
    ("layer", "target", "reason"),
    [
        (nn.Conv2d(64, 64, 3, groups=32), ISA1, "grouped conv2d 3x3 (32 groups)"),
        (
            nn.Conv2d(64, 64, 17),
            ISA1,
            "conv2d 17x17: kernel: DPUCZDX8G ISA1 convolves with kernels up to 16, got 17x17",
        ),
        (nn.Conv2d(64, 64, 3, stride=9), ISA1, "stride: DPUCZDX8G ISA1 convolves with strides up to 8, got 9x9"),
        (nn.Conv2d(64, 64, 3, stride=5), "DPUCAHX8H_ISA2", "strides up to 4, got 5x5"),
        (nn.Conv2d(64, 4097, 1), ISA1, "takes up to 4096 output channels, got 4097"),
        (nn.Conv2d(64, 64, 9), "DPUCVDX8G_ISA3_C32B6", "is at most 64, got 81"),
        (nn.Conv2d(64, 64, 3, groups=64), "DPUCAHX8H_ISA2", "has no depthwise engine"),
        (nn.Conv2d(64, 64, 9, groups=64), "DPUCVDX8H_ISA1_F2W4_4PE", "convolves depthwise up to 8x8"),
        (nn.AvgPool2d(14), ISA0, "average pool 14x14: DPUCZDX8G ISA0 pools up to 8x8"),
        (nn.MaxPool2d(4), "DPUCVDX8H_ISA1_F2W2_8PE", "max pool 4x4: DPUCVDX8H ISA1 pools of 1 to 3, 7"),
        (nn.Softmax(1), ISA1, "softmax: no DPUCZDX8G computes it"),
        (nn.Sigmoid(), ISA1, "sigmoid: no DPUCZDX8G computes it"),
        (nn.SiLU(), ISA1, "silu: no DPUCZDX8G computes it"),
        (nn.Hardswish(), ISA0, "hard swish: DPUCZDX8G ISA0"),
        (nn.ConvTranspose2d(64, 64, 3, 2, 1, output_padding=1), ISA1, "output_padding must be 0"),
        (nn.Upsample(scale_factor=1.5), ISA1, "resizes by whole numbers"),
        (nn.ReflectionPad2d(2), ISA1, "pad, mode reflect"),
        (nn.Conv2d(64, 64, 3, dilation=100, padding=100), ISA1, "dilation * input channels is at most 4096, got 6400"),
    ],
)
def test_the_limit_that_decides_is_named(catalogue: Catalogue, layer: nn.Module, target: str, reason: str) -> None:
    """An operator beyond a limit of the target runs on the CPU, with sizes asked for and allowed in the reason."""
    network = nn.Sequential(nn.Conv2d(3, 64, 1), layer)
    (cpu,) = divide(catalogue, network, target).cpu
    assert reason in cpu.reason


@pytest.mark.parametrize(
    ("layer", "target"),
    [
        (nn.Conv2d(64, 64, 3, stride=8), ISA1),
        (nn.Conv2d(64, 64, 3, groups=64), ISA1),
        (nn.AvgPool2d(14), ISA1),
        (nn.MaxPool2d(8), ISA0),
        (nn.Hardswish(), ISA1),
        (nn.Upsample(scale_factor=2), ISA1),
        (nn.ConvTranspose2d(64, 64, 4, 4), ISA1),
        (nn.Conv2d(64, 64, 8), "DPUCVDX8G_ISA3_C32B6"),
        (nn.Conv2d(64, 64, 7, groups=64), "DPUCAHX8H_ISA2_DWC"),
    ],
)
def test_what_is_within_the_limits_stays_on_the_dpu(catalogue: Catalogue, layer: nn.Module, target: str) -> None:
    """The same operators at their limit run on the DPU in one subgraph."""
    partition = divide(catalogue, nn.Sequential(nn.Conv2d(3, 64, 1), layer), target)
    assert not partition.cpu
    assert partition.dpu_subgraphs == 1


def test_a_global_pool_counts_as_a_pool_over_its_whole_input(catalogue: Catalogue) -> None:
    """AdaptiveAvgPool2d(1) on 14x14 is refused on ISA0 in the words of the issue, and taken on ISA1."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1))
    (cpu,) = divide(catalogue, network, ISA0, 14).cpu
    assert cpu.reason == "global average pool 14x14: DPUCZDX8G ISA0 pools up to 8x8"
    assert "8" in cpu.remedy
    assert not divide(catalogue, network, ISA1, 14).cpu


def test_batch_norm_and_activations_merge_into_the_convolution(catalogue: Catalogue) -> None:
    """conv + batch norm + ReLU is one operator; a ReLU6 behind DPUCADF8H's convolution is not, for it knows none."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6())
    (operator,) = (placement.operator for placement in divide(catalogue, network).dpu)
    assert (operator.nonlinear, len(operator.merged)) == ("relu_six", 2)
    assert len(divide(catalogue, network, "DPUCVDX8H_ISA1_F2W2").cpu) == 1


class Branches(nn.Module):
    """Two branches, of which one leaves the DPU in the middle and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 1) for n in (3, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add a branch through sigmoid to one that stays."""
        first = self.a(x)
        return self.c(first + self.b(torch.sigmoid(first)))


def test_an_operator_on_the_cpu_splits_the_dpu_subgraph(catalogue: Catalogue) -> None:
    """What follows a CPU operator cannot join what precedes it, although another branch connects them."""
    partition = divide(catalogue, Branches())
    assert partition.dpu_subgraphs == 2
    numbers = {p.operator.module or p.operator.name: p.subgraph for p in partition.dpu}
    assert numbers["a"] == 0
    assert {numbers["b"], numbers["c"]} == {1}


@pytest.mark.parametrize(
    ("name", "target", "subgraphs", "cpu"),
    [
        ("resnet18", ISA1, 1, 0),
        ("resnet18", ISA0, 1, 0),
        ("vgg11", ISA0, 1, 0),
        ("mobilenet_v2", ISA1, 1, 0),
        ("densenet121", ISA1, 1, 0),
        ("squeezenet1_1", ISA1, 1, 0),
        ("resnext50_32x4d", ISA1, 17, 16),
        ("efficientnet_b0", ISA1, 66, 97),  # 16 of them give the 1x1 maps another layout
    ],
)
def test_torchvision_networks_divide_as_their_structure_says(
    catalogue: Catalogue, name: str, target: str, subgraphs: int, cpu: int
) -> None:
    """Plain networks give one subgraph; each grouped convolution (16 in ResNeXt50), SiLU and sigmoid cuts."""
    partition = partition_operators(backbone_operators(name, 224, 224), make_target(catalogue, target))
    assert (partition.dpu_subgraphs, len(partition.cpu)) == (subgraphs, cpu)


@pytest.mark.parametrize(("folder", "name"), [("resnet18", "resnet18"), ("mobilenet_v2", "mobilenet_v2")])
def test_graph_and_xmodel_of_a_network_give_the_same_work(
    catalogue: Catalogue, golden: Path, folder: str, name: str
) -> None:
    """Operators from the captured graph and from the recorded xmodel have equal workload and subgraphs."""
    data = gzip.decompress(next((golden / "nets" / folder).glob("*.xmodel.gz")).read_bytes())
    target = make_target(catalogue, ISA1)
    written = partition_operators(neutral_operators(parse_xmodel(data)), target)
    captured = partition_operators(backbone_operators(name, 224, 224), target)
    assert count_work(written) == count_work(captured)
    assert written.dpu_subgraphs == captured.dpu_subgraphs == 1
    assert not written.cpu


def test_reports_name_module_source_and_remedy(catalogue: Catalogue) -> None:
    """The Inspector's file has every field per node; the summary groups reasons with module, line and what to do."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Softmax(1))
    operators = capture_operators(lambda: network, 8, 8)
    partition = partition_operators(operators, make_target(catalogue, ISA1))
    text = render_inspect_file(partition, operators)
    assert text.startswith("emulated by dpuforge")
    for field in ("node name", "input nodes", "output nodes", "op type", "output shape", "op attributes"):
        assert text.count(f"{field}: ") == len(operators)
    assert "assigned device: user" in text
    assert "assigned device: cpu" in text
    assert f"node messages: merged into {operators[1].name}" in text
    summary = render_summary(partition)
    assert "CPU (1x): softmax: no DPUCZDX8G computes it" in summary
    assert "at 2 (" in summary
    assert "help: fine as the last operator" in summary
    assert cpu_rows(partition) == ((operators[3].name, "nndct_softmax", "softmax: no DPUCZDX8G computes it"),)
    assert inspect_file_name("0x101000016010407") == "inspect_0x101000016010407.txt"
