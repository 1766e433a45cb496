"""The judge of a trial: a remedy is kept only where it helps beyond luck, on the same images, and AMD's tool agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpuforge.chance.paired_tests import ALPHA, correct_holm, count_pairs, judge_pairs
from dpuforge.sweep.outcomes import Outcome

KEPT, REFUSED, FAILED = "kept", "refused", "failed"
STOPPED, NO_TIME, NO_USE, NOT_TRIED = "stopped", "no time", "does not apply", "not tried"
NO_FIGURES = "it has no figures that still stand: did something that decides them change meanwhile?"
FIGURES = ("float_accuracy", "float_interval", "int8_accuracy", "int8_interval", "accuracy_drop", "drop_interval")


def judge_trial(best: Outcome, trial: Outcome) -> dict[str, Any]:
    """Return verdict, reason, and the paired test of a trial against the best settings so far."""
    if trial.answers is None or best.answers is None:
        return {"verdict": FAILED, "reason": trial.reason or NO_FIGURES}
    if trial.answers.images != best.answers.images:
        return {"verdict": FAILED, "reason": "it was measured on other images"}
    found = judge_pairs(*count_pairs(best.answers.int8, trial.answers.int8))
    return {"verdict": "", "reason": "", **found, **_decide(trial, found)}


def _decide(trial: Outcome, found: Mapping[str, Any]) -> dict[str, str]:
    own = trial.document.get("not_amd") or ()
    if own:
        return {"verdict": NOT_TRIED, "reason": f"{' and '.join(own)} of the emulator is not AMD's"}
    if found["gained"] <= found["lost"]:
        return {"verdict": REFUSED, "reason": "it gains nothing" if found["gained"] == found["lost"] else "it loses"}
    if found["p"] >= ALPHA:
        return {"verdict": REFUSED, "reason": "that may be luck"}
    return {"verdict": KEPT, "reason": ""}


def describe_figures(outcome: Outcome | None) -> dict[str, Any]:
    """Return the accuracies of an outcome in percent, None where there are none."""
    metrics = outcome.document.get("metrics", {}) if outcome is not None else {}
    return {name: metrics.get(name) for name in (*FIGURES, "test_images", "split")}


def find_drop(outcome: Outcome) -> float:
    """Return by how many points int8 lies below float."""
    return float(outcome.document["metrics"]["accuracy_drop"])


def correct_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Enter Holm's p of every trial: several were tried."""
    tested = [row for row in rows if row.get("p") is not None]
    for row, corrected in zip(tested, correct_holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = float(f"{corrected:.4g}")
