"""How moves, constants and custom ops lie in an xmodel: what the recorded files show, on networks of our own."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quantised_networks import random_network
from torch import nn

from dpuforge.emulator.export.tool_limits import describe_limits
from dpuforge.emulator.export.xmodel_file import export_xmodel
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.xmodel.integers.run import run_outputs
from dpuforge.xmodel.nouns import Graph
from dpuforge.xmodel.read import read_xmodel

SHAPE = (3, 16, 16)


class Body(nn.Module):
    """A convolution, what is tried, and a convolution."""

    def __init__(self, body: Callable[..., torch.Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.layer, self.body = nn.Conv2d(3, 8, 3, padding=1), layer, body
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 4, H, W)."""
        x = torch.relu(self.stem(x))
        return self.head(self.body(x) if self.layer is None else self.body(x, self.layer))


def _write(network: nn.Module, folder: Path) -> tuple[QuantisedGraph, Graph, torch.Tensor]:
    quantised, image = random_network(network, SHAPE)
    return quantised, read_xmodel(export_xmodel(quantised, folder)), image


def _counts(graph: Graph) -> Counter[str]:
    return Counter(op.type for op in graph.ops)


def _runs_to_the_same(quantised: QuantisedGraph, graph: Graph, image: torch.Tensor) -> bool:
    expected = quantised.test((image,))
    found = next(iter(run_outputs(graph, image.numpy().transpose(0, 2, 3, 1)).values()))
    return bool(np.array_equal(found.transpose(0, 3, 1, 2), expected.numpy()))


# body, layer, the ops that must be there, by type
MOVES = {
    "two unsqueezes and the change of layout are one reshape": (
        lambda x: x * x.mean((2, 3)).unsqueeze(-1).unsqueeze(-1), None, {"reshape": 1, "transpose": 1},
    ),
    "a layer norm between permutes needs no transpose": (
        lambda x, norm: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(8),
        {"transpose": 0, "nndct_layer_norm": 1},
    ),
    "what reads a custom op alone moves to its side": (
        lambda x: F.relu(F.silu(x) + F.silu(x * 0.5)), None, {"transpose": 4, "aten::silu": 2},
    ),
    "readers of both layouts have a transpose each": (
        lambda x: torch.min(x, F.silu(x)) + x, None, {"transpose": 3, "aten::min": 1},
    ),
    "values that the tool knows by kind stay channels last": (
        lambda x: torch.exp(torch.clamp(F.mish(x), 0.1, 2.0)), None,
        {"transpose": 0, "nndct_clamp": 1, "nndct_mish": 1, "nndct_elemwise_exp": 1},
    ),
    "a maximum that keeps its axis is a reduction of the image": (
        lambda x: x * x.max(1, keepdim=True)[0], None, {"transpose": 0, "reduction_max": 1},
    ),
    "a transpose and the change of layout are one": (
        lambda x: F.relu(x.transpose(2, 3)), None, {"transpose": 1},
    ),
    "a size is an argument": (lambda x: F.interpolate(x, size=(32, 32)), None, {"resize": 1, "stack": 1}),
    "a group norm with its weights": (lambda x, norm: norm(x), nn.GroupNorm(2, 8), {"transpose": 0}),
    "a constant minus a value is a subtraction": (lambda x: 2.0 - x, None, {"sub": 1, "transpose": 0}),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVES)
def test_moves_are_as_few_as_the_tools(case: str, tmp_path: Path) -> None:
    """The ops of each idiom are those of the recorded files, and the integers give the quantised output."""
    body, layer, wanted = MOVES[case]
    quantised, graph, image = _write(Body(body, layer), tmp_path)
    found = _counts(graph)
    assert {kind: found[kind] for kind in wanted} == wanted
    assert _runs_to_the_same(quantised, graph, image)


def test_a_constant_fills_the_shape_of_its_reader(tmp_path: Path) -> None:
    """A number and a buffer in arithmetic are constants of the whole image, channels last, on their fix positions."""
    rows = torch.arange(16.0).view(1, 1, 16, 1)
    _, graph, _ = _write(Body(lambda x: (x + 0.3) * rows), tmp_path)
    filled = [op for op in graph.ops if op.type == "const" and op.dims == (1, 16, 16, 8)]
    assert len(filled) == 2
    values = np.frombuffer(filled[0].attrs["data"].value, "<f4")
    fix = next(graph.by_name[name] for name in graph.consumers[filled[0].name])
    scaled = np.ldexp(values.astype(np.float64), fix.attrs["fix_point"].value)
    np.testing.assert_array_equal(scaled, np.rint(scaled))


def test_the_shape_that_was_asked_for_keeps_its_minus_one(tmp_path: Path) -> None:
    """A view with -1 is a reshape to -1; a flatten names its sizes."""
    _, graph, _ = _write(Body(lambda x: x.view(x.shape[0], -1, 4, 16).reshape(x.shape) + x), tmp_path)
    told = [op.tensor.attrs["shape_info"].value for op in graph.ops if op.type == "stack" and op.tensor]
    assert told == [(1, 8, 16, 16)]  # two reshapes are one
    _, graph, _ = _write(Body(lambda x: x.transpose(1, 2).reshape(x.shape[0], -1, 8, 16).permute(0, 2, 1, 3)), tmp_path)
    told = [op.tensor.attrs["shape_info"].value for op in graph.ops if op.type == "stack" and op.tensor]
    assert told == [(1, -1, 8, 16)]


LIMITED = {
    "glu": (Body(lambda x: torch.cat([F.glu(x, 1), F.glu(x, 1)], 1)), "xmodel", "TypeError"),
    "grouped": (
        Body(lambda x, up: up(x), nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2)), "xmodel", "ends the process",
    ),
    "output padding": (
        Body(lambda x, up: up(x), nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)), "xmodel", "output_padding",
    ),
    "same": (Body(lambda x, c: c(x), nn.Conv2d(8, 8, 3, padding="same")), "onnx", "writes no file"),
    "nothing": (Body(F.relu), "xmodel", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITED)
def test_what_the_tool_cannot_export_is_said(case: str) -> None:
    """Each recorded failure of the real tool is described for the node that meets it, and nothing else is."""
    network, exporter, word = LIMITED[case]
    said = describe_limits(random_network(network, SHAPE)[0].graph, exporter)
    assert bool(said) == bool(word)
    assert all(word in text for text in said)


def test_output_padding_is_left_out_as_in_the_tools_file(tmp_path: Path) -> None:
    """The map of the file is one row and column smaller, where what follows takes that; else it is the network's."""
    up = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)
    _, graph, _ = _write(Body(lambda x, up: up(x), up), tmp_path)
    assert graph.outputs[0].dims == (1, 31, 31, 4)
    _, graph, _ = _write(Body(lambda x, up: up(x) + F.interpolate(x, size=(32, 32)), up), tmp_path)
    assert graph.outputs[0].dims == (1, 32, 32, 4)


class Heads(nn.Module):
    """Two maps, returned in another order than they are computed, the second read inside as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two maps."""
        x = torch.relu(self.stem(x))
        return self.two(x), x


def test_run_writes_every_output_in_forwards_order(tmp_path: Path) -> None:
    """A .npz holds one array per output in forward's order, with names; a .npy, which holds one, is refused."""
    quantised, graph, image = _write(Heads(), tmp_path)
    file = tmp_path / f"{graph.name}_int.xmodel"
    np.save(tmp_path / "x.npy", image.numpy().transpose(0, 2, 3, 1))
    command = [sys.executable, "-m", "dpuforge", "xmodel", "run", str(file), "--input", str(tmp_path / "x.npy")]
    done = subprocess.run([*command, "--output", str(tmp_path / "y.npz")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "y.npz")
    expected = quantised.test((image,))
    assert list(found["names"]) == list(run_outputs(graph, image.numpy().transpose(0, 2, 3, 1)))
    for number, value in enumerate(expected):
        np.testing.assert_array_equal(found[f"output_{number}"].transpose(0, 3, 1, 2), value.numpy())
    refused = subprocess.run([*command, "--output", str(tmp_path / "y.npy")], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "has 2 outputs" in refused.stderr


class Listed(nn.Module):
    """A convolution in a ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = nn.ModuleList([nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a map."""
        return self.rest[1](self.rest[0](x))


def test_modules_in_a_list_are_named_with_their_list(tmp_path: Path) -> None:
    """A module in a ModuleList is spelt Type_list__ModuleList_place, as in the tool's files."""
    _, graph, _ = _write(Listed(), tmp_path)
    assert any("Conv2d_rest__ModuleList_0__" in op.name for op in graph.ops)
