"""From the quantizer's JSON to the settings it means: defaults, then overall, then tensor, then layer blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dpuforge.quant_config.effective import EffectiveConfig, LayerConfig, Path, TensorConfig
from dpuforge.quant_config.tables import (
    DEFAULT_PERCENTAGE,
    FLAG_DEFAULTS,
    PARAM_KEYS,
    STATISTIC_TENSORS,
    TENSOR_DEFAULTS,
    TENSOR_TYPES,
    TRUTHY_KEYS,
)

# One tensor type while blocks are laid over it: the values, and for each value the block that wrote it.
Trace = tuple[dict[str, Any], dict[str, Path]]
OVERALL = "overall_quantize_config"
TENSOR = "tensor_quantize_config"
LAYER = "layer_quantize_config"


def resolve_config(config: Mapping[str, Any] | None) -> EffectiveConfig:
    """Return the settings that a config accepted by `check_config` stands for; None is the quantizer without a file.

    A config that the parser refuses resolves as far as it is well formed: values of the wrong kind are passed over.
    """
    config = {} if config is None else config
    base = _resolve_model(config)
    layer_types, layer_names = _resolve_layers(config, base)
    opset = config.get("onnx_opset_version", -1)
    return EffectiveConfig(
        target_device=config.get("target_device", "DPU"),
        quantizable_data_type=TENSOR_TYPES,  # the key is read past at the top level: measured (qdt_subset, qdt_bad)
        tensors={name: _freeze(trace) for name, trace in base.items()},
        layer_types=layer_types,
        layer_names=layer_names,
        flags={key: _flag(config, key, default) for key, default in FLAG_DEFAULTS.items()},
        onnx_opset_version=opset if isinstance(opset, int) else -1,
    )


def select_layer(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return ("layer_type", class name) or ("layer_name", node name) of a layer entry, None where it selects nothing.

    layer_type wins over layer_name; of a dotted type only the last part counts.
    """
    layer_type, layer_name = entry.get("layer_type"), entry.get("layer_name")
    if isinstance(layer_type, str) and layer_type:
        return "layer_type", layer_type.rsplit(".", 1)[-1]
    return ("layer_name", layer_name) if isinstance(layer_name, str) and layer_name else None


def iterate_layers(config: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield path and entry of every well-formed layer block."""
    layers = config.get(LAYER)
    for index, entry in enumerate(layers if isinstance(layers, (list, tuple)) else ()):
        if isinstance(entry, Mapping):
            yield (LAYER, index), entry


def listed_tensors(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the known tensor types a layer entry lists, in the entry's order."""
    listed = entry.get("quantizable_data_type")
    return tuple(name for name in listed if name in TENSOR_TYPES) if isinstance(listed, (list, tuple)) else ()


def _resolve_model(config: Mapping[str, Any]) -> dict[str, Trace]:
    traces: dict[str, Trace] = {name: (dict(TENSOR_DEFAULTS[name]), {}) for name in TENSOR_TYPES}
    return _apply_blocks(traces, config, ())


def _resolve_layers(
    config: Mapping[str, Any], base: Mapping[str, Trace]
) -> tuple[dict[str, LayerConfig], dict[str, LayerConfig]]:
    found: dict[str, dict[str, LayerConfig]] = {"layer_type": {}, "layer_name": {}}
    for path, entry in iterate_layers(config):
        selected = select_layer(entry)
        if selected:
            kind, name = selected
            found[kind][name] = _resolve_layer(entry, path, base)
    return found["layer_type"], found["layer_name"]


def _resolve_layer(entry: Mapping[str, Any], path: Path, base: Mapping[str, Trace]) -> LayerConfig:
    listed = listed_tensors(entry)
    traces = _apply_blocks({name: (dict(base[name][0]), dict(base[name][1])) for name in listed}, entry, path)
    return LayerConfig(listed, {name: _freeze(trace) for name, trace in traces.items()})


def _apply_blocks(traces: dict[str, Trace], config: Mapping[str, Any], path: Path) -> dict[str, Trace]:
    overall, tensors = _mapping(config.get(OVERALL)), _mapping(config.get(TENSOR))
    for name, trace in traces.items():
        _apply(trace, name, overall, (*path, OVERALL))
        _apply(trace, name, _mapping(tensors.get(name)), (*path, TENSOR, name))
    return traces


def _apply(trace: Trace, name: str, block: Mapping[str, Any], path: Path) -> None:
    values, origin = trace
    for key in PARAM_KEYS:
        if key in block and _counts(key, name, block[key], values["method"]):
            values[key] = block[key]
            origin[key] = (*path, key)
    if values["method"] == "percentile":
        values.setdefault("percentage", DEFAULT_PERCENTAGE)


def _counts(key: str, tensor: str, value: object, method: object) -> bool:
    """Say whether the parser takes this value at all."""
    if key == "percentage":
        return method == "percentile"
    if key == "bit_width" and not isinstance(value, int):
        return False
    return reads_key(key, tensor) and (bool(value) or key not in TRUTHY_KEYS)


def reads_key(key: str, tensor: str) -> bool:
    """Say whether the parser reads a key for a tensor type: weights and bias have no statistic over batches."""
    return key != "calib_statistic_method" or tensor in STATISTIC_TENSORS


def _freeze(trace: Trace) -> TensorConfig:
    values = dict(trace[0])
    if values["method"] != "percentile":
        values.pop("percentage", None)
    return TensorConfig(**values, origin=trace[1])


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key)
    return value if isinstance(value, bool) else default


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
