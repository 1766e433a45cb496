"""One trial: a variant of the spec through the whole pipeline, as a sweep runs it, ended where its time is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dpuforge.errors import Interrupted
from dpuforge.records.variant import Variant
from dpuforge.sweep.outcomes import Outcome
from dpuforge.sweep.run_variants import Sweep


@dataclass(frozen=True)
class Trial:
    """What became of a trial: no outcome where its time was over; seconds by the clock, and those of its stages."""

    outcome: Outcome | None
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)


class Trials:
    """Runs trials through a sweep. recorded holds the seconds of those that an earlier call of the command ended."""

    def __init__(self, sweep: Sweep, recorded: Mapping[str, float] = MappingProxyType({})) -> None:
        self._sweep, self._recorded = sweep, recorded

    def run(self, number: int, variant: Variant, seconds: float | None = None) -> Trial:
        """Run a variant, for so many seconds at most; raise Interrupted on Ctrl-C, after every child has ended."""
        late, begun = threading.Event(), time.monotonic()
        timer = threading.Timer(max(seconds or 0.0, 0.0), self._end, [late])
        timer.daemon = True
        outcome = None
        try:
            if seconds is not None:
                timer.start()
            outcome = self._sweep.run_one(number, variant)
        except Interrupted:
            if not late.is_set():
                raise
        finally:
            timer.cancel()
            if late.is_set():  # the next trial has time of its own
                self._sweep.stop.clear()
        took = time.monotonic() - begun
        if outcome is None:
            return Trial(None, took)
        return Trial(outcome, max(self._recorded.get(variant.name, 0.0), took), read_stages(outcome))

    def _end(self, late: threading.Event) -> None:
        late.set()
        self._sweep.stop.set()


def read_stages(outcome: Outcome) -> dict[str, float]:
    """Return the seconds of each stage, also of those that were taken over."""
    rows = outcome.document.get("stages", ())
    return {row["stage"]: float(row["seconds"]) for row in rows if row.get("status") == "done"}
