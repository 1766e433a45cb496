"""The spec's quantization block as the quantizer's JSON, and the real parser's verdict put in the spec's words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from dpuforge.load.defaults import look_up
from dpuforge.load.findings import Finding, Path, show_value
from dpuforge.load.spec_schema import find_rules
from dpuforge.quant_config import PARAM_KEYS, TENSOR_TYPES, Violation, check_config, find_pitfalls, name_newer_keys
from dpuforge.quant_config.resolve import LAYER, OVERALL, TENSOR
from dpuforge.quant_config.tables import FLAG_DEFAULTS, TENSOR_DEFAULTS

BLOCKS = {"overall": OVERALL, "tensors": TENSOR, "layers": LAYER}
_SPEC_KEYS = {json_key: key for key, json_key in BLOCKS.items()}
# Older parsers refuse these as unknown, so they are written only where the spec changes them.
_NEWER_FLAGS = ("convert_silu_to_hswish", "change_concat_input_fix", "change_pool_input_fix")
_OVERALL_DEFAULTS = {key: value for key, value in TENSOR_DEFAULTS["input"].items() if key != "datatype"}
SPELLINGS = {"power_of_two": "poweroftwo"}


def to_quant_json(quantization: Mapping[str, Any]) -> dict[str, Any]:
    """Return int8_config.json for a quantization block whose keys are all present, in canonical key order.

    Keys the user left out of overall are written with the parser's defaults, and activation rounds half_up as it does
    in the parser, unless overall sets round_mode for every tensor type.
    """
    config: dict[str, Any] = {
        key: quantization[key] for key in FLAG_DEFAULTS if key not in _NEWER_FLAGS or quantization[key] is not False
    }
    if quantization["onnx_opset_version"] is not None:
        config["onnx_opset_version"] = quantization["onnx_opset_version"]
    config["target_device"] = quantization["target_device"]
    config["quantizable_data_type"] = list(quantization["quantizable_data_type"])
    overall = quantization["overall"]
    config[OVERALL] = _order({**_OVERALL_DEFAULTS, **_parameters(overall)})
    config[TENSOR] = _spell_tensors(quantization["tensors"], "round_mode" not in overall)
    if quantization["layers"]:
        config[LAYER] = [_spell_layer(layer) for layer in quantization["layers"]]
    return config


def check_quantization(
    spec: Mapping[str, Any], release: object, broken: Collection[Path] = frozenset()
) -> Iterator[Finding]:
    """Yield why the real parser refuses the block of a filled spec, what it gets wrong, and keys too new for it.

    What is wrong on its own already (the paths in broken) is left out of the judgement and not told twice.
    """
    if not isinstance(spec.get("quantization"), Mapping):
        return
    config = to_quant_json(_repair(spec["quantization"], broken))
    found = [*_judge(config)] or [*_warn(config, release)]
    yield from (finding for finding in found if finding.path not in broken)


def _repair(quantization: Mapping[str, Any], broken: Collection[Path]) -> dict[str, Any]:
    """Return the block with its broken keys replaced by defaults, and a broken target_device by one without rules."""
    repaired = dict(quantization)
    for path in broken:
        if path[:1] != ("quantization",) or len(path) < 2:
            continue
        rules = find_rules(path[:2])
        if len(path) == 2 or path[1] in ("layers", "quantizable_data_type"):
            repaired[str(path[1])] = "FLEXML" if path[1] == "target_device" else rules.get("default")
    return repaired


def _judge(config: Mapping[str, Any]) -> Iterator[Finding]:
    for violation in _first_per_place(check_config(config)):
        message = f"{violation.message.rstrip('.')}, got {show_value(look_up(config, violation.path))}"
        path = to_spec_path(violation.path)
        yield Finding(path, message, violation.help, at_key=_is_unknown(violation.message))


def _warn(config: Mapping[str, Any], release: object) -> Iterator[Finding]:
    for finding in find_pitfalls(config):
        pitfall = finding.pitfall
        path = to_spec_path(finding.path)
        message = f"{finding.what}: {pitfall.reason}, got {show_value(look_up(config, finding.path))}"
        yield Finding(path, message, pitfall.remedy, pitfall.severity)
    for newer, since in name_newer_keys(config, release) if isinstance(release, str) else ():
        what = f"the quantizer of release {release} does not know this key, got {newer[-1]}"
        yield Finding(to_spec_path(newer), what, f"it is read from release {since} on", "warning", at_key=True)


def _first_per_place(violations: tuple[Violation, ...]) -> Iterator[Violation]:
    """Yield one violation per place: a value in overall that is wrong is wrong for all four tensor types."""
    first: dict[tuple[object, ...], Violation] = {}
    for violation in violations:
        key = (violation.path,) if violation.path[-1] in PARAM_KEYS else (violation.path, violation.message)
        first.setdefault(key, violation)
    yield from first.values()


def to_spec_path(path: Path) -> Path:
    """Return the spec's path for a path within the JSON."""
    return ("quantization", *(_SPEC_KEYS.get(part, part) if isinstance(part, str) else part for part in path))


def _is_unknown(message: str) -> bool:
    return message.startswith("Unsupported keyword")


def _parameters(block: Any) -> Any:
    """Return a block of settings with the spec's own spellings replaced; anything else as it is."""
    if not isinstance(block, Mapping):
        return block
    return {
        key: SPELLINGS.get(value, value) if key == "scale_type" and isinstance(value, str) else value
        for key, value in block.items()
    }


def _order(block: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: block[key] for key in PARAM_KEYS if key in block}
    return known | {key: value for key, value in block.items() if key not in known}


def _spell_tensors(tensors: Mapping[str, Any], activation_half_up: bool) -> dict[str, Any]:
    spelled = {key: _parameters(block) for key, block in tensors.items()}
    activation = spelled.get("activation", {})
    if activation_half_up and isinstance(activation, Mapping):
        spelled["activation"] = {"round_mode": TENSOR_DEFAULTS["activation"]["round_mode"], **activation}
    ordered = {key: spelled[key] for key in TENSOR_TYPES if key in spelled}
    ordered |= {key: value for key, value in spelled.items() if key not in ordered}
    return {key: _order(value) if isinstance(value, Mapping) else value for key, value in ordered.items()}


def _spell_layer(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer entry with the JSON's names; nothing is filled in, since the model's settings lie underneath."""
    spelled: dict[str, Any] = {}
    for key, value in layer.items():
        if key == "overall":
            spelled[OVERALL] = _parameters(value)
        elif key == "tensors":
            spelled[TENSOR] = (
                {name: _parameters(block) for name, block in value.items()} if isinstance(value, Mapping) else value
            )
        else:
            spelled[key] = value
    return spelled
