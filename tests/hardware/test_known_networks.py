"""The shipped operators of torchvision's classifiers give the estimate that the networks themselves give."""

from __future__ import annotations

import gzip

import pytest

from dpuforge.estimating import estimate_backbones, estimate_known
from dpuforge.hardware.known_networks import pack_networks, read_networks
from dpuforge.load.backbones import load_backbones
from dpuforge.load.boards.resolve_board import resolve_board
from dpuforge.paths import find_shipped
from dpuforge.records.hardware import Catalogue
from tests.hardware.pack_backbones import capture_network

FEW = ("mobilenet_v3_small", "resnet18", "squeezenet1_1")


def hold_against_torch(names: tuple[str, ...], catalogue: Catalogue) -> None:
    """Compare the shipped operators with captured ones, by all figures of an estimate."""
    target, captured = estimate_backbones("KV260", "3.0", names)
    known = {row.backbone: row.estimates[0] for row in estimate_known([target])}
    for row in captured:
        one, other = known[row.backbone], row.estimate
        assert (one.fps_multi, one.work, one.latency_ms) == (other.fps_multi, other.work, other.latency_ms), (
            row.backbone
        )
        assert one.partition.dpu_subgraphs == other.partition.dpu_subgraphs
        assert len(one.partition.cpu) == len(other.partition.cpu)


def test_all_backbones_are_there() -> None:
    """Every backbone that a spec may name by torchvision's name has its operators."""
    assert {network.name for network in read_networks(find_shipped("spec/schema"))} == set(load_backbones())


def test_some_equal_the_networks_themselves(catalogue: Catalogue) -> None:
    """Frames per second, workload and partition do not depend on where the operators come from."""
    hold_against_torch(FEW, catalogue)


@pytest.mark.long
def test_all_equal_the_networks_themselves(catalogue: Catalogue) -> None:
    """The same for all; slow: eighty networks are captured. `nox -s backbones` writes the file anew."""
    hold_against_torch(tuple(load_backbones()), catalogue)


def test_the_same_networks_give_the_same_bytes() -> None:
    """The file has no time and no place in it."""
    network = capture_network("squeezenet1_1")
    assert pack_networks([network]) == pack_networks([network])
    assert b"site-packages" not in gzip.decompress(pack_networks([network]))


def test_those_that_fit_come_first(catalogue: Catalogue) -> None:
    """On two boards a backbone fits where it fits on both; the slower board decides the order."""
    targets = [resolve_board(catalogue, board, "3.0") for board in ("KV260", "ZCU104")]
    rows = estimate_known(targets)
    fits = [row.fits for row in rows]
    assert fits == sorted(fits, reverse=True)
    assert rows[0].backbone == "squeezenet1_1"
    assert all(len(row.estimates) == 2 for row in rows)
