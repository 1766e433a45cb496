"""Runs that share their stages: what one made another takes over, where the rule of staleness sees no difference.

Nothing is judged twice: a result is another run's as well when execute/staleness.py finds nothing in which it differs,
the names of project, spec and folder aside. While a stage runs, equal ones of other runs wait for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dpuforge import pipeline
from dpuforge.errors import Interrupted
from dpuforge.execute.aftermath import FAILED, clear_failed
from dpuforge.execute.results import RESULT, hash_file, read_result, write_result
from dpuforge.execute.staleness import Present, explain_changes, is_imported
from dpuforge.paths import name_below
from dpuforge.records.files import hash_text
from dpuforge.records.job import VARIANTS, Job
from dpuforge.records.plan import PlannedStage
from dpuforge.records.project import SourceFile
from dpuforge.records.result import StageResult, Status
from dpuforge.writing import replacing

NAME = "variant.txt"  # in the home of a variant: what it sets
_LINKED_BYTES = 1 << 16  # a smaller file is copied
_LEFT = ("*.last.pth", "*.best.pth", ".*")  # what only lets a killed stage go on


class Sharing:
    """The runs that share, and folders of earlier ones by what they are called; stop ends those that wait."""

    def __init__(
        self,
        jobs: Sequence[Job],
        earlier: Mapping[Path, str] = MappingProxyType({}),
        stop: threading.Event | None = None,
    ) -> None:
        self._folders = {job.build: job.shown for job in jobs} | dict(earlier)
        names = {job.project.project for job in jobs}
        self._nameless = {raw: bare for job in jobs for raw, bare in _strip_names(job)} if len(names) > 1 else {}
        self._stop = stop or threading.Event()
        self._lock, self._running = threading.Lock(), dict[str, threading.Lock]()

    def add(self, job: Job) -> None:
        """Let one more run share, of a project that shares already."""
        with self._lock:
            self._folders[job.build] = job.shown

    @contextlib.contextmanager
    def obtain(self, stage: PlannedStage, present: Present) -> Iterator[StageResult | None]:
        """Yield the result of an equal stage, taken over, or None: then the stage is to run while this is open."""
        taken = self._take(stage, present)
        if taken is not None:
            yield taken
            return
        with self._alone(self._key(stage, present)):
            yield self._take(stage, present)

    @contextlib.contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        with self._lock:
            turn = self._running.setdefault(key, threading.Lock())
        while not turn.acquire(timeout=0.2):
            if self._stop.is_set():
                raise Interrupted
        try:
            yield
        finally:
            turn.release()

    def _key(self, stage: PlannedStage, present: Present) -> str:
        """Return a digest of all that will decide a stage, by content."""
        results = {name: read_result(present.build / name) for name in stage.needs}
        base = _name(present.build, present)
        made = {
            name: {path.removeprefix(base): digest for path, digest in result.outputs.items()}
            for name, result in results.items()
            if result is not None
        }
        place = present.place.of(stage.name) if present.place is not None else None
        versions = {name: place.versions.get(name) for name in (*stage.packages, "image")} if place else {}
        decides: dict[str, Any] = {
            "stage": stage.key,
            "scripts": {name: self._bare(hash_text(text)) for name, text in present.scripts.items()},
            "settings": dict(stage.settings),
            "files": {name: present.hash(name) for name in stage.files},
            "made": made,
            "toolchain": [place.name if place else "", versions],
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def _bare(self, digest: str) -> str:
        return self._nameless.get(digest, digest)

    def _take(self, stage: PlannedStage, present: Present) -> StageResult | None:
        for build, name in list(self._folders.items()):
            if build == present.build:
                continue
            result = read_result(build / stage.key)
            if result is None or result.status is not Status.DONE or not result.says_why or is_imported(result):
                continue
            mine = self._translate(result, build, present)
            judged = mine.with_changes(outputs=result.outputs)
            if explain_changes(stage, judged, replace(present, build=build)):
                continue
            taken = mine.with_changes(taken_from=result.taken_from or name)
            if _bring(build / stage.key, present.build / stage.key, result, taken, present):
                return taken
        return None

    def _translate(self, result: StageResult, build: Path, present: Present) -> StageResult:
        """Return a result with the names that its files have in another run's folder, and the scripts of that run."""
        one, other = _name(build, present), _name(present.build, present)

        def rename(names: Mapping[str, str]) -> dict[str, str]:
            return {other + path[len(one) :] if path.startswith(one) else path: sha for path, sha in names.items()}

        scripts = dict(result.scripts)
        for name, text in present.scripts.items():
            own = hash_text(text)
            if name in scripts and self._bare(scripts[name]) == self._bare(own):
                scripts[name] = own
        return result.with_changes(inputs=rename(result.inputs), outputs=rename(result.outputs), scripts=scripts)


def find_variants(job: Job) -> dict[Path, str]:
    """Return the folders where variants of a spec left results, with what each is called."""
    homes = sorted((job.root / "build" / job.project.project / VARIANTS).glob("*"))
    found = {home / "build" / job.project.project: _read_name(home) for home in homes}
    return {build: name for build, name in found.items() if build.is_dir()}


def _read_name(home: Path) -> str:
    try:
        return f"variant {(home / NAME).read_text(encoding='utf-8').strip()}"
    except OSError:
        return f"variant {home.name}"


def _name(build: Path, present: Present) -> str:
    """Return how results name a run's folder: relative to the root, where it lies below."""
    return f"{name_below(build, present.root)}/"


def _strip_names(job: Job) -> Iterator[tuple[str, str]]:
    """Yield the digests of each generated file's text as it is, and as it would be without a name."""
    project = replace(job.project, project="project", description="", spec=SourceFile("spec.yaml", ""), bases=())
    bare = {file.path: file.text for file in pipeline.render(pipeline.plan(replace(job, project=project)))}
    for file in pipeline.render(pipeline.plan(job)):
        if file.path in bare:
            yield hash_text(file.text), hash_text(bare[file.path])


def _bring(source: Path, target: Path, result: StageResult, taken: StageResult, present: Present) -> bool:
    """Link or copy what a stage made, its result last, so that a killed run leaves none; say whether it is whole."""
    target.mkdir(parents=True, exist_ok=True)
    (target / RESULT).unlink(missing_ok=True)
    clear_failed(target)
    outputs = {present.root / name for name in result.outputs}
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if path.is_file() and inside.parts[0] not in (RESULT, FAILED) and not any(path.match(it) for it in _LEFT):
            _place(path, target / inside, path in outputs)
    whole = all(_is(present.root / name, digest) for name, digest in taken.outputs.items())
    if whole and read_result(source) == result:
        write_result(target, taken)
        return True
    return False


def _place(path: Path, target: Path, is_output: bool) -> None:
    """Put a file in its place in one step; a large output becomes a second name of the same file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)  # of a killed run
        try:
            if not is_output or path.stat().st_size < _LINKED_BYTES:
                raise OSError
            os.link(path, partial)
        except OSError:  # or a file system without links
            shutil.copy2(path, partial)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and hash_file(path) == digest
