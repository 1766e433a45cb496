"""The verdict and the effective settings, against everything recorded from the real parser."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpuforge.quant_config import TENSOR_TYPES, EffectiveConfig, TensorConfig, check_config, resolve_config

MATRIX = Path(__file__).parent.parent / "golden_data" / "quant_config" / "config_matrix.json.gz"
FLAGS = {
    "convert_relu6_to_relu": False,
    "include_cle": True,
    "keep_first_last_layer_accuracy": False,
    "keep_add_layer_accuracy": False,
    "include_bias_corr": True,
}
RECORDED: dict[str, Any] = json.loads(gzip.decompress(MATRIX.read_bytes()))
SPECIAL = {name: case for name, case in RECORDED["C_special"].items() if "config" in case}


def read_uniform() -> Iterator[tuple[dict[str, Any], bool, list[str]]]:
    """Yield config, verdict and texts of the matrix in which one block holds for all tensors."""
    table = RECORDED["A_overall_uniform"]
    for row in table["rows"]:
        case = dict(zip(table["cols"], row, strict=True))
        verdict, texts, device = case.pop("accepted"), case.pop("errors"), case.pop("target_device")
        yield {**FLAGS, "target_device": device, "overall_quantize_config": {"bit_width": 8, **case}}, verdict, texts


def read_split() -> Iterator[tuple[dict[str, Any], bool, list[str]]]:
    """Yield config, verdict and texts of the matrix with rounding per tensor and per-channel weights."""
    table = RECORDED["B_split_rounding"]
    for row in table["rows"]:
        case = dict(zip(table["cols"], row, strict=True))
        overall = {key: case[key] for key in ("method", "calib_statistic_method", "scale_type")}
        overall |= {"round_mode": case["round_mode_others"], "symmetry": True, "signed": True, "narrow_range": False}
        tensors = {
            "activation": {"round_mode": case["round_mode_activation"]},
            "weights": {"per_channel": case["per_channel_weights"]},
        }
        config = {**FLAGS, "target_device": case["target_device"]}
        config |= {"overall_quantize_config": overall, "tensor_quantize_config": tensors}
        yield config, case["accepted"], case["errors"]


@pytest.mark.parametrize(("reader", "count"), [(read_uniform, 8000), (read_split, 2560)])
def test_verdict_and_text_equal_the_parsers_over_the_matrix(reader: Any, count: int) -> None:
    """Every recorded combination gets the parser's verdict, and its text as the first message."""
    cases = list(reader())
    assert len(cases) == count
    wrong = []
    for config, accepted, texts in cases:
        found = [violation.message for violation in check_config(config)]
        if accepted != (not found) or found[:1] != (texts or [])[:1]:
            wrong.append((config, accepted, texts, found))
    assert wrong == []


@pytest.mark.parametrize("name", sorted(SPECIAL))
def test_verdict_equals_the_parsers_on_special_cases(name: str) -> None:
    """Unknown keys, wrong types, bit widths, datatypes and layers get the parser's verdict and its text."""
    result = SPECIAL[name]["result"]
    found = check_config(SPECIAL[name]["config"])
    assert (not found) == result["accepted"]
    recorded = [(code, text.strip()) for level, code, text in result["msgs"] if level == "ERROR"]
    assert [(violation.code, violation.message) for violation in found[: len(recorded)]] == recorded
    if "exception" in result:
        assert found[0].code == result["exception"].split("(")[0]


def spell(tensor: TensorConfig) -> dict[str, Any]:
    """Return a tensor's settings with the keys that the real tool's dump uses."""
    dumped = {
        "datatype": tensor.datatype,
        "bit_width": tensor.bit_width,
        "symmetric_mode": "symmetric" if tensor.symmetry else "asymmetric",
        "signed": tensor.signed,
        "method": tensor.method,
        "round_method": tensor.round_mode,
        "granularity": "per_channel" if tensor.per_channel else "per_tensor",
        "scale_type": tensor.scale_type,
        "narrow_range": tensor.narrow_range,
    }
    optional = {"calib_statistic_method": tensor.calib_statistic_method, "percentage": tensor.percentage}
    return dumped | {key: value for key, value in optional.items() if value is not None}


def strip(dumped: dict[str, Any], tensor: TensorConfig) -> dict[str, Any]:
    """Return the tool's dump without the integer range, checked against ours where the tool fills it in."""
    if tensor.datatype == "int" and dumped["quant_max"] < 2**62:
        assert (dumped["quant_min"], dumped["quant_max"]) == tensor.quant_range
    return {key: value for key, value in dumped.items() if key not in ("quant_min", "quant_max")}


def assert_effective(effective: EffectiveConfig, recorded: dict[str, Any]) -> None:
    """Compare everything that the tool's dump shows."""
    assert effective.target_device == recorded["target_device"]
    assert list(effective.quantizable_data_type) == recorded["quantizable_data_type"]
    for name in TENSOR_TYPES:
        assert spell(effective.tensors[name]) == strip(recorded[name], effective.tensors[name])
    assert set(effective.layer_types) == set(recorded["layer_type_config"])
    for kind, layer in effective.layer_types.items():
        dumped = recorded["layer_type_config"][kind]
        assert list(layer.quantizable_data_type) == dumped["quantizable_data_type"]
        for name in layer.quantizable_data_type:
            assert spell(layer.tensors[name]) == strip(dumped[name], layer.tensors[name])


@pytest.mark.parametrize("name", sorted(name for name in SPECIAL if SPECIAL[name]["result"].get("effective")))
def test_effective_settings_equal_the_parsers(name: str) -> None:
    """Defaults, overall, tensor and layer blocks combine to the settings that the real tool holds."""
    assert_effective(resolve_config(SPECIAL[name]["config"]), SPECIAL[name]["result"]["effective"])


def test_no_config_resolves_to_the_tools_own_defaults() -> None:
    """None stands for a quantizer without a config file."""
    assert_effective(resolve_config(None), RECORDED["C_special"]["none_config"]["result"]["effective"])
