"""The table of operator kinds: complete, the only place that lists kinds, and all that a new operator needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dpuforge.emulator
from dpuforge.emulator.export.lower_custom import TOLD
from dpuforge.emulator.export.lower_network import lower_graph
from dpuforge.emulator.export.lower_operators import LOWERINGS, follow
from dpuforge.emulator.export.network_operators import list_operators
from dpuforge.emulator.export.to_onnx.onnx_builder import one_operator
from dpuforge.emulator.export.to_onnx.onnx_file import export_onnx
from dpuforge.emulator.export.to_onnx.onnx_operators import WRITERS
from dpuforge.emulator.graph.capture import capture_graph, capture_shapes
from dpuforge.emulator.graph.describe import REFINEMENTS
from dpuforge.emulator.graph.kinds import INPUT, KINDS, OPAQUE, Group, Point, Traits, plain_name, traits_of
from dpuforge.emulator.graph.vocabulary import FUNCTIONS, known_function
from dpuforge.emulator.integer.integer_forms import BUILDERS
from dpuforge.emulator.integer.integer_plan import Quantised
from dpuforge.emulator.integer.integer_run import IntegerNetwork
from dpuforge.emulator.prepare.passes import DPU_CALLS
from dpuforge.emulator.quantise.settings import ToolOptions, default_settings
from dpuforge.emulator.quantise.shift_limits import ADJUSTMENTS, AdjustOptions
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.records.operator import OpKind

ROOT = Path(dpuforge.emulator.__file__).parent
# Made by capture and preparation from other kinds, or by no function of the vocabulary.
MADE = {
    INPUT,
    "nndct_depthwise_conv2d",
    "nndct_depthwise_conv_transpose_2d",
    "nndct_reluk",
    "aten::mean",
    "nndct_const",
    # What capture calls by torch's name, because the tool does.
    *(f"aten::{name}" for name in ("max", "min", "abs", "pow", "glu", "where", "gt", "ge", "lt", "le", "eq", "ne")),
}


def test_every_kind_that_capture_names_has_a_row() -> None:
    """Kinds of the vocabulary and of the table are the same, but for those that are made of others."""
    assert {row.kind for row in FUNCTIONS.values()} | MADE == set(KINDS)


@pytest.mark.parametrize(
    ("column", "table"),
    [
        ("describe", REFINEMENTS),
        ("dpu", DPU_CALLS),
        ("adjust", ADJUSTMENTS),
        ("integer", BUILDERS),
        ("xmodel", LOWERINGS),
        ("told", {word: tell for word, tell in TOLD.items() if word}),
        ("onnx", WRITERS),
    ],
)
def test_each_word_has_its_function_and_each_function_its_row(column: str, table: Mapping[str, Any]) -> None:
    """No row names a function that its room lacks, and no room has one that no row names."""
    words = {getattr(row, column) for row in (*KINDS.values(), OPAQUE)} - {""}
    assert words == set(table)


def test_alignment_options_are_the_rows_words() -> None:
    """Each option of alignment moves the inputs of some kind, and no kind waits for an option that does not exist."""
    words = {row.align for row in KINDS.values()} - {""}
    assert {f"{word}_inputs" for word in words} == {field.name for field in fields(AdjustOptions)}
    for word in words:
        assert AdjustOptions(**{f"{word}_inputs": True}).takes_output(word)
        assert not AdjustOptions().takes_output(word)


def test_an_unknown_kind_is_opaque() -> None:
    """A kind without a row stays in float, is a custom op in an xmodel and is refused by ONNX."""
    traits = traits_of("aten::cumsum")
    assert traits is OPAQUE
    assert (traits.point, traits.neutral, traits.integer, traits.onnx) == (Point.FLOAT, OpKind.OTHER, "", "")
    assert traits.xmodel == "custom"


def _strings(node: ast.AST) -> Iterator[str]:
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.stem)
def test_no_other_module_lists_kinds(path: Path) -> None:
    """Only what makes nodes of a kind names one, and nothing but the table lists several."""
    if path.stem == "kinds":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {text for node in ast.walk(tree) for text in _strings(node) if text in KINDS}
    assert not named or path.stem in ("describe", "passes"), f"{path.stem} names {named}"
    known = set(KINDS) | ({plain_name(kind) for kind in KINDS} if path.parent.name != "export" else set())
    for node in ast.walk(tree):
        texts = list(_strings(node)) if isinstance(node, (ast.Set, ast.Tuple, ast.List, ast.Dict)) else []
        assert len(texts) < 2 or not set(texts) <= known, f"{path.stem}:{node.lineno} lists {texts}"


class Invented(nn.Module):
    """A network with an operator that the emulator does not know: selu."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.selu(F.max_pool2d(x, 2))


def _quantise(module: nn.Module, options: ToolOptions | None = None) -> QuantisedGraph:
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    quantised = QuantisedGraph(capture_graph(module, (images,)), default_settings(options=options))
    quantised.calibrate([images])
    quantised.finish_calibration()
    return quantised


def _plan(quantised: QuantisedGraph) -> list[str]:
    """Return the kinds that would run in float where the machine has the integer kernels."""
    steps = quantised.steps
    network = IntegerNetwork(Quantised(quantised.graph, steps.output, steps.param, quantised.graph.tensors))
    return [node.kind for node in network.float_nodes]


def test_a_new_operator_is_a_few_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One row, its torch function and a word in each export make an operator captured, quantised and written."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    assert capture_graph(Invented(), (torch.zeros(1, 3, 8, 8),)).nodes[-1].kind == "aten::selu"
    row = Traits(Group.ACTIVATION, Point.OWN, integer="table", xmodel="selu", onnx="Selu")
    monkeypatch.setitem(FUNCTIONS, "selu", known_function("selu", "input inplace=False"))
    monkeypatch.setitem(KINDS, "nndct_selu", row)
    monkeypatch.setitem(LOWERINGS, "selu", follow("selu"))
    monkeypatch.setitem(WRITERS, "Selu", one_operator("Selu"))
    quantised = _quantise(Invented())
    selu = quantised.graph.nodes[-1]
    assert selu.kind == "nndct_selu"
    assert selu.name in quantised.fix.output
    assert not quantised.points.floating
    assert _plan(quantised) == []
    types = [op.type for op in lower_graph(quantised).graph.ops]
    assert types[-2:] == ["selu", "fix"]
    written = onnx.load(export_onnx(quantised, tmp_path / "selu.onnx")).graph
    assert [node.op_type for node in written.node][-3:] == ["Selu", "QuantizeLinear", "DequantizeLinear"]


def test_a_relu_limited_per_channel_computes_in_float() -> None:
    """Its limits are tensors, which the integer clamp does not take; what comes after it is on integers again."""
    module = nn.Sequential(nn.MaxPool2d(2), nn.ReLU6(), nn.MaxPool2d(2)).eval()
    assert _plan(_quantise(module, ToolOptions(relu6_to_reluk=True))) == ["nndct_reluk"]


def test_an_adaptive_max_pool_is_seen_as_what_its_xmodel_holds() -> None:
    """The recorded tool writes a custom op for it (micro/adaptive_max): an operator of the CPU, no pool of the DPU."""
    (_, pool) = list_operators(capture_shapes(nn.AdaptiveMaxPool2d(1), (1, 8, 6, 6)))
    assert (pool.kind, pool.label, pool.stop) == (OpKind.OTHER, "nndct_adaptive_max_pool2d", "")
