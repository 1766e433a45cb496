"""The quantization block: the spec's verdict equals the real parser's on the JSON that it becomes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dpuforge.errors import Problem
from dpuforge.load.defaults import fill_defaults
from dpuforge.load.load_spec import load_project
from dpuforge.load.quantization import check_quantization, to_quant_json
from dpuforge.quant_config import PARAM_KEYS, TENSOR_TYPES, check_config
from dpuforge.quant_config.tables import BOOLEANS, ENUMS

from ..quant_config.test_matrix import SPECIAL, read_split, read_uniform
from .conftest import GOOD

KEYS = {
    "overall_quantize_config": "overall",
    "tensor_quantize_config": "tensors",
    "layer_quantize_config": "layers",
}


def to_spec_block(config: dict[str, Any]) -> dict[str, Any]:
    """Return the quantization block that says the same as a JSON config."""
    block = {KEYS.get(key, key): value for key, value in config.items()}
    if "layers" in block:
        block["layers"] = [{KEYS.get(key, key): value for key, value in layer.items()} for layer in block["layers"]]
    return block


def find_errors(block: dict[str, Any], release: str = "3.5") -> list[str]:
    """Return what is refused of a quantization block."""
    spec, _ = fill_defaults({"quantization": block})
    return [finding.message for finding in check_quantization(spec, release) if finding.severity == "error"]


@pytest.mark.parametrize("reader", [read_uniform, read_split])
def test_the_specs_verdict_equals_the_parsers_over_the_matrix(reader: Callable[[], Iterator[Any]]) -> None:
    """All 10,560 recorded combinations, written as a spec, are accepted or refused as the real parser did."""
    wrong = [config for config, accepted, _ in reader() if (not find_errors(to_spec_block(config))) != accepted]
    assert wrong == []


def test_validate_gives_the_parsers_verdict_through_the_whole_loader(validate: Any) -> None:
    """A sample of the matrix, as YAML text through every step of load."""
    cases = [*read_uniform(), *read_split()]
    for config, accepted, _ in random.Random(0).sample(cases, 150) + [case for case in cases if case[1]][:50]:
        text = GOOD + yaml.safe_dump({"quantization": to_spec_block(config)}, sort_keys=False)
        problems = [problem for problem in validate(text) if problem.severity == "error"]
        assert (not problems) == accepted, (config, problems)


# The parser accepts these and is wrong to: each refusal has its reason in the table of pitfalls or in the schema.
REFUSED = {"bad_target_device", "cle_int_1", "qdt_bad", "layer_name_w_only"}
# The spec has a default where the parser ends with a KeyError.
COMPLETED = {"missing_target_device"}


@pytest.mark.parametrize("name", sorted(SPECIAL))
def test_special_cases_get_the_parsers_verdict_through_the_whole_loader(validate: Any, name: str) -> None:
    """Wrong types, unknown keys, datatypes and layers, with the exceptions named."""
    text = GOOD + yaml.safe_dump({"quantization": to_spec_block(SPECIAL[name]["config"])}, sort_keys=False)
    problems: list[Problem] = [problem for problem in validate(text) if problem.severity == "error"]
    accepted = SPECIAL[name]["result"]["accepted"]
    if name in REFUSED:
        accepted = False
    if name in COMPLETED:
        accepted = True
    assert (not problems) == accepted, problems


def test_the_json_of_the_defaults_is_one_the_parser_accepts() -> None:
    """Without any key, std_round stands for all tensors and half_up for activation, in canonical order."""
    spec, _ = fill_defaults({"quantization": {}})
    config = to_quant_json(spec["quantization"])
    assert check_config(config) == ()
    assert json.dumps(config) == json.dumps({
        "convert_relu6_to_relu": False,
        "include_cle": True,
        "keep_first_last_layer_accuracy": False,
        "keep_add_layer_accuracy": False,
        "include_bias_corr": True,
        "target_device": "DPU",
        "quantizable_data_type": ["input", "weights", "bias", "activation"],
        "overall_quantize_config": {
            "bit_width": 8,
            "method": "diffs",
            "round_mode": "std_round",
            "symmetry": True,
            "per_channel": False,
            "signed": True,
            "narrow_range": False,
            "scale_type": "poweroftwo",
            "calib_statistic_method": "modal",
        },
        "tensor_quantize_config": {"activation": {"round_mode": "half_up"}},
    })  # fmt: skip


def test_power_of_two_is_accepted_everywhere_and_rendered_as_the_parser_spells_it() -> None:
    """The articles' spelling is understood in overall, tensors and layers."""
    layer = {
        "layer_type": "Conv2d",
        "quantizable_data_type": list(TENSOR_TYPES),
        "overall": {"scale_type": "power_of_two"},
    }
    block = {
        "overall": {"scale_type": "power_of_two"},
        "tensors": {"bias": {"scale_type": "power_of_two"}},
        "layers": [layer],
    }
    spec, _ = fill_defaults({"quantization": block})
    assert find_errors(block) == []
    assert "power_of_two" not in json.dumps(to_quant_json(spec["quantization"]))


def test_a_key_of_overall_reaches_every_tensor_type_that_tensors_does_not_override() -> None:
    """round_mode in overall replaces activation's half_up as well, exactly as in the JSON."""
    spec, _ = fill_defaults({"quantization": {"overall": {"round_mode": "half_even"}}})
    assert "tensor_quantize_config" in to_quant_json(spec["quantization"])
    assert to_quant_json(spec["quantization"])["tensor_quantize_config"] == {}
    spec, _ = fill_defaults({"quantization": {"tensors": {"activation": {"bit_width": 4}}}})
    assert to_quant_json(spec["quantization"])["tensor_quantize_config"] == {
        "activation": {"bit_width": 4, "round_mode": "half_up"}
    }


def test_the_project_carries_the_json(write: Any) -> None:
    """int8_config of the project is what to_quant_json gives for the block."""
    text = f"{GOOD}quantization: {{include_cle: false, overall: {{method: maxmin}}}}\n"
    quantization = load_project(write(text)).project.quantization
    assert quantization.int8_config["include_cle"] is False
    assert quantization.int8_config["overall_quantize_config"]["method"] == "maxmin"
    assert quantization.overall == {"method": "maxmin"}


VALUES: dict[str, Any] = {
    **{key: st.sampled_from([*values, "foo"]) for key, values in ENUMS.items()},
    **{key: st.sampled_from([True, False, True, False, "yes"]) for key in BOOLEANS},
    "bit_width": st.sampled_from([8, 8, 4, 16, 32, 33, -1, "8", 8.0]),
    "percentage": st.sampled_from([99.9, 100.0, 0.0, 101.0, 99]),
}
PARAMETERS = st.dictionaries(st.sampled_from(PARAM_KEYS), st.none(), max_size=4).flatmap(
    lambda keys: st.fixed_dictionaries({key: VALUES[key] for key in keys})
)
TENSORS = st.dictionaries(st.sampled_from(TENSOR_TYPES), PARAMETERS, max_size=4)
LAYERS = st.lists(
    st.fixed_dictionaries(
        {"layer_type": st.sampled_from(["Conv2d", "torch.nn.Linear"])},
        optional={
            "quantizable_data_type": st.lists(st.sampled_from(TENSOR_TYPES), unique=True),
            "overall_quantize_config": PARAMETERS,
            "tensor_quantize_config": TENSORS,
        },
    ),
    max_size=2,
)
CONFIGS = st.fixed_dictionaries(
    {"target_device": st.sampled_from(["DPU", "CPU", "GPU", "FLEXML"])},
    optional={
        "overall_quantize_config": PARAMETERS,
        "tensor_quantize_config": TENSORS,
        "layer_quantize_config": LAYERS,
    },
)


@settings(max_examples=250, deadline=None)
@given(CONFIGS)
def test_the_specs_verdict_equals_the_verdict_on_the_json_it_stands_for(config: dict[str, Any]) -> None:
    """Filling in the parser's defaults changes no verdict, on configurations far from the matrix."""
    assert (find_errors(to_spec_block(config)) == []) == (check_config(config) == ())


def test_pitfalls_of_a_release_that_knows_every_key_are_not_told(write: Any) -> None:
    """Under 3.5 the newer keys are ordinary."""
    text = GOOD.replace("{boards: [KV260]}", '{vitis_ai: "3.5", boards: [V70]}')
    text += "quantization: {overall: {datatype: int}}\n"
    assert load_project(write(text)).warnings == ()


def test_layer_mistakes_point_into_the_layer(validate: Any, folder: Path) -> None:
    """A layer entry that the parser ends on with a KeyError is refused where it stands, with the reason."""
    text = GOOD + "quantization:\n  layers:\n    - {layer_type: Conv2d, quantizable_data_type: [weights]}\n"
    (problem,) = validate(text)
    assert (problem.line, problem.column) == (8, 51)
    assert problem.field == "quantization.layers[0].quantizable_data_type"
    assert "does not list activation and bias" in problem.message


def test_all_mistakes_of_the_block_are_told_at_once(validate: Any) -> None:
    """A broken key hides neither its neighbours nor what the device refuses, and is told once."""
    text = f"{GOOD}quantization:\n"
    text += (
        "  {include_cle: 1, layers: 3, tensors: {biass: {}}, overall: {method: foo, symmetry: false, bit_width: 1e1}}\n"
    )
    assert [(p.field, p.message.split(",")[0]) for p in validate(text)] == [
        ("quantization.include_cle", "should be true or false"),
        ("quantization.layers", "should be a list"),
        ("quantization.tensors.biass", "Unsupported keyword in quantization config: 'biass'"),
        ("quantization.overall.method", "The method of input should be in the list ['maxmin'"),
        ("quantization.overall.symmetry", "Only support symmetric quantization in DPU device if datatype is int"),
        ("quantization.overall.bit_width", "YAML 1.1 reads this number as text"),
    ]


def test_a_broken_device_is_told_without_a_guess_at_its_rules(validate: Any) -> None:
    """Which combinations fit cannot be said before the device is known."""
    problems = validate(f"{GOOD}quantization: {{target_device: dpu, overall: {{scale_type: float}}}}\n")
    assert [p.field for p in problems] == ["quantization.target_device"]
