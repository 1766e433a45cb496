"""Beyond a grid: a sampler of Optuna chooses what to try next; its study lies beside the sweep and goes on."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpuforge.records.variant import Override, Variant
from dpuforge.sweep.axes import Axis

SAMPLERS = ("tpe", "random")
JOURNAL = "study.log"


class Study:
    """A search for the highest int8 accuracy; trials that a killed sweep left unfinished come first."""

    def __init__(self, axes: Sequence[Axis], sampler: str, folder: Path) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        self._axes, self._lock = axes, threading.Lock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            backend = JournalFileBackend(str(folder / JOURNAL))
            storage = optuna.storages.JournalStorage(backend)
            made = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[sampler]
            self._study = optuna.create_study(
                storage=storage, study_name="sweep", direction="maximize", load_if_exists=True
            )
            self._study.sampler = made(seed=len(self._study.trials))
        running = optuna.trial.TrialState.RUNNING
        whole = len(axes)
        self._left = [it for it in self._study.trials if it.state == running and len(it.params) == whole]
        for broken in (it for it in self._study.trials if it.state == running and len(it.params) != whole):
            self._study.tell(broken.number, state=optuna.trial.TrialState.FAIL)
        self._failed = optuna.trial.TrialState.FAIL

    def finished(self) -> list[Variant]:
        """Return the variants that were tried to their end, in the order of their numbers."""
        return [self._variant(it.params) for it in self._study.trials if it.state.is_finished() and it.params]

    def ask(self) -> tuple[int, Variant]:
        """Return the number of a trial, and the variant to try."""
        with self._lock:
            if self._left:
                trial = self._left.pop(0)
                return trial.number, self._variant(trial.params)
            chosen = self._study.ask()
            for axis in self._axes:
                if axis.is_range:
                    chosen.suggest_float(axis.key, axis.low, axis.high, log=axis.asks_logarithm)
                else:
                    chosen.suggest_categorical(axis.key, axis.values)
            return chosen.number, self._variant(chosen.params)

    def tell(self, number: int, accuracy: float | None) -> None:
        """Enter what a trial came to; None where it has no accuracy."""
        with self._lock:
            if accuracy is None:
                self._study.tell(number, state=self._failed)
            else:
                self._study.tell(number, accuracy)

    def _variant(self, params: dict[str, Any]) -> Variant:
        return Variant(tuple(Override(axis.key, write_value(params[axis.key])) for axis in self._axes))


def write_value(value: Any) -> str:
    """Return a value as YAML text; a real number has four digits, and a dot where it has an exponent."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"
