"""What a run would do, said before it does: the files that would change, the stages that are stale, their minutes.

It judges the files that would be generated, needs no torch, and can be saved: an approved plan is what runs, or the
run is refused with what has changed since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from dpuforge.errors import DriftError, FormatError, UsageError
from dpuforge.execute.data_listing import hash_listing
from dpuforge.execute.results import hash_file, write_json
from dpuforge.execute.run_stages import Selection, select_stages
from dpuforge.execute.staleness import NEVER_RUN, Present, explain_staleness
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.foreseeing import foresee_minutes
from dpuforge.records.files import FileChange, RenderedFile, hash_text
from dpuforge.records.job import Job
from dpuforge.records.plan import Plan, PlannedStage
from dpuforge.render.folder import compare_folder
from dpuforge.running import Request, find_place_if_any

_VERSION = 1


class State(str, Enum):
    """What a run would do with a stage."""

    FRESH = "fresh"
    STALE = "stale"
    DEPENDS = "depends"  # an earlier stage runs: this one follows where that yields something else
    UNAVAILABLE = "unavailable"  # its tool is not on this machine

    __str__ = str.__str__


@dataclass(frozen=True)
class StageRow:
    """One stage of a plan: why it would run ("" where it would not), or what it lacks.

    minutes where they are known; where it runs, in words.
    """

    stage: str
    state: State
    why: str = ""
    lacks: str = ""
    minutes: float | None = None
    minutes_from: str = ""
    where: str = ""

    @property
    def pending(self) -> bool:
        """Whether a run would, or might, run it."""
        return self.state in (State.STALE, State.DEPENDS)


@dataclass(frozen=True)
class Foresight:
    """All that a run would do; note says what this machine lacks for it."""

    rows: tuple[StageRow, ...]
    note: str = ""


def foresee(
    job: Job, plan: Plan, files: Sequence[RenderedFile], changes: Sequence[FileChange], request: Request
) -> Foresight:
    """Return what a run of these files would do with each stage; nothing is touched."""
    place = find_place_if_any(job, request.toolchain)
    texts = {file.path: file.text for file in files}
    earlier = {change.path: change.before for change in changes}
    present = Present(job.root, job.build, texts, place, earlier)
    rows: dict[str, StageRow] = {}
    for stage, forced in _choose(job, plan, request):
        where = place.of(stage.name).where if place is not None else ""
        rows[stage.key] = replace(_foresee_stage(job, stage, present, rows, forced), where=where)
    name = request.toolchain or job.project.run.toolchain.value
    note = "" if place else f"toolchain {name} is not complete on this machine: `dpuforge doctor` says what is missing"
    return Foresight(tuple(rows.values()), note)


@dataclass(frozen=True)
class StageNews:
    """What a change means for the stages, by their keys; minutes are those of the stages to run again.

    judged_by is "results": again, never_run and unavailable say what `plan` says of them, or "scripts": again holds
    those that read a script that differs, and those after them, whatever was run.
    """

    again: tuple[str, ...]
    never_run: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()
    minutes: float | None = None
    judged_by: str = "results"


def name_stages(
    job: Job, plan: Plan, files: Sequence[RenderedFile], changes: Sequence[FileChange], has_results: bool = True
) -> StageNews:
    """Return the stages that a change makes run again: the one function that `diff --semantic` asks.

    It is `plan`'s judge, `foresee`. Only where the changes are those from a git revision (has_results False), whose
    results are not here, the scripts that differ are all there is to judge by.
    """
    if not has_results:
        changed = {change.path for change in changes}
        reading: list[str] = []
        for stage in plan.stages:
            if changed & set(stage.scripts) or set(stage.needs) & set(reading):
                reading.append(stage.key)
        return StageNews(tuple(reading), judged_by="scripts")
    rows = foresee(job, plan, files, changes, Request()).rows
    never = tuple(row.stage for row in rows if row.why == NEVER_RUN)
    again = [row for row in rows if row.pending and row.stage not in never]
    minutes = [row.minutes for row in again if row.minutes is not None]
    lacking = tuple(row.stage for row in rows if row.state is State.UNAVAILABLE)
    return StageNews(tuple(it.stage for it in again), never, lacking, round(sum(minutes), 2) if minutes else None)


def _choose(job: Job, plan: Plan, request: Request) -> tuple[tuple[PlannedStage, bool], ...]:
    if request.selection.start == "report":
        return ()
    others = job.other_boards(request.boards)
    stages = [stage for stage in plan.stages if not stage.board or stage.board not in others]
    selection = request.selection
    return select_stages(stages, Selection(selection.start, "" if selection.until == "report" else selection.until))


def _foresee_stage(
    job: Job, stage: PlannedStage, present: Present, rows: Mapping[str, StageRow], forced: bool
) -> StageRow:
    why = explain_staleness(stage, present) or ("asked for with --from" if forced else "")
    minutes, source = foresee_minutes(job, stage)
    lacks = _find_lacks(stage, present.place)
    if why and lacks:
        return StageRow(stage.key, State.UNAVAILABLE, "", lacks, minutes, source)
    waits = [name for name in stage.needs if name in rows and rows[name].pending]
    if not why and waits:
        return StageRow(stage.key, State.DEPENDS, f"after {waits[0]}", "", minutes, source)
    return StageRow(stage.key, State.STALE if why else State.FRESH, why, "", minutes, source)


def _find_lacks(stage: PlannedStage, place: ToolchainPlace | None) -> str:
    here = place.of(stage.name) if place is not None else None
    missing = [tool for tool in stage.tools if here is None or here.find_tool(tool) is None]
    return f"{', '.join(missing)} is not on this machine" if missing else ""


def describe_plan(job: Job, plan: Plan, files: Sequence[RenderedFile], rows: Sequence[StageRow]) -> dict[str, Any]:
    """Return what a saved plan binds: every generated file, what each stage would do and why, the user's own files."""
    own = sorted({name for stage in plan.stages for name in stage.files})
    folders = sorted({name for stage in plan.stages for name in stage.folders})
    return {
        "project": job.project.project,
        "spec": job.project.spec.path,
        "files": {file.path: hash_text(file.text) for file in files},
        "stages": {row.stage: f"{row.state}: {row.why or row.lacks}" for row in rows},
        "own_files": {name: hash_file(job.root / name) for name in own if (job.root / name).is_file()},
        "images": {name: hash_listing(job.root / name) for name in folders},
    }


def save_plan(path: Path, request: Request, document: Mapping[str, Any]) -> None:
    """Write a plan, with the request that it answers, for `run --plan`."""
    asked = {"toolchain": request.toolchain, "boards": request.boards, "selection": asdict(request.selection)}
    write_json(path, {"dpuforge_plan": _VERSION, "request": asked, **document})


def hold_to_approval(job: Job, plan: Plan, files: Sequence[RenderedFile], request: Request) -> None:
    """Raise DriftError where a run would do anything else than the plan that was saved says."""
    if request.approved is not None:
        changes = compare_folder(files, job.generated())
        refuse_other(
            request.approved, describe_plan(job, plan, files, foresee(job, plan, files, changes, request).rows)
        )


def read_approval(path: Path, jobs: int) -> Request:
    """Return the request of a saved plan, bound to it; raise UsageError or FormatError for another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("dpuforge_plan") != _VERSION:
            raise KeyError
        asked = found.pop("request")
        selection = Selection(**asked["selection"])
        return Request(str(asked["toolchain"]), tuple(asked["boards"]), selection, jobs, approved=found)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "make it with `dpuforge plan SPEC --out FILE`") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FormatError(f"{path} is no saved plan", "make it with `dpuforge plan SPEC --out FILE`") from None


def refuse_other(approved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DriftError with all that is not as it was when the plan was saved."""
    found = [line for key in now for line in _compare(key, approved.get(key), now[key])]
    if found:
        text = "the plan no longer holds, nothing was run:\n  " + "\n  ".join(found)
        raise DriftError(text, "look at `dpuforge plan` again, and save it anew")


def _compare(key: str, before: Any, now: Any) -> list[str]:
    if before == now:
        return []
    if not isinstance(now, Mapping) or not isinstance(before, Mapping):
        return [f"{key}: {before} -> {now}"]
    names = [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]
    return [f"{key}: {name}: {_show(before.get(name))} -> {_show(now.get(name))}" for name in names]


def _show(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text[:8] if len(text) == 64 and " " not in text else text
