"""Turns a captured graph into neutral operators, for the hardware model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dpuforge.emulator.graph.capture import capture_shapes
from dpuforge.emulator.graph.nodes import Graph, Node, Shape
from dpuforge.records.operator import Operator, OpKind

_POOLS = (OpKind.MAX_POOL, OpKind.AVERAGE_POOL)
_KEPT = ("mode", "scale", "align_corners", "dim", "order", "output_padding", "negative_slope", "ceil_mode", "groups")


def list_operators(graph: Graph) -> tuple[Operator, ...]:
    """Return the operators of a captured graph in execution order; shapes NHWC, sizes (height, width)."""
    return tuple(_operator(node, graph) for node in graph.nodes)


def capture_operators(build: Callable[[], torch.nn.Module], height: int, width: int) -> tuple[Operator, ...]:
    """Build a network on the meta device (no weight is made) and return its operators for one RGB image."""
    with MetaParameters():
        network = build()
    return list_operators(capture_shapes(network, (1, 3, height, width)))


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


def _operator(node: Node, graph: Graph) -> Operator:
    kind = node.traits.neutral
    # A value that depends on no input (a position bias, a mask) has no node: it is a constant.
    refs = [ref for ref in node.inputs if ref.node in graph.index]
    operator = Operator(
        name=node.name,
        kind=kind,
        inputs=tuple(ref.node for ref in refs),
        in_shapes=tuple(_channels_last(graph[ref.node].shapes[ref.index or 0]) for ref in refs),
        out_shape=_channels_last(node.shape),
        groups=int(node.attributes.get("groups", 1)),
        constant=len(refs) == 1 and kind in (OpKind.ADD, OpKind.MUL),
        label=node.kind,
        module=node.module_path,
        source=node.source,
        attributes={name: node.attributes[name] for name in _KEPT if name in node.attributes},
    )
    if kind in _POOLS:
        return _pool(operator, node)
    return replace(operator, **_geometry(node)) if "kernel" in node.attributes else operator


def _geometry(node: Node) -> dict[str, Any]:
    attributes = node.attributes
    padding = attributes["padding"]
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(attributes["kernel"], attributes["dilation"], strict=True)]
        pad = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    else:
        pad = (padding[0], padding[0], padding[-1], padding[-1])
    names = [name for name in ("kernel", "stride", "dilation") if attributes.get(name) is not None]
    if len(attributes["kernel"]) != 2:
        return {}
    return {"pad": pad, **{name: tuple(attributes[name]) for name in names}}


def _pool(operator: Operator, node: Node) -> Operator:
    """A mean over height and width, and an adaptive pool to 1 x 1, are global pools: the input is the kernel."""
    attributes = node.attributes
    if not operator.in_shapes or len(operator.in_shapes[0]) != 4:
        return replace(operator, kind=OpKind.OTHER)
    size = (operator.in_shapes[0][1], operator.in_shapes[0][2])
    if "output_size" not in attributes and "kernel" not in attributes:  # a mean
        dims = attributes.get("dim", node.call.args[1] if len(node.call.args) > 1 else node.call.kwargs.get("dim"))
        whole = isinstance(dims, (tuple, list)) and sorted(int(d) % 4 for d in dims) == [2, 3]
        if not whole:
            return replace(operator, kind=OpKind.OTHER)
        return replace(operator, kernel=size, stride=size, is_global=True)
    if "output_size" in attributes:
        if attributes["kernel"] is None:
            return replace(operator, kind=OpKind.OTHER)
        sizes: dict[str, Any] = {"kernel": tuple(attributes["kernel"]), "stride": tuple(attributes["stride"])}
        return replace(operator, **sizes, is_global=tuple(attributes["kernel"]) == size)
    geometry = _geometry(node)
    if not geometry:
        return replace(operator, kind=OpKind.OTHER)
    return replace(operator, **geometry, is_global=geometry["kernel"] == size and not any(geometry["pad"]))


def _channels_last(shape: Shape) -> Shape:
    """NCHW -> NHWC, NCDHW -> NDHWC; other ranks as they are."""
    return (shape[0], *shape[2:], shape[1]) if len(shape) in (4, 5) else tuple(shape)


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
