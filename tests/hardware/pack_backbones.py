"""Writes spec/schema/backbone_operators.json.gz from torchvision's networks: `nox -s backbones`."""

from __future__ import annotations

from collections.abc import Iterable

from dpuforge.hardware.known_networks import KNOWN_NETWORKS, KnownNetwork, pack_networks
from tests.conftest import REPO


def capture_network(name: str) -> KnownNetwork:
    """Return a torchvision classifier with its operators, captured without weights."""
    from dpuforge.emulator.export.network_operators import backbone_operators, backbone_size

    size = backbone_size(name)
    return KnownNetwork(name, size.height, size.width, backbone_operators(name, size.height, size.width))


def write_networks(names: Iterable[str]) -> None:
    """Write the shipped file."""
    content = pack_networks(capture_network(name) for name in names)
    (REPO / "spec" / "schema" / KNOWN_NETWORKS).write_bytes(content)


if __name__ == "__main__":
    from dpuforge.load.backbones import load_backbones

    write_networks(load_backbones())
