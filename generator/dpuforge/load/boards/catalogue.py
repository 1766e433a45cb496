"""Reads the hardware catalogue (spec/boards, spec/dpus, spec/releases) into nouns, each file when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from cerberus import Validator

from dpuforge.errors import FormatError
from dpuforge.load.boards.board_files import build_board, find_missing_facts
from dpuforge.load.findings import Path as Field
from dpuforge.load.shipped_yaml import LOADER, ShippedSchema
from dpuforge.load.text import read_document
from dpuforge.paths import find_shipped
from dpuforge.records.hardware import (
    Bank,
    Catalogue,
    Dpu,
    DpuFamily,
    DpuRevision,
    Engine,
    Environment,
    Image,
    Limit,
    Release,
    Sizes,
)

Noun = TypeVar("Noun")
Fault = tuple[Field, str]
Check = Callable[[dict[str, Any]], Iterable[Fault]]
_TUPLES = ("operations", "nonlinear", "input_banks")


class Folder(Mapping[str, Noun], Generic[Noun]):
    """A folder of YAML files as a mapping from file stem to noun; a file is read when its entry is first asked for."""

    def __init__(
        self, folder: Path, schema: str, build: Callable[[dict[str, Any]], Noun], check: Check = lambda _: ()
    ) -> None:
        self._paths = {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}
        self._schema = schema
        self._build = build
        self._check = check
        self._entries: dict[str, Noun] = {}

    def __getitem__(self, name: str) -> Noun:
        if name not in self._entries:
            self._entries[name] = self._build(_read_document(self._paths[name], self._schema, self._check))
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def load_catalogue(root: Path | None = None) -> Catalogue:
    """Open the catalogue below root (a folder that holds boards/, dpus/ and releases/; default: the shipped one).

    Files are read and validated when an entry is first used; a file that breaks its schema raises FormatError.
    """
    folder = find_shipped if root is None else (lambda name: root / name.removeprefix("spec/"))
    dpus = Folder(folder("spec/dpus"), "dpu", build_dpu)
    families = Folder(folder("spec/dpus") / "families", "dpu_family", build_family)
    build = partial(build_board, dpus=dpus, families=families)
    return Catalogue(
        boards=Folder(folder("spec/boards"), "board", build, find_missing_facts),
        dpus=dpus,
        releases=Folder(folder("spec/releases"), "release", build_release),
        families=families,
    )


@cache
def shipped_catalogue() -> Catalogue:
    """Return the catalogue that dpuforge ships, opened once: the one door to it for every command."""
    return load_catalogue()


def build_dpu(document: Mapping[str, Any]) -> Dpu:
    """Make the noun of a validated DPU document; a revision's engines are merged over the common ones."""
    parallelism = document["parallelism"]
    return Dpu(
        target=document["target"],
        family=document["family"],
        isa=document["isa"],
        batch=document["batch"],
        input_channels=parallelism["input_channels"],
        output_channels=parallelism["output_channels"],
        pixels=parallelism["pixels"],
        peak_ops_per_cycle=document["peak_ops_per_cycle"],
        engines=_build_engines(document["engines"]),
        banks=tuple(Bank(**bank) for bank in document.get("banks", ())),
        save_argmax=document["save_argmax"],
        source=document["source"],
        revisions=tuple(_build_revision(entry, document) for entry in document["revisions"]),
        channel_augmentation=document.get("channel_augmentation"),
        load_channels=document.get("load_channels"),
        save_channels=document.get("save_channels"),
    )


def build_release(document: Mapping[str, Any]) -> Release:
    """Make the noun of a validated release document."""
    quantizer, sdk = document.get("quantizer", {}), document.get("sdk", {})
    return Release(
        name=document["release"],
        status=document["status"],
        target_factory=document["target_factory"],
        images=tuple(Image(**image) for image in document["images"]),
        environment=Environment(**document["environment"]) if "environment" in document else None,
        synthesised={family: tuple(versions) for family, versions in document["synthesised"].items()},
        ip=document.get("ip", {}),
        sdk={"name": sdk["name"], "source": sdk["source"]} if sdk else {},
        sd_images=sdk.get("images", {}),
        cards=tuple(document.get("cards", {}).get("names", ())),
        source=document["source"],
        vivado=document.get("vivado", ""),
        configurations_of=document.get("configurations_of", ""),
        quant_config_file=quantizer.get("quant_config_file", False),
        inspector=quantizer.get("inspector", False),
        build_with=document.get("build_with", ""),
        runtime=document.get("runtime", ""),
    )


def build_family(document: Mapping[str, Any]) -> DpuFamily:
    """Make the noun of a validated DPU family document."""
    return DpuFamily(**document)


def _build_revision(entry: Mapping[str, Any], document: Mapping[str, Any]) -> DpuRevision:
    return DpuRevision(
        release=entry["release"],
        fingerprint=int(entry["fingerprint"], 16),
        family=entry.get("family", document["family"]),
        save_argmax=entry.get("save_argmax", document["save_argmax"]),
        engines=_build_engines({**document["engines"], **entry.get("engines", {})}),
        source=entry["source"],
    )


def _build_engines(entries: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Engine]:
    return {name: _build_engine(entry) for name, entry in entries.items() if entry is not None}


def _build_engine(entry: Mapping[str, Any]) -> Engine:
    fields = dict(entry)
    fields["limits"] = {name: _build_limit(limit) for name, limit in entry.get("limits", {}).items()}
    fields["pad"] = {side: Sizes.parse(sizes) for side, sizes in entry.get("pad", {}).items()}
    fields.update({name: tuple(entry[name]) for name in _TUPLES if name in entry})
    return Engine(**fields)


def _build_limit(entry: Mapping[str, str]) -> Limit:
    return Limit(**{name: Sizes.parse(sizes) for name, sizes in entry.items()})


def _read_document(path: Path, schema: str, check: Check) -> dict[str, Any]:
    """Read and validate one YAML file; raise FormatError that names the file and the line of every field at fault."""
    content = path.read_bytes()
    try:
        document = yaml.load(content, Loader=LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path.name}:{mark.line + 1}" if mark else path.name
        raise FormatError(f"{place}: not YAML: {getattr(error, 'problem', error)}", f"mend {path}") from None
    remedy = f"spec/schema/{schema}.yaml says what {path.name} may hold"
    if not isinstance(document, dict):
        raise FormatError(f"{path.name}: expected a mapping, got {type(document).__name__}", remedy)
    validator = _make_validator(schema)
    faults = check(document) if validator.validate(document) else _flatten_errors(validator.errors)
    if lines := _locate_faults(faults, content, path.name):
        raise FormatError("\n".join(lines), remedy)
    return document


def _flatten_errors(errors: Mapping[Any, Any], above: Field = ()) -> Iterator[Fault]:
    for name, items in errors.items():
        for item in items:
            if isinstance(item, Mapping):
                yield from _flatten_errors(item, (*above, name))
            else:
                yield (*above, name), item


def _locate_faults(faults: Iterable[Fault], content: bytes, file: str) -> list[str]:
    """Return "KV260.yaml:12: configurations[0].cores: what" for every fault, in the order of the lines."""
    faults = list(faults)
    places = read_document(content, file).places if faults else {}
    located = []
    for field, what in faults:
        place = next((places[field[:end]] for end in range(len(field), -1, -1) if field[:end] in places), None)
        located.append((place.key[0] if place else 1, f"{_show_field(field)}: {what}"))
    return [f"{file}:{line}: {text}" for line, text in sorted(located)]


def _show_field(field: Field) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in field).lstrip(".")


@cache
def _make_validator(schema: str) -> Validator:
    validator = Validator()
    validator.schema = ShippedSchema(validator, _read_schema(schema))
    return validator


@cache
def _read_schema(name: str) -> dict[str, Any]:
    text = (find_shipped("spec/schema") / f"{name}.yaml").read_text(encoding="utf-8")
    schema: dict[str, Any] = yaml.load(text, Loader=LOADER)
    return schema
