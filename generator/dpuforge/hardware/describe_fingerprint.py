"""A fingerprint in words: the family, size, ISA and features that its 64 bits say.

Bit fields: see dpu_features.py here; families other than DPUCZDX8G publish no feature bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpuforge.hardware.dpu_features import CzFeatures, decode_cz
from dpuforge.records.fingerprint import CZ_ARCHITECTURES, FAMILIES, Fingerprint


def _flag(name: str) -> Callable[[CzFeatures], str]:
    return lambda features: "yes" if getattr(features, name) else "no"


def _pixels(name: str) -> Callable[[CzFeatures], str]:
    def describe(features: CzFeatures) -> str:
        count = getattr(features, name)
        return f"{count} pixel{'s' if count > 1 else ''} at once" if count else "none"

    return describe


def _width(name: str) -> Callable[[CzFeatures], str]:
    return lambda features: f"{1 << getattr(features, name)}"


def _memory(features: CzFeatures) -> str:
    known = {2: "low RAM usage", 3: "high RAM usage"}.get(features.bank_groups, "unknown")
    return f"{features.bank_groups} groups ({known})"


# ISA version -> (what, in words); the order is that of the bits.
_CZ_WORDS: dict[int, tuple[tuple[str, Callable[[CzFeatures], str]], ...]] = {
    0: (
        ("pool engine", _pixels("alu_pixels")),
        ("depthwise convolution engine", _pixels("depthwise_pixels")),
        ("elementwise engine", _pixels("eltwise_pixels")),
        ("image banks", _memory),
        ("channel augmentation", _flag("channel_augmentation")),
        ("leaky ReLU after convolution", _flag("conv_leaky_relu")),
        ("ReLU6 after convolution", _flag("conv_relu6")),
        ("average pooling", _flag("average_pool")),
        ("ReLU6 after depthwise convolution", _flag("depthwise_relu6")),
        ("elementwise multiplication", _flag("eltwise_multiply")),
    ),
    1: (
        ("ALU (pool, depthwise convolution)", _pixels("alu_pixels")),
        ("image banks", _memory),
        ("channel augmentation", _flag("channel_augmentation")),
        ("leaky ReLU after convolution", _flag("conv_leaky_relu")),
        ("leaky ReLU in the ALU", _flag("alu_leaky_relu")),
        ("saves argmax (release 3.0 and later)", _flag("save_argmax")),
        ("convolution width parallelism", _width("conv_log2_width")),
        ("ALU width parallelism", _width("alu_log2_width")),
    ),
}
_NO_WORDS = "the feature bits of this family are not published"


def describe_fingerprint(fingerprint: int) -> dict[str, Any]:
    """Return what a 64-bit fingerprint says, in words.

    Keys: fingerprint, family, type_code, isa, architecture, peak_ops_per_cycle (None where it does not say),
    feature_code, features (words by name), note (what stays unknown). Raise ValueError outside 64 bits.
    """
    found = Fingerprint.decode(fingerprint)
    features, note = _describe_features(found)
    code = found.bits(0, 4)
    known = found.family == "DPUCZDX8G" and code in CZ_ARCHITECTURES
    peak, pixels, channels = CZ_ARCHITECTURES[code] if known else (None, 0, 0)
    size = {"size": f"{pixels} pixels, {channels} input and {channels} output channels at once"} if known else {}
    return {
        "fingerprint": str(found),
        "family": found.family,
        "type_code": found.type_code,
        "isa": found.isa,
        "architecture": found.architecture,
        "peak_ops_per_cycle": peak,
        "feature_code": f"{found.feature:#014x}",
        "features": {**size, **features},
        "note": note,
    }


def _describe_features(found: Fingerprint) -> tuple[dict[str, str], str]:
    if not found.family:
        known = ", ".join(f"{code} {name}" for code, name in FAMILIES.items())
        return {}, f"no release knows DPU type {found.type_code}; known: {known}"
    if found.family != "DPUCZDX8G":
        return {}, _NO_WORDS
    if found.isa not in _CZ_WORDS:
        return {}, f"no release knows DPUCZDX8G of ISA {found.isa}; known: 0 (IP v3.x) and 1 (IP v4.x)"
    decoded = decode_cz(found)
    note = "" if found.architecture else f"no release knows architecture code {found.bits(0, 4)}; known: 0 to 11"
    return {name: describe(decoded) for name, describe in _CZ_WORDS[found.isa]}, note
