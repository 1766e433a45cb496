"""The spec's rules as JSON Schema, for editors: the same data as the Cerberus rules, in another notation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpuforge.load.backbones import load_backbones
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
    if "default" in rules and "schema" not in rules:
        described["default"] = rules["default"]
    form = meta.get("json")
    if form is not None:
        return described | (_NAMED[form] if isinstance(form, str) else form)
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
    return {"type": "object", "additionalProperties": False, "properties": {key: known[key] for key in PARAM_KEYS}}


_REFERENCE = {"$ref": "#/definitions/parameters"}
_TENSORS = {
    "type": "object",
    "additionalProperties": False,
    "properties": dict.fromkeys(TENSOR_TYPES, _REFERENCE),
}
_LAYER = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "layer_type": {"type": "string"},
        "layer_name": {"type": "string"},
        "quantizable_data_type": {"type": "array", "items": {"enum": list(TENSOR_TYPES)}},
        "overall": _REFERENCE,
        "tensors": _TENSORS,
    },
    "required": ["quantizable_data_type"],
}
_NAMED: dict[str, dict[str, Any]] = {
    "parameters": _REFERENCE,
    "tensors": _TENSORS,
    "layers": {"type": "array", "items": _LAYER},
}
