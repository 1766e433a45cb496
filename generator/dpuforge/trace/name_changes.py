"""What changed between two states of a project, in words: settings, boards, release; the files that each touches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dpuforge.records.files import Cause, FileChange
from dpuforge.records.job import Job
from dpuforge.records.origin import Origin
from dpuforge.records.plan import Plan
from dpuforge.trace.explain_line import find_keys, find_own_files
from dpuforge.trace.template_keys import find_included

_MOST = 60  # characters of a value
_RELEASE, _BOARDS, _TEMPLATES = "target.vitis_ai", "target.boards", "own.templates"


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

    A changed template or hook of the project's own stands among the settings, under its path.
    before is that manifest; files are the changes that generate would make. A manifest without settings was written by
    an earlier dpuforge: then no setting is known to have changed.
    """
    touched = [change for change in files if not change.cause.is_persons and change.path != "manifest.json"]
    keys = {file.path: find_keys(job, file) for file in plan.files if file.path in {it.path for it in touched}}
    after = {"settings": plan.settings, "boards": plan.boards, "image": plan.image}
    found = list(name_settings(before, after, job.origins))
    named = {change.key: tuple(path for path, read in keys.items() if change.key in read) for change in found}
    if _TEMPLATES in named:
        named[_TEMPLATES] = _find_replaced(plan, before.get("settings", {}), tuple(keys))
    own = list(_name_own_files(job, plan, before.get("own", {}), tuple(keys)))
    pruned = tuple(change.path for change in touched if change.path not in keys)
    settings = (
        *(replace(it, files=named[it.key] + _add_pruned(it.key, pruned)) for it in found),
        *own,
    )
    explained = {path for change in settings for path in change.files}
    known = bool(before.get("settings")) or all(change.cause is Cause.NEW for change in files)
    return Changes(settings, tuple(_group_others(files, explained)), known)


def _name_own_files(job: Job, plan: Plan, before: Mapping[str, str], touched: Sequence[str]) -> Iterator[SettingChange]:
    """Yield the project's own templates and hooks that changed, each with the files it touches.

    What is new or gone is a change of the setting that lists it.
    """
    for path, digest in sorted({file.path: file.sha256 for file in job.project.own}.items()):
        if before.get(path, digest) != digest:
            files = [file for file in plan.files if file.path in touched and path in find_own_files(job, file)]
            yield SettingChange(path, "changed", f"{path}:1", tuple(file.path for file in files))


def _find_replaced(plan: Plan, settings: Mapping[str, Any], touched: Sequence[str]) -> tuple[str, ...]:
    """Return the touched files that are made with a template that the project replaces, or no longer does."""
    replaced = {*(settings.get(_TEMPLATES) or {}), *plan.settings.get(_TEMPLATES, {})}
    files = [file for file in plan.files if file.path in touched and file.template]
    return tuple(file.path for file in files if replaced & set(find_included(file.template)))


def _add_pruned(key: str, pruned: tuple[str, ...]) -> tuple[str, ...]:
    return pruned if key in (_BOARDS, "target.net_name") else ()


def _group_others(files: Sequence[FileChange], explained: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    left = [change for change in files if change.path not in explained and change.path != "manifest.json"]
    for cause in dict.fromkeys(change.cause for change in left):
        yield cause.value or Cause.DPUFORGE.value, tuple(it.path for it in left if it.cause is cause)


def name_settings(
    before: Mapping[str, Any], after: Mapping[str, Any], origins: Mapping[str, Origin] = MappingProxyType({})
) -> Iterator[SettingChange]:
    """Yield every effective value that differs between two states; each has settings, boards and image.

    Nothing is yielded where the earlier state lists no settings; origins say where the later values were written.
    """
    earlier, settings = before.get("settings", {}), after["settings"]
    if not earlier:
        return
    for key in [*settings, *(key for key in earlier if key not in settings)]:
        old, new = earlier.get(key), settings.get(key)
        if old != new:
            where = origins[key].where if key in origins else ""
            yield SettingChange(key, _say(key, old, new, before, after), where)


def _say(key: str, old: Any, new: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if key == _RELEASE:
        return f"release {old} -> {new}{_say_hardware(before, after)}"
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


def _say_hardware(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Say what a release brings along: the image, and how many boards get another DPU."""
    words = ["image"] if before.get("image") != after.get("image") else []
    old = before.get("boards", {})
    others = [name for name, facts in after.get("boards", {}).items() if name in old and old[name] != facts]
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
