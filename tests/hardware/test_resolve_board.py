"""Board, release and DPU: which go together, and what is said where they do not."""

import pytest

from dpuforge.load.boards.resolve_board import HardwareError, resolve_board
from dpuforge.records.hardware import Catalogue


@pytest.mark.parametrize(
    ("board", "release", "target", "fingerprint"),
    [
        ("ZCU102", "1.3", "DPUCZDX8G_ISA0_B4096_MAX_BG2", "0x1000020f6014407"),
        ("KV260", "1.4.1", "DPUCZDX8G_ISA0_B4096_MAX_BG2", "0x1000020f6014407"),
        ("KV260", "2.5", "DPUCZDX8G_ISA1_B4096", "0x101000016010407"),
        ("KV260", "3.0", "DPUCZDX8G_ISA1_B4096", "0x101000056010407"),
        ("ZCU104", "3.5", "DPUCZDX8G_ISA1_B4096", "0x101000056010407"),
        ("VCK190", "1.4", "DPUCVDX8G_ISA1_C32B3", "0x601001036088131"),
        ("VCK190", "3.5", "DPUCVDX8G_ISA3_C32B6", "0x603000b56011861"),
        ("VEK280", "3.5", "DPUCV2DX8G_ISA1_C20B14", "0x901400044000e44"),
        ("V70", "3.5", "DPUCV2DX8G_ISA1_C20B14", "0x901400044000e44"),
        ("U50", "1.4", "DPUCAHX8H_ISA2", "0x20200000000002a"),
        ("U50LV-DWC", "2.5", "DPUCAHX8H_ISA2_DWC", "0x20200000010002b"),
        ("U55C", "2.0", "DPUCAHX8H_ISA2_DWC", "0x20200000000002b"),
        ("U250", "2.0", "DPUCADF8H_ISA0", "0x700000000000000"),
        ("VCK5000", "3.0", "DPUCVDX8H_ISA1_F2W4_4PE", "0x5010000001e082f"),
    ],
)
def test_a_released_board_gives_the_target_that_the_facts_name(
    catalogue: Catalogue, board: str, release: str, target: str, fingerprint: str
) -> None:
    """The default DPU of a board under a release is that of its released image, written as a target in arch.json."""
    found = resolve_board(catalogue, board, release)
    assert (found.target, found.fingerprint_text, dict(found.arch_json)) == (target, fingerprint, {"target": target})


@pytest.mark.parametrize(
    ("arguments", "target", "arch_json"),
    [
        (("KV260", "3.0", "B3136"), "DPUCZDX8G_ISA1_B3136", "0x101000056010406"),
        (("KV260", "2.0", "B3136"), "DPUCZDX8G_ISA0_B3136_MAX_BG2", "0x1000020f6014406"),
        (("CUSTOM_ZYNQMP", "3.5", "DPUCZDX8G_ISA1_B512"), "DPUCZDX8G_ISA1_B512", "0x101000056010200"),
        (("Ultra96", "2.5"), "DPUCZDX8G_ISA1_B1600", "0x101000016010404"),
        (("KV260", "1.4", None, "0x1000020F6012203"), "DPUCZDX8G_ISA0_B1152_01000020F6012203", "0x1000020f6012203"),
        (("ZCU104", "3.0", None, "0x101000056010407"), "DPUCZDX8G_ISA1_B4096", "0x101000056010407"),
    ],
)
def test_a_custom_dpu_is_written_as_its_fingerprint(
    catalogue: Catalogue, arguments: tuple[str, ...], target: str, arch_json: str
) -> None:
    """A DPU chosen by size, target or fingerprint puts {"fingerprint": "0x..."} into arch.json, in lower case."""
    found = resolve_board(catalogue, *arguments)
    assert (found.target, dict(found.arch_json)) == (target, {"fingerprint": arch_json})


@pytest.mark.parametrize("size", [512, 800, 1024, 1152, 1600, 2304, 3136, 4096])
@pytest.mark.parametrize("release", ["1.3", "1.4", "2.0", "2.5", "3.0", "3.5"])
def test_every_size_of_the_zynq_dpu_resolves_on_any_zynq_board(catalogue: Catalogue, size: int, release: str) -> None:
    """B512 to B4096 give a registered target with that peak, or a choice between registered variants."""
    if release in ("1.3", "1.4", "2.0") and size not in (2304, 3136, 4096):
        with pytest.raises(HardwareError, match="fits several DPUs") as caught:  # _MAX and _MIN, none in an image
            resolve_board(catalogue, "CUSTOM_ZYNQMP", release, f"B{size}")
        choices = caught.value.remedy.removeprefix("choose one of ").split(", ")
        assert [f"B{size}" in name for name in choices] == [True, True]
    else:
        assert resolve_board(catalogue, "CUSTOM_ZYNQMP", release, f"B{size}").peak_ops_per_cycle == size


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (("KV26O", "3.0"), "no board 'KV26O' (did you mean KV260?)", "VCK190"),
        (("KV260", "3.1"), "no usable Vitis AI release '3.1'", "3.0, 3.5"),
        (("KV260", "1.2"), "no usable Vitis AI release '1.2'", "1.3"),
        (("VEK280", "2.5"), "2.5 has no default DPU for board VEK280", "releases with a DPU for VEK280: 3.0, 3.5"),
        (("KV260", "1.3"), "1.3 has no default DPU for board KV260", "1.4, 1.4.1, 2.0, 2.5, 3.0, 3.5"),
        (("U50", "3.0"), "3.0 has no default DPU for board U50", "1.3, 1.4, 1.4.1"),
        (("KV260", "2.0", "DPUCZDX8G_ISA1_B3136"), "2.0 does not know DPUCZDX8G_ISA1_B3136", "2.5, 3.0, 3.5"),
        (("KV260", "3.0", "B9999"), "no DPU 'B9999'", "DPUCZDX8G_ISA1_B4096"),
        (("KV260", "3.0", None, "0x603000b56011861"), "is a DPUCVDX8G, got board KV260", "DPUCZDX8G"),
        (("KV260", "2.0", None, "0x101000016010406"), "2.0 accepts no DPUCZDX8G of ISA 1", "2.5, 3.0, 3.5"),
        (("KV260", "3.0", "B4096", "0x101000056010406"), "is a DPUCZDX8G_ISA1_B3136, got dpu 'B4096'", "agree"),
        (("KV260", "3.0", None, "101000056010406"), "hexadecimal with 0x", "xdputil query"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(
    catalogue: Catalogue, arguments: tuple[str, ...], message: str, remedy: str
) -> None:
    """The message quotes what was asked for; the remedy names the boards, releases or DPUs that exist."""
    with pytest.raises(HardwareError) as caught:
        resolve_board(catalogue, *arguments)
    assert message in caught.value.message
    assert remedy in caught.value.remedy
