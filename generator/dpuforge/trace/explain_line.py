"""Explain one line of a generated file: the template's line, the keys of the spec it prints and depends on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpuforge.errors import UsageError
from dpuforge.plan.artifacts import find_artifact
from dpuforge.quant_config.resolve import OVERALL, TENSOR
from dpuforge.records.job import Job
from dpuforge.records.origin import Origin
from dpuforge.records.own import OwnFile
from dpuforge.records.plan import Plan, PlannedFile
from dpuforge.render.marked_lines import TemplateLine, trace_lines
from dpuforge.render.own_templates import SHIPPED
from dpuforge.render.render import MANIFEST
from dpuforge.trace.recording import make_recorder
from dpuforge.trace.template_keys import find_included, read_template

_HARDWARE = ("target.boards", "target.vitis_ai")
# Where a record's name is not the key's.
_RENAMED = {"quantization.calibration.from_split": "quantization.calibration.from"}
_ROOTS = {"project": "", "command": "project", "hooks": "own.append"}


@dataclass(frozen=True)
class Key:
    """A key of the spec that a line has to do with; how is "prints", "derived from" or "depends on"."""

    how: str
    key: str
    origin: Origin


@dataclass(frozen=True)
class LineOrigin:
    """Where one line of generated/<project>/ comes from; text is the line as dpuforge makes it, line counts from 1.

    places are the lines of templates, path:line, of dpuforge's (below templates/) or of the project's own.
    """

    path: str
    line: int
    text: str
    templates: tuple[TemplateLine, ...]
    keys: tuple[Key, ...]
    places: tuple[str, ...] = ()


def explain_line(job: Job, plan: Plan, path: str, line: int) -> LineOrigin:
    """Return where a line of a generated file comes from.

    path is relative to generated/<project>/. Raises UsageError where the plan has no such file, or the file no such
    line.
    """
    planned = find_planned(plan, path)
    file, lines = trace_lines(plan, planned)
    if not 1 <= line <= len(lines):
        raise UsageError(f"{path} has {len(lines)} lines, not {line}")
    found = list(_explain_template(job, planned, lines[line - 1]))
    if planned.document is not None:
        found = [("prints", key) for key in _explain_document(path, file.text, line)]
    shown = tuple(dict.fromkeys(_show_place(place, job.project.own) for place in lines[line - 1]))
    text = file.text.splitlines()[line - 1]
    return LineOrigin(path, line, text, lines[line - 1], _locate(job.origins, found), shown)


def _show_place(place: TemplateLine, own: Sequence[OwnFile]) -> str:
    """Return path:line of a template's line, as a person finds it."""
    paths = {file.name: file.path for file in own}
    return f"{paths.get(place.template, f'templates/{place.template.removeprefix(SHIPPED)}')}:{place.line}"


def find_planned(plan: Plan, path: str) -> PlannedFile:
    """Return the planned file of that path; raise UsageError where there is none."""
    planned = next((file for file in plan.files if file.path == path), None)
    if planned is None:
        what = "lists all files, each with its digest" if path == MANIFEST else "is no file that the spec leads to"
        raise UsageError(f"{path} {what}", f"the spec leads to {', '.join(file.path for file in plan.files[:30])}")
    return planned


def explain_traceback(job: Job, plan: Plan, log: str) -> Iterator[str]:
    """Yield one line for each line of a generated script that the last traceback of a log names and a key decides."""
    last = log[log.rfind("Traceback (most recent call last)") :] if "Traceback (most" in log else ""
    folder = job.generated()
    for path, line in dict.fromkeys(re.findall(r'File "([^"]+)", line ([0-9]+)', last)):
        if not Path(path).is_relative_to(folder):
            continue
        inside = Path(path).relative_to(folder).as_posix()
        try:
            found = explain_line(job, plan, inside, int(line))
        except UsageError:  # edited by hand, or of another spec
            continue
        for key in found.keys:
            where = key.origin.where or "a default"
            yield f"{os.path.relpath(path)}:{line} {key.how} {key.key}: {key.origin.value} ({where})"


def find_keys(job: Job, planned: PlannedFile) -> frozenset[str]:
    """Return every key of the spec that a generated file may depend on."""
    if planned.document is not None:
        keys = ("quantization",) if planned.path == "int8_config.json" else _HARDWARE
        return frozenset(key for key in job.origins if key.startswith(keys))
    own = job.project.own
    templates = find_included(planned.template, own)
    names = [
        name
        for template in templates
        for reads in read_template(template, own)
        for name in (*reads.printed, *reads.conditions)
    ]
    resolved = [key for name in names for key, _ in _resolve(job, planned, name)]
    listed = [file.key for file in own if file.name in templates]
    return frozenset(key for name in (*resolved, *listed) for key in _match(job.origins, name))


def find_own_files(job: Job, planned: PlannedFile) -> frozenset[str]:
    """Return the paths of the project's own templates and hooks that a generated file is made with."""
    own = job.project.own
    templates = find_included(planned.template, own) if planned.template else ()
    return frozenset(it.path for it in own if it.name in templates or it.script == planned.path)


def _explain_template(job: Job, planned: PlannedFile, lines: Sequence[TemplateLine]) -> Iterator[tuple[str, str]]:
    """Yield (how, dotted key) for what the template's lines print and depend on."""
    for place in lines:
        yield from _explain_place(job, planned, place)


def _explain_place(job: Job, planned: PlannedFile, place: TemplateLine) -> Iterator[tuple[str, str]]:
    yield from (("depends on", file.key) for file in job.project.own if file.name == place.template)
    for reads in read_template(place.template, job.project.own):
        if not reads.line <= place.line <= reads.last:
            continue
        if place.printed:
            for name in reads.printed:
                yield from (("derived from" if made else "prints", key) for key, made in _resolve(job, planned, name))
        for name in reads.conditions:
            yield from (("depends on", key) for key, _ in _resolve(job, planned, name))


def _resolve(job: Job, planned: PlannedFile, name: str) -> list[tuple[str, bool]]:
    """Return the dotted keys behind a name of a template, and whether they were computed with first."""
    head, _, rest = name.partition(".")
    if head in _ROOTS:
        return [(rest or _ROOTS[head], False)] if rest or _ROOTS[head] else []
    if planned.context is not None and hasattr(planned.context, head):
        return [(key, True) for key in _read_context(job, planned)]
    return []


def _read_context(job: Job, planned: PlannedFile) -> tuple[str, ...]:
    """Return the keys that were read to make the context of a file."""
    artifact = find_artifact(planned.path, job.project)
    if artifact is None or artifact.make_context is None:
        return _HARDWARE
    read: dict[str, None] = {}
    taken: dict[str, None] = {}
    project, release = make_recorder(job.project, "", read), make_recorder(job.release, "", taken)
    targets = _Targets(job.targets)
    artifact.make_context(project, targets, release)
    hardware = _HARDWARE if targets.read else _HARDWARE[1:] if taken else ()
    return (*read, *hardware)


class _Targets(tuple[Any, ...]):
    """The targets of a project; read says whether anyone looked at one."""

    read = False

    def __iter__(self) -> Iterator[Any]:
        self.read = True
        return super().__iter__()


def _explain_document(path: str, text: str, line: int) -> list[str]:
    if path != "int8_config.json":
        return list(_HARDWARE)
    keys = _find_json_path(text, line)
    if not keys:
        return ["quantization"]
    if keys[0] == OVERALL:
        return [".".join(["quantization.overall", *keys[1:]])]
    if keys[0] == TENSOR:
        return [".".join(["quantization.tensors", *keys[1:]])]
    return [f"quantization.{keys[0]}"]


def _find_json_path(text: str, line: int) -> list[str]:
    """Return the keys above a line of JSON that is indented by two blanks a level."""
    path: list[str] = []
    for row in text.splitlines()[:line]:
        match = re.match(r'( *)("(?:[^"\\]|\\.)*"):', row)
        if match:
            path[len(match[1]) // 2 - 1 :] = [json.loads(match[2])]
    return path


def _locate(origins: Mapping[str, Origin], found: Sequence[tuple[str, str]]) -> tuple[Key, ...]:
    """Give each key its origin; what a line prints stands before what it depends on, and each key stands once."""
    order = ("prints", "derived from", "depends on")
    rows: dict[str, Key] = {}
    for how, name in sorted(found, key=lambda pair: order.index(pair[0])):
        for key in _match(origins, name):
            rows.setdefault(key, Key(how, key, origins[key]))
    return tuple(rows.values())


def _match(origins: Mapping[str, Origin], name: str) -> list[str]:
    """Return the keys that a dotted name of a record stands for: itself, the nearest above it, or those below it."""
    name = _RENAMED.get(name, name)
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        above = ".".join(parts[:length])
        if above in origins:
            return [above]
    return [key for key in origins if key.startswith(f"{name}.")]


def find_generated(path: Path) -> tuple[Path, str]:
    """Return the folder with the manifest above a generated file, and the file's path in it; raise UsageError."""
    for folder in path.resolve().parents:
        if (folder / MANIFEST).is_file():
            return folder, path.resolve().relative_to(folder).as_posix()
    raise UsageError(f"{path} is no generated file", f"none of the folders above it has a {MANIFEST}")


def find_spec(folder: Path) -> Path:
    """Return the spec that a generated folder was made from; raise UsageError where it is not found."""
    try:
        named = json.loads((folder / MANIFEST).read_bytes())["spec"]["path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / MANIFEST} names no spec") from error
    places = (folder.parent.parent / named, Path.cwd() / named)
    found = next((Path(os.path.relpath(place)) for place in places if place.is_file()), None)
    if found is None:
        raise UsageError(f"the spec {named} that {folder} was made from is not found", "run it in the project's folder")
    return found
