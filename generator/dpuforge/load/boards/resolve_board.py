"""Resolves (board, release, dpu, fingerprint) of a spec against the catalogue into what arch.json must say."""

from __future__ import annotations

import re
from dataclasses import replace

from dpuforge.errors import UserError
from dpuforge.load.findings import find_close
from dpuforge.records.fingerprint import Fingerprint
from dpuforge.records.hardware import Board, BoardTarget, Catalogue, Configuration, Dpu, Release
from dpuforge.records.project import Project

# Source: Vitis AI documentation 6.2 (UG1870), which describes the NPU IP and the Quark quantizer.
_LONGEST_NAME = 1000
_SUCCESSOR = (
    "releases after 5.0 are for AMD's NPU IP, with the Quark quantizer and a compiler of their own, which dpuforge "
    'does not drive; a board that carries a DPU is built for with "3.0" or "3.5"'
)


class HardwareError(UserError):
    """A board, release, DPU or fingerprint that the catalogue does not know, or that do not fit together."""


def resolve_board(
    catalogue: Catalogue, board: str, release: str, dpu: str | None = None, fingerprint: str | None = None
) -> BoardTarget:
    """Return what board carries under release: the default DPU, or the one that dpu or fingerprint names.

    dpu is a target name (DPUCZDX8G_ISA1_B3136), its size (B3136) or the name of one of the board's configurations;
    fingerprint is "0x...". Raise HardwareError, whose message names what does exist, where they do not fit.
    """
    found_release = find_release(catalogue, release)
    found_board, configuration = find_board(catalogue, board)
    if fingerprint is not None:
        return _resolve_fingerprint(catalogue, found_board, found_release, dpu, fingerprint)
    wanted = dpu or configuration
    if wanted is None:
        return _default(catalogue, found_board, found_release)
    return _resolve_dpu(catalogue, found_board, found_release, wanted)


def resolve_choices(catalogue: Catalogue, project: Project) -> tuple[BoardTarget, ...]:
    """Return the DPU that each board of a project stands for, whatever the boards themselves reported."""
    return tuple(
        resolve_board(catalogue, choice.board, project.target.vitis_ai, choice.dpu, choice.fingerprint)
        for choice in project.target.boards
    )


def find_serving(catalogue: Catalogue, board: str) -> tuple[Release, ...]:
    """Return the releases that ship an image or card firmware for a board; none for a board that users build for."""
    found, _ = find_board(catalogue, board)
    return tuple(release for release in catalogue.releases.values() if release.serves(found.name))


def find_release(catalogue: Catalogue, release: str) -> Release:
    """Return the release, or raise HardwareError that lists those a project can be built with."""
    found = catalogue.releases.get(release)
    if found is not None and found.supported:
        return found
    supported = [name for name in catalogue.releases if catalogue.releases[name].supported]
    if found is not None and found.build_with:
        raise HardwareError(
            f"Vitis AI {release} has no compiler of its own (its notes name no change since {found.build_with})",
            f'write "{found.build_with}", or the release whose DPU the board carries (3.0 for Zynq UltraScale+); '
            f"the board may run {found.runtime}",
        )
    raise HardwareError(
        f"there is no usable Vitis AI release {release!r}{_close(release, supported)}",
        _SUCCESSOR if _is_newer(release, catalogue) else f"choose one of {', '.join(supported)}",
    )


def _is_newer(release: str, catalogue: Catalogue) -> bool:
    """Tell a release after all that are known from a slip of the pen."""
    known = max(tuple(map(int, name.split("."))) for name in catalogue.releases)
    return re.fullmatch(r"\d+(\.\d+)+", release) is not None and tuple(map(int, release.split("."))) > known


def find_board(catalogue: Catalogue, board: str) -> tuple[Board, str | None]:
    """Return the board, and the configuration where board is the name of one (U50LV10E), else None.

    Raise HardwareError with the nearest name and the list of boards where there is neither.
    """
    if board in catalogue.boards:
        return catalogue.boards[board], None
    for candidate in catalogue.boards.values():
        if any(_same(board, item.name) for item in candidate.configurations):
            return candidate, board
    names = list(catalogue.boards)
    raise HardwareError(
        f"there is no board {board!r}{_close(board, names)}",
        f"known boards: {', '.join(names)}; any other Zynq UltraScale+: CUSTOM_ZYNQMP with dpu or fingerprint",
    )


def _default(catalogue: Catalogue, board: Board, release: Release) -> BoardTarget:
    usable = _configurations(board, release)
    # A board with a released image has a default only where that image exists: an overlay of some
    # other project (Kria apps, DPU-PYNQ) has to be asked for by name.
    released = any(item.prebuilt for item in board.configurations)
    found = next((item for item in usable if item.prebuilt or not released), None)
    if found is not None:
        return _from_configuration(catalogue, board, release, found)
    fitting = ", ".join(_fitting_releases(catalogue, board)) or "none"
    named = ", ".join(repr(item.name) for item in usable)
    remedy = f"releases with a DPU for {board.name}: {fitting}"
    if named:
        remedy += f"; under {release.name} name one of its configurations as dpu: {named}"
    elif board.custom_families:
        remedy += "; or give the DPU's size as dpu (B512 to B4096) or its fingerprint"
    raise HardwareError(f"Vitis AI {release.name} has no default DPU for board {board.name}", remedy)


def _resolve_dpu(catalogue: Catalogue, board: Board, release: Release, wanted: str) -> BoardTarget:
    for item in _configurations(board, release):
        if wanted == item.target or _same(wanted, item.name):
            return _from_configuration(catalogue, board, release, item)
    targets = _registered(catalogue, board, release)
    matches = [name for name in targets if name == wanted] or _of_size(targets, wanted)
    if len(matches) == 1:
        return _from_target(catalogue, board, release, catalogue.dpus[matches[0]])
    choices = [item.name for item in _configurations(board, release)] + targets
    if wanted in catalogue.dpus:
        raise HardwareError(
            f"Vitis AI {release.name} does not know {wanted} on board {board.name}",
            f"releases that know it: {', '.join(catalogue.dpus[wanted].releases)}; DPUs here: {', '.join(choices)}",
        )
    what = f"{wanted!r} fits several DPUs" if matches else f"there is no DPU {wanted!r}{_close(wanted, choices)}"
    raise HardwareError(
        f"{what} for board {board.name} under Vitis AI {release.name}",
        f"choose one of {', '.join(dict.fromkeys(matches or choices)) or 'no DPU: another release'}",
    )


def _resolve_fingerprint(
    catalogue: Catalogue, board: Board, release: Release, dpu: str | None, text: str
) -> BoardTarget:
    try:
        fingerprint = Fingerprint.parse(text)
    except ValueError as error:
        raise HardwareError(f"fingerprint {text!r}: {error}", "read it on the board with `xdputil query`") from None
    for item in _configurations(board, release):
        if item.fingerprint == fingerprint.value:
            chosen = _from_configuration(catalogue, board, release, item)
            break
    else:
        chosen = _from_fingerprint(catalogue, board, release, fingerprint)
    _refuse_other_dpu(dpu, fingerprint, chosen)
    return replace(chosen, arch_json={"fingerprint": str(fingerprint)})


def _from_fingerprint(catalogue: Catalogue, board: Board, release: Release, fingerprint: Fingerprint) -> BoardTarget:
    families = board.custom_families or tuple({item.family for item in board.configurations})
    if fingerprint.family not in families:
        raise HardwareError(
            f"fingerprint {fingerprint} is a {fingerprint.family or 'DPU of unknown type'}, got board {board.name}",
            f"{board.name} carries {', '.join(families)}",
        )
    for name in _registered(catalogue, board, release):
        revision = catalogue.dpus[name].revision(release.target_factory)
        if revision is not None and revision.fingerprint == fingerprint.value:
            return _from_target(catalogue, board, release, catalogue.dpus[name])
    if fingerprint.isa not in release.synthesised.get(fingerprint.family, ()) or not fingerprint.architecture:
        raise HardwareError(
            f"Vitis AI {release.name} accepts no {fingerprint.family} of ISA {fingerprint.isa}, got {fingerprint}",
            _releases_for(catalogue, fingerprint),
        )
    return BoardTarget(
        board=board.name,
        release=release.name,
        target=fingerprint.target_name,
        family=fingerprint.family,
        fingerprint=fingerprint.value,
        arch_json={"fingerprint": str(fingerprint)},
        configuration="fingerprint",
        registered=False,
        status="not a registered target: the compiler makes it from the fingerprint",
        source="decoded from the fingerprint",
        peak_ops_per_cycle=fingerprint.peak_ops_per_cycle,
        batch=_batch(fingerprint),
    )


def _from_configuration(catalogue: Catalogue, board: Board, release: Release, item: Configuration) -> BoardTarget:
    dpu = _target_of(catalogue, release, item)
    name = item.target or (dpu.target if dpu else "")
    if not name and item.fingerprint is not None:
        name = Fingerprint.decode(item.fingerprint).target_name
    return BoardTarget(
        board=board.name,
        release=release.name,
        target=name,
        family=item.family,
        fingerprint=item.fingerprint,
        arch_json=dict(item.arch_json),
        configuration=item.name,
        registered=dpu is not None,
        status=item.status,
        source=item.source,
        peak_ops_per_cycle=item.peak_ops_per_cycle,
        clock_mhz=item.clock_mhz,
        cores=item.cores or 1,
        batch=item.batch,
        arch_json_path=item.arch_json_path,
        note=item.note,
    )


def _from_target(catalogue: Catalogue, board: Board, release: Release, dpu: Dpu) -> BoardTarget:
    revision = dpu.revision(release.target_factory)
    assert revision is not None
    alike = next((item for item in _configurations(board, release) if item.clock_mhz), None)
    return BoardTarget(
        board=board.name,
        release=release.name,
        target=dpu.target,
        family=dpu.family,
        fingerprint=revision.fingerprint,
        arch_json={"fingerprint": f"{revision.fingerprint:#x}"},
        configuration="custom",
        registered=True,
        status="a registered target; that the board carries it is the user's statement",
        source=revision.source,
        peak_ops_per_cycle=dpu.peak_ops_per_cycle * dpu.batch,
        clock_mhz=alike.clock_mhz if alike else None,
        batch=dpu.batch,
        note=f"clock assumed as in configuration {alike.name!r}" if alike else "clock not known",
    )


def _target_of(catalogue: Catalogue, release: Release, item: Configuration) -> Dpu | None:
    if item.target:
        return catalogue.dpus.get(item.target)
    prefix = "" if item.fingerprint is None else _prefix(Fingerprint.decode(item.fingerprint))
    for name in catalogue.dpus if prefix else ():
        revision = catalogue.dpus[name].revision(release.target_factory) if name.startswith(prefix) else None
        if revision is not None and revision.fingerprint == item.fingerprint:
            return catalogue.dpus[name]
    return None


def _refuse_other_dpu(dpu: str | None, fingerprint: Fingerprint, chosen: BoardTarget) -> None:
    if dpu is None or _same(dpu, chosen.configuration) or dpu == chosen.target:
        return
    if dpu == fingerprint.architecture or dpu.startswith(_prefix(fingerprint)):
        return
    raise HardwareError(
        f"fingerprint {fingerprint} is a {_prefix(fingerprint)}, got dpu {dpu!r}",
        "give one of the two, or make them agree",
    )


def _configurations(board: Board, release: Release) -> list[Configuration]:
    names = {release.name, release.configurations_of}
    return [item for item in board.configurations if item.release in names and item.usable]


def _fitting_releases(catalogue: Catalogue, board: Board) -> list[str]:
    releases = [catalogue.releases[name] for name in catalogue.releases]
    released = any(item.prebuilt for item in board.configurations)
    return [
        release.name
        for release in releases
        if release.supported and any(item.prebuilt or not released for item in _configurations(board, release))
    ]


def _registered(catalogue: Catalogue, board: Board, release: Release) -> list[str]:
    """Return the targets of the release that the board may carry: custom ones, or those of its family."""
    families = board.custom_families or tuple({item.family for item in _configurations(board, release)})
    names = (name for name in catalogue.dpus if name.startswith(families)) if families else iter(())
    return [name for name in names if catalogue.dpus[name].revision(release.target_factory)]


def _of_size(targets: list[str], size: str) -> list[str]:
    """Return the targets of that size; where ISA0 has several variants, the one in the released images (_MAX_BG2)."""
    same = [name for name in targets if size in name.split("_")]
    return [name for name in same if name.endswith("_MAX_BG2")] or same


def _releases_for(catalogue: Catalogue, fingerprint: Fingerprint) -> str:
    fitting = [
        name
        for name in catalogue.releases
        if fingerprint.isa in catalogue.releases[name].synthesised.get(fingerprint.family, ())
    ]
    if not fitting:
        return f"no release accepts an unregistered {fingerprint.family or 'DPU'}; compare with `xdputil query`"
    return f"releases that accept it: {', '.join(fitting)}"


def _prefix(fingerprint: Fingerprint) -> str:
    return f"{fingerprint.family}_ISA{fingerprint.isa}_{fingerprint.architecture}"


def _batch(fingerprint: Fingerprint) -> int:
    return int(fingerprint.architecture.rpartition("B")[2]) if fingerprint.family != "DPUCZDX8G" else 1


def _same(left: str, right: str) -> bool:
    longest = max(len(left), len(right))
    return longest < _LONGEST_NAME and left.replace(" ", "").lower() == right.replace(" ", "").lower()


def _close(wanted: str, names: list[str]) -> str:
    lowered = {name.lower(): name for name in names}
    near = find_close(wanted.lower(), list(lowered))
    return f" (did you mean {lowered[near[0]]}?)" if near else ""
