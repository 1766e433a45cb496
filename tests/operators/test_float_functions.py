"""The float functions: torch's results on numpy, and a page that lists them."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dpuforge.emulator.export.custom_calls import describe_custom
from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.graph.nodes import Param, Ref
from dpuforge.xmodel.integers.calls import run_call
from dpuforge.xmodel.integers.float_functions import FLOAT_FUNCTIONS
from tests.conftest import REPO

Function = Callable[[torch.Tensor], torch.Tensor]
W = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(3))

CALLS: dict[str, Function] = {
    "max pool 1d": lambda x: F.max_pool1d(x.flatten(2), 3, 2, 1, ceil_mode=True),
    "average pool 3d": lambda x: F.avg_pool3d(x[None], 2, 2, ceil_mode=True, count_include_pad=False),
    "average pool by 4": lambda x: F.avg_pool2d(x, 4, 3, 2, ceil_mode=True),
    "average pool, pad left out": lambda x: F.avg_pool2d(x, 4, 3, 2, ceil_mode=True, count_include_pad=False),
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(x, (3, None)),
    "convolution by groups": lambda x: F.conv2d(x, W[:, :2], None, 2, 1, 2, 2),
    "transposed": lambda x: F.conv_transpose2d(x, W[:4], None, 2, 1, 1),
    "transposed by groups": lambda x: F.conv_transpose2d(x, W[:4], None, 3, 2, 1, 2),
    "bicubic": lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic"),
    "bilinear down": lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", align_corners=True),
    "nearest-exact": lambda x: F.interpolate(x, size=(11, 5), mode="nearest-exact"),
    "area": lambda x: F.interpolate(x, size=(3, 4), mode="area"),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": lambda x: F.instance_norm(x, eps=0.1),
    "local response": lambda x: F.local_response_norm(x, 4, 0.1, 0.5, 2.0),
    "unfold": lambda x: F.unfold(x, (3, 2), 1, 1, 2),
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "celu": lambda x: F.celu(x, 0.7),
    "logsigmoid": F.logsigmoid,
    "softplus": lambda x: F.softplus(x, 2.0, 1.0),
    "hardshrink": lambda x: F.hardshrink(x, 0.2),
    "var": lambda x: x.var((2, 3), unbiased=False),
    "norm of power 3": lambda x: x.norm(3, 1, True),
    "topk": lambda x: x.topk(2, 1)[1].float(),
    "sort down": lambda x: x.sort(2, descending=True)[0],
    "remainder": lambda x: x % 0.7,
    "floor division": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "lerp": lambda x: torch.lerp(x, x * 2, 0.25),
    "cdist": lambda x: torch.cdist(x, x * 2),
    "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "rotated": lambda x: torch.rot90(x, 1, (2, 3)),
    "triangle": lambda x: torch.triu(x, 1),
    "negative pad": lambda x: F.pad(x, (-1, 2, 1, -2), value=0.5),
    "circular pad": lambda x: F.pad(x, (1, 1, 2, 0), mode="circular"),
    "gathered": lambda x: torch.gather(x, 2, torch.tensor([1, 0, 2, 1]).view(1, 1, 4, 1).expand(1, 4, 4, 8)),
    "numbers to integers": lambda x: x.to(torch.int32).float(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_calls_give_what_torch_gives(name: str) -> None:
    """Every call that the network records, run on numpy with torch's own inputs, gives torch's result."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return CALLS[name](x)

    graph = capture_graph(Network(), (x,))
    values: dict[str, object] = {}
    for node in graph.nodes:
        if node.call.args == (0,):
            values[node.name] = x.double().numpy()
            continue
        custom = describe_custom(node, graph.tensors)
        inputs = [_value(values, graph.tensors, tensor) for tensor in custom.tensors]
        refs = (*graph.output_refs, *(ref for reader in graph.nodes for ref in reader.inputs))
        reads = [ref.index for ref in refs if ref.node == node.name]
        index = next((i for i in reads if i is not None), None)
        call = (
            custom.call
            if index is None
            else type(custom.call)(custom.call.function, custom.call.args, custom.call.kwargs, index)
        )
        values[node.name] = run_call(call, inputs, 1)
    (ref,) = graph.output_refs
    np.testing.assert_allclose(values[ref.node], CALLS[name](x).double().numpy(), rtol=1e-4, atol=1e-5)


def _value(values: dict[str, object], tensors: object, tensor: Ref | Param) -> np.ndarray:
    return values[tensor.node] if isinstance(tensor, Ref) else tensors[tensor.key].double().numpy()  # type: ignore[return-value, index]


def test_the_page_lists_every_function() -> None:
    """docs/operators.md, section 1 names what runs, no more and no less."""
    page = (REPO / "docs/operators.md").read_text(encoding="utf-8")
    section = page.partition("torch's names:")[2].partition("## 2.")[0]
    assert set(re.findall(r"`([^`]+)`", section)) == set(FLOAT_FUNCTIONS)
