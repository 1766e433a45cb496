"""The spec's rules as JSON Schema, for editors: the same data as the Cerberus rules, in another notation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dpuforge.load.backbones import load_backbones
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.spec_schema import read_schema
from dpuforge.quant_config import PARAM_KEYS, TENSOR_TYPES
from dpuforge.quant_config.tables import BIT_WIDTH_RANGE, BOOLEANS, ENUMS

DIALECT = "http://json-schema.org/draft-07/schema#"
_TYPES = {
    "text": "string",
    "whole": "integer",
    "real": "number",
    "flag": "boolean",
    "list": "array",
    "mapping": "object",
}
_BOUNDS = {"min": "minimum", "max": "maximum"}
_LENGTHS = {
    "minlength": {"string": "minLength", "array": "minItems"},
    "maxlength": {"string": "maxLength", "array": "maxItems"},
}


def project_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 7) of a spec; rules between keys are not in it.

    Keys that a base file may supply are required here too: an editor sees one file at a time.
    """
    return {
        "$schema": DIALECT,
        "title": "dpuforge project spec, version 1",
        **_convert_mapping(read_schema()),
        "definitions": {"parameters": _describe_parameters()},
    }


def _convert_mapping(schema: Mapping[str, Any]) -> dict[str, Any]:
    required = [key for key, rules in schema.items() if rules.get("required")]
    converted: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {key: _convert(rules) for key, rules in schema.items()},
    }
    return converted | ({"required": required} if required else {})


def _convert(rules: Mapping[str, Any]) -> dict[str, Any]:
    meta = rules.get("meta", {})
    described = {"description": meta["doc"]} if "doc" in meta else {}
    if rules.get("default") is not None and "schema" not in rules:  # yaml-language-server falls over a null here
        described["default"] = rules["default"]
    form = meta.get("json")
    if form is not None:
        return described | (_NAMED[form]() if isinstance(form, str) else form)
    if rules.get("check_with") == "backbone":
        return described | {"anyOf": [{"enum": list(load_backbones())}, {"type": "string", "pattern": "^timm/|\\.py:"}]}
    return described | _convert_type(rules)


def _convert_type(rules: Mapping[str, Any]) -> dict[str, Any]:
    kind = _TYPES[rules["type"]]
    converted: dict[str, Any] = {"type": [kind, "null"] if rules.get("nullable") else kind}
    if kind == "object" and "schema" in rules:
        converted |= _convert_mapping(rules["schema"]) | {"type": converted["type"]}
    elif kind == "array":
        converted |= _convert_items(rules)
    elif "allowed" in rules:
        converted["enum"] = [*rules["allowed"], *([None] if rules.get("nullable") else [])]
    return converted | _convert_bounds(rules, kind)


def _convert_items(rules: Mapping[str, Any]) -> dict[str, Any]:
    if "allowed" in rules:
        return {"items": {"enum": rules["allowed"]}}
    return {"items": _convert(rules["schema"])} if "schema" in rules else {}


def _convert_bounds(rules: Mapping[str, Any], kind: str) -> dict[str, Any]:
    bounds: dict[str, Any] = {_BOUNDS[key]: rules[key] for key in _BOUNDS if key in rules}
    bounds |= {names[kind]: rules[key] for key, names in _LENGTHS.items() if key in rules}
    if rules.get("empty") is False:
        bounds["minLength"] = 1
    if "regex" in rules:
        bounds["pattern"] = f"^({rules['regex']})$"
    return bounds


def _describe_parameters() -> dict[str, Any]:
    """Return the form of overall, and of each entry of tensors: the parser's keys and values."""
    low, high = BIT_WIDTH_RANGE
    known: dict[str, Any] = {key: {"enum": list(values)} for key, values in ENUMS.items()}
    known["scale_type"] = {"enum": [*ENUMS["scale_type"], "power_of_two"]}
    known |= {key: {"type": "boolean"} for key in BOOLEANS}
    known["bit_width"] = {"type": "integer", "minimum": low, "maximum": high}
    known["percentage"] = {"type": "number", "exclusiveMinimum": 0, "maximum": 100}
    return _describe_object({key: {"description": _PARAMETERS[key]} | known[key] for key in PARAM_KEYS})


_PARAMETERS = {
    "datatype": "Number format of the quantised values; from release 3.5.",
    "bit_width": "Bits of a quantised value.",
    "method": "How calibration finds the range of values: their extremes (maxmin), or the range of the least error.",
    "round_mode": "How a value between two steps is rounded.",
    "symmetry": "Whether the range lies symmetrically around zero.",
    "per_channel": "A step for each output channel instead of one for the tensor.",
    "signed": "Whether the integers have a sign.",
    "narrow_range": "Whether the lowest integer is left out, so that there are as many below zero as above.",
    "scale_type": "Whether a step is a power of two, that is a fix position, or any number.",
    "calib_statistic_method": "How the steps of the calibration's batches become one; for input and activation.",
    "percentage": "Percent of the values that method percentile keeps.",
}
_TENSORS = {
    "input": "Settings of the network's input.",
    "weights": "Settings of the weights.",
    "bias": "Settings of the biases.",
    "activation": "Settings of what operators put out.",
}


def _describe_object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": dict(properties)}


def _describe_reference(description: str = "") -> dict[str, Any]:
    """Return a reference to the parameters; allOf, since editors read nothing beside a bare $ref."""
    described = {"description": description} if description else {}
    return described | {"allOf": [{"$ref": "#/definitions/parameters"}]}


def _describe_tensors() -> dict[str, Any]:
    return _describe_object({key: _describe_reference(_TENSORS[key]) for key in TENSOR_TYPES})


def _describe_layers() -> dict[str, Any]:
    types = {"type": "array", "items": {"enum": list(TENSOR_TYPES)}}
    layer = _describe_object(
        {
            "layer_type": {"description": "Every operator of this type, for example conv2d.", "type": "string"},
            "layer_name": {"description": "The operator of this name.", "type": "string"},
            "quantizable_data_type": {"description": "Which tensors of it are quantised."} | types,
            "overall": _describe_reference("Settings of every tensor type of it."),
            "tensors": {"description": "Settings by tensor type."} | _describe_tensors(),
        }
    )
    return {"type": "array", "items": layer | {"required": ["quantizable_data_type"]}}


def _describe_boards() -> dict[str, Any]:
    """Return the form of target.boards; editors offer the boards that are known, and take others for configurations."""
    board = {"anyOf": [{"enum": list(shipped_catalogue().boards)}, {"type": "string"}]}
    entry = _describe_object(
        {
            "board": {"description": "The board's name; `dpuforge boards` lists them."} | board,
            "dpu": {"description": "Another DPU than the board's own: a size (B2304) or a target.", "type": "string"},
            "fingerprint": {
                "description": "The DPU as `xdputil query` prints it on the board, quoted.",
                "type": "string",
                "pattern": "^0x[0-9a-fA-F]{1,16}$",
            },
        }
    )
    return {
        "type": "array",
        "minItems": 1,
        "maxItems": 200,
        "items": {"anyOf": [*board["anyOf"], entry | {"required": ["board"]}]},
    }


def _describe_release() -> dict[str, Any]:
    releases = shipped_catalogue().releases
    return {"anyOf": [{"enum": [name for name in releases if releases[name].supported]}, {"type": "string"}]}


_NAMED: dict[str, Callable[[], dict[str, Any]]] = {
    "parameters": _describe_reference,
    "tensors": _describe_tensors,
    "layers": _describe_layers,
    "boards": _describe_boards,
    "release": _describe_release,
}
