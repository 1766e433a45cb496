"""The real parser's verdict on a config, with every complaint at once where the parser stops at its first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dpuforge.quant_config.effective import LayerConfig, Path, TensorConfig
from dpuforge.quant_config.resolve import (
    LAYER,
    OVERALL,
    TENSOR,
    iterate_layers,
    listed_tensors,
    reads_key,
    resolve_config,
    select_layer,
)
from dpuforge.quant_config.tables import (
    BIT_WIDTH_RANGE,
    BOOLEANS,
    DEVICE_RULES,
    ENUMS,
    INTEGER_ONLY,
    LAYER_KEYS,
    PARAM_KEYS,
    TENSOR_TYPES,
    TOP_KEYS,
    TRUTHY_KEYS,
)

SPELLINGS = {"power_of_two": "poweroftwo"}


@dataclass(frozen=True)
class Violation:
    """Why the parser refuses: path within the JSON, its message, and what to write instead.

    code is the part of the tool's `[VAIQ_ERROR][QUANTIZER_TORCH_<code>]` line; "KeyError" or "TypeError" where the tool
    ends with a traceback.
    """

    path: Path
    message: str
    help: str = ""
    code: str = "QUANT_CONFIG"


def check_config(config: Mapping[str, Any]) -> tuple[Violation, ...]:
    """Return why the quantizer's parser refuses this JSON, in the parser's order; empty means that it accepts.

    The first violation is the one the tool itself prints; source: the acceptance matrix recorded from release 3.5.
    """
    found = _unique(_check_shape(config))
    if any(violation.code == "TypeError" for violation in found):
        return found
    found += _unique(_check_values(config))
    said = {violation.path for violation in found}
    return found + tuple(violation for violation in _unique(_check_device(config)) if violation.path not in said)


def _unique(violations: Iterable[Violation]) -> tuple[Violation, ...]:
    return tuple(dict.fromkeys(violations))


# --- keywords and shapes: refused before any value is looked at ---


def _check_shape(config: Mapping[str, Any]) -> Iterator[Violation]:
    yield from _unknown(config, TOP_KEYS, ())
    yield from _check_block_shapes(config, ())
    layers = config.get(LAYER, [])
    if not isinstance(layers, (list, tuple)):
        yield _mistyped((LAYER,), "a list of mappings")
        return
    for index, entry in enumerate(layers):
        yield from _check_layer_shape(entry, (LAYER, index))


def _check_layer_shape(entry: object, path: Path) -> Iterator[Violation]:
    if not isinstance(entry, Mapping):
        yield _mistyped(path, "a mapping")
        return
    yield from _unknown(entry, LAYER_KEYS, path)
    yield from _check_block_shapes(entry, path)


def _check_block_shapes(config: Mapping[str, Any], path: Path) -> Iterator[Violation]:
    yield from _check_block_shape(config.get(OVERALL, {}), PARAM_KEYS, (*path, OVERALL))
    tensors = config.get(TENSOR, {})
    yield from _check_block_shape(tensors, TENSOR_TYPES, (*path, TENSOR))
    for name in TENSOR_TYPES:
        if isinstance(tensors, Mapping) and name in tensors:
            yield from _check_block_shape(tensors[name], PARAM_KEYS, (*path, TENSOR, name))


def _check_block_shape(block: object, known: Iterable[str], path: Path) -> Iterator[Violation]:
    if isinstance(block, Mapping):
        yield from _unknown(block, known, path)
    else:
        yield _mistyped(path, "a mapping")


def _unknown(block: Mapping[Any, Any], known: Iterable[str], path: Path) -> Iterator[Violation]:
    names = list(known)
    for key in block:
        if key not in names:
            close = get_close_matches(str(key), names, 1)
            remedy = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(names)}"
            yield Violation((*path, key), f"Unsupported keyword in quantization config: '{key}'.", remedy)


def _mistyped(path: Path, wanted: str) -> Violation:
    return Violation(path, f"{path[-1]} should be {wanted}", code="TypeError")


# --- values: checked in every block that is applied, even where a later block overrides them ---


def _check_values(config: Mapping[str, Any]) -> Iterator[Violation]:
    if "target_device" not in config:
        yield Violation(("target_device",), "target_device is missing", "write target_device: DPU", "KeyError")
    methods = dict.fromkeys(TENSOR_TYPES, "diffs")
    yield from _check_blocks(config, TENSOR_TYPES, (), methods)
    for path, entry in iterate_layers(config):
        yield from _check_selection(entry, path)
        if select_layer(entry):
            yield from _check_layer(entry, path, methods)


def _check_selection(entry: Mapping[str, Any], path: Path) -> Iterator[Violation]:
    for key in ("layer_type", "layer_name"):
        if entry.get(key) and not isinstance(entry[key], str):
            yield _mistyped((*path, key), "text")


def _check_layer(entry: Mapping[str, Any], path: Path, methods: Mapping[str, str]) -> Iterator[Violation]:
    listed = entry.get("quantizable_data_type")
    where = (*path, "quantizable_data_type")
    if not isinstance(listed, (list, tuple)):
        remedy = f"list the tensor types of this layer, for example [{', '.join(TENSOR_TYPES[1:])}]"
        yield Violation(where, "a layer entry needs a list quantizable_data_type", remedy, "KeyError")
        return
    for name in listed:
        if name not in TENSOR_TYPES:
            yield Violation(
                where, f"unknown tensor type {name!r}", f"choose from {', '.join(TENSOR_TYPES)}", "KeyError"
            )
    yield from _check_blocks(entry, listed_tensors(entry), path, dict(methods))


def _check_blocks(
    config: Mapping[str, Any], tensors: Iterable[str], path: Path, methods: dict[str, str]
) -> Iterator[Violation]:
    """Check overall and tensor blocks as they are laid over each tensor type; methods holds what came before."""
    for name in tensors:
        blocks = (
            ((*path, OVERALL), config.get(OVERALL, {})),
            ((*path, TENSOR, name), config.get(TENSOR, {}).get(name, {})),
        )
        for where, block in blocks:
            methods[name] = block.get("method") or methods[name]
            yield from _check_block(block, name, where, methods[name])


def _check_block(block: Mapping[str, Any], tensor: str, path: Path, method: object) -> Iterator[Violation]:
    for key, check in _CHECKS.items():
        if key not in block or not _is_looked_at(key, tensor, block[key], method):
            continue
        complaint = check(key, tensor, block[key])
        if complaint:
            message, remedy, code = complaint
            yield Violation((*path, key), message, remedy, code)


def _is_looked_at(key: str, tensor: str, value: object, method: object) -> bool:
    if key == "percentage":
        return method == "percentile"
    return reads_key(key, tensor) and not (key in TRUTHY_KEYS and not value)


Complaint = tuple[str, str, str] | None


def _check_enum(key: str, tensor: str, value: object) -> Complaint:
    allowed = ENUMS[key]
    if isinstance(value, str) and value in allowed:
        return None
    known = SPELLINGS.get(value) if isinstance(value, str) else None
    close = [known] if known else get_close_matches(str(value), allowed, 1)
    remedy = f"did you mean {close[0]}?" if close else f"choose from {', '.join(allowed)}"
    return f"The {key} of {tensor} should be in the list {list(allowed)}", remedy, "QUANT_CONFIG"


def _check_boolean(key: str, tensor: str, value: object) -> Complaint:
    if isinstance(value, bool):
        return None
    return f"The {key} parameter of {tensor} should be a boolean", "write true or false", "QUANT_CONFIG"


def _check_bit_width(key: str, tensor: str, value: object) -> Complaint:
    low, high = BIT_WIDTH_RANGE
    if isinstance(value, int) and low <= value <= high:
        return None
    says = f"The {key} type of {tensor} should be int, and in range of [{low},{high}]."
    return says, "write a whole number such as 8", "ILLEGAL_BITWIDTH"


def _check_percentage(_key: str, _tensor: str, value: object) -> Complaint:
    if isinstance(value, float) and 0.0 < value <= 100.0:
        return None
    remedy = "write a number with a decimal point above 0.0 and up to 100.0, such as 99.9 (a whole number is refused)"
    return "Percentage should be larger than 0.0 and smaller than 100.0", remedy, "QUANT_CONFIG"


# In the parser's order.
_CHECKS: dict[str, Callable[[str, str, object], Complaint]] = {
    "bit_width": _check_bit_width,
    "method": _check_enum,
    "datatype": _check_enum,
    "round_mode": _check_enum,
    "scale_type": _check_enum,
    **dict.fromkeys(BOOLEANS, _check_boolean),
    "calib_statistic_method": _check_enum,
    "percentage": _check_percentage,
}


# --- what the target device can do with integers ---


def _check_device(config: Mapping[str, Any]) -> Iterator[Violation]:
    effective, device = resolve_config(config), config.get("target_device")
    model = LayerConfig(TENSOR_TYPES, effective.tensors)
    yield from _check_tensors(model, device, ())
    for kind, layers in (("layer_type", effective.layer_types), ("layer_name", effective.layer_names)):
        for name, layer in layers.items():
            yield from _check_tensors(layer, device, _last_entry(config, kind, name))


def _last_entry(config: Mapping[str, Any], kind: str, name: str) -> Path:
    """Return the path of the entry that counts: a later entry for the same layers replaces an earlier one."""
    return [path for path, entry in iterate_layers(config) if select_layer(entry) == (kind, name)][-1]


def _check_tensors(layer: LayerConfig, device: object, path: Path) -> Iterator[Violation]:
    for name in layer.quantizable_data_type:
        if layer.tensors[name].datatype == "int":
            if device == "DPU":
                yield from _check_bias_width(layer, path)
            yield from _check_tensor(name, layer.tensors[name], device, path)


def _check_bias_width(layer: LayerConfig, path: Path) -> Iterator[Violation]:
    """Compare the widths of bias and activation, as the parser does for each integer tensor it visits."""
    missing = [name for name in ("activation", "bias") if name not in layer.tensors]
    if missing:
        remedy = "list weights, bias and activation: the parser ends with a KeyError otherwise"
        where = (*path, "quantizable_data_type")
        yield Violation(where, f"a layer entry on a DPU does not list {' and '.join(missing)}", remedy, "KeyError")
        return
    activation, bias = layer.tensors["activation"], layer.tensors["bias"]
    if activation.bit_width != bias.bit_width:
        says = "Bitwidth of activation and bias should be the same in DPU device" + INTEGER_ONLY
        blame = max(_blame(bias, "bit_width", path), _blame(activation, "bit_width", path), key=len)
        yield Violation(blame, says, f"bias has {bias.bit_width}, activation {activation.bit_width}: write the same")


def _check_tensor(name: str, tensor: TensorConfig, device: object, path: Path) -> Iterator[Violation]:
    for rule in DEVICE_RULES.get(device, ()) if isinstance(device, str) else ():
        if rule.broken(name, tensor):
            yield Violation(_blame(tensor, rule.key, path), rule.says + INTEGER_ONLY, rule.remedy)


def _blame(tensor: TensorConfig, key: str, path: Path) -> Path:
    """Return the path that set a value, or the whole block where it is a default."""
    return tensor.origin.get(key, path or (OVERALL,))
