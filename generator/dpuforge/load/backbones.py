"""Which networks a spec may name, without importing torch: torchvision's classifiers as data, and two escapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from dpuforge.load.shipped_yaml import LOADER
from dpuforge.paths import find_shipped

DEFAULT_INPUT = 224
DEFAULT_RESIZE = 256
_TIMM = re.compile(r"timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_FACTORY = re.compile(r"[^:\x00-\x1f]+\.py:[^\W\d]\w*(\.[^\W\d]\w*)*")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,11}")


@dataclass(frozen=True)
class Weights:
    """Published weights: evaluation resize and crop in pixels, top-1 accuracy on ImageNet-1K in percent."""

    name: str
    resize: int
    crop: int
    top1: float


@dataclass(frozen=True)
class Backbone:
    """A torchvision classifier; parameters with the 1000-class head, gmacs = 1e9 multiply-accumulates per image."""

    name: str
    parameters: int
    gmacs: float
    weights: tuple[Weights, ...]
    min_input: int = 1

    @property
    def default_weights(self) -> Weights:
        """The ImageNet-1K weights that torchvision has had longest."""
        return next((item for item in self.weights if item.name == "IMAGENET1K_V1"), self.weights[0])


@cache
def load_backbones() -> Mapping[str, Backbone]:
    """Return the torchvision classifiers of spec/schema/backbones.yaml by name."""
    text = (find_shipped("spec/schema") / "backbones.yaml").read_text(encoding="utf-8")
    rows = yaml.load(text, Loader=LOADER)["backbones"]
    return {name: _build(name, row) for name, row in rows.items()}


def find_backbone(name: str) -> Backbone | None:
    """Return the torchvision classifier called name, None for timm and for a user's own factory."""
    return load_backbones().get(name)


def classify_backbone(name: str) -> str:
    """Return "torchvision", "timm", "factory" or "" for a name in none of these forms."""
    if name in load_backbones():
        return "torchvision"
    if _TIMM.fullmatch(name):
        return "timm"
    return "factory" if _FACTORY.fullmatch(name) else ""


def find_weights(backbone: str, weights: str) -> Weights | None:
    """Return the published weights of a torchvision classifier, None for anything else."""
    found = find_backbone(backbone)
    return next((item for item in found.weights if item.name == weights), None) if found else None


def is_weights_file(weights: str) -> bool:
    """Say whether weights names a state_dict rather than published weights."""
    stem, dot, suffix = weights.rpartition(".")
    return "/" in weights or bool(stem and _SUFFIX.fullmatch(dot + suffix))


def _build(name: str, row: Mapping[str, Any]) -> Backbone:
    weights = tuple(Weights(key, **values) for key, values in row["weights"].items())
    return Backbone(name, row["parameters"], row["gmacs"], weights, row.get("min_input", 1))
