"""Fills the keys a spec leaves out, from the schema and from its other keys, and says where each value came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from dpuforge.load.backbones import DEFAULT_INPUT, DEFAULT_RESIZE, classify_backbone, find_backbone, find_weights
from dpuforge.load.findings import Path
from dpuforge.load.spec_schema import read_schema

Spec = Mapping[str, Any]


def fill_defaults(document: Spec) -> tuple[dict[str, Any], dict[Path, str]]:
    """Return the spec with every key present, and for each key that was absent the source of its default.

    Works on a spec with mistakes too: what cannot be worked out stays absent.
    """
    filled: dict[str, Any] = deepcopy(dict(document))
    sources: dict[Path, str] = {}
    _fill(filled, read_schema(), (), sources)
    for path, derive, source in list(_iterate_derived(read_schema(), ())):
        _derive(filled, path, derive, source, sources)
    return filled, sources


def look_up(document: Any, path: Path) -> Any:
    """Return the value at a path, None where there is none."""
    for part in path:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _fill(filled: dict[str, Any], schema: Spec, path: Path, sources: dict[Path, str]) -> None:
    for key, rules in schema.items():
        where = (*path, key)
        if key not in filled and "default" in rules:
            filled[key] = deepcopy(rules["default"])
            if not (rules.get("type") == "mapping" and "schema" in rules and filled[key] is not None):
                sources[where] = rules["meta"].get("source", "")
        if rules.get("type") == "mapping" and isinstance(filled.get(key), dict) and "schema" in rules:
            _fill(filled[key], rules["schema"], where, sources)


def _iterate_derived(schema: Spec, path: Path) -> Iterator[tuple[Path, str, str]]:
    for key, rules in schema.items():
        meta = rules.get("meta", {})
        if "derive" in meta:
            yield (*path, key), meta["derive"], meta["source"]
        if rules.get("type") == "mapping" and "schema" in rules:
            yield from _iterate_derived(rules["schema"], (*path, key))


def _derive(filled: dict[str, Any], path: Path, derive: str, source: str, sources: dict[Path, str]) -> None:
    parent = look_up(filled, path[:-1])
    if not isinstance(parent, dict) or path[-1] in parent:
        return
    value = _DERIVE[derive](filled, str(path[-1]))
    if value is not None:
        parent[str(path[-1])] = value[0]
        sources[path] = source


Derived = tuple[Any] | None


def _derive_weights(spec: Spec, _: str) -> Derived:
    return _weights_of(look_up(spec, ("model", "backbone")))


def _derive_teacher_weights(spec: Spec, _: str) -> Derived:
    return _weights_of(look_up(spec, ("transfer", "teacher", "backbone")))


def _weights_of(backbone: object) -> Derived:
    if not isinstance(backbone, str):
        return None
    found = find_backbone(backbone)
    if found:
        return (found.default_weights.name,)
    return ("pretrained" if classify_backbone(backbone) == "timm" else "none",)


def _derive_input_size(spec: Spec, _: str) -> Derived:
    return (_published(spec)[1],)


def _published(spec: Spec) -> tuple[int, int]:
    """Return (resize, crop) in pixels of the evaluation transform that the network's weights were published with."""
    backbone, weights = look_up(spec, ("model", "backbone")), look_up(spec, ("model", "weights"))
    if not isinstance(backbone, str) or not (found := find_backbone(backbone)):
        return DEFAULT_RESIZE, DEFAULT_INPUT
    chosen = find_weights(backbone, str(weights)) or found.default_weights
    return chosen.resize, chosen.crop


def _input_size(spec: Spec) -> tuple[int, int] | None:
    size = look_up(spec, ("model", "input", "height")), look_up(spec, ("model", "input", "width"))
    height, width = size
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _derive_crop(spec: Spec, _: str) -> Derived:
    """The input size; no crop where resize is the input size already (one that is not square may say so twice)."""
    size, resize = _input_size(spec), look_up(spec, ("data", "preprocess", "resize"))
    if size is None:
        return None
    if isinstance(resize, list) and size[0] == size[1]:
        return (None if tuple(resize) == size else list(size),)
    return (size[0] if size[0] == size[1] else list(size),)


def _derive_resize(spec: Spec, _: str) -> Derived:
    """The published resize, scaled as the published crop to the input, rounded to a pixel.

    An input that is not square, or a crop that is left out, takes the whole picture: no shorter side would do.
    """
    preprocess = look_up(spec, ("data", "preprocess"))
    crop = preprocess.get("crop", ...) if isinstance(preprocess, dict) else ...
    size = _input_size(spec)
    if size is None:
        return None
    if crop is None or size[0] != size[1]:
        return (list(size),)
    resize, published = _published(spec)
    return (round(max(size) * resize / published),)


def _derive_mean(spec: Spec, _: str) -> Derived:
    return ([0.449] if _is_gray(spec) else [0.485, 0.456, 0.406],)


def _derive_std(spec: Spec, _: str) -> Derived:
    return ([0.226] if _is_gray(spec) else [0.229, 0.224, 0.225],)


def _is_gray(spec: Spec) -> bool:
    return bool(look_up(spec, ("data", "preprocess", "color")) == "GRAY")


def _derive_split_folder(spec: Spec, split: str) -> Derived:
    source, folder = look_up(spec, ("data", "source")), look_up(spec, ("data", "split", "from"))
    if isinstance(folder, str):
        return (folder,)
    return (f"data/{source}/{split}",) if isinstance(source, str) else None


def _derive_freeze_layers(spec: Spec, _: str) -> Derived:
    return ("all_but_head" if _extracts(spec) else "none",)


def _derive_batchnorm(spec: Spec, _: str) -> Derived:
    return ("frozen" if _extracts(spec) else "trainable",)


def _extracts(spec: Spec) -> bool:
    return bool(look_up(spec, ("transfer", "method")) == "feature_extraction")


def _derive_net_name(spec: Spec, _: str) -> Derived:
    project = look_up(spec, ("project",))
    return (project,) if isinstance(project, str) else None


_DERIVE: dict[str, Callable[[Spec, str], Derived]] = {
    "weights": _derive_weights,
    "teacher_weights": _derive_teacher_weights,
    "input_size": _derive_input_size,
    "resize": _derive_resize,
    "crop": _derive_crop,
    "mean": _derive_mean,
    "std": _derive_std,
    "split_folder": _derive_split_folder,
    "freeze_layers": _derive_freeze_layers,
    "batchnorm": _derive_batchnorm,
    "net_name": _derive_net_name,
}
