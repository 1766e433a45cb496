"""The parser's rules beyond the recorded matrix: datatypes, layers, overridden values, and its pitfalls."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpuforge.quant_config import PITFALLS, check_config, find_pitfalls, name_newer_keys, resolve_config

ALL = ["input", "weights", "bias", "activation"]


def dpu(**blocks: Any) -> dict[str, Any]:
    """Return a config for a DPU with the given blocks."""
    names = {
        "overall": "overall_quantize_config",
        "tensors": "tensor_quantize_config",
        "layers": "layer_quantize_config",
    }
    return {"target_device": "DPU", **{names.get(key, key): value for key, value in blocks.items()}}


def layer(listed: list[str], **settings_: Any) -> dict[str, Any]:
    """Return a config for a DPU with one layer entry for Conv2d."""
    return dpu(layers=[{"layer_type": "torch.nn.Conv2d", "quantizable_data_type": listed, **settings_}])


# A config, and the first complaint (None where the parser accepts).
VERDICTS: list[tuple[str, dict[str, Any], str | None]] = [
    ("nothing but the device", dpu(), None),
    ("an illegal value that every tensor overrides is refused still",
     dpu(overall={"method": "foo"}, tensors={name: {"method": "diffs"} for name in ALL}), "The method of input"),
    ("a device rule looks at the overridden value only",
     dpu(overall={"method": "mse"}, tensors={name: {"method": "diffs"} for name in ALL}), None),
    ("floating-point datatypes escape every device rule",
     dpu(overall={"datatype": "bfloat16", "method": "mse", "symmetry": False, "round_mode": "half_even"}), None),
    ("one floating-point tensor leaves the others under the rules",
     dpu(overall={"method": "mse"}, tensors={"weights": {"datatype": "float16"}}), "Only support diffs and maxmin"),
    ("the widths of bias and activation are compared as long as one tensor is an integer",
     dpu(tensors={"bias": {"bit_width": 16, "datatype": "bfloat16"}}), "Bitwidth of activation and bias"),
    ("no width is compared where all tensors are floats",
     dpu(overall={"datatype": "float32"}, tensors={"bias": {"bit_width": 16}}), None),
    ("an int is no boolean", dpu(overall={"symmetry": 1}), "The symmetry parameter of input should be a boolean"),
    ("null is no boolean", dpu(overall={"signed": None}), "The signed parameter of input should be a boolean"),
    ("8.0 is no int", dpu(overall={"bit_width": 8.0}), "The bit_width type of input should be int"),
    ("a percentage without percentile is not looked at", dpu(overall={"percentage": 5}), None),
    ("a percentage is looked at where overall asked for percentile",
     {"target_device": "CPU", "overall_quantize_config": {"method": "percentile", "scale_type": "float",
      "calib_statistic_method": "max"}, "tensor_quantize_config": {"bias": {"percentage": 5, "method": ""}}},
     "Percentage should be"),
    ("an illegal statistic of weights is not looked at",
     dpu(tensors={"weights": {"calib_statistic_method": "foo"}}), None),
    ("an illegal statistic of input is", dpu(tensors={"input": {"calib_statistic_method": "foo"}}),
     "The calib_statistic_method of input"),
    ("a block that is no mapping", dpu(overall=[]), "overall_quantize_config should be a mapping"),
    ("a tensor block that is no mapping", dpu(tensors={"bias": 3}), "bias should be a mapping"),
    ("layers that are no list", dpu(layers={}), "layer_quantize_config should be a list of mappings"),
    ("a layer that lists what the check needs", layer(["weights", "bias", "activation"]), None),
    ("a layer without activation", layer(["weights", "bias"]), "a layer entry on a DPU does not list activation"),
    ("a layer without any tensor type", layer([]), None),
    ("a layer of floats alone needs no bias",
     layer(["weights"], overall_quantize_config={"datatype": "float16"}), None),
    ("an unknown tensor type in a layer", layer([*ALL, "foo"]), "unknown tensor type 'foo'"),
    ("a layer without its list", dpu(layers=[{"layer_type": "Conv2d"}]), "a layer entry needs a list"),
    ("a layer's values lie over the model's", layer(ALL, overall_quantize_config={"round_mode": "std_round"}),
     "Only support half_up"),
    ("a layer inherits the model's settings",
     dpu(overall={"bit_width": 4}, layers=[{"layer_type": "Conv2d", "quantizable_data_type": ALL,
                                           "tensor_quantize_config": {"bias": {"bit_width": 8}}}]),
     "Bitwidth of activation and bias"),
    ("a later entry for the same layers replaces the earlier one",
     dpu(layers=[{"layer_type": "Conv2d", "quantizable_data_type": ALL,
                  "overall_quantize_config": {"symmetry": False}},
                 {"layer_type": "nn.Conv2d", "quantizable_data_type": ALL}]), None),
    ("an entry that selects nothing is not looked at",
     dpu(layers=[{"overall_quantize_config": {"method": "foo"}}]), None),
    ("its keywords are, all the same", dpu(layers=[{"overall_quantize_config": {"methd": "foo"}}]),
     "Unsupported keyword in quantization config: 'methd'."),
    ("CPU layers need no bias",
     {"target_device": "CPU",
      "layer_quantize_config": [{"layer_type": "Conv2d", "quantizable_data_type": ["weights"]}]},
     None),
    ("FLEXML checks values but no combination", {"target_device": "FLEXML",
     "overall_quantize_config": {"method": "mse", "symmetry": False, "per_channel": True}}, None),
    ("FLEXML still refuses illegal values", {"target_device": "FLEXML", "overall_quantize_config": {"method": "x"}},
     "The method of input"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), [row[1:] for row in VERDICTS], ids=[row[0] for row in VERDICTS])
def test_verdict(config: dict[str, Any], expected: str | None) -> None:
    """The first complaint, or none, for a configuration that the matrix does not hold."""
    found = [violation.message for violation in check_config(config)]
    assert found[:1] == [] if expected is None else found[0].startswith(expected)


# For every row of the table, a config that the parser accepts and that the row is about.
PITFALL_CASES: dict[str, dict[str, Any]] = {
    "reserved_flags": dpu(keep_add_layer_accuracy=True),
    "mistyped_flags": dpu(include_cle=1),
    "unknown_tensor_types": dpu(quantizable_data_type=[*ALL, "foo"]),
    "ignored_selection": dpu(quantizable_data_type=["weights"]),
    "unknown_device": {"target_device": "NPU"},
    "no_xmodel": {"target_device": "FLEXML"},
    "boolean_bit_width": dpu(overall={"bit_width": True}),
    "zero_bit_width": dpu(tensors={"bias": {"bit_width": 0}}),
    "empty_values": dpu(overall={"method": ""}),
    "unread_statistic": dpu(tensors={"bias": {"calib_statistic_method": "max"}}),
    "unlisted_tensors": layer(ALL[1:], tensor_quantize_config={"input": {"bit_width": 4}}),
    "mse_rounding": {"target_device": "FLEXML", "overall_quantize_config": {"method": "mse"}},
    "unsigned_symmetric": dpu(overall={"signed": False}),
    "traced_layer_names": dpu(layers=[{"layer_name": "Net::Net/Conv2d[a]/x", "quantizable_data_type": ALL}]),
    "unselected_layer": dpu(layers=[{}]),
}


@pytest.mark.parametrize("pitfall", PITFALLS, ids=[pitfall.name for pitfall in PITFALLS])
def test_every_pitfall_is_found_where_the_parser_accepts(pitfall: Any) -> None:
    """Each row of the table meets its case, gives a reason and a remedy, and the parser itself says nothing."""
    config = PITFALL_CASES[pitfall.name]
    assert check_config(config) == ()
    found = [finding for finding in find_pitfalls(config) if finding.pitfall is pitfall]
    assert found
    assert pitfall.reason
    assert pitfall.remedy
    assert pitfall.severity in ("error", "warning")


def test_a_plain_config_has_no_pitfalls() -> None:
    """The table is silent on the parser's own defaults."""
    assert find_pitfalls(dpu()) == ()


def test_an_empty_value_keeps_the_value_below() -> None:
    """bit_width 0 and empty texts are passed over as the parser does."""
    effective = resolve_config(dpu(overall={"bit_width": 4}, tensors={"bias": {"bit_width": 0, "method": ""}}))
    assert (effective.tensors["bias"].bit_width, effective.tensors["bias"].method) == (4, "diffs")


def test_keys_newer_than_a_release_are_named() -> None:
    """The first release that reads a key decides."""
    config = dpu(overall={"datatype": "int"}, convert_silu_to_hswish=False, onnx_opset_version=13)
    assert [path[-1] for path, _ in name_newer_keys(config, "2.5")] == [
        "convert_silu_to_hswish",
        "onnx_opset_version",
        "datatype",
    ]
    assert [path[-1] for path, _ in name_newer_keys(config, "3.0")] == ["onnx_opset_version", "datatype"]
    assert name_newer_keys(config, "3.5") == ()


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | st.sampled_from(["int", "mse", "weights", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([
        "method", "bit_width", "percentage", "input", "bias", "symmetry", "layer_type", "layer_name", "datatype",
        "overall_quantize_config", "tensor_quantize_config", "quantizable_data_type",
    ]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(overall=JSON, tensors=JSON, layers=st.lists(JSON, max_size=2) | JSON, device=JSON, listed=JSON)
def test_any_json_gets_a_verdict(overall: Any, tensors: Any, layers: Any, device: Any, listed: Any) -> None:
    """Configs of any shape are judged without a traceback, and accepted ones can be resolved and searched."""
    config = dpu(overall=overall, tensors=tensors, layers=layers) | {"quantizable_data_type": listed}
    config |= {"target_device": device}
    if check_config(config) == ():
        resolve_config(config)
        find_pitfalls(config)
