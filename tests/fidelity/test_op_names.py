"""Which nodes the real tool makes of a torch expression: 215 recorded expressions, and those that differ here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.graph.listing import number_names
from dpuforge.emulator.prepare.passes import PrepareOptions, prepare_graph

# Two more are recorded as failures of the real tool; 204 of 215 are equal.
DIFFERING = {
    "F.lp_pool2d(x,2,2)",
    "F.interpolate(x,size=(8,8),mode='area')",
    "F.interpolate(x,scale_factor=2,mode='bicubic')",
    "x[:,[0,2]]",
    "x.type_as(y)",
    "F.linear(x,torch.ones(4,16))",
    "F.conv2d(x,torch.ones(4,8,1,1))",
    "F.batch_norm(x,torch.zeros(8),torch.ones(8))",
    "F.local_response_norm(x,3)",
}


class Expression(nn.Module):
    """An expression of x and y, two 1x1 convolutions of one input."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

    def forward(self, image: torch.Tensor) -> Any:
        """Evaluate the expression."""
        x = self.a(image)
        known = {"torch": torch, "F": F, "x": x}
        if re.search(r"\by\b", self.text):
            known["y"] = self.b(image)
        return eval(self.text, known)  # expressions of the recording only


def list_names(text: str) -> list[str]:
    """Return the nodes of an expression, without input, convolutions and return."""
    graph = capture_graph(Expression(text).eval(), (torch.randn(1, 3, 16, 16),))
    names = number_names(prepare_graph(graph, PrepareOptions()))
    plain = [name.partition("::")[2] for name in names.values()]
    return [name for name in plain if not re.match(r"nndct_(input|conv2d|return)_\d+$", name)]


@pytest.mark.filterwarnings("ignore::UserWarning")  # some of the expressions are deprecated
def test_expressions_have_the_recorded_nodes(golden: Path) -> None:
    """Every expression gives the recorded nodes with their numbers, but for the nine that are named."""
    recorded = json.loads((golden / "micro" / "op_names.json").read_text(encoding="utf-8"))
    wanted = {text: nodes for text, nodes in recorded.items() if isinstance(nodes, list)}
    assert len(wanted) == 213
    same = {text for text, nodes in wanted.items() if text not in DIFFERING and list_names(text) == nodes}
    assert set(wanted) - same == DIFFERING
