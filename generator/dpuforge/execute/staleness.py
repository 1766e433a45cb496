"""The one rule of staleness: by content, never by time stamps, whoever made a result and wherever.

A result holds what decided it (records/result.py); here that is held against what would decide it now, and every
difference is named: which file or setting, from what to what.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from dpuforge.execute.data_listing import find_data_changes, read_seen
from dpuforge.execute.results import hash_file, read_result
from dpuforge.execute.toolchain import ToolchainPlace, hash_checks
from dpuforge.records.files import hash_text
from dpuforge.records.plan import PlannedStage
from dpuforge.records.result import StageResult, Status

NEVER_RUN = "never run"
SHOWN = 3  # differences named in a reason; the others are counted


@dataclass(frozen=True)
class Present:
    """What a stage would be made of now: the project, the texts of its scripts, and where they would run.

    scripts maps the generated files to their texts as they are or would be; earlier holds the texts that are about to
    be replaced. place is None where the toolchain is not on this machine or is not to be judged.
    """

    root: Path
    build: Path
    scripts: Mapping[str, str]
    place: ToolchainPlace | None = None
    earlier: Mapping[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def hash(self, name: str) -> str:
        """Return the digest of a file below the root, "" where there is none; each is read once."""
        if name not in self.digests:
            path = self.root / name
            self.digests[name] = hash_file(path) if path.is_file() else ""
        return self.digests[name]


def explain_staleness(stage: PlannedStage, present: Present) -> str:
    """Return why a stage must run, or "" where its result still stands."""
    result = read_result(present.build / stage.key)
    if result is None:
        return NEVER_RUN
    # A script that skipped with its reason recorded its scripts and stands; a missing tool is looked for again.
    if result.status is Status.FAILED or (result.status is Status.SKIPPED and not result.says_why):
        return f"last run {result.status.value}"
    return explain_changes(stage, result, present)


def explain_changes(stage: PlannedStage, result: StageResult, present: Present) -> str:
    """Return in what a result, good or bad, differs from one that would be made now, or "" where in nothing."""
    found = find_changes(stage, result, present)
    named = list(islice(found, SHOWN))
    more = sum(1 for _ in found)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def find_changes(stage: PlannedStage, result: StageResult, present: Present) -> Iterator[str]:
    """Yield every difference between what decided a result and what would now, and what became of its outputs.

    Scripts, images and toolchain did not make an imported calibration and do not decide it.
    """
    if is_imported(result):
        yield from _compare_files(result.inputs, (), present, "changed, which the import was made for")
        yield from _compare_files(result.outputs, (), present, "of the import was changed")
        return
    if not result.says_why:
        yield "its result does not say what decided it: made by an older dpuforge, or by hand"
        return
    yield from chain(
        _compare_scripts(stage, result.scripts, present),
        _compare_settings(result.settings, stage.settings),
        _compare_data(stage, result, present),
        _compare_files(result.inputs, stage.folders, present, "changed"),
        _compare_toolchain(stage, result.toolchain, present.place),
        _compare_files(_list_left(result), (), present, "was changed"),
    )


def _list_left(result: StageResult) -> Mapping[str, str]:
    """Return what a stage made that has to be there: what a failed one made was set aside."""
    return {} if result.status is Status.FAILED else result.outputs


def _compare_scripts(stage: PlannedStage, recorded: Mapping[str, str], present: Present) -> Iterator[str]:
    for name in stage.scripts:
        text = present.scripts.get(name)
        digest = "" if text is None else hash_text(text)
        if recorded.get(name, "") != digest:
            yield _describe_script(name, recorded.get(name, ""), text, present.earlier.get(name, ""))


def _describe_script(name: str, recorded: str, text: str | None, earlier: str) -> str:
    """Say what changed in a script: the line, where the text that was run is still known, else the digests."""
    if text is None:
        return f"{name} is missing"
    if not recorded:
        return f"{name} is new"
    if hash_text(earlier) != recorded:
        return f"{name} changed ({recorded[:8]} -> {hash_text(text)[:8]})"
    lines = list(difflib.ndiff(earlier.splitlines(), text.splitlines()))
    gone, come = ([line[2:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    if len(gone) == len(come) == 1:
        return f"{name} changed: {gone[0]} -> {come[0]}"
    return f"{name} changed ({len(gone)} lines -> {len(come)}, the first: {(come or gone)[0]})"


def _compare_settings(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*recorded, *wanted)):
        before, now = recorded.get(name, "nothing"), wanted.get(name, "nothing")
        if before != now:
            yield f"{name} changed: {before} -> {now}"


def _compare_data(stage: PlannedStage, result: StageResult, present: Present) -> Iterator[str]:
    if stage.folders and result.status is not Status.FAILED:
        yield from find_data_changes(read_seen(present.build / stage.key), stage.folders, present.root)


def _compare_files(recorded: Mapping[str, str], folders: tuple[str, ...], present: Present, word: str) -> Iterator[str]:
    for name, before in recorded.items():
        now = before if name in folders else present.hash(name)
        if not now:
            yield f"{name} is missing"
        elif now != before:
            yield f"{name} {word} ({before[:8]} -> {now[:8]})"


def find_version_changes(stage: PlannedStage, result: StageResult, place: ToolchainPlace) -> Iterator[str]:
    """Yield in what the toolchain that made a result differs from the one here."""
    yield from _compare_toolchain(stage, result.toolchain, place)


def _compare_toolchain(stage: PlannedStage, recorded: Mapping[str, Any], place: ToolchainPlace | None) -> Iterator[str]:
    if stage.runner == "dpuforge":
        place = ToolchainPlace("dpuforge", "", {}, {"dpuforge": hash_checks()})
    if place is None:
        return
    place = place.of(stage.name)
    before, now = str(recorded.get("name", "")), place.name
    if stage.uses_toolchain and "pytorch_nndct" in stage.packages and _is_emulator(before) != _is_emulator(now):
        yield f"the toolchain changed: {before} -> {now}"
        return
    found = recorded.get("versions")
    versions = found if isinstance(found, Mapping) else {}
    # Of a result without an image only AMD's quantizer, loaded, shows that it was made in one.
    if stage.packages and "image" in place.versions and not {"image", "pytorch_nndct"} & versions.keys():
        yield f"the place changed: no image -> {place.versions['image']}"
        return
    for name in (*stage.packages, "image"):  # a container's image decides whatever ran in one
        if name in versions and name in place.versions and not _is_same(str(versions[name]), place.versions[name]):
            shown = "dpuforge's own code" if name == "dpuforge" else name
            yield f"{shown} changed: {versions[name]} -> {place.versions[name]}"


def _is_emulator(name: str) -> bool:
    """Say whose quantizer a toolchain has: native and container are both AMD's."""
    return name == "emulator"


def _is_same(one: str, two: str) -> bool:
    """Compare versions; what one side does not know ("unknown", or a local tag as in 2.1+cpu) does not count."""
    if "unknown" in (one, two):
        return True
    if ("+" in one) != ("+" in two):
        return one.partition("+")[0] == two.partition("+")[0]
    return one == two


def is_imported(result: StageResult) -> bool:
    """Say whether a result was made elsewhere and taken over (`dpuforge import-calibration`)."""
    return result.status is Status.DONE and "imported" in result.metrics
