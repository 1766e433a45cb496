"""Run planned stages in order, boards side by side: stale ones only, stopping at the first failure."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from dpuforge.errors import Interrupted, MissingToolError, UsageError
from dpuforge.execute.aftermath import FAILED, clear_failed, describe_overrun, part_links, set_aside
from dpuforge.execute.compile_log import find_failures
from dpuforge.execute.log_scan import scan_log
from dpuforge.execute.process import Limit, Overrun, explain_exit, run_logged
from dpuforge.execute.results import RESULT, hash_file, read_result, write_result
from dpuforge.execute.staleness import Present, explain_staleness, is_imported
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.plan import PlannedStage
from dpuforge.records.result import StageResult, Status

LOG = "log.txt"
_LAST_LINES = 3  # of the log, where nothing else says why a stage failed


@dataclass(frozen=True)
class Folders:
    """The three folders of a run: the project root, generated/<project>/ and build/<project>/.

    earlier holds the texts of the generated files that the run's first step replaced; kept are the open files that
    hold the lock on build/, which every stage inherits.
    """

    root: Path
    scripts: Path
    build: Path
    earlier: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[int, ...] = ()


class Observer(Protocol):
    """Who watches a run."""

    def start(self, stage: str, why: str) -> None:
        """A stage starts, and why it is stale."""

    def line(self, stage: str, text: str) -> None:
        """A stage printed a line."""

    def finish(self, stage: str, result: StageResult, fresh: bool) -> None:
        """A stage ended; fresh says that an earlier result still stands and nothing ran."""


@dataclass(frozen=True)
class Verdict:
    """What a check of a finished stage found: why it fails ("" where it does not), and metrics to add."""

    failure: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


Check = Callable[[PlannedStage, Path], Verdict]


Share = Callable[[PlannedStage, Present], AbstractContextManager[StageResult | None]]


@contextlib.contextmanager
def keep_to_oneself(stage: PlannedStage, present: Present) -> Iterator[StageResult | None]:
    """Offer no result of another run: the sharing of those who share with nobody."""
    yield None


def accept(stage: PlannedStage, folder: Path) -> Verdict:
    """Accept every stage: the check of those who have none."""
    return Verdict()


@dataclass(frozen=True)
class Selection:
    """Which stages to run: start (rerun from there on), until (last one); empty names mean all."""

    start: str = ""
    until: str = ""


def select_stages(stages: Sequence[PlannedStage], selection: Selection) -> tuple[tuple[PlannedStage, bool], ...]:
    """Return (stage, forced) for the stages of a selection, in order; raise UsageError for an unknown name."""
    names = list(dict.fromkeys(stage.name for stage in stages))
    for name in filter(None, (selection.start, selection.until)):
        if name not in names:
            raise UsageError(f"no stage is called {name}", f"the stages are {', '.join(names)}")
    first = names.index(selection.start) if selection.start else 0
    last = names.index(selection.until) if selection.until else len(names) - 1
    if first > last:
        raise UsageError(f"--from {selection.start} comes after --until {selection.until}")
    chosen = names[first : last + 1]
    return tuple((stage, bool(selection.start)) for stage in stages if stage.name in chosen)


def check_tools(stages: Iterable[PlannedStage], place: ToolchainPlace) -> None:
    """Raise MissingToolError, before hours of training, where the native toolchain lacks a program."""
    if place.name != "native":
        return
    missing = sorted({tool for stage in stages for tool in stage.tools if place.find_tool(tool) is None})
    if missing:
        raise MissingToolError(
            f"toolchain native: {', '.join(missing)} not found on PATH",
            "activate AMD's environment (conda activate vitis-ai-pytorch), or stop earlier with --until preflight",
        )


def run_stages(
    stages: Sequence[tuple[PlannedStage, bool]],
    everything: Sequence[PlannedStage],
    place: ToolchainPlace,
    folders: Folders,
    observer: Observer,
    jobs: int = 1,
    check: Check = accept,
    limits: Mapping[str, float] = MappingProxyType({}),
    share: Share = keep_to_oneself,
    stop: threading.Event | None = None,
) -> tuple[StageResult, ...]:
    """Run (stage, forced) in order and return their results; stop after a group with a failure.

    everything is the whole plan, whose earlier results the stages read. Boards of one stage run jobs at a time.
    check judges each stage that ended well; limits are the minutes that a stage may take, by its name. share may offer
    the result of another run in a stage's place, and holds back equal stages while one runs.
    Raises Interrupted on Ctrl-C, or once stop is set, after every child has ended.
    """
    stop = stop or threading.Event()
    results = {stage.key: result for stage in everything if (result := read_result(folders.build / stage.key))}
    done: list[StageResult] = []
    for _, group in groupby(stages, key=lambda item: item[0].name):
        members = list(group)
        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            futures = [
                pool.submit(
                    _StageRun(
                        s, place.of(s.name), folders, observer, stop, results, check, limits.get(s.name), share
                    ).run,
                    f,
                )
                for s, f in members
            ]
            try:
                ended = [future.result() for future in futures]
            except BaseException as error:
                stop.set()
                if isinstance(error, KeyboardInterrupt):
                    raise Interrupted from error
                raise
        results.update((stage.key, result) for (stage, _), result in zip(members, ended, strict=True))
        done += ended
        if any(result.status is Status.FAILED for result in ended):
            break
    return tuple(done)


@dataclass(frozen=True)
class _StageRun:
    """One stage being run: what its steps share."""

    stage: PlannedStage
    place: ToolchainPlace
    folders: Folders
    observer: Observer
    stop: threading.Event
    results: dict[str, StageResult]
    check: Check
    minutes: float | None = None
    share: Share = keep_to_oneself

    @property
    def folder(self) -> Path:
        return self.folders.build / self.stage.key

    def present(self) -> Present:
        scripts, names = self.folders.scripts, self.stage.scripts
        texts = {name: (scripts / name).read_text("utf-8") for name in names if (scripts / name).is_file()}
        return Present(self.folders.root, self.folders.build, texts, self.place, self.folders.earlier)

    def run(self, forced: bool) -> StageResult:
        """Run the stage if it is stale or forced, and return its result."""
        why = explain_staleness(self.stage, self.present())
        earlier = read_result(self.folder)
        if not why and not forced and earlier is not None:
            kept = earlier if earlier.checked or earlier.status is Status.SKIPPED else self._keep(earlier)
            self.observer.finish(self.stage.key, kept, True)
            return kept
        if earlier is not None and is_imported(earlier) and not forced:
            return self._refuse_import(earlier, why)
        with self.share(self.stage, self.present()) if why and not forced else contextlib.nullcontext() as taken:
            if taken is not None:
                self.observer.finish(self.stage.key, taken, False)
                return taken
            return self._run_here(why)

    def _run_here(self, why: str) -> StageResult:
        result = self._skip()
        if result is None:
            self.observer.start(self.stage.key, why or "asked for with --from")
            result = self._execute()
        write_result(self.folder, result)
        self.observer.finish(self.stage.key, result, False)
        return result

    def _refuse_import(self, earlier: StageResult, why: str) -> StageResult:
        """Fail without touching an imported calibration that no longer fits: the user chooses what becomes of it."""
        reason = (
            f"the imported calibration no longer fits: {why}; import one that does with `dpuforge import-calibration "
            f"SPEC FOLDER`, or calibrate here with `dpuforge run SPEC --from {self.stage.name}`"
        )
        self.observer.start(self.stage.key, why)
        result = earlier.with_changes(status=Status.FAILED, reason=reason, seconds=0.0)
        self.observer.finish(self.stage.key, result, False)
        return result

    def _skip(self) -> StageResult | None:
        missing = [tool for tool in self.stage.tools if self.place.find_tool(tool) is None]
        if not missing:
            return None
        script = self._script().relative_to(self.folders.root).as_posix()
        reason = (
            f"{', '.join(missing)} is AMD's, closed, and not on this machine: nothing was compiled and nothing is "
            f"emulated here. Inside AMD's image run: bash {' '.join((script, *self.stage.argv[1:]))}"
        )
        return self._make_result(Status.SKIPPED, reason, 0.0).with_changes(scripts={}, settings={})

    def _script(self) -> Path:
        """Return the stage's script; below the root where it stands there, for messages that can be copied."""
        return self.folders.scripts / self.stage.argv[0]

    def _execute(self) -> StageResult:
        (self.folder / RESULT).unlink(missing_ok=True)
        clear_failed(self.folder)
        part_links(self.folder)
        begun = time.monotonic()
        code, ended = self._start_child()
        seconds = round(time.monotonic() - begun, 3)
        written = read_result(self.folder) or self._make_result(
            Status.DONE if code == 0 else Status.FAILED, "", seconds
        )
        failure = ended or self._find_failure(code, written)
        written = written.with_changes(
            seconds=seconds if self.place.keeps_time else written.seconds,  # a job waits for its turn
            board=self.stage.board,
            stage=self.stage.name,
            toolchain=self.place.describe(written.toolchain),
        )
        if failure:
            set_aside(self.folder, LOG)
            return written.with_changes(status=Status.FAILED, reason=failure, exit_code=written.exit_code or code)
        return self._hold_against_project(written if written.says_why else self._complete(written))

    def _hold_against_project(self, result: StageResult) -> StageResult:
        verdict = self.check(self.stage, self.folder)
        result = result.with_changes(metrics={**result.metrics, **verdict.metrics}, checked=True)
        if not verdict.failure:
            return result
        set_aside(self.folder, LOG)
        return result.with_changes(status=Status.FAILED, reason=verdict.failure)

    def _keep(self, result: StageResult) -> StageResult:
        """Check a result that another one made (Snakemake, a person by hand) once; what has none stays as it is."""
        checked = self._hold_against_project(result)
        if checked.with_changes(checked=False) == result:
            return result
        write_result(self.folder, checked)
        return checked

    def _complete(self, result: StageResult) -> StageResult:
        """Enter what decided the result of a script that does not record it."""
        made = self._make_result(result.status, "", 0.0)
        inputs = {**made.inputs, **result.inputs}
        return result.with_changes(scripts=made.scripts, settings=dict(self.stage.settings), inputs=inputs)

    def _start_child(self) -> tuple[int, str]:
        """Run the stage's script to its end; return its exit code, and why its place or its time limit ended it."""
        self.folders.build.mkdir(parents=True, exist_ok=True)
        where = ["--root", str(self.folders.root), "--build", str(self.folders.build)]
        programs = {"python": [self.place.python], "bash": ["bash"], "dpuforge": [sys.executable, "-m"]}
        first = self.stage.argv[0] if self.stage.runner == "dpuforge" else str(self._script())
        argv = [*programs[self.stage.runner], first, *self.stage.argv[1:], *where]
        key, place = self.stage.key, self.place
        show = lambda text: self.observer.line(key, text)  # noqa: E731
        limit = Limit(self.minutes * 60, lambda: place.signal(key, "ABRT")) if self.minutes else None
        place.prepare(key)
        folder, kept = self.folders.build, self.folders.kept
        try:
            command = place.wrap(argv, key, folder)
            code = run_logged(command, folder, place.env, self.folder / LOG, show, self.stop, kept, limit)
            return code, place.explain(key, self._find_end(code), self._read_log()) if code else ""
        except Overrun:
            script = Path(self.stage.argv[0]).name
            return 124, describe_overrun(self.minutes or 0, self.stage.name, script, self._read_log())
        finally:
            place.close(key)

    def _find_end(self, code: int) -> int:
        """Return how a script ended that code is of: a watched one records the signal that ended its work."""
        told = read_result(self.folder)
        return told.exit_code if told is not None and told.exit_code else code

    def _read_log(self) -> str:
        return (self.folder / LOG).read_text(encoding="utf-8", errors="replace")

    def _find_failure(self, code: int, result: StageResult) -> str:
        """Return why the stage failed, or ""; a zero exit code does not outweigh an error in the log."""
        log = self._read_log()
        logged = [str(item) for item in scan_log(log) if item.severity == "ERROR"] if self.stage.uses_toolchain else []
        if code == 0 and result.status is not Status.FAILED and not logged:
            return ""
        compiled = [str(item) for item in find_failures(log)] if self.stage.tools else []
        if result.reason or logged or compiled:
            return (compiled or [result.reason or logged[0]])[0]
        last = [line.strip() for line in log.splitlines() if line.strip()][-_LAST_LINES:]
        return explain_exit(code) + (f": {' | '.join(last)}" if last else "")

    def _make_result(self, status: Status, reason: str, seconds: float) -> StageResult:
        """Make the result of a script that writes none itself: a shell script, or one that died early."""
        made = sorted(
            path
            for path in self.folder.rglob("*")
            if path.is_file() and path.name not in (RESULT, LOG) and FAILED not in path.parts
        )
        outputs = {self._name(path): hash_file(path) for path in made} if status is Status.DONE else {}
        earlier = (self.results[key] for key in self.stage.needs if key in self.results)
        inputs = {name: digest for result in earlier for name, digest in result.outputs.items()}
        files = {name: self.folders.scripts / name for name in self.stage.scripts}
        scripts = {name: hash_file(path) for name, path in files.items() if path.is_file()}
        toolchain = {"name": self.place.name, "versions": dict(self.place.versions)}
        return StageResult(
            self.stage.name,
            status,
            reason,
            seconds,
            toolchain,
            inputs,
            outputs,
            board=self.stage.board,
            scripts=scripts,
            settings=dict(self.stage.settings),
        )

    def _name(self, path: Path) -> str:
        base = self.folders.root
        return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)
