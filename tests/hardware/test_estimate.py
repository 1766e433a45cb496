"""The estimate: shape of its document, sane physics, the recorded error, and a table of all backbones in a minute."""

import functools
import json
import re
import time
from dataclasses import replace

import pytest

from dpuforge.emulator.export.network_operators import backbone_operators
from dpuforge.estimating import estimate_backbones
from dpuforge.hardware import latency
from dpuforge.hardware.estimate import Estimate, estimate_operators, find_target
from dpuforge.load.boards.resolve_board import resolve_board
from dpuforge.paths import PACKAGE_DIR
from dpuforge.records.hardware import Catalogue

capture = functools.cache(backbone_operators)


def estimate(catalogue: Catalogue, board: str, release: str, name: str, dpu: str | None = None) -> Estimate:
    """Estimate a torchvision network at 224 x 224."""
    found = resolve_board(catalogue, board, release, dpu)
    return estimate_operators(capture(name, 224, 224), found, find_target(catalogue, found))


def middle(band: tuple[float, float, float] | None) -> float:
    """Return the middle of a band that has to be there."""
    assert band is not None
    return band[1]


def test_the_document_has_the_agreed_shape(catalogue: Catalogue) -> None:
    """to_json() holds what `estimate --json` promises, and survives a trip through JSON."""
    document = json.loads(json.dumps(estimate(catalogue, "KV260", "3.0", "resnet18").to_json()))
    assert (document["target"], document["board"]) == ("DPUCZDX8G_ISA1_B4096", "KV260")
    assert (document["dpu_subgraphs"], document["cpu_ops"]) == (1, [])
    assert document["workload"] == 3_633_993_192
    assert document["workload_on_arch"] > document["workload"]
    for band in (document["latency_ms"], document["fps"]["single"], document["fps"]["multi"]):
        low, mid, high = band
        assert 0 < low < mid < high
    assert sum(layer["workload"] for layer in document["layers"]) == document["workload"]
    assert {layer["bound"] for layer in document["layers"]} <= {"compute", "memory", "start"}
    assert "not measured" in document["notes"][0]


def test_cpu_operators_carry_module_and_reason(catalogue: Catalogue) -> None:
    """Each operator that leaves the DPU is listed with its place in the network and the limit that decided."""
    document = estimate(catalogue, "KV260", "3.0", "resnext50_32x4d").to_json()
    assert len(document["cpu_ops"]) == 16
    first = document["cpu_ops"][0]
    assert first["module"] == "layer1.0.conv2"
    assert first["reason"].startswith("grouped conv2d 3x3 (32 groups)")
    assert re.search(r"torchvision/models/resnet\.py:\d+$", first["source"])


# Published multi-threaded frames per second of ResNet50 v1.5 (8.2 G) and VGG19; rows of the model zoo's tables.
@pytest.mark.parametrize(
    ("board", "release", "name", "published"),
    [
        ("KV260", "3.0", "resnet50", 89.34),
        ("ZCU104", "3.0", "resnet50", 161.9),
        ("ZCU102", "3.0", "resnet50", 189.7),
        ("KV260", "2.0", "resnet50", 75.0),
        ("ZCU102", "1.4", "vgg19", 36.6),
        ("KV260", "3.0", "vgg19", 18.94),
    ],
)
def test_published_frame_rates_of_zynq_boards_lie_in_the_band(
    catalogue: Catalogue, board: str, release: str, name: str, published: float
) -> None:
    """The 80 % band of these networks, which were fitted, holds what was published, and is not vacuously wide."""
    band = estimate(catalogue, board, release, name).fps_multi
    assert band is not None
    assert band[0] < published < band[2]
    assert band[2] / band[0] < 1.7


@pytest.mark.parametrize(("less", "more"), [("resnet18", "resnet34"), ("resnet50", "resnet101"), ("vgg11", "vgg16")])
def test_a_deeper_network_is_slower(catalogue: Catalogue, less: str, more: str) -> None:
    """More layers of the same kind take longer and give fewer frames per second."""
    fast, slow = (estimate(catalogue, "ZCU104", "3.0", name) for name in (less, more))
    assert middle(fast.latency_ms) < middle(slow.latency_ms)
    assert middle(fast.fps_multi) > middle(slow.fps_multi)


def test_a_smaller_dpu_and_a_slower_clock_are_slower(catalogue: Catalogue) -> None:
    """B1024 takes longer than B4096, and half the clock longer than the whole."""
    whole = estimate(catalogue, "KV260", "3.0", "resnet18")
    small = estimate(catalogue, "KV260", "3.0", "resnet18", "B1024")
    board = resolve_board(catalogue, "KV260", "3.0")
    target = find_target(catalogue, board)
    slow = estimate_operators(capture("resnet18", 224, 224), replace(board, clock_mhz=150.0), target)
    assert middle(small.latency_ms) > 1.5 * middle(whole.latency_ms)
    assert middle(slow.latency_ms) > 1.3 * middle(whole.latency_ms)


@pytest.mark.parametrize("board", ["Ultra96", "ZUBoard_1CG", "ZCU106"])
def test_a_board_without_published_figures_says_so_and_widens_the_band(catalogue: Catalogue, board: str) -> None:
    """The mean of its group stands in, noted, with a band wider than that of a measured board."""
    known, unknown = (estimate(catalogue, name, "2.5", "resnet18") for name in ("KV260", board))
    assert any("no published figure" in note for note in unknown.notes)
    assert known.fps_multi is not None
    assert unknown.fps_multi is not None
    assert unknown.fps_multi[2] / unknown.fps_multi[0] > known.fps_multi[2] / known.fps_multi[0]


@pytest.mark.parametrize(
    ("board", "release"),
    [
        ("VCK190", "3.0"),
        ("VEK280", "3.5"),
        ("V70", "3.5"),
        ("U50", "1.4"),
        ("U55C", "2.5"),
        ("U200", "2.0"),
        ("VCK5000", "3.0"),
    ],
)
def test_every_family_of_boards_is_estimated(catalogue: Catalogue, board: str, release: str) -> None:
    """ResNet50 gets a finite rate on a board of each family, below what the peak would allow."""
    found = estimate(catalogue, board, release, "resnet50")
    assert found.fps_multi is not None
    # VCK190 and VEK280 report the peak of one core of all batch engines.
    cores = 1 if board == "VCK5000" else found.board.cores
    assert 0 < found.fps_multi[1] < found.peak_gops * cores / (found.work.workload / 1e9)


def test_one_network_is_estimated_on_every_board_that_a_release_serves(catalogue: Catalogue) -> None:
    """Captured once, a network is placed on all default DPUs of a release in a moment."""
    operators = capture("resnet18", 224, 224)
    start, rates = time.perf_counter(), {}
    for name, board in catalogue.boards.items():
        if any(item.release == "3.0" and item.prebuilt for item in board.configurations):
            found = resolve_board(catalogue, name, "3.0")
            rates[name] = estimate_operators(operators, found, find_target(catalogue, found)).fps_multi
    assert {"KV260", "ZCU102", "ZCU104", "VCK190", "VCK5000", "U200", "U250"} <= set(rates)
    assert time.perf_counter() - start < 20


def test_the_fit_of_the_zynq_boards_meets_its_goal() -> None:
    """The recorded cross-validation: median error within 10 % and 90 % of the figures within 25 %, three groups."""
    report = PACKAGE_DIR.parent.parent / "docs" / "latency_error.md"
    rows = [line.split("|") for line in report.read_text(encoding="utf-8").splitlines() if line.startswith("| Zynq")]
    assert len(rows) == 3
    for row in rows:
        median, within = float(row[3].strip(" %")), float(row[5].strip(" %"))
        assert median <= 10.0
        assert within >= 90.0


def test_the_parameters_have_the_fields_that_the_model_reads() -> None:
    """Every group of the file makes Parameters for each of its boards, with a band around 1."""
    for group in latency._document()["groups"]:
        for values in group["boards"].values():
            latency.Parameters(**group["parameters"], **values)
        for low, high in group["band"].values():
            assert low < 1 < high


@pytest.mark.parametrize(
    ("board", "release", "group"),
    [
        ("VCK5000", "3.0", "VCK5000 4PE, 6PE aieMISC"),
        ("VCK5000 8PE", "3.0", "VCK5000 8PE, 6PE aieDWC"),
        ("U50LV-DWC", "2.5", "U50LV-DWC and U55C-DWC, 2.0 and later"),
        ("U50LV", "2.5", "U50LV, 2.0 and later"),
        ("U50LV10E", "1.4", "U50, U50LV, U280, 1.3 to 1.4.1"),
        ("KV260", "3.5", "Zynq UltraScale+, 2.5 and later"),
    ],
)
def test_a_board_takes_the_figures_of_its_own_configuration(
    catalogue: Catalogue, board: str, release: str, group: str
) -> None:
    """Where a card exists in several configurations, the fit is that of the one chosen."""
    fit = latency.find_fit(resolve_board(catalogue, board, release), 1)
    assert fit is not None
    assert (fit.group, fit.fitted) == (group, True)


@pytest.mark.long
def test_all_backbones_are_estimated() -> None:
    """All torchvision classifiers on one board, fastest first, without making weights."""
    _, rows = estimate_backbones("KV260", "3.0")
    rates = [row.estimate.fps_multi[1] for row in rows if row.estimate.fps_multi]
    assert len(rates) >= 80
    assert rates == sorted(rates, reverse=True)
