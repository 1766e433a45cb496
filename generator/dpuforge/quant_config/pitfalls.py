"""The one table of what the parser accepts although the run will not do what the config says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dpuforge.quant_config.effective import EffectiveConfig, Path
from dpuforge.quant_config.resolve import (
    OVERALL,
    TENSOR,
    iterate_layers,
    listed_tensors,
    reads_key,
    resolve_config,
    select_layer,
)
from dpuforge.quant_config.tables import FLAG_DEFAULTS, KEY_SINCE, TARGET_DEVICES, TENSOR_TYPES, TRUTHY_KEYS

Found = Iterator[tuple[Path, str]]


@dataclass(frozen=True)
class Pitfall:
    """One exception from the parser's verdict: severity "error" refuses, "warning" lets pass; find yields where."""

    name: str
    severity: str
    reason: str
    remedy: str
    find: Callable[[Mapping[str, Any], EffectiveConfig], Found]


@dataclass(frozen=True)
class Finding:
    """A pitfall met in a config: what names the value at path."""

    path: Path
    what: str
    pitfall: Pitfall


def find_pitfalls(config: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Return what the parser accepts in this JSON and yet does not do, or does otherwise.

    The JSON must be one that `check_config` accepts.
    """
    effective = resolve_config(config)
    return tuple(
        Finding(path, what, pitfall)
        for pitfall in PITFALLS
        for path, what in dict.fromkeys(pitfall.find(config, effective))
    )


def name_newer_keys(config: Mapping[str, Any], release: str) -> tuple[tuple[Path, str], ...]:
    """Return (path, first release) of the keys that the parser of an older release ("2.5", "3.0") does not know."""
    found: list[tuple[Path, str]] = [((key,), KEY_SINCE[key]) for key in config if key in KEY_SINCE]
    found += [(path, KEY_SINCE[str(path[-1])]) for path in _parameter_paths(config) if path[-1] in KEY_SINCE]
    return tuple((path, since) for path, since in found if _version(since) > _version(release))


def _version(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdigit())


def _parameter_paths(config: Mapping[str, Any]) -> Iterator[Path]:
    for where, block in [((), config), *iterate_layers(config)]:
        yield from ((*where, OVERALL, key) for key in block.get(OVERALL, {}))
        for name, tensor in block.get(TENSOR, {}).items():
            yield from ((*where, TENSOR, name, key) for key in tensor)


def _find_flags_true(*keys: str) -> Callable[[Mapping[str, Any], EffectiveConfig], Found]:
    def find(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
        yield from (((key,), key) for key in keys if config.get(key) is True)

    return find


def _find_mistyped_flags(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    for key in FLAG_DEFAULTS:
        if key in config and not isinstance(config[key], bool):
            yield (key,), f"{key} is no boolean"


def _find_unknown_types(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    listed = config.get("quantizable_data_type", TENSOR_TYPES)
    names = listed if isinstance(listed, (list, tuple)) else [listed]
    for name in names:
        if name not in TENSOR_TYPES:
            yield ("quantizable_data_type",), f"unknown tensor type {name!r}"


def _find_subset(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    listed = config.get("quantizable_data_type", TENSOR_TYPES)
    if isinstance(listed, (list, tuple)) and not set(TENSOR_TYPES) <= {str(name) for name in listed}:
        yield ("quantizable_data_type",), "a choice of tensor types for the whole network"


def _find_bad_device(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    device = config.get("target_device", "DPU")
    if device not in TARGET_DEVICES:
        yield ("target_device",), f"unknown target_device {device!r}"


def _find_no_xmodel(config: Mapping[str, Any], effective: EffectiveConfig) -> Found:
    if effective.target_device in TARGET_DEVICES[1:]:
        yield ("target_device",), f"target_device {effective.target_device}"


def _iterate_parameters(config: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    for path in _parameter_paths(config):
        value: Any = config
        for part in path:
            value = value[part]
        yield path, value


def _find_boolean_width(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    for path, value in _iterate_parameters(config):
        if path[-1] == "bit_width" and isinstance(value, bool):
            yield path, "a bit_width that is a boolean"


def _find_zero_width(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    for path, value in _iterate_parameters(config):
        if path[-1] == "bit_width" and isinstance(value, int) and value == 0 and not isinstance(value, bool):
            yield path, "bit_width 0"


def _find_empty_values(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    for path, value in _iterate_parameters(config):
        if path[-1] in TRUTHY_KEYS and not value and not (path[-1] == "bit_width" and isinstance(value, int)):
            yield path, f"an empty {path[-1]}"


def _find_unread_statistic(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    for path in _parameter_paths(config):
        if TENSOR in path and not reads_key(str(path[-1]), str(path[-2])):
            yield path, f"a statistic over batches for {path[-2]}"


def _find_unlisted_tensors(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    for path, entry in iterate_layers(config):
        for name in entry.get(TENSOR, {}) if select_layer(entry) else ():
            if name not in listed_tensors(entry):
                yield (*path, TENSOR, name), f"settings of {name} in a layer that does not list it"


def _find_mse_rounding(_: Mapping[str, Any], effective: EffectiveConfig) -> Found:
    for path, tensor in _all_tensors(effective):
        if tensor.datatype == "int" and tensor.method == "mse" and tensor.round_mode != "half_even":
            yield tensor.origin.get("round_mode", tensor.origin.get("method", path)), f"mse with {tensor.round_mode}"


def _find_unsigned_symmetric(_: Mapping[str, Any], effective: EffectiveConfig) -> Found:
    for path, tensor in _all_tensors(effective):
        if tensor.datatype == "int" and tensor.symmetry and not tensor.signed:
            yield tensor.origin.get("signed", path), "unsigned and symmetric"


def _all_tensors(effective: EffectiveConfig) -> Iterator[tuple[Path, Any]]:
    yield from (((OVERALL,), tensor) for tensor in effective.tensors.values())
    for layers in (effective.layer_types, effective.layer_names):
        for layer in layers.values():
            yield from (((OVERALL,), tensor) for tensor in layer.tensors.values())


def _find_layer_names(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    for path, entry in iterate_layers(config):
        selected = select_layer(entry)
        if selected and selected[0] == "layer_name":
            yield (*path, "layer_name"), f"layer_name {selected[1]!r}"


def _find_unselected(config: Mapping[str, Any], _: EffectiveConfig) -> Found:
    yield from (
        (path, "a layer entry with neither layer_type nor layer_name")
        for path, entry in iterate_layers(config)
        if select_layer(entry) is None
    )


PITFALLS = (
    Pitfall(
        "reserved_flags",
        "warning",
        "the quantizer only logs that the feature comes in a later release; nothing changes",
        "remove it, or raise bit_width for the layers that matter",
        _find_flags_true("keep_first_last_layer_accuracy", "keep_add_layer_accuracy"),
    ),
    Pitfall(
        "mistyped_flags",
        "error",
        "the quantizer silently keeps its default",
        "write true or false",
        _find_mistyped_flags,
    ),
    Pitfall(
        "unknown_tensor_types",
        "error",
        "the quantizer silently ignores it",
        f"choose from {', '.join(TENSOR_TYPES)}",
        _find_unknown_types,
    ),
    Pitfall(
        "ignored_selection",
        "warning",
        "the quantizer ignores it at this level and quantises all four tensor types",
        "use a layer entry to choose tensor types, or remove the key",
        _find_subset,
    ),
    Pitfall(
        "unknown_device",
        "error",
        "the parser lets it pass without any check and the run goes wrong later",
        f"choose from {', '.join(TARGET_DEVICES)}",
        _find_bad_device,
    ),
    Pitfall(
        "no_xmodel",
        "warning",
        "the quantizer writes no xmodel for it, so nothing can be compiled for a board",
        "write target_device: DPU to deploy on a board",
        _find_no_xmodel,
    ),
    Pitfall(
        "boolean_bit_width",
        "error",
        "Python takes true for 1 and false for 0, so the parser lets it pass",
        "write a whole number such as 8",
        _find_boolean_width,
    ),
    Pitfall(
        "zero_bit_width",
        "warning",
        "the parser passes over it and keeps the value below",
        "write the width that is meant, such as 8",
        _find_zero_width,
    ),
    Pitfall(
        "empty_values",
        "error",
        "the parser passes over it and keeps the value below",
        "write a value, or remove the key",
        _find_empty_values,
    ),
    Pitfall(
        "unread_statistic",
        "warning",
        "the parser reads calib_statistic_method for input and activation alone",
        "remove the key",
        _find_unread_statistic,
    ),
    Pitfall(
        "unlisted_tensors",
        "warning",
        "the parser applies a layer's settings to the tensor types it lists in quantizable_data_type alone",
        "add the tensor type to the layer's quantizable_data_type, or remove its settings",
        _find_unlisted_tensors,
    ),
    Pitfall(
        "mse_rounding",
        "warning",
        "calibration with mse works with round_mode half_even alone and ends with a TypeError otherwise",
        "write round_mode: half_even, or another method",
        _find_mse_rounding,
    ),
    Pitfall(
        "unsigned_symmetric",
        "warning",
        "calibration ends with a TypeError as soon as such a tensor has a negative value",
        "write signed: true",
        _find_unsigned_symmetric,
    ),
    Pitfall(
        "traced_layer_names",
        "warning",
        "the name must equal the tracer's own node name, known only after a run; another name is silently ignored",
        "use layer_type, or copy the name from the quantizer's graph after a first run",
        _find_layer_names,
    ),
    Pitfall(
        "unselected_layer",
        "warning",
        "the parser ignores the entry",
        "add layer_type (a torch.nn class name)",
        _find_unselected,
    ),
)
