"""From the emulator's quantised network to the file: no difference to what the real tool wrote."""

from __future__ import annotations

import filecmp
import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from quantised_networks import golden_models, random_network, recorded_network, recorded_tiny
from recorded_xmodels import DATA, LARGE, SMALL, read_golden, small_graph, to_nchw
from torch import nn

from dpuforge.emulator.export.lower_network import lower_graph
from dpuforge.emulator.export.xmodel_builder import ExportError
from dpuforge.emulator.export.xmodel_file import export_xmodel
from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.xmodel.diff import diff_xmodels
from dpuforge.xmodel.integers.run import run_xmodel
from dpuforge.xmodel.nouns import Graph
from dpuforge.xmodel.read import read_xmodel


def _plain(text: str) -> str:
    """Leave out the tracer's running numbers, which depend on the torch that recorded them."""
    return re.sub(r"\d{3,}", "#", text)


def _runs_like_the_network(quantised: QuantisedGraph, graph: Graph, image: torch.Tensor) -> bool:
    expected = quantised.test((image,)).numpy()
    images = image.numpy().transpose(0, 2, 3, 1) if image.dim() == 4 else image.numpy()
    assert len(np.unique(expected)) > 3, "the network says the same everywhere: nothing is compared"
    return np.array_equal(to_nchw(run_xmodel(graph, images)), expected)


def test_tiny_network_is_written_as_the_real_tool_writes_it(tmp_path: Path) -> None:
    """With the recorded steps the exported file differs from the recorded one in names alone, and runs alike."""
    path = export_xmodel(recorded_tiny(DATA / "tiny"), tmp_path)
    graph = read_xmodel(path)
    assert path.name == "Tiny_int.xmodel"
    assert diff_xmodels(small_graph("tiny"), graph) == ()
    assert [_plain(op.name) for op in graph.ops] == [_plain(op.name) for op in small_graph("tiny").ops]


def test_export_writes_the_same_bytes_again(tmp_path: Path) -> None:
    """Two exports of two captures are equal to the byte."""
    paths = [export_xmodel(recorded_tiny(DATA / "tiny"), tmp_path / name) for name in ("a", "b")]
    assert filecmp.cmp(*paths, shallow=False)


@pytest.mark.parametrize("net", [*SMALL, *(pytest.param(net, marks=pytest.mark.slow) for net in LARGE)])
def test_every_golden_file_is_reproduced(golden: Path, net: str) -> None:
    """No difference to any of the eight recorded files but names; op order and naming pattern are equal, too."""
    quantised, _ = recorded_network(golden, net)
    recorded, lowered = read_golden(golden / "nets" / net), lower_graph(quantised).graph
    assert [str(difference) for difference in diff_xmodels(recorded, lowered)] == []
    assert [_plain(op.name) for op in lowered.ops] == [_plain(op.name) for op in recorded.ops]


@pytest.mark.parametrize("net", SMALL)
def test_deploy_check_folder_equals_the_recorded_one(golden: Path, tmp_path: Path, net: str) -> None:
    """Every file of deploy_check_data_int, floats and integers, is equal to the byte."""
    quantised, image = recorded_network(golden, net)
    export_xmodel(quantised, tmp_path, deploy_check=True, inputs=(image,))
    name = quantised.graph.name
    folders = golden / "nets" / net / "deploy_check_data_int" / name, tmp_path / "deploy_check_data_int" / name
    files = [{_plain(file): folder / file for file in os.listdir(folder)} for folder in folders]
    assert set(files[0]) == set(files[1])
    for file in set(files[0]) - {"shape.txt"}:
        assert files[0][file].read_bytes() == files[1][file].read_bytes(), file
    assert _plain(files[0]["shape.txt"].read_text()) == _plain(files[1]["shape.txt"].read_text())


def test_network_captured_with_a_batch_gives_the_same_file(tmp_path: Path) -> None:
    """A capture with batch 8 is exported with the shapes of one image."""
    image = torch.zeros(1, 3, 32, 32)
    path = export_xmodel(recorded_tiny(DATA / "tiny", batch=8), tmp_path, inputs=(image,))
    assert diff_xmodels(small_graph("tiny"), read_xmodel(path)) == ()
    with pytest.raises(ExportError, match="needs the inputs"):
        export_xmodel(recorded_tiny(DATA / "tiny", batch=8), tmp_path)


def test_torch_quantizer_writes_file_and_checking_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The user's calls end in a file that runs like the quantised model, and say so in the real tool's words."""
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    calibration = torch_quantizer("calib", module, (images,), output_dir=str(tmp_path), device="cpu")
    calibration.quant_model(images)
    calibration.export_quant_config()
    test = torch_quantizer("test", module, (images,), output_dir=str(tmp_path), device="cpu")
    output = test.quant_model(images[:1]).numpy()
    test.export_xmodel(output_dir=str(tmp_path), deploy_check=True)
    graph = read_xmodel(tmp_path / "Sequential_int.xmodel")
    np.testing.assert_array_equal(run_xmodel(graph, images[:1].numpy().transpose(0, 2, 3, 1)), output)
    assert (tmp_path / "deploy_check_data_int" / "Sequential" / "shape.txt").is_file()
    said = capsys.readouterr()
    assert "=>Successfully convert 'Sequential' to xmodel." in said.out + said.err


class Pieces(nn.Module):
    """Operators that no golden file holds: slices, splits, pads, pixel shuffle, grouped and dilated convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.up = nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.shuffle = nn.PixelShuffle(2)
        self.tail = nn.Conv2d(2, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 4, H, W)."""
        x = nn.functional.pad(torch.relu(self.stem(x)), (1, 2, 0, 1), value=0.5)[:, :, :-1, 1:-2]
        one, two = x.chunk(2, dim=1)
        x = torch.cat([self.grouped(one), two[:, :4], two[:, 4:] * 0.5], dim=1)
        x = nn.functional.silu(self.up(x)) + 3.0
        return torch.tanh(self.tail(self.shuffle(x)))[:, :, 1]


class Heads(nn.Module):
    """Flattened images read by dense layers, by other operators, and after a permutation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.one, self.two, self.three = (nn.Linear(6 * 49, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 12)."""
        x = self.conv(self.norm(x))
        flat = self.one(x.flatten(1))
        clamped = self.two(torch.relu(x.view(x.shape[0], -1)))
        moved = self.three(x.permute(0, 2, 3, 1).reshape(x.shape[0], -1))
        return torch.softmax(torch.cat([flat, clamped, moved], 1), dim=1)


@pytest.mark.parametrize("module", [Pieces, Heads])
def test_operators_without_a_golden_file_run_alike(module: type[nn.Module]) -> None:
    """The lowered file, run on integers, gives what the quantised network gives."""
    torch.manual_seed(0)
    quantised, image = random_network(module(), (3, 16, 16))
    assert _runs_like_the_network(quantised, lower_graph(quantised).graph, image)


FAMILIES = (
    "squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "googlenet", "densenet121", "regnet_x_400mf",
    "mnasnet0_5", "efficientnet_b0", "resnext50_32x4d", "mobilenet_v2", "resnet18",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision_families_run_alike(name: str) -> None:
    """For each family the file gives, on integers, what the emulated network gives."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    module = torchvision.models.get_model(name, weights=None, **extra)
    quantised, image = random_network(module, (3, 64, 64))
    assert _runs_like_the_network(quantised, lower_graph(quantised).graph, image)


COUNTED = (
    "ops_d", "ops_f__dpu_default", "squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "googlenet",
    "regnet_x_400mf", "efflite",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", COUNTED)
def test_op_counts_are_those_of_the_real_tool(golden: Path, net: str) -> None:
    """Networks without a recorded file have the recorded number of ops of every type."""
    catalogue = json.loads((golden / "xmodel_op_catalog.json").read_text())["op_counts_per_net"]
    module, size = golden_models(golden).build(net.partition("__")[0])
    quantised, _ = random_network(module, (3, min(size, 64), min(size, 64)))
    assert Counter(op.type for op in lower_graph(quantised).graph.ops) == catalogue[net]


def test_other_targets_are_refused() -> None:
    """An xmodel is for a DPU: a network for a CPU is refused with the real tool's words."""
    quantised = recorded_tiny(DATA / "tiny")
    config = replace(quantised.settings.config, target_device="CPU")
    quantised.settings = replace(quantised.settings, config=config)
    with pytest.raises(ExportError, match="target device is not DPU"):
        export_xmodel(quantised, "unused")
