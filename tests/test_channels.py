"""A network of one channel against the spec's colour: found before anything runs, in one line that names the keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpuforge.errors import UsageError
from dpuforge.estimating import estimate_spec

NETWORK = """
from torch import nn


def make():
    first = nn.Conv2d({channels}, 8, 3)
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""
SPEC = """
project: channels
model: {{backbone: "nets/net.py:make", input: {{height: 32, width: 32}}}}
classes: [a, b, c]
data: {{train: d/train, validation: d/val, test: d/test, preprocess: {{color: {color}}}}}
transfer: {{method: fine_tuning}}
target: {{boards: [KV260]}}
"""


def write(root: Path, channels: int, color: str) -> Path:
    """Write a network with this many input channels and a spec with this colour."""
    (root / "nets").mkdir()
    (root / "spec").mkdir()
    (root / "nets/net.py").write_text(NETWORK.format(channels=channels), encoding="utf-8")
    (root / "spec/channels.yaml").write_text(SPEC.format(color=color), encoding="utf-8")
    return root / "spec/channels.yaml"


@pytest.mark.parametrize(("channels", "color", "given"), [(1, "RGB", 3), (1, "BGR", 3), (3, "GRAY", 1), (4, "RGB", 3)])
def test_another_number_of_channels_is_one_line(tmp_path: Path, channels: int, color: str, given: int) -> None:
    """The refusal names the network, both numbers and the key to change."""
    with pytest.raises(UsageError) as refused:
        estimate_spec(write(tmp_path, channels, color), (), "")
    words = f"nets/net.py:make takes {channels} channel(s), data.preprocess.color {color} gives {given}"
    assert words in refused.value.message
    assert "\n" not in refused.value.message
    assert "first layer" in str(refused.value)


def test_one_channel_is_estimated(tmp_path: Path) -> None:
    """With color: GRAY a network of one channel is captured with one channel."""
    (estimate,) = estimate_spec(write(tmp_path, 1, "GRAY"), ("KV260",), "")
    assert estimate.partition.dpu_subgraphs == 1
