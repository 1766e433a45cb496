"""Board files to nouns: one entry per DPU image becomes one configuration per release, and what follows is derived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dpuforge.load.findings import Path
from dpuforge.records.fingerprint import Fingerprint
from dpuforge.records.hardware import Board, Configuration, Dpu, DpuFamily, Memory

_ARCH_FOLDER = "/opt/vitis_ai/compiler/arch"  # in AMD's image
_STATED = ("source", "status")  # what has to be said of every configuration under every release


def build_board(document: Mapping[str, Any], dpus: Mapping[str, Dpu], families: Mapping[str, DpuFamily]) -> Board:
    """Make the noun of a validated board document; dpus and families supply what a configuration leaves out."""
    entries = (facts for _, facts in expand_configurations(document))
    return Board(
        name=document["board"],
        description=document["description"],
        device=document["device"],
        custom_families=tuple(document.get("custom_families", ())),
        configurations=tuple(_build_configuration(facts, dpus, families) for facts in entries),
        source=document.get("source", "the sources of its configurations"),
        memory=Memory(**document["memory"]) if "memory" in document else None,
    )


def expand_configurations(document: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the facts of each configuration under each release, in the file's order, with their place in the file.

    What a configuration states holds under all its releases; a release adds to it or states otherwise.
    """
    for index, configuration in enumerate(document["configurations"]):
        path: Path = ("configurations", index)
        shared = {"name": document["board"], **configuration}
        rows = shared.pop("releases", None)
        if rows is None:
            yield path, shared
            continue
        for number, row in enumerate(rows):
            own = {"release": row} if isinstance(row, str) else row
            yield (*path, "releases", number), {**shared, **own}


def find_missing_facts(document: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield where a board document that fits its schema leaves out what nothing else gives: place and what is wrong."""
    for path, facts in expand_configurations(document):
        for name in _STATED:
            if name not in facts:
                yield (*path, name), "required field, for all releases of the configuration or for each"
        if not {"family", "target", "fingerprint"} & facts.keys():
            yield (*path, "family"), "required field where there is neither target nor fingerprint"
        if facts.get("prebuilt") and not {"target", "arch_json"} & facts.keys():
            yield (*path, "target"), "required field of a released image: arch.json names it"


def _build_configuration(
    facts: Mapping[str, Any], dpus: Mapping[str, Dpu], families: Mapping[str, DpuFamily]
) -> Configuration:
    fields = dict(facts)
    if "fingerprint" in fields:
        fields["fingerprint"] = int(fields["fingerprint"], 16)
    fields = {**_describe_dpu(fields, dpus.get(fields.get("target", ""))), **fields}
    family = families.get(fields["family"])
    fields = {"clock_note": family.clock_note if family else "", **_describe_image(fields), **fields}
    return Configuration(**{"peak_tops": _count_peak_tops(fields), **fields})


def _describe_dpu(stated: Mapping[str, Any], dpu: Dpu | None) -> dict[str, Any]:
    """Return family, batch and peak as the target's file says, else as the fingerprint or the target's name says."""
    if dpu is not None:
        return {"family": dpu.family, "batch": dpu.batch, "peak_ops_per_cycle": dpu.peak_ops_per_cycle * dpu.batch}
    if stated.get("fingerprint") is None:
        return {"family": stated.get("target", "").partition("_")[0]}
    fingerprint = Fingerprint.decode(stated["fingerprint"])
    return {"family": fingerprint.family, "peak_ops_per_cycle": fingerprint.peak_ops_per_cycle}


def _describe_image(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return arch.json and its path: a released image is compiled for by its target, any other by its fingerprint."""
    if fields.get("prebuilt"):
        folder = fields["name"].replace(" ", "")
        path = f"{_ARCH_FOLDER}/{fields['family']}/{folder}/arch.json"
        return {"arch_json": {"target": fields.get("target", "")}, "arch_json_path": path}
    value = fields.get("fingerprint")
    return {} if value is None else {"arch_json": {"fingerprint": f"{value:#x}"}}


def _count_peak_tops(fields: Mapping[str, Any]) -> float | None:
    """Return the peak of all cores together, for a known target whose clock and cores are known."""
    speed = [fields.get(name) for name in ("peak_ops_per_cycle", "clock_mhz", "cores")]
    if "target" not in fields or None in speed:
        return None
    operations, clock_mhz, cores = (float(value) for value in speed if value is not None)
    return round(operations * clock_mhz * cores / 1e6, 3)
