"""The operators of torchvision's classifiers as shipped data, so that they are estimated without torch, in a moment.

`nox -s backbones` writes the file from the networks themselves; a test holds it against them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from dpuforge.records.operator import Operator, OpKind

KNOWN_NETWORKS = "backbone_operators.json.gz"  # in spec/schema
# Only `estimate` names them, and source holds paths of the machine that captured the network.
_LEFT_OUT = ("source", "module", "merged", "stop", "label")


@dataclass(frozen=True)
class KnownNetwork:
    """A torchvision classifier with 1000 classes at the input size that it was made for, in pixels."""

    name: str
    height: int
    width: int
    operators: tuple[Operator, ...]


@cache
def read_networks(folder: Path) -> tuple[KnownNetwork, ...]:
    """Return the networks of the shipped file in a folder."""
    with gzip.open(folder / KNOWN_NETWORKS) as stream:
        rows: Mapping[str, Any] = json.load(stream)
    return tuple(
        KnownNetwork(name, row["input"][0], row["input"][1], tuple(_unpack(operator) for operator in row["operators"]))
        for name, row in rows.items()
    )


def pack_networks(networks: Iterable[KnownNetwork]) -> bytes:
    """Return the file that holds networks; the same networks give the same bytes."""
    document = {
        network.name: {
            "input": [network.height, network.width],
            "operators": [_pack(operator) for operator in _number(network.operators)],
        }
        for network in networks
    }
    return gzip.compress(json.dumps(document, separators=(",", ":")).encode("ascii"), 9, mtime=0)


def _number(operators: tuple[Operator, ...]) -> Iterable[Operator]:
    """Yield operators under short names: only who reads whom counts."""
    names = {operator.name: str(number) for number, operator in enumerate(operators)}
    for operator in operators:
        yield replace(operator, name=names[operator.name], inputs=tuple(names.get(it, it) for it in operator.inputs))


def _pack(operator: Operator) -> dict[str, Any]:
    """Return the fields that differ from their defaults."""
    kept = [field for field in fields(Operator) if field.name not in _LEFT_OUT]
    values = {field.name: getattr(operator, field.name) for field in kept}
    return {field.name: values[field.name] for field in kept if values[field.name] != _default(field)}


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _unpack(row: Mapping[str, Any]) -> Operator:
    values = {name: _freeze(value) for name, value in row.items()}
    return Operator(**{**values, "kind": OpKind(row["kind"])})


def _freeze(value: Any) -> Any:
    """Return lists as tuples, at every depth."""
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    return {key: _freeze(item) for key, item in value.items()} if isinstance(value, dict) else value
