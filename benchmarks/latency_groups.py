"""The boards that are fitted together, and which rows of the performance tables they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Group:
    """Boards fitted together: the same DPU family and compiler generation.

    rows picks (board_norm, dpu_config, cores) of the CSV; the value is the board's name in the parameters.
    """

    name: str
    family: str
    isa: int
    target: dict[str, str]
    releases: tuple[str, ...]
    rows: dict[tuple[str, str, str], str]
    clock_mhz: float | None = None
    bandwidth: float = 10.0
    reuse: float = 0.3
    prior_weight: float = 0.3
    slow_engines: float = 1.0  # clock of the convolution array over the clock of the other engines


ZYNQ = {("ZCU102", "B4096", "3"): "ZCU102", ("ZCU104", "B4096", "2"): "ZCU104", ("KV260", "B4096F", "1"): "KV260"}
# With half a megabyte of banks, letting maps stay on the chip did not lower the error in cross-validation.
SMALL: dict[str, Any] = {"reuse": 0.001}
ISA0, ISA1 = {"": "DPUCZDX8G_ISA0_B4096_MAX_BG2"}, {"": "DPUCZDX8G_ISA1_B4096"}
VCK190_96 = {("VCK190", "96 AIEs", "1"): "VCK190"}
VCK190_192 = {**VCK190_96, ("VCK190", "C32B6CU1L2S2 (192 AIEs)", "1"): "VCK190"}
ALVEO = {("U50LV", "", "6"): "U50", ("U50LV", "", "9"): "U50LV9E", ("U50LV", "", "10"): "U50LV10E"}
VCK5000_MISC = {("VCK5000", "", "4PE"): "VCK5000 4PE", ("VCK5000", "aieMISC", "6PE"): "VCK5000 6PE aieMISC"}
VCK5000 = {
    ("VCK5000", "DWC", "6PE"): "VCK5000 6PE aieDWC",
    ("VCK5000", "aieDWC", "6PE"): "VCK5000 6PE aieDWC",
    ("VCK5000", "", "8PE"): "VCK5000 8PE",
}
VCK5000_TARGETS = {
    "VCK5000 4PE": "DPUCVDX8H_ISA1_F2W4_4PE",
    "VCK5000 6PE aieDWC": "DPUCVDX8H_ISA1_F2W4_6PE_aieDWC",
    "VCK5000 6PE aieMISC": "DPUCVDX8H_ISA1_F2W4_6PE_aieMISC",
    "VCK5000 8PE": "DPUCVDX8H_ISA1_F2W2_8PE",
}
GROUPS = (
    Group("Zynq UltraScale+, 1.3 to 1.4.1", "DPUCZDX8G", 0, ISA0, ("1.3", "1.4", "1.4.1"), ZYNQ, **SMALL),
    Group("Zynq UltraScale+, 2.0", "DPUCZDX8G", 0, ISA0, ("2.0",), ZYNQ, **SMALL),
    Group("Zynq UltraScale+, 2.5 and later", "DPUCZDX8G", 1, ISA1, ("2.5", "3.0", "3.5"), ZYNQ, **SMALL),
    Group(
        "VCK190, 1.4",
        "DPUCVDX8G",
        1,
        {"": "DPUCVDX8G_ISA1_C32B3"},
        ("1.4", "1.4.1"),
        VCK190_96,
        1333,
        20,
        slow_engines=4,
    ),
    Group(
        "VCK190, 2.0", "DPUCVDX8G", 2, {"": "DPUCVDX8G_ISA2_C32B3"}, ("2.0",), VCK190_96, 1250, 20, slow_engines=3.75
    ),
    Group(
        "VCK190, 2.5 and later",
        "DPUCVDX8G",
        3,
        {"": "DPUCVDX8G_ISA3_C32B6"},
        ("2.5", "3.0", "3.5"),
        VCK190_192,
        1250,
        20,
        slow_engines=3.75,
    ),
    Group(
        "VEK280 and V70, 3.5",
        "DPUCV2DX8G",
        1,
        {"": "DPUCV2DX8G_ISA1_C20B14"},
        ("3.5",),
        {("VEK280", "C20B14CU1", "1"): "VEK280", ("V70", "C20B14CU1", "1"): "V70"},
        bandwidth=60,
        slow_engines=3.9,
    ),
    Group(
        "VCK5000 8PE, 6PE aieDWC",
        "DPUCVDX8H",
        1,
        VCK5000_TARGETS,
        ("1.4", "1.4.1", "2.0", "2.5", "3.0"),
        VCK5000,
        1250,
        60,
        slow_engines=3.6,
    ),
    Group(
        "VCK5000 4PE, 6PE aieMISC",
        "DPUCVDX8H",
        1,
        VCK5000_TARGETS,
        ("2.5", "3.0", "3.5"),
        VCK5000_MISC,
        1250,
        60,
        slow_engines=3.6,
    ),
    Group(
        "U50, U50LV, U280, 1.3 to 1.4.1",
        "DPUCAHX8H",
        2,
        {"": "DPUCAHX8H_ISA2"},
        ("1.3", "1.4", "1.4.1"),
        {**ALVEO, ("U280", "", "14"): "U280"},
    ),
    Group(
        "U50LV, 2.0 and later", "DPUCAHX8H", 2, {"": "DPUCAHX8H_ISA2"}, ("2.0", "2.5"), {("U50LV", "", "10"): "U50LV"}
    ),
    Group(
        "U50LV-DWC and U55C-DWC, 2.0 and later",
        "DPUCAHX8H",
        2,
        {"": "DPUCAHX8H_ISA2_DWC"},
        ("2.0", "2.5"),
        {("U50LV", "DWC", "8"): "U50LV-DWC", ("U55C", "DWC", "11"): "U55C-DWC"},
    ),
    Group(
        "U50, U50LV and U280 (8L), 1.4",
        "DPUCAHX8L",
        0,
        {"": "DPUCAHX8L_ISA0"},
        ("1.4", "1.4.1"),
        {("U50LV", "", "1"): "U50LV", ("U280", "", "2"): "U280"},
    ),
    Group(
        "U200 and U250",
        "DPUCADF8H",
        0,
        {"": "DPUCADF8H_ISA0"},
        ("1.3", "1.4", "1.4.1", "2.0", "2.5", "3.0"),
        {("U200", "", "2"): "U200", ("U250", "", "4"): "U250"},
    ),
)
