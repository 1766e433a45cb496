"""What the quantizer's parser allows and assumes, as tables; measured on vai_q_pytorch 3.5 with 10,560 configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpuforge.quant_config.effective import TensorConfig

# The order in which the parser visits the tensor types: its first complaint names `input`.
TENSOR_TYPES = ("input", "weights", "bias", "activation")
# Only these carry a statistic over calibration batches; for weights and bias the key is read past.
STATISTIC_TENSORS = ("input", "activation")

FLAG_DEFAULTS = {
    "convert_relu6_to_relu": False,
    "convert_silu_to_hswish": False,
    "include_cle": True,
    "keep_first_last_layer_accuracy": False,
    "keep_add_layer_accuracy": False,
    "include_bias_corr": True,
    "change_concat_input_fix": False,
    "change_pool_input_fix": False,
}
TOP_KEYS = (
    *FLAG_DEFAULTS,
    "onnx_opset_version",
    "target_device",
    "quantizable_data_type",
    "overall_quantize_config",
    "tensor_quantize_config",
    "layer_quantize_config",
)
LAYER_KEYS = (
    "layer_type",
    "layer_name",
    "quantizable_data_type",
    "overall_quantize_config",
    "tensor_quantize_config",
)
TARGET_DEVICES = ("DPU", "CPU", "GPU", "FLEXML")
# The release of Vitis AI that first reads a key; older parsers refuse it as unknown. Absent: all releases, from 2.5 on.
KEY_SINCE = {
    "convert_silu_to_hswish": "3.0",
    "change_concat_input_fix": "3.0",
    "change_pool_input_fix": "3.0",
    "onnx_opset_version": "3.5",
    "datatype": "3.5",
}

ENUMS = {
    "datatype": ("int", "bfloat16", "float16", "float32"),
    "method": ("maxmin", "entropy", "mse", "percentile", "diffs"),
    "round_mode": ("half_even", "half_up", "half_down", "std_round"),
    "scale_type": ("poweroftwo", "float"),
    "calib_statistic_method": ("modal", "mean", "median", "max"),
}
# The parser tests these for truth, so that 0, null and "" keep the value below (measured for bit_width 0).
TRUTHY_KEYS = ("bit_width", *ENUMS)
BOOLEANS = ("symmetry", "per_channel", "signed", "narrow_range")
BIT_WIDTH_RANGE = (0, 32)
DEFAULT_PERCENTAGE = 99.99
PARAM_KEYS = (
    "datatype",
    "bit_width",
    "method",
    "round_mode",
    "symmetry",
    "per_channel",
    "signed",
    "narrow_range",
    "scale_type",
    "calib_statistic_method",
    "percentage",
)
_DEFAULTS: dict[str, Any] = {
    "datatype": "int",
    "bit_width": 8,
    "method": "diffs",
    "round_mode": "std_round",
    "symmetry": True,
    "per_channel": False,
    "signed": True,
    "narrow_range": False,
    "scale_type": "poweroftwo",
}
TENSOR_DEFAULTS: dict[str, dict[str, Any]] = {
    "input": {**_DEFAULTS, "calib_statistic_method": "modal"},
    "weights": _DEFAULTS,
    "bias": _DEFAULTS,
    "activation": {**_DEFAULTS, "round_mode": "half_up", "calib_statistic_method": "modal"},
}


@dataclass(frozen=True)
class Rule:
    """One thing a device cannot do with an integer tensor; `broken` decides, `key` is the setting to blame."""

    key: str
    broken: Callable[[str, TensorConfig], bool]
    says: str
    remedy: str


# Rules are tried per tensor type, in this order; the parser stops at the first broken one.
DPU_RULES = (
    Rule(
        "symmetry",
        lambda _, t: not t.symmetry,
        "Only support symmetric quantization in DPU device",
        "write symmetry: true",
    ),
    Rule(
        "method",
        lambda _, t: t.method not in ("diffs", "maxmin"),
        "Only support diffs and maxmin calibration method in DPU device",
        "write method: diffs (the smallest squared error) or maxmin (no saturation)",
    ),
    Rule(
        "per_channel",
        lambda _, t: t.per_channel,
        "Only support per_tensor quantization in DPU device",
        "write per_channel: false",
    ),
    Rule(
        "scale_type",
        lambda _, t: t.scale_type != "poweroftwo",
        "Only support poweroftwo scale type in DPU device",
        "write scale_type: poweroftwo; the DPU shifts, it does not multiply",
    ),
    Rule(
        "narrow_range",
        lambda _, t: t.narrow_range,
        "Not support narrow_range in DPU device",
        "write narrow_range: false",
    ),
    Rule(
        "calib_statistic_method",
        lambda _, t: t.calib_statistic_method not in (None, "modal"),
        "Only support modal activation statistic method in DPU device",
        "write calib_statistic_method: modal",
    ),
    Rule(
        "round_mode",
        lambda name, t: name == "activation" and t.round_mode != "half_up",
        "Only support half_up round method in activation quantization of DPU device",
        "a DPU rounds activations half_up: set it for the tensor activation alone, and std_round for the others",
    ),
    Rule(
        "round_mode",
        lambda name, t: name != "activation" and t.round_mode != "std_round",
        "Only support std_round round method in weights, bias and input quantization of DPU device",
        "a DPU needs std_round for weights, bias and input, and half_up for activation alone",
    ),
)
CPU_RULES = (
    Rule(
        "per_channel",
        lambda name, t: t.per_channel and name != "weights",
        "Only support per_channel quantization for weights for now",
        "set per_channel: true for the tensor weights alone",
    ),
    Rule(
        "method",
        lambda _, t: t.per_channel and t.scale_type == "float" and t.method != "maxmin",
        "Only support maxmin calibration method in per_channel float quantization",
        "write method: maxmin for weights that are quantised per channel",
    ),
    Rule(
        "method",
        lambda _, t: t.per_channel and t.scale_type == "poweroftwo" and t.method not in ("diffs", "maxmin"),
        "Only support diffs and maxmin calibration method in per_channel poweroftwo quantization",
        "write method: diffs or maxmin, or scale_type: float with method: maxmin",
    ),
    Rule(
        "symmetry",
        lambda _, t: t.per_channel and t.scale_type == "poweroftwo" and not t.symmetry,
        "Not support asymmetric quantization in per_channel poweroftwo quantization",
        "write symmetry: true, or scale_type: float",
    ),
    Rule(
        "signed",
        lambda _, t: t.per_channel and t.scale_type == "poweroftwo" and not t.signed,
        "Not support unsigned quantization in per_channel poweroftwo quantization",
        "write signed: true, or scale_type: float",
    ),
    Rule(
        "method",
        lambda _, t: not t.per_channel and t.scale_type == "float" and t.method == "diffs",
        "Only support maxmin, percentile, mse and entropy calibration method in per_tensor float quantization",
        "write method: maxmin, percentile, mse or entropy, or scale_type: poweroftwo",
    ),
    Rule(
        "calib_statistic_method",
        lambda _, t: not t.per_channel and t.scale_type == "float" and t.calib_statistic_method == "modal",
        "Only support max, mean and median scale activation statistic method in per_tensor float quantization",
        "write calib_statistic_method: max, mean or median",
    ),
    Rule(
        "symmetry",
        lambda _, t: not t.per_channel and t.scale_type == "float" and not t.symmetry and t.method != "maxmin",
        "Not support asymmetric quantization in percentile, entropy and mse calibration method",
        "write symmetry: true, or method: maxmin",
    ),
    Rule(
        "method",
        lambda _, t: not t.per_channel and t.scale_type == "poweroftwo" and t.method not in ("diffs", "maxmin"),
        "Only support diffs and maxmin calibration method in per_tensor poweroftwo quantization",
        "write method: diffs or maxmin, or scale_type: float",
    ),
    Rule(
        "symmetry",
        lambda _, t: not t.per_channel and t.scale_type == "poweroftwo" and not t.symmetry,
        "Not support asymmetric quantization in per_tensor poweroftwo quantization",
        "write symmetry: true, or scale_type: float",
    ),
    Rule(
        "signed",
        lambda _, t: not t.per_channel and t.scale_type == "poweroftwo" and not t.signed,
        "Not support unsigned quantization in per_tensor poweroftwo quantization",
        "write signed: true, or scale_type: float",
    ),
    Rule(
        "calib_statistic_method",
        lambda _, t: (
            not t.per_channel and t.scale_type == "poweroftwo" and t.calib_statistic_method not in (None, "modal")
        ),
        "Only support modal scale activation statistic method in per_tensor poweroftwo quantization",
        "write calib_statistic_method: modal, or scale_type: float",
    ),
)
DEVICE_RULES = {"DPU": DPU_RULES, "CPU": CPU_RULES, "GPU": CPU_RULES}
INTEGER_ONLY = " if datatype is int"
