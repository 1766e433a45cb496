"""Where every effective value of a spec comes from: a line of a file, or a default with its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dpuforge.load.findings import Path, Place
from dpuforge.load.merge import OPTION
from dpuforge.load.quantization import to_quant_json
from dpuforge.load.spec_schema import find_rules
from dpuforge.quant_config.resolve import OVERALL, TENSOR
from dpuforge.records.origin import Origin


def trace_origins(
    spec: Mapping[str, Any], places: Mapping[Path, Place], defaults: Mapping[Path, str], spec_file: str
) -> dict[str, Origin]:
    """Return the origin of every value of a filled spec by dotted key, in the order of the schema."""
    return {
        format_path(path): _trace(path, value, places, defaults, spec_file)
        for path, value in _iterate_values(spec, ())
        if path != ("base",)
    }


def format_path(path: Path) -> str:
    """Return a path of keys as a dotted field: target.boards[1].dpu."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _iterate_values(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield what the schema names, and within quantization the settings as the parser will see them."""
    if path in (("quantization", "overall"), ("quantization", "tensors")):
        return
    if isinstance(value, dict) and (not path or "schema" in find_rules(path)):
        known = list((find_rules(path) if path else find_rules(())).get("schema", {}))
        for key in sorted(value, key=known.index):
            yield from _iterate_values(value[key], (*path, key))
        if path == ("quantization",):
            yield from _iterate_parameters(value)
        return
    yield path, value


def _iterate_parameters(quantization: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    config = to_quant_json(quantization)
    yield from ((("quantization", "overall", key), value) for key, value in config[OVERALL].items())
    for name, block in config[TENSOR].items():
        yield from ((("quantization", "tensors", name, key), value) for key, value in block.items())


def _trace(
    path: Path, value: Any, places: Mapping[Path, Place], defaults: Mapping[Path, str], spec_file: str
) -> Origin:
    place = places.get(path)
    if place is None or path in defaults:
        return Origin(value, "default", why=_find_source(path, defaults))
    kind = "spec" if place.file == spec_file else "option" if place.file.startswith(OPTION) else "base"
    return Origin(value, kind, where=f"{place.file}:{place.line}:{place.column}")


def _find_source(path: Path, defaults: Mapping[Path, str]) -> str:
    """Return the source of a default: its own, or that of the nearest key above it."""
    for length in range(len(path), 0, -1):
        source = defaults.get(path[:length]) or find_rules(path[:length]).get("meta", {}).get("source", "")
        if source:
            return str(source)
    return ""
