"""The 64-bit fingerprint: bit fields, names, and DPUs that no release registers."""

import csv
from pathlib import Path

import pytest

from dpuforge.hardware.dpu_features import CzFeatures, decode_cz, encode_cz, synthesise_dpu
from dpuforge.records.fingerprint import CZ_ARCHITECTURES, Fingerprint
from dpuforge.records.hardware import Catalogue, Dpu


def features_of(dpu: Dpu) -> CzFeatures:
    """Derive the feature code of a DPUCZDX8G from what its target file states, without reading its fingerprint."""
    code = next(
        code
        for code, (_, pixels, channels) in CZ_ARCHITECTURES.items()
        if (pixels, channels) == (dpu.pixels, dpu.input_channels)
    )
    engines, conv = dpu.engines, dpu.engines["conv"]
    groups = sum(bank.name.startswith("VB") for bank in dpu.banks)
    common = {"isa": dpu.isa, "architecture": code, "bank_groups": groups}
    common["channel_augmentation"] = dpu.channel_augmentation is not None
    common["conv_leaky_relu"] = "leaky_relu" in conv.nonlinear
    if dpu.isa:
        return CzFeatures(**common, alu_pixels=engines["alu"].pixels, save_argmax=dpu.save_argmax)
    pool, depthwise = engines["pool"], engines.get("dwconv")
    return CzFeatures(
        **common,
        alu_pixels=pool.pixels,
        depthwise_pixels=depthwise.pixels if depthwise else 0,
        eltwise_pixels=engines["eltwise"].pixels,
        conv_relu6="relu_six" in conv.nonlinear,
        average_pool="avg" in pool.operations,
        depthwise_relu6=depthwise is not None and "relu_six" in depthwise.nonlinear,
        eltwise_multiply="mult" in engines["eltwise"].operations,
    )


def test_every_registered_zynq_fingerprint_follows_from_its_target_file(catalogue: Catalogue) -> None:
    """Parallelism, banks, engines and activations of a DPUCZDX8G, put into bit fields, give its fingerprint."""
    checked = 0
    for name in catalogue.dpus:
        dpu = catalogue.dpus[name]
        for revision in dpu.revisions if dpu.family == "DPUCZDX8G" else ():
            expected = encode_cz(features_of(dpu.at_release(revision.release)))
            assert f"{expected}" == f"{revision.fingerprint:#x}", (name, revision.release)
            checked += 1
    assert checked >= 100


def test_decode_then_encode_gives_every_fingerprint_back(catalogue: Catalogue) -> None:
    """Decoding loses no bit of any registered or overlay fingerprint of the family."""
    values = {revision.fingerprint for name in catalogue.dpus for revision in catalogue.dpus[name].revisions}
    values |= {item.fingerprint for board in catalogue.boards.values() for item in board.configurations}
    zynq = [Fingerprint.decode(value) for value in values if value and value >> 56 == 1]
    # The board image of 1.3.0 (0x1000000f6014407) was built before bit 37 became constant.
    odd = {fingerprint for fingerprint in zynq if encode_cz(decode_cz(fingerprint)) != fingerprint}
    assert {str(fingerprint) for fingerprint in odd} == {"0x1000000f6014407"}


def test_every_fingerprint_of_the_facts_is_assembled_from_type_isa_and_feature_code(facts: Path) -> None:
    """DPU type, ISA version and feature code of targets.csv make up its fingerprint column, row by row."""
    codes = {family: code for code, family in Fingerprint.decode.__globals__["FAMILIES"].items()}
    with (facts / "targets.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            family = codes.get(row["family"], 8)  # the overlays of type 8 carry several family names
            made = Fingerprint(family, int(row["isa"], 16), int(row["feature_code"], 16))
            assert made == Fingerprint.parse(row["fingerprint"]), row["target"]


@pytest.mark.parametrize("name", ["DPUCZDX8G_ISA1_B4096", "DPUCZDX8G_ISA1_B512", "DPUCZDX8G_ISA0_B3136_MAX_BG2"])
def test_a_dpu_made_from_its_fingerprint_equals_the_registered_one(catalogue: Catalogue, name: str) -> None:
    """Synthesising from the bits gives the parallelism, banks and engines that the target file states."""
    registered = catalogue.dpus[name]
    made = synthesise_dpu(catalogue, Fingerprint.decode(registered.revisions[-1].fingerprint))
    assert made.banks == registered.banks
    assert made.engines == registered.engines
    for field in ("pixels", "input_channels", "output_channels", "peak_ops_per_cycle", "channel_augmentation"):
        assert getattr(made, field) == getattr(registered, field), field


def test_an_unregistered_fingerprint_gets_the_name_that_the_compiler_prints() -> None:
    """The name of issue 868 is reproduced: family, ISA, size and 16 hexadecimal digits."""
    assert Fingerprint.parse("0x1000020f6012203").target_name == "DPUCZDX8G_ISA0_B1152_01000020F6012203"
    assert Fingerprint.parse("0x601001036088111").target_name == "DPUCVDX8G_ISA1_C32B1_0601001036088111"


@pytest.mark.parametrize("text", ["101000016010407", "0x", "0xgg", "0x1ffffffffffffffff", "0x0"])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    """Text without 0x, without digits or beyond 64 bits raises ValueError."""
    with pytest.raises(ValueError):
        Fingerprint.parse(text)


def test_a_field_too_large_for_its_bits_is_refused() -> None:
    """Encoding never spills a value into the neighbouring field."""
    with pytest.raises(ValueError, match="alu_pixels has 4 bits, got 16"):
        encode_cz(CzFeatures(isa=1, architecture=7, alu_pixels=16))
