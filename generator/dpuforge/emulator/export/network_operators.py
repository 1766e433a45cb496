"""Turns a captured graph into neutral operators, for the hardware model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dpuforge.emulator.export.foresee import foresee_operators
from dpuforge.emulator.graph.capture import capture_shapes
from dpuforge.emulator.graph.nodes import Graph, Shape
from dpuforge.emulator.prepare.passes import PrepareOptions
from dpuforge.records.operator import Operator


def list_operators(graph: Graph, options: PrepareOptions | None = None) -> tuple[Operator, ...]:
    """Return the operators of the xmodel that a captured graph will become; shapes NHWC, sizes (height, width).

    options: what the quantizer rewrites (PrepareOptions).
    """
    return foresee_operators(graph, options)


def capture_operators(
    build: Callable[[], torch.nn.Module],
    height: int,
    width: int,
    options: PrepareOptions | None = None,
    channels: int = 3,
) -> tuple[Operator, ...]:
    """Build a network on the meta device (no weight is made) and return its operators for one image."""
    return list_operators(capture_network(build, (1, channels, height, width)), options)


def capture_network(build: Callable[[], torch.nn.Module], shape: Shape) -> Graph:
    """Build a network and record it for an input of this shape: on the meta device, where no weight is made.

    One that reads values while it is built or run is built with weights and run on a black image.
    """
    try:
        with MetaParameters():
            network = build()
        if any(tensor.is_meta for tensor in network.parameters()):
            return capture_shapes(network, shape)
    except Exception:  # whatever it is: with values it goes well, or says what is wrong
        network = build()
    return capture_shapes(network, shape)


class MetaParameters(TorchFunctionMode):
    """Makes torch.empty, zeros and ones give meta tensors: parameters cost nothing, while other tensors hold values.

    `with torch.device("meta")` would move everything, and RegNet reads numbers back while it is built.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _FACTORIES and given.get("device") is None:
            given["device"] = "meta"
        return func(*args, **given)


_FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones})


@dataclass(frozen=True)
class BackboneSize:
    """The input that a torchvision classifier was made for."""

    height: int
    width: int


def torchvision_backbones() -> tuple[str, ...]:
    """Return the names of all torchvision classifiers."""
    from torchvision import models

    return tuple(models.list_models(module=models))


def backbone_size(name: str) -> BackboneSize:
    """Return the size of torchvision's own evaluation transform for its default weights (224 x 224 where none)."""
    from torchvision import models

    crop = models.get_model_weights(name).DEFAULT.transforms.keywords.get("crop_size", 224)
    return BackboneSize(crop, crop)


def backbone_operators(name: str, height: int, width: int) -> tuple[Operator, ...]:
    """Return the operators of a torchvision classifier (1000 classes) for this input size; makes no weights."""
    from torchvision import models

    def build() -> torch.nn.Module:
        # A vision transformer fixes its input size when it is built; others draw weights that nobody needs.
        extra: dict[str, Any] = {"image_size": height} if name.startswith("vit_") else {}
        extra |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        network: torch.nn.Module = models.get_model(name, weights=None, **extra)
        return network

    return capture_operators(build, height, width)
