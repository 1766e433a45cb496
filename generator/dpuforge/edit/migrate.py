"""Carries a spec to another release or other boards: its new text, what changes for each board, what is left to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpuforge.edit.edit_spec import edit_text, load_text, rename_keys
from dpuforge.errors import UsageError
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.boards.resolve_board import HardwareError, find_release, resolve_board, resolve_choices
from dpuforge.load.load_spec import LoadedSpec, load_project
from dpuforge.load.sections.renames import find_renamed, has_both
from dpuforge.load.text import read_document
from dpuforge.plan.flow_contexts import find_image
from dpuforge.records.hardware import BoardTarget, Catalogue, Release


@dataclass(frozen=True)
class Migration:
    """A spec's new text, checked; rows are (subject, before, after), tasks are what dpuforge cannot do."""

    text: str
    rows: tuple[tuple[str, str, str], ...]
    tasks: tuple[str, ...]
    warnings: tuple[str, ...]


def migrate(path: Path, release: str = "", boards: Sequence[str] = (), catalogue: Catalogue | None = None) -> Migration:
    """Return a spec carried to another release, other boards or both; "" and () mean those that it has.

    Keys that were renamed since it was written get their new names.
    Raises UsageError that names every board that the release does not serve, SpecError where the result has mistakes.
    """
    catalogue = catalogue or shipped_catalogue()
    written = path.read_text(encoding="utf-8")
    renamed, names = _rename(path, written)
    before = load_text(path, renamed, catalogue) if names else load_project(path, catalogue)
    wanted = find_release(catalogue, release or before.project.target.vitis_ai).name
    _refuse_boards(catalogue, before, wanted, boards)
    values: dict[str, Any] = {"target.vitis_ai": wanted}
    if boards:
        listed = {_name_board(item): item for item in before.origins["target.boards"].value}
        values["target.boards"] = [listed.get(name, name) for name in boards]
    changed = {key: value for key, value in values.items() if before.origins[key].value != value}
    text = edit_text(renamed, changed)
    after = load_text(path, text, catalogue)
    keys = tuple(("key", old, new) for old, new in names.items())
    rows = (*keys, *(row for row in _compare(catalogue, before, after) if row[1] != row[2]))
    tasks = tuple(_find_tasks(catalogue, path, before, after))
    return Migration(text, rows, tasks, tuple(str(warning) for warning in after.warnings))


def _rename(path: Path, text: str) -> tuple[str, dict[str, str]]:
    """Return a spec's text with the keys of now, and {old: new} of those that were renamed, its version raised."""
    document = read_document(text.encode(), str(path)).value
    found = [row for row in find_renamed(document) if not has_both(document, row)]
    if not found:
        return text, {}
    names = {row.old: row.new for row in found}
    text = rename_keys(text, names)
    if "spec_version" in document:
        text = edit_text(text, {"spec_version": max(row.version for row in found)})
    return text, names


def _name_board(item: Any) -> str:
    """Return the board of an item of target.boards, which is a name or a mapping."""
    return str(item["board"] if isinstance(item, dict) else item)


def _refuse_boards(catalogue: Catalogue, before: LoadedSpec, release: str, boards: Sequence[str]) -> None:
    """Raise UsageError for the boards that cannot be built for, each with the reason."""
    choices = {it.board: (it.board, it.dpu, it.fingerprint) for it in before.project.target.boards}
    wanted = [choices.get(name, (name, None, None)) for name in boards or choices]
    reasons = []
    for name, dpu, fingerprint in wanted:
        try:
            resolve_board(catalogue, name, release, dpu, fingerprint)
        except HardwareError as error:
            reasons.append(f"  {name}: {error.message}" + (f" ({error.remedy})" if error.remedy else ""))
    if reasons:
        served = [name for name, *_ in wanted if not any(row.startswith(f"  {name}:") for row in reasons)]
        remedy = f"keep those that it serves: {' '.join(f'--board {name}' for name in served)}" if served else ""
        raise UsageError("\n".join([f"Vitis AI {release} does not serve every board:", *reasons]), remedy)


def _compare(catalogue: Catalogue, before: LoadedSpec, after: LoadedSpec) -> Iterator[tuple[str, str, str]]:
    """Yield (subject, before, after) of the release, then of each board."""
    old, new = (catalogue.releases[spec.project.target.vitis_ai] for spec in (before, after))
    yield ("release", old.name, new.name)
    for subject, state in _RELEASE_FACTS.items():
        yield (subject, state(old), state(new))
    ones, twos = (
        {target.board: target for target in resolve_choices(catalogue, spec.project)} for spec in (before, after)
    )
    for board in dict.fromkeys([*ones, *twos]):
        one, two = ones.get(board), twos.get(board)
        if one is None or two is None:
            yield (board, _show_target(one), _show_target(two))
            continue
        for subject, read in _BOARD_FACTS.items():
            yield (f"{board} {subject}", read(one, old), read(two, new))


def _show_target(target: BoardTarget | None) -> str:
    return "-" if target is None else f"{target.target or 'a DPU'} {target.fingerprint_text}".strip()


_RELEASE_FACTS: dict[str, Callable[[Release], str]] = {
    "container image": find_image,
    "torch": lambda it: it.environment.torch if it.environment else "not known",
    "Python": lambda it: it.environment.python if it.environment else "not known",
    "quantizer takes a config file": lambda it: "yes" if it.quant_config_file else "no",
    "Inspector": lambda it: "yes" if it.inspector else "no",
}
_BOARD_FACTS: dict[str, Callable[[BoardTarget, Release], str]] = {
    "DPU": lambda it, release: it.target or "not named",
    "fingerprint": lambda it, release: it.fingerprint_text or "not known",
    "IP version": lambda it, release: release.ip.get(it.family, "not known"),
    "arch.json": lambda it, release: str(dict(it.arch_json)),
    "clock (MHz)": lambda it, release: "not known" if it.clock_mhz is None else f"{it.clock_mhz:g}",
    "cores": lambda it, release: str(it.cores),
    "SD image": lambda it, release: release.sd_images.get(it.board, "none is known"),
}


def _find_tasks(catalogue: Catalogue, path: Path, before: LoadedSpec, after: LoadedSpec) -> Iterator[str]:
    """Yield what a person has to do before the boards run what the new spec builds."""
    old, new = (catalogue.releases[spec.project.target.vitis_ai] for spec in (before, after))
    ones = {target.board: target for target in resolve_choices(catalogue, before.project)}
    for target in resolve_choices(catalogue, after.project):
        yield from _find_board_tasks(path, ones.get(target.board), target, old, new)
    if find_image(old) != find_image(new):
        yield f"pull {find_image(new)}; what was calibrated in the other image is calibrated again"
    yield f"dpuforge generate {path}, then review the diff"


def _find_board_tasks(
    path: Path, one: BoardTarget | None, two: BoardTarget, old: Release, new: Release
) -> Iterator[str]:
    image, before = new.sd_images.get(two.board, ""), old.sd_images.get(two.board, "")
    if image and image == before and old.name != new.name:
        yield f"{two.board}: Vitis AI {new.name} has no image of its own for it; it stays on {image}"
    elif one is not None and image and image != before:
        yield f"{two.board}: write {image} to its SD card"
    elif one is not None and one.fingerprint != two.fingerprint:
        yield f"{two.board}: load the DPU of Vitis AI {new.name} (no ready image of it is known)"
    if one is None or one.fingerprint != two.fingerprint:
        yield f"{two.board}: run `dpuforge board-lock {path}` with what the board reports"
