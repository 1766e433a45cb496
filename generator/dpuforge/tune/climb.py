"""The climb: rungs in order of cost, each laid over the best settings so far, until target, time or ladder ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dpuforge.records.project import Project
from dpuforge.records.variant import Override, Variant
from dpuforge.sweep.outcomes import Outcome
from dpuforge.tune.costs import Costs
from dpuforge.tune.judge_trial import (
    FAILED,
    KEPT,
    NO_TIME,
    NO_USE,
    NOT_TRIED,
    REFUSED,
    STOPPED,
    correct_rows,
    describe_figures,
    find_drop,
    judge_trial,
)
from dpuforge.tune.run_trials import Trial
from dpuforge.tune.rungs import ROUND_STEPS, RUNGS, SETTINGS, Rung, Situation

# Settings may take this share of the time, less where int8 lies far below float; those beyond it come after what
# changes weights, which gains most.
SETTINGS_SHARE, FAR_SHARE = 1 / 3, 1 / 10
FAR_POINTS = 10.0
# Of the time that is left so much is planned, since a foresight errs; less before one adjustment was timed.
SPARE, UNSURE = 0.9, 0.6


class Runner(Protocol):
    """Who runs a trial."""

    def run(self, number: int, variant: Variant, seconds: float | None = None) -> Trial:
        """Run a variant, for so many seconds at most."""


@dataclass
class Climb:
    """A climb at work: who runs trials and loads variants, where it begins, what it may spend.

    fixed are the overrides that every trial carries, best those of the settings so far; tell is called after each row.
    plain is the best outcome before any remedy that changes weights.
    """

    runner: Runner
    load: Callable[[Variant], Project]
    fixed: tuple[Override, ...]
    best: tuple[Override, ...]
    found: Outcome
    costs: Costs
    operators: frozenset[str]
    images: dict[str, int]
    emulated: bool
    target: float
    seconds: float
    tell: Callable[[Sequence[dict[str, Any]]], None] = lambda rows: None
    rungs: Sequence[Rung] = RUNGS
    rows: list[dict[str, Any]] = field(default_factory=list)
    spent: float = 0.0
    on_settings: float = 0.0
    steps_tried: dict[bool, int] = field(default_factory=dict)
    plain: Outcome | None = None

    @property
    def left(self) -> float:
        """The seconds that trials may still take."""
        return self.seconds - self.spent

    @property
    def reached(self) -> bool:
        """Whether int8 lies as near to float as was asked for."""
        return find_drop(self.found) <= self.target

    def go(self) -> None:
        """Climb; every rung has its row afterwards."""
        waiting, postponed = deque(self.rungs), set[str]()
        while waiting:
            rung = waiting.popleft()
            if not self.reached and self._comes_later(rung) and rung.name not in postponed:
                postponed.add(rung.name)
                waiting.append(rung)
                continue
            self.rows.append({"rung": rung.name, "cost": rung.cost, "why": rung.why, **self._take(rung)})
            correct_rows(self.rows)
            self.tell(self.rows)

    def _comes_later(self, rung: Rung) -> bool:
        if rung.cost != SETTINGS or rung.applies(situation := self._look()):
            return False
        seconds = self._foresee(lay_over(self.best, rung.change(situation)))
        share = FAR_SHARE if find_drop(self.found) > self.target + FAR_POINTS else SETTINGS_SHARE
        return self.on_settings + seconds > share * self.seconds

    def _look(self) -> Situation:
        project = self.load(self._complete(self.best))
        given, fixed = project.quantization, self.costs.start * 3 + self.costs.of_images(self.costs.evaluated)
        spare = (UNSURE if self.costs.adjust is None else SPARE) * self.left - fixed
        steps = (spare - self.costs.calibrate * given.calibration.images) / max(
            self.costs.of_step(given.adjust.batch_size), 1e-9
        )
        return Situation(
            project,
            self.emulated,
            self.operators,
            self.images,
            max(0, int(min(steps, 1e6)) // ROUND_STEPS * ROUND_STEPS),
            max(0, int(min(spare / max(self.costs.of_epoch(), 1e-9), 1e6))),
            dict(self.steps_tried),
        )

    def _complete(self, overrides: tuple[Override, ...]) -> Variant:
        return Variant(lay_over(self.fixed, overrides))

    def _foresee(self, overrides: tuple[Override, ...]) -> float:
        return self.costs.of_trial(self.load(self._complete(overrides)).quantization)

    def _take(self, rung: Rung) -> dict[str, Any]:
        """Try a rung, or say why not."""
        if self.reached:
            return {"verdict": NOT_TRIED, "reason": "the target was reached before"}
        situation = self._look()
        for verdict, reason in ((NO_USE, rung.applies(situation)), (NOT_TRIED, rung.not_tried(situation))):
            if reason:
                return {"verdict": verdict, "reason": reason}
        overrides = lay_over(self.best, rung.change(situation))
        if overrides == self.best:
            return {"verdict": NO_USE, "reason": "the best settings have it"}
        known = {"set": {it.key: it.text for it in overrides if it not in self.best}}
        seconds = round(self._foresee(overrides), 1)
        if seconds > self.left:
            reason = f"about {seconds / 60:.1f} minutes are needed, {max(self.left, 0) / 60:.1f} are left"
            return {**known, "verdict": NO_TIME, "reason": reason, "foreseen": seconds}
        return {**known, "foreseen": seconds, **self._try(rung, overrides)}

    def _try(self, rung: Rung, overrides: tuple[Override, ...]) -> dict[str, Any]:
        variant = self._complete(overrides)
        trial = self.runner.run(len(self.rows) + 1, variant, self.left)
        self.spent += trial.seconds
        self.on_settings += trial.seconds if rung.cost == SETTINGS else 0.0
        known = {"folder": variant.name, "seconds": round(trial.seconds, 1), "stages": dict(trial.stages)}
        if trial.outcome is None:
            return {**known, "verdict": STOPPED, "reason": "its time was over before it ended"}
        given = self.load(variant).quantization
        self.costs = self.costs.learn(given, trial.stages)
        if given.adjust.enabled:
            tried = self.steps_tried.get(given.include_cle, 0)
            self.steps_tried[given.include_cle] = max(tried, given.adjust.steps)
        judged = self._judge(rung, trial.outcome)
        if judged["verdict"] == KEPT:
            if rung.cost == SETTINGS and self.found is self.plain:
                self.plain = trial.outcome
            self.best, self.found = overrides, trial.outcome
        return {**known, **describe_figures(trial.outcome), **judged}

    def _judge(self, rung: Rung, outcome: Outcome) -> dict[str, Any]:
        """Judge a setting against the best so far; what changes weights takes the place of another such remedy.

        It is held against the best settings without any, and kept where it recognises more than the one that is there.
        """
        if rung.cost == SETTINGS:
            return judge_trial(self.found, outcome)
        if self.plain is None:
            self.plain = self.found
        judged = judge_trial(self.plain, outcome)
        if judged["verdict"] == KEPT and self.found is not self.plain and find_drop(outcome) >= find_drop(self.found):
            return {**judged, "verdict": REFUSED, "reason": "it helps, and no more than what was kept"}
        return judged


def lay_over(below: Sequence[Override], above: Sequence[Override]) -> tuple[Override, ...]:
    """Return overrides of which the later ones of a key hold."""
    return tuple({it.key: it for it in (*below, *above)}.values())


def count_tried(rows: Sequence[dict[str, Any]]) -> int:
    """Return how many remedies were measured."""
    return sum(row["verdict"] in (KEPT, REFUSED, FAILED, STOPPED) for row in rows)
