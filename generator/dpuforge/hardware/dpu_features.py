"""Encodes and decodes the feature bits of a DPUCZDX8G fingerprint, and makes the Dpu of an unregistered one.

Bit fields: target_factory.cpp (v1.4 to v3.5) and the DPUCZDX8G v3.3 IP's fingerprint generator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dpuforge.errors import FormatError
from dpuforge.records.fingerprint import CZ_ARCHITECTURES, Fingerprint
from dpuforge.records.hardware import Bank, Catalogue, Dpu, Engine, Limit, Sizes


@dataclass(frozen=True)
class CzFeatures:
    """The feature code of a DPUCZDX8G in plain terms; pixels are what an engine computes at once.

    ISA0 (IP v3.x) has pool and depthwise engines and counts eltwise pixels; ISA1 (IP v4.x) has the ALU instead.
    depthwise_pixels 0 means no depthwise engine. alu_log2_width and conv_log2_width are ISA1's bits 32 to 35.
    """

    isa: int
    architecture: int
    alu_pixels: int
    depthwise_pixels: int = 0
    eltwise_pixels: int = 0
    bank_groups: int = 2
    channel_augmentation: bool = False
    conv_leaky_relu: bool = False
    conv_relu6: bool = False
    average_pool: bool = False
    depthwise_relu6: bool = False
    eltwise_multiply: bool = False
    alu_leaky_relu: bool = False
    save_argmax: bool = False
    conv_log2_width: int = 0
    alu_log2_width: int = 0


# (field, lowest bit, number of bits) of the feature code per ISA version.
_LAYOUTS: dict[int, tuple[tuple[str, int, int], ...]] = {
    0: (
        ("architecture", 0, 4),
        ("alu_pixels", 8, 4),
        ("depthwise_pixels", 12, 4),
        ("eltwise_pixels", 16, 4),
        ("bank_groups", 24, 2),
        ("channel_augmentation", 26, 1),
        ("conv_leaky_relu", 28, 1),
        ("conv_relu6", 29, 1),
        ("average_pool", 30, 1),
        ("depthwise_relu6", 31, 1),
        ("eltwise_multiply", 36, 1),
    ),
    1: (
        ("architecture", 0, 4),
        ("alu_pixels", 8, 4),
        ("bank_groups", 24, 2),
        ("channel_augmentation", 26, 1),
        ("conv_leaky_relu", 28, 1),
        ("alu_leaky_relu", 29, 1),
        ("save_argmax", 30, 1),
        ("conv_log2_width", 32, 2),
        ("alu_log2_width", 34, 2),
    ),
}
# Bits that are always set: ISA0 bit 37 (max_reduce), ISA1 bit 16.
_CONSTANT = {0: 1 << 37, 1: 1 << 16}


def encode_cz(features: CzFeatures) -> Fingerprint:
    """Return the fingerprint of a DPUCZDX8G configuration; raise ValueError for an ISA other than 0 and 1."""
    if features.isa not in _LAYOUTS:
        raise ValueError(f"DPUCZDX8G has ISA 0 and 1, got {features.isa}")
    code = _CONSTANT[features.isa]
    for name, low, count in _LAYOUTS[features.isa]:
        value = int(getattr(features, name))
        if value >> count:
            raise ValueError(f"{name} has {count} bits, got {value}")
        code |= value << low
    return Fingerprint(1, features.isa, code)


def decode_cz(fingerprint: Fingerprint) -> CzFeatures:
    """Return the configuration behind a DPUCZDX8G fingerprint; raise ValueError for another family or ISA."""
    if fingerprint.family != "DPUCZDX8G" or fingerprint.isa not in _LAYOUTS:
        raise ValueError(f"{fingerprint} is not a DPUCZDX8G of ISA 0 or 1")
    fields: dict[str, int | bool] = {}
    for name, low, count in _LAYOUTS[fingerprint.isa]:
        fields[name] = bool(fingerprint.bits(low, 1)) if count == 1 else fingerprint.bits(low, count)
    return CzFeatures(isa=fingerprint.isa, **fields)  # type: ignore[arg-type]


def find_dpu(catalogue: Catalogue, target: str, fingerprint: int | None, release: str) -> Dpu:
    """Return the Dpu of a resolved board as release describes it, made from the fingerprint where it is unregistered.

    Raise FormatError where neither the target's name nor its fingerprint says what the DPU can do.
    """
    if target in catalogue.dpus:
        return catalogue.dpus[target].at_release(release)
    if fingerprint is None:
        known = [name for name in catalogue.dpus if name.startswith(target.rpartition("B")[0])]
        if not known:
            raise FormatError(f"nothing is known of DPU {target}", "name a registered target")
        return replace(catalogue.dpus[known[0]], target=target)
    return synthesise_dpu(catalogue, Fingerprint.decode(fingerprint))


def synthesise_dpu(catalogue: Catalogue, fingerprint: Fingerprint) -> Dpu:
    """Return the Dpu of an unregistered fingerprint, as the compiler does from DPUCZDX8G ISA0/1 feature bits.

    A fingerprint of another family takes the registered target of the same name with its batch changed.
    """
    if fingerprint.family == "DPUCZDX8G":
        return _synthesise_cz(catalogue, fingerprint)
    stem = f"{fingerprint.family}_ISA{fingerprint.isa}_{fingerprint.architecture.rpartition('B')[0]}B"
    alike = next((name for name in catalogue.dpus if name.startswith(stem)), None)
    if alike is None:
        raise FormatError(f"no registered DPU is like fingerprint {fingerprint}", "compare it with `xdputil query`")
    batch = int(fingerprint.architecture.rpartition("B")[2])
    return replace(catalogue.dpus[alike], target=fingerprint.target_name, batch=batch)


def _synthesise_cz(catalogue: Catalogue, fingerprint: Fingerprint) -> Dpu:
    features = decode_cz(fingerprint)
    if features.architecture not in CZ_ARCHITECTURES:
        raise FormatError(f"fingerprint {fingerprint} has architecture code {features.architecture}", "0 to 11 exist")
    peak, pixels, channels = CZ_ARCHITECTURES[features.architecture]
    base = catalogue.dpus["DPUCZDX8G_ISA1_B4096" if features.isa else "DPUCZDX8G_ISA0_B4096_MAX_BG2"]
    return replace(
        base,
        target=fingerprint.target_name,
        input_channels=channels,
        output_channels=channels,
        pixels=pixels,
        peak_ops_per_cycle=peak,
        channel_augmentation=2 * channels if features.channel_augmentation else None,
        engines=_engines(base, features, channels),
        banks=_banks(features, pixels, channels),
        save_argmax=features.save_argmax,
        source=f"decoded from fingerprint {fingerprint}",
        revisions=(),
        load_channels=channels,
        save_channels=channels,
    )


def _engines(base: Dpu, features: CzFeatures, channels: int) -> dict[str, Engine]:
    engines = {name: replace(engine, channels=channels) for name, engine in base.engines.items() if name != "conv"}
    engines["conv"] = replace(base.engines["conv"], nonlinear=_conv_nonlinear(features))
    if features.isa:
        engines["alu"] = replace(engines["alu"], pixels=features.alu_pixels)
        engines["eltwise"] = replace(engines["eltwise"], pixels=features.alu_pixels)
        return engines
    average = {"avg": Limit(Sizes.parse("2-8"), Sizes.parse("1-8"))} if features.average_pool else {}
    pool = ("max", "avg", "max_reduce") if features.average_pool else ("max", "max_reduce")
    limits = {"max": engines["pool"].limits["max"], **average}
    engines["pool"] = replace(engines["pool"], pixels=features.alu_pixels, operations=pool, limits=limits)
    if features.depthwise_pixels:
        engines["dwconv"] = replace(engines["dwconv"], pixels=features.depthwise_pixels)
    else:
        del engines["dwconv"]
    types = ("add", "mult") if features.eltwise_multiply else ("add",)
    engines["eltwise"] = replace(engines["eltwise"], pixels=features.eltwise_pixels, operations=types)
    return engines


def _conv_nonlinear(features: CzFeatures) -> tuple[str, ...]:
    leaky = ("leaky_relu",) if features.conv_leaky_relu else ()
    six = ("relu_six",) if features.isa or features.conv_relu6 else ()
    return ("relu", *leaky, *six)


def _banks(features: CzFeatures, pixels: int, channels: int) -> tuple[Bank, ...]:
    """Banks scale with the configuration: groups of PP x CP image banks, CP x CP weight banks, all 2048 deep."""
    images = tuple(Bank(f"VB{i}", pixels, channels, 2048, "Virtual") for i in range(features.bank_groups))
    weights = (Bank("CONVW", channels, channels, 2048, "Param"),)
    depthwise = (Bank("DWCONVW", 1, channels, 2048, "Param"),) if features.isa or features.depthwise_pixels else ()
    return (*images, *weights, *depthwise, Bank("BIAS", 1, channels, 2048, "Param"))
