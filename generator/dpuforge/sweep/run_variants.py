"""Run the variants of a sweep: side by side, each through the whole pipeline, sharing what they have in common."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dpuforge import looking, pipeline
from dpuforge.chance.paired_tests import count_pairs, mcnemar
from dpuforge.errors import Interrupted, Problem, SpecError, UserError
from dpuforge.execute.results import read_result
from dpuforge.execute.staleness import Present, explain_changes, explain_staleness
from dpuforge.records.files import hash_text
from dpuforge.records.job import Job
from dpuforge.records.plan import Plan
from dpuforge.records.result import Status
from dpuforge.records.variant import Variant
from dpuforge.running import Request, find_looking_place, find_place, read_results, read_scripts
from dpuforge.sweep.axes import find_seed, name_setting
from dpuforge.sweep.outcomes import Outcome, read_answers
from dpuforge.sweep.sharing import NAME, Sharing, find_variants
from dpuforge.writing import replacing

if TYPE_CHECKING:
    from dpuforge.running import Watch

CLEARLY_WORSE = 0.01  # p of McNemar, corrected by Bonferroni for the settings: no further seed would help
_BY_CONTENT = ("pixels", "cache")  # folders of build/<project> whose files are named by all that decides them

WatchVariant = Callable[[int, Variant], "Watch"]
Tell = Callable[[Outcome], None]


@dataclass
class Sweep:
    """A sweep at work: the spec, what is asked of every run, who watches; prune stops settings that are clearly worse.

    settings is how many settings are compared, total how many variants are to end.
    """

    spec: Path
    request: Request
    watch: WatchVariant
    say: Callable[[str], None]
    tell: Tell = lambda outcome: None
    prune: bool = False
    settings: int = 1
    total: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    done: dict[int, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Share with the spec's own results."""
        self._own = pipeline.load(self.spec)
        self._sharing = Sharing([self._own], find_variants(self._own), self.stop)
        self._lock, self._homes = threading.Lock(), dict[str, threading.Lock]()
        self._jobs: list[Job] = [self._own]

    def run_grid(self, variants: Sequence[Variant], jobs: int) -> list[Outcome]:
        """Run all variants, jobs at a time, in their order; return their outcomes.

        Raises Interrupted on Ctrl-C, after every child has ended: what was finished is kept.
        """
        numbered = list(enumerate(variants, 1))
        self.run_all([partial(self.run_one, number, variant) for number, variant in numbered], jobs)
        return [self.done[number] for number, _ in numbered]

    def run_all(self, tasks: Iterable[Callable[[], Outcome]], jobs: int) -> None:
        """Run tasks, jobs at a time, and stop them all on Ctrl-C."""
        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            futures = [pool.submit(task) for task in tasks]
            try:
                for future in futures:
                    future.result()
            except BaseException as error:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                if isinstance(error, KeyboardInterrupt):
                    raise Interrupted from error
                raise

    def run_one(self, number: int, variant: Variant) -> Outcome:
        """Run one variant through the pipeline, or leave it out where its setting is clearly worse."""
        worse = self._find_better(variant) if self.prune else ""
        with self._lock:
            home = self._homes.setdefault(variant.name, threading.Lock())
        with home:  # a sampler may choose the same twice
            outcome = Outcome(number, variant, "pruned", worse) if worse else self._run(number, variant)
        with self._lock:
            self.done[number] = outcome
            self.tell(outcome)
        return outcome

    def _run(self, number: int, variant: Variant) -> Outcome:
        if self.stop.is_set():
            raise Interrupted
        try:
            job = pipeline.load(self.spec, variant)
            self._prepare(job)
            planned = pipeline.plan(job)
            if has_missed_gate(job, planned, self.request):
                document, gate, reason = pipeline.report(job, planned), True, "the gate was missed, as before"
            else:
                request = replace(self.request, variant=variant, share=self._sharing.obtain, stop=self.stop)
                document, failed = pipeline.run(self.spec, request, self.watch(number, variant), self.say)
                reason = f"{failed.key}: {failed.reason}" if failed else ""
                gate = failed is not None and failed.key == "evaluate"
        except UserError as error:
            return Outcome(number, variant, "failed", str(error).splitlines()[0])
        known = document["metrics"]["int8_accuracy"] is not None
        status = "done" if not reason else "missed" if known and gate else "failed"
        results = read_results(job, planned)
        return Outcome(
            number,
            variant,
            status,
            reason,
            document,
            read_answers(job.build) if known else None,
            {key: result.taken_from for key, result in results.items() if result.taken_from},
            hash_text(" ".join(sorted(results["train"].outputs.values()))) if "train" in results else "",
        )

    def _prepare(self, job: Job) -> None:
        """Make a variant's home: it shares the decoded pictures and the first look at an equal network."""
        job.home.mkdir(parents=True, exist_ok=True)
        with replacing(job.home / NAME) as partial:
            partial.write_text(f"{job.variant}\n", encoding="utf-8")
        with self._lock:
            share_kept(self._own.build, job.build)
            share_look(self._jobs, job, self.request)
            self._sharing.add(job)
            self._jobs.append(job)

    def _find_better(self, variant: Variant) -> str:
        """Return which setting is better beyond luck, "" where none is.

        One seed tells that of settings that share their training; where training differs it takes two.
        """
        with self._lock:
            ended = [outcome for outcome in self.done.values() if outcome.answers is not None]
        mine = [outcome for outcome in ended if name_setting(outcome.variant) == name_setting(variant)]
        beaten: dict[str, list[bool]] = {}
        for one in mine:
            for other in (it for it in ended if find_seed(it.variant) == find_seed(one.variant)):
                if _is_beaten(one, other, self.settings):
                    beaten.setdefault(name_setting(other.variant), []).append(one.weights == other.weights)
        clear = (setting for setting, same in beaten.items() if len(same) > 1 or all(same))
        return next((f"{setting} is better beyond luck" for setting in clear), "")


def _is_beaten(mine: Outcome, other: Outcome, settings: int) -> bool:
    if mine.answers is None or other.answers is None or mine.answers.images != other.answers.images:
        return False
    lost, gained = count_pairs(mine.answers.int8, other.answers.int8)
    return gained > lost and mcnemar(lost, gained) * max(1, settings - 1) < CLEARLY_WORSE


def check_variants(spec: Path, variants: Sequence[Variant]) -> None:
    """Load every variant; raise SpecError with what is wrong with any of them, each mistake once."""
    problems: dict[Problem, None] = {}
    for variant in variants:
        try:
            pipeline.load(spec, variant)
        except SpecError as error:
            problems |= dict.fromkeys(_name_variant(it, variant) for it in error.problems if it.severity == "error")
    if problems:
        raise SpecError(tuple(problems))


def _name_variant(problem: Problem, variant: Variant) -> Problem:
    """Say which variant has a problem that stands in the spec: an option made it one."""
    if problem.path.startswith("--set"):
        return problem
    return replace(problem, message=f"{problem.message} (with {' '.join(variant.options)})")


def has_missed_gate(job: Job, plan: Plan, request: Request) -> bool:
    """Say whether a variant ended at its gate, and would again: nothing that decides it has changed."""
    result = read_result(job.build / "evaluate")
    if result is None or result.status is not Status.FAILED or "int8_accuracy" not in result.metrics:
        return False
    place = find_place(job, request.toolchain, request.engine, request.pull)
    present = Present(job.root, job.build, read_scripts(job, plan), place)
    for stage in plan.stages:
        if stage.name == "evaluate":
            return not explain_changes(stage, result, present)
        if explain_staleness(stage, present):
            return False
    return False


def share_kept(own: Path, build: Path) -> None:
    """Let a variant use the spec's own decoded pictures and features: scripts find by content whether they fit."""
    for name in _BY_CONTENT:
        link, folder = build / name, own / name
        if not link.exists() and not link.is_symlink():
            folder.mkdir(parents=True, exist_ok=True)
            build.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # a file system without links
                link.symlink_to(os.path.relpath(folder, build), target_is_directory=True)


def share_look(jobs: Sequence[Job], job: Job, request: Request) -> None:
    """Let a variant know what the first look found on the same network in another one."""
    place = find_looking_place(find_place(job, request.toolchain, request.engine, request.pull))
    if looking.is_known(job.project, job.build, job.root, place):
        return
    for other in jobs:
        if other.build != job.build and looking.is_known(job.project, other.build, job.root, place):
            target = job.build / looking.FOLDER / looking.RECORD
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(other.build / looking.FOLDER / looking.RECORD, target)
            return


def count_stages(outcomes: Iterable[Outcome], stage: str) -> Mapping[str, int]:
    """Return how many variants made a stage themselves, and how many took it over."""
    known = [stage in outcome.shared for outcome in outcomes if outcome.document]
    return {"made": known.count(False), "shared": known.count(True)}
