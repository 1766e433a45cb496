"""Where images have their channels last: what works in any layout follows those of its readers that ask for it."""

from __future__ import annotations

from collections.abc import Mapping

from dpuforge.emulator.graph.nodes import Graph, Node

# By the word in column `xmodel` of kinds.py. Any other works in PyTorch's layout.
_CHANNELS_LAST = frozenset({
    "data", "conv2d", "depthwise-conv2d", "transposed-conv2d", "transposed-depthwise-conv2d", "scale", "maxpool2d",
    "avgpool2d", "resize", "pad", "pixel-shuffle", "pixel-unshuffle",
})  # fmt: skip
_ANY = frozenset({
    "relu", "relu6", "leaky-relu", "prelu", "sigmoid", "tanh", "gelu", "neg", "hard-sigmoid", "hard-swish", "softmax",
    "elementwise", "add", "sub", "mul", "div", "rsub", "concat", "strided_slice", "narrow", "split", "same",
})  # fmt: skip


def wants_channels_last(graph: Graph, consumers: Mapping[str, list[str]]) -> frozenset[str]:
    """Return the nodes that work in any layout and all of whose readers read images with channels last."""
    given = _given_channels_last(graph)
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        readers = [graph.index.get(name) for name in consumers[node.name]]
        if _any_layout(node) and all(_asks(reader, given, wanted) for reader in readers):
            wanted.add(node.name)
    return frozenset(wanted)


def _given_channels_last(graph: Graph) -> set[str]:
    """Return the nodes whose value has its channels last because of what they read."""
    given: set[str] = set()
    for node in graph.nodes:
        image = len(node.shape) == 4
        if image and (node.traits.xmodel in _CHANNELS_LAST or (_any_layout(node) and given & set(node.input_names()))):
            given.add(node.name)
    return given


def _any_layout(node: Node) -> bool:
    return len(node.shape) == 4 and node.traits.xmodel in _ANY


def _asks(reader: Node | None, given: set[str], wanted: set[str]) -> bool:
    if reader is None or len(reader.shape) != 4:
        return False
    return reader.traits.xmodel in _CHANNELS_LAST or (_any_layout(reader) and reader.name in given | wanted)
