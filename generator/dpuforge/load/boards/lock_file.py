"""The lock beside a spec: written from what a board reported, read back, and held against what a spec resolves to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from cerberus import Validator

from dpuforge.errors import FormatError, Problem, SpecError, UsageError
from dpuforge.load.boards.resolve_board import HardwareError, find_board, resolve_board, resolve_choices
from dpuforge.load.findings import Finding
from dpuforge.load.load_spec import LoadedSpec
from dpuforge.load.text import read_document
from dpuforge.paths import find_shipped
from dpuforge.records.board_lock import BoardFacts, FittingRelease, LockedDpu
from dpuforge.records.fingerprint import Fingerprint
from dpuforge.records.hardware import BoardTarget, Catalogue
from dpuforge.writing import replacing

_HEADER = """\
# Written by `dpuforge board-lock`: the DPU that each board itself reported. Do not edit; run the command again.
# `dpuforge generate` and compile.sh refuse to build for another one. Remove a board's entry to lift its lock.
lock_version: 1
boards:
"""


def find_lock(spec_path: Path) -> Path:
    """Return where the lock of a spec lies: spec/fruits.yaml -> spec/fruits.lock.yaml."""
    return spec_path.with_name(f"{spec_path.stem}.lock.yaml")


def write_lock(spec_path: Path, board: str, facts: BoardFacts) -> Path:
    """Set one board's entry of the spec's lock, leave the others, and return the lock's path; the write is atomic.

    Raise FormatError where the lock that is there cannot be read.
    """
    core = facts.cores[0]
    entry = LockedDpu(board, core.target, core.fingerprint, len(facts.cores), facts.source, core.clock_mhz, core.batch)
    locks = {**read_lock(spec_path), board: entry}
    path = find_lock(spec_path)
    try:
        with replacing(path) as partial:
            partial.write_text(_HEADER + "".join(_format(locks[name]) for name in sorted(locks)), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return path


def read_lock(spec_path: Path) -> Mapping[str, LockedDpu]:
    """Return the locked DPU of each board, empty where there is no lock; raise FormatError where it is broken."""
    path = find_lock(spec_path)
    if not path.exists():
        return {}
    try:
        document = read_document(path.read_bytes(), str(path))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    validator = Validator(_read_schema())
    faults = [finding.message for finding in document.findings]
    if not faults and not validator.validate(document.value):
        faults = [json.dumps(getattr(validator, "errors", {}))]
    if faults:
        raise FormatError(f"{path}: not a lock: {'; '.join(faults)}", "remove it, and run `dpuforge board-lock` again")
    return {board: _read_entry(board, entry) for board, entry in document.value["boards"].items()}


def check_board(catalogue: Catalogue, board: str, facts: BoardFacts) -> None:
    """Raise HardwareError where the reported DPU is of a family that the board cannot carry."""
    found, _ = find_board(catalogue, board)
    families = {item.family for item in found.configurations} | set(found.custom_families)
    family = Fingerprint.decode(facts.fingerprint).family
    if family not in families:
        what = f"{facts.target} ({facts.fingerprint:#x}) is a {family or 'DPU of unknown type'}"
        raise HardwareError(f"{what}, got board {found.name}", f"{found.name} carries {', '.join(sorted(families))}")


def guess_board(targets: Sequence[BoardTarget], facts: BoardFacts) -> BoardTarget | None:
    """Return the one target that the facts single out by family, fingerprint, then cores; None where they do not."""
    family = Fingerprint.decode(facts.fingerprint).family
    left = [target for target in targets if target.family == family]
    alike = [target for target in left if target.fingerprint == facts.fingerprint]
    left = alike or left
    left = [target for target in left if target.cores == len(facts.cores)] or left
    return left[0] if len({target.board for target in left}) == 1 else None


def check_lock(
    catalogue: Catalogue, targets: Sequence[BoardTarget], locks: Mapping[str, LockedDpu]
) -> tuple[Finding, ...]:
    """Return a finding for each target that is not the DPU its board reported; boards without a lock pass.

    Where no source gives the target's fingerprint, its name has to agree.
    """
    return tuple(
        Finding(("target", "boards", index), _describe(target, lock), _remedy(catalogue, target, lock))
        for index, target in enumerate(targets)
        if (lock := locks.get(target.board)) is not None and not _agree(target, lock)
    )


def resolve_targets(catalogue: Catalogue, loaded: LoadedSpec) -> tuple[BoardTarget, ...]:
    """Return the DPU of each board of a spec; the spec's lock gives the fingerprints that no source gives.

    Raise SpecError that names each board whose DPU is another one, FormatError where the lock is broken.
    """
    targets, locks = resolve_choices(catalogue, loaded.project), read_lock(loaded.path)
    findings = check_lock(catalogue, targets, locks)
    if findings:
        raise SpecError(tuple(_locate(finding, loaded) for finding in findings))
    return tuple(_fill(target, locks.get(target.board)) for target in targets)


def find_releases(catalogue: Catalogue, board: str, fingerprint: int) -> tuple[FittingRelease, ...]:
    """Return the releases under which the board carries the DPU of that fingerprint, those by default first."""
    found, _ = find_board(catalogue, board)
    fits: list[FittingRelease] = []
    for release in catalogue.releases.values():
        default = _resolve(catalogue, board, release.name)
        if default is not None and default.fingerprint == fingerprint:
            fits.append(FittingRelease(release.name, "", release.sd_images.get(found.name, "")))
            continue
        names = {release.name, release.configurations_of}
        named = (item for item in found.configurations if item.release in names and item.usable)
        fits += [FittingRelease(release.name, item.name) for item in named if item.fingerprint == fingerprint][:1]
    supported = (fit for fit in fits if catalogue.releases[fit.release].supported)
    return tuple(sorted(supported, key=lambda fit: fit.dpu != ""))


def _remedy(catalogue: Catalogue, target: BoardTarget, lock: LockedDpu) -> str:
    """Say which release fits the board as it is, which image fits the spec as it is, and how to keep both."""
    fits = find_releases(catalogue, target.board, lock.fingerprint)
    ways = [_offer_release(fit) for fit in fits if not fit.dpu]
    image = catalogue.releases[target.release].sd_images.get(target.board, "")
    if image and _is_default(catalogue, target):
        ways.append(f"boot the image of {target.release} ({image}) and run `dpuforge board-lock` again")
    if _resolve(catalogue, target.board, target.release, lock.fingerprint_text) is not None:
        wanted = f'boards: [{{board: {target.board}, fingerprint: "{lock.fingerprint_text}"}}]'
        ways.append(f"build for the DPU that is there under {target.release}: {wanted}")
    else:
        ways += [f'set target.vitis_ai: "{fit.release}" with dpu: {fit.dpu}' for fit in fits if fit.dpu]
    return "; or ".join(ways) or "no release that is known fits this DPU: compare with `xdputil query` on the board"


def _offer_release(fit: FittingRelease) -> str:
    image = f" (its image is {fit.sd_image})" if fit.sd_image else ""
    return f'set target.vitis_ai: "{fit.release}"{image}'


def _describe(target: BoardTarget, lock: LockedDpu) -> str:
    wanted = target.fingerprint_text or "of unknown fingerprint"
    return (
        f"{target.board} reported the DPU {lock.target}, fingerprint {lock.fingerprint_text} (its lock), "
        f"got {target.target}, fingerprint {wanted}, of Vitis AI {target.release}"
    )


def _agree(target: BoardTarget, lock: LockedDpu) -> bool:
    return target.target == lock.target if target.fingerprint is None else target.fingerprint == lock.fingerprint


def _fill(target: BoardTarget, lock: LockedDpu | None) -> BoardTarget:
    return target if lock is None or target.fingerprint is not None else replace(target, fingerprint=lock.fingerprint)


def _is_default(catalogue: Catalogue, target: BoardTarget) -> bool:
    default = _resolve(catalogue, target.board, target.release)
    return default is not None and default.fingerprint == target.fingerprint


def _resolve(catalogue: Catalogue, board: str, release: str, fingerprint: str | None = None) -> BoardTarget | None:
    try:
        return resolve_board(catalogue, board, release, None, fingerprint)
    except HardwareError:
        return None


def _locate(finding: Finding, loaded: LoadedSpec) -> Problem:
    """Place a finding at the spec's list of boards, which may stand in one of its bases."""
    origin = loaded.origins.get("target.boards")
    file, line, column = (origin.where if origin and origin.where else f"{loaded.path}:1:1").rsplit(":", 2)
    field = f"target.boards[{finding.path[-1]}]"
    return Problem(file, int(line), int(column), field, finding.message, finding.help)


def _format(lock: LockedDpu) -> str:
    """Write one entry; compile.sh reads the fingerprint's line."""
    rows = {"target": json.dumps(lock.target), "fingerprint": f'"{lock.fingerprint_text}"', "cores": lock.cores}
    if lock.clock_mhz is not None:
        rows["clock_mhz"] = f"{lock.clock_mhz:g}"
    if lock.batch is not None:
        rows["batch"] = lock.batch
    rows["source"] = json.dumps(lock.source)
    return f"  {lock.board}:\n" + "".join(f"    {key}: {value}\n" for key, value in rows.items())


def _read_entry(board: str, entry: Mapping[str, Any]) -> LockedDpu:
    clock = entry.get("clock_mhz")
    return LockedDpu(
        board=board,
        target=entry["target"],
        fingerprint=int(entry["fingerprint"], 16),
        cores=entry["cores"],
        source=entry["source"],
        clock_mhz=None if clock is None else float(clock),
        batch=entry.get("batch"),
    )


@cache
def _read_schema() -> dict[str, Any]:
    schema: dict[str, Any] = yaml.safe_load((find_shipped("spec/schema") / "lock.yaml").read_text(encoding="utf-8"))
    return schema
