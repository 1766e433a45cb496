"""What quantisation-aware training leaves no place for: AMD's QatProcessor reads none of the quantizer's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from dpuforge.load.findings import Finding, Path, show_value

# Blocks and flags of quantization that only the quantizer of a calibration reads, and what asks for nothing.
_UNREAD: Mapping[str, object] = {
    "overall": {},
    "tensors": {},
    "layers": [],
    "convert_relu6_to_relu": False,
    "convert_silu_to_hswish": False,
    "keep_first_last_layer_accuracy": False,
    "keep_add_layer_accuracy": False,
    "change_concat_input_fix": False,
    "change_pool_input_fix": False,
    "exact_torch": False,
}


def check_qat(spec: Mapping[str, Any], written: Set[Path]) -> Iterator[Finding]:
    """Yield what contradicts QAT, and the settings that it would pass over in silence."""
    quantization = spec["quantization"]
    qat = quantization["qat"]
    if not qat["enabled"]:
        return
    for key in ("adjust", "fast_finetune"):
        if quantization[key]["enabled"]:
            what = f"qat trains the weights itself, and {key} changes them for a calibration that is left out"
            yield Finding(("quantization", key, "enabled"), what, f"turn off {key} or qat")
    if quantization["target_device"] != "DPU":
        what = f"qat trains for a DPU, got {show_value(quantization['target_device'])}"
        yield Finding(("quantization", "target_device"), what, "write DPU, or turn off qat")
    for key, unset in _UNREAD.items():
        if ("quantization", key) in written and quantization[key] != unset:
            what = f"QatProcessor does not read {key}, got {show_value(quantization[key])}"
            yield Finding(("quantization", key), what, "remove it, or turn off qat")
    if qat["freeze_epochs"] >= qat["epochs"] > 1:
        what = f"thresholds would never learn in {qat['epochs']} epochs, got {qat['freeze_epochs']}"
        yield Finding(("quantization", "qat", "freeze_epochs"), what, "write a number below epochs", "warning")
