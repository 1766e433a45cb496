"""What `dpuforge boards --fingerprint` prints: a DPU fingerprint in words, and which targets and boards have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpuforge.commands.screen import print_json, print_message, print_table
from dpuforge.errors import UsageError

if TYPE_CHECKING:
    from dpuforge.records.hardware import Catalogue


def show_fingerprint(text: str, json_: bool) -> None:
    """Print what a fingerprint such as "0x101000056010407" says; raise UsageError where it is none."""
    from dpuforge.hardware.describe_fingerprint import describe_fingerprint
    from dpuforge.load.boards.catalogue import shipped_catalogue
    from dpuforge.records.fingerprint import Fingerprint

    try:
        value = Fingerprint.parse(text.strip()).value
    except ValueError as error:
        raise UsageError(f"--fingerprint: {error}", "write it as xdputil query prints it: 0x101000056010407") from None
    document = describe_fingerprint(value)
    catalogue = shipped_catalogue()
    document["targets"] = find_targets(catalogue, value)
    document["boards"] = find_boards(catalogue, value)
    document["accepted_by"] = [
        release.name
        for release in catalogue.releases.values()
        if release.supported and document["isa"] in release.synthesised.get(document["family"], ())
    ]
    if json_:
        print_json(document)
    else:
        _print(document)


def find_targets(catalogue: Catalogue, value: int) -> list[dict[str, Any]]:
    """Return the registered targets of that fingerprint, each with the releases that give it."""
    found = (
        (dpu.target, [revision.release for revision in dpu.revisions if revision.fingerprint == value])
        for dpu in catalogue.dpus.values()
    )
    return [{"target": target, "releases": releases} for target, releases in found if releases]


def find_boards(catalogue: Catalogue, value: int) -> list[dict[str, Any]]:
    """Return the boards whose configurations have that fingerprint."""
    return [
        {"board": board.name, "release": item.release, "configuration": item.name, "default": item.prebuilt}
        for board in catalogue.boards.values()
        for item in board.configurations
        if item.fingerprint == value
    ]


def _print(document: dict[str, Any]) -> None:
    name = f"{document['family'] or 'DPU of unknown type'} ISA{document['isa']} {document['architecture']}".strip()
    peak = document["peak_ops_per_cycle"]
    print(f"{document['fingerprint']}: {name}" + (f", {peak} operations a cycle" if peak else ""))
    if document["features"]:
        print_table("", ("feature", "value"), document["features"].items())
    for row in document["targets"]:
        print(f"registered as {row['target']} in target factory {', '.join(row['releases'])}")
    if not document["targets"]:
        accepted = ", ".join(document["accepted_by"]) or "none"
        print(f"no registered target; releases that accept such a DPU by its fingerprint: {accepted}")
    if document["boards"]:
        rows = [
            (b["board"], b["release"], b["configuration"], "yes" if b["default"] else "") for b in document["boards"]
        ]
        print_table("", ("board", "release", "configuration", "in AMD's image"), rows)
    if document["note"]:
        print_message(document["note"])
