"""Tune a spec: the baseline on validation images, the climb, and at its end baseline and winner on the test split."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dpuforge import pipeline
from dpuforge.chance.paired_tests import count_pairs, judge_pairs
from dpuforge.errors import StageError, UsageError
from dpuforge.looking import look_at_network
from dpuforge.records.job import Job
from dpuforge.records.project import Project
from dpuforge.records.variant import Override, Variant
from dpuforge.running import find_place
from dpuforge.sweep.outcomes import Outcome
from dpuforge.sweep.run_variants import Sweep
from dpuforge.tune import tune_record
from dpuforge.tune.climb import Climb, Runner
from dpuforge.tune.costs import LEARNING, Costs
from dpuforge.tune.judge_trial import describe_figures, find_drop
from dpuforge.tune.run_trials import Trial, Trials
from dpuforge.tune.rungs import set_key
from dpuforge.tune.tune_record import Wish

FINAL_SHARE = 0.25  # of the time at most is kept for the test split
TRIAL_SHARE = 1 / 40  # of the time is what measuring one trial may take, within these numbers of images
FEWEST_IMAGES, MOST_IMAGES = 100, 500
NEVER_MISSED = Override("quantization.max_accuracy_drop", "100")  # a trial is judged here, not by the gate
_TIMED = ("calibrate", "evaluate", *LEARNING)  # training is not counted: without it there is nothing to tune
_BASELINE, _FINALS = 0, 1000  # numbers of runs; the rungs stand between


@dataclass
class Tuning:
    """A tune at work: the spec, what was asked, the sweep that runs variants; tell is called with each new state."""

    job: Job
    spec: Path
    wish: Wish
    sweep: Sweep
    tell: Callable[[Mapping[str, Any]], None] = lambda document: None

    def __post_init__(self) -> None:
        """Read what an earlier call of the same command left."""
        self.folder = self.job.build / tune_record.TUNES / self.wish.name(self.job)
        self.document = tune_record.read_record(self.folder)
        self.runner: Runner = Trials(self.sweep, tune_record.read_seconds(self.document))

    def go(self) -> dict[str, Any]:
        """Tune and return the document; what was finished stays, whatever ends it."""
        if self.document.get("finished"):
            return self.document
        start, notes = self._find_start()
        fixed, trial = self._measure_baseline(start)
        found = _need_figures(trial)
        baseline = {"folder": Variant(fixed).name, "seconds": _count_seconds(trial), **describe_figures(found)}
        emulated = bool(found.document["emulated"])
        asked = {"spec": self.job.project.spec.path, "asked": asdict(self.wish)}
        self._note(**asked, emulated=emulated, notes=notes, baseline=baseline, rows=[])
        if find_drop(found) <= self.wish.target_drop:
            return self._finish(needed=False, reached=True, best={}, final=None)
        climb = self._prepare(fixed, start, found, trial, emulated)
        climb.go()
        best = tuple(it for it in climb.best if it not in start)
        final = self._judge(start, climb.best)
        reached = final["winner"]["accuracy_drop"] <= self.wish.target_drop
        self._note(rows=climb.rows, minutes=round(climb.spent / 60, 2), reached_on_validation=climb.reached)
        return self._finish(
            needed=True, reached=reached, best={it.key: it.text for it in (*start, *best) if best}, final=final
        )

    def _find_start(self) -> tuple[tuple[Override, ...], list[str]]:
        """Return what of the spec is left out, and why: what the emulator does in its own way promises nothing."""
        place = find_place(self.job, self.wish.toolchain, self.sweep.request.engine)
        if self.job.project.quantization.fast_finetune.enabled and place.of("calibrate").name == "emulator":
            note = "the spec's fast_finetune is left out: AMD's finds other weights than the emulator's"
            return (set_key("fast_finetune.enabled", False),), [note]
        return (), []

    def _measure_baseline(self, start: tuple[Override, ...]) -> tuple[tuple[Override, ...], Trial]:
        """Return what makes a variant a trial, and the first one: the spec as it is.

        How many images a trial is measured on is asked for, or found by a few of them: each takes a share of the time.
        """
        images = self.document.get("images", self.wish.images)
        if images is None:
            fixed = (*start, *_mark_trial(FEWEST_IMAGES))
            pilot = self.runner.run(_BASELINE, Variant(fixed))
            images = self._choose_images(pilot)
            self._note(images=images)
        fixed = (*start, *_mark_trial(images))
        return fixed, self.runner.run(_BASELINE, Variant(fixed))

    def _choose_images(self, pilot: Trial) -> int:
        measured = int(_need_figures(pilot).document["metrics"]["test_images"])
        seconds = Costs(evaluated=measured).learn(self.job.project.quantization, pilot.stages).evaluate
        fit = int(TRIAL_SHARE * 60 * self.wish.minutes / max(seconds, 1e-9))
        few = fit < 1.5 * FEWEST_IMAGES or measured < FEWEST_IMAGES // 2  # more are hardly more, or not there
        return FEWEST_IMAGES if few else min(MOST_IMAGES, fit)

    def _prepare(
        self, fixed: tuple[Override, ...], start: tuple[Override, ...], found: Outcome, trial: Trial, emulated: bool
    ) -> Climb:
        job = self._load_job(Variant(fixed))
        images = read_images(job.build)
        evaluated = int(found.document["metrics"]["test_images"])
        costs = Costs(evaluated=evaluated, qat_images=images["train"] + images["validation"] // 3)
        costs = costs.learn(job.project.quantization, trial.stages)
        seconds, final = 60.0 * self.wish.minutes, 2 * costs.of_images(images["test"])
        return Climb(
            self.runner,
            self._load,
            fixed,
            start,
            found,
            costs,
            self._find_operators(),
            images,
            emulated,
            self.wish.target_drop,
            seconds - min(final, FINAL_SHARE * seconds),
            lambda rows: self._note(rows=list(rows)),
            spent=_count_seconds(trial),
        )

    def _load_job(self, variant: Variant) -> Job:
        return pipeline.load(self.spec, variant)

    def _load(self, variant: Variant) -> Project:
        return self._load_job(variant).project

    def _find_operators(self) -> frozenset[str]:
        """Return the kinds of operators of the network as it was written: the quantizer makes relu of relu6."""
        known = self.document.get("operators")
        if known is None:
            given = replace(self.job.project.quantization, include_cle=False, convert_relu6_to_relu=False)
            project = replace(self.job.project, quantization=given)
            look = look_at_network(project, self.job.root, self.job.targets, self.job.release)
            kinds = {it.kind.value for it in look.operators}
            kinds |= {"relu6" for it in look.operators if it.nonlinear == "relu_six"}
            self._note(operators=(known := sorted(kinds)))
        return frozenset(known)

    def _judge(self, start: tuple[Override, ...], best: tuple[Override, ...]) -> dict[str, Any]:
        """Measure baseline and winner on the test split, which nothing saw before."""
        before = _need_figures(self.runner.run(_FINALS, Variant(start)))
        after = before if best == start else _need_figures(self.runner.run(_FINALS + 1, Variant(best)))
        pairs: dict[str, Any] = {"lost": 0, "gained": 0, "p": 1.0}
        if before.answers and after.answers:
            pairs = judge_pairs(*count_pairs(before.answers.int8, after.answers.int8))
        return {"baseline": describe_figures(before), "winner": describe_figures(after), **pairs}

    def _finish(self, **known: Any) -> dict[str, Any]:
        self._note(**known, finished=True)
        return self.document

    def _note(self, **known: Any) -> None:
        self.document = {**self.document, **known}
        self.document["seconds"] = tune_record.read_seconds(self.document)
        tune_record.save(self.folder, self.document)
        self.tell(self.document)


def refuse(job: Job, wish: Wish) -> None:
    """Raise UsageError where a spec cannot be tuned, before anything runs."""
    given = job.project.quantization
    if not 0 < wish.target_drop < 100:
        raise UsageError(f"--target-drop {wish.target_drop:g}: it is a drop in percentage points", "for example 1.0")
    if not 0 < wish.minutes < 1e6:
        raise UsageError(f"--minutes {wish.minutes:g}: it is how long trials may take", "for example 30")
    if given.target_device != "DPU":
        raise UsageError(
            f"quantization.target_device is {given.target_device}: the remedies are those of a DPU", "write DPU"
        )
    if given.qat.enabled:
        raise UsageError(
            "quantization.qat is on: it takes the place of calibration, which the remedies are about",
            "turn it off, or try its settings with `dpuforge sweep SPEC --set quantization.qat.epochs=3,5,10`",
        )
    if job.project.data.evaluate != "test":
        raise UsageError("data.evaluate is validation: the end would be judged by what chose", "write test")


def _mark_trial(images: int) -> tuple[Override, ...]:
    """Return what every trial carries: it is measured on validation images, 0 for all of them, and by no gate."""
    limit = (Override("data.evaluate_images", str(images)),) if images else ()
    return (Override("data.evaluate", "validation"), *limit, NEVER_MISSED)


def read_images(build: Path) -> dict[str, int]:
    """Return how many images each split has, as prepare counted them."""
    listed = json.loads((build / "prepare/data.json").read_text(encoding="utf-8"))
    return {name: int(listed[name]["images"]) for name in ("train", "validation", "test")}


def _need_figures(trial: Trial) -> Outcome:
    outcome = trial.outcome
    if outcome is None or outcome.answers is None:
        reason = outcome.reason if outcome is not None else "it was stopped"
        raise StageError(
            f"int8 could not be measured: {reason}", "mend that first: `dpuforge run SPEC --until evaluate`"
        )
    return outcome


def _count_seconds(trial: Trial) -> float:
    """Return what the baseline took after its training, which has to be in any case."""
    return round(sum(trial.stages.get(name, 0.0) for name in _TIMED), 1)


def find_winner(document: Mapping[str, Any]) -> tuple[Override, ...]:
    """Return the change of the spec that won, () where none did."""
    return tuple(Override(key, text) for key, text in document.get("best", {}).items())
