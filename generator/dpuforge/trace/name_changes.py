"""What changed between two states of a project, in words: settings, boards, release; the files that each touches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpuforge.records.files import Cause, FileChange
from dpuforge.records.job import Job
from dpuforge.records.origin import Origin
from dpuforge.records.plan import Plan
from dpuforge.trace.explain_line import find_keys

_MOST = 60  # characters of a value
_RELEASE, _BOARDS = "target.vitis_ai", "target.boards"


@dataclass(frozen=True)
class SettingChange:
    """One change of the spec's effective values: words say it, where is the place of the new value, "" without one."""

    key: str
    words: str
    where: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Changes:
    """All that differs; others are the causes of changed files that no setting explains, with those files."""

    settings: tuple[SettingChange, ...]
    others: tuple[tuple[str, tuple[str, ...]], ...]
    settings_known: bool = True


def name_changes(job: Job, plan: Plan, before: Mapping[str, Any], files: Sequence[FileChange]) -> Changes:
    """Return what changed since a manifest was written, and the files that each change touches.

    before is that manifest; files are the changes that generate would make. A manifest without settings was written by
    an earlier dpuforge: then no setting is known to have changed.
    """
    touched = [change for change in files if not change.cause.is_persons and change.path != "manifest.json"]
    keys = {file.path: find_keys(job, file) for file in plan.files if file.path in {it.path for it in touched}}
    found = list(_name_settings(before.get("settings", {}), plan, before, job.origins))
    named = {change.key: tuple(path for path, read in keys.items() if change.key in read) for change in found}
    pruned = tuple(change.path for change in touched if change.path not in keys)
    settings = tuple(
        SettingChange(change.key, change.words, change.where, named[change.key] + _add_pruned(change.key, pruned))
        for change in found
    )
    explained = {path for change in settings for path in change.files}
    return Changes(settings, tuple(_group_others(files, explained)), bool(before.get("settings")))


def name_stages(job: Job, plan: Plan, files: Sequence[FileChange]) -> tuple[list[str], float | None]:
    """Return the stages that read a changed file or follow one that does, and their minutes the last time they ran."""
    from dpuforge.running import read_results

    changed = {change.path for change in files}
    stale: list[str] = []
    for stage in plan.stages:
        if changed & set(stage.scripts) or set(stage.needs) & set(stale):
            stale.append(stage.key)
    results = read_results(job, plan)
    seconds = [results[key].seconds for key in stale if key in results]
    return stale, round(sum(seconds) / 60, 2) if seconds else None


def _add_pruned(key: str, pruned: tuple[str, ...]) -> tuple[str, ...]:
    return pruned if key in (_BOARDS, "target.net_name") else ()


def _group_others(files: Sequence[FileChange], explained: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    left = [change for change in files if change.path not in explained and change.path != "manifest.json"]
    for cause in dict.fromkeys(change.cause for change in left):
        yield cause.value or Cause.DPUFORGE.value, tuple(it.path for it in left if it.cause is cause)


def _name_settings(
    settings: Mapping[str, Any], plan: Plan, before: Mapping[str, Any], origins: Mapping[str, Origin]
) -> Iterator[SettingChange]:
    if not settings:
        return
    for key in [*plan.settings, *(key for key in settings if key not in plan.settings)]:
        old, new = settings.get(key), plan.settings.get(key)
        if old != new:
            where = origins[key].where if key in origins else ""
            yield SettingChange(key, _say(key, old, new, before, plan), where)


def _say(key: str, old: Any, new: Any, before: Mapping[str, Any], plan: Plan) -> str:
    if key == _RELEASE:
        return f"release {old} -> {new}{_say_hardware(before, plan)}"
    if isinstance(old, list) and isinstance(new, list):
        return _say_items(key, old, new)
    return f"{_show(old)} -> {_show(new)}"


def _say_items(key: str, old: list[Any], new: list[Any]) -> str:
    """Say what a list gained and lost; a change of its order too."""
    noun = "board " if key == _BOARDS else ""
    gone, come = [item for item in old if item not in new], [item for item in new if item not in old]
    words = [f"{noun}{_show(item)} {what}" for what, items in (("removed", gone), ("added", come)) for item in items]
    if len(words) > 4:
        words = [f"{len(gone)} removed, {len(come)} added of {len(old)}"]
    return ", ".join(words) if words else f"order: {_show(old)} -> {_show(new)}"


def _say_hardware(before: Mapping[str, Any], plan: Plan) -> str:
    """Say what a release brings along: the image, and how many boards get another DPU."""
    words = ["image"] if before.get("image") != plan.image else []
    old = before.get("boards", {})
    others = [name for name, facts in plan.boards.items() if name in old and old[name] != facts]
    words += [f"fingerprint of {', '.join(others)}"] if others else []
    return f": another {', '.join(words)}" if words else ""


def _show(value: Any) -> str:
    """Return a value as short text, as YAML would have it."""
    names = {None: "not set", True: "true", False: "false"}
    text = names[value] if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, list):
        text = "[" + ", ".join(_show(item) for item in value) + "]"
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {_show(item)}" for key, item in value.items()) + "}"
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."
