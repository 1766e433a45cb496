"""Made-up trials for the tests of the climb: what a variant's settings are worth is said in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dpuforge import pipeline
from dpuforge.records.project import Project
from dpuforge.records.variant import Override, Variant
from dpuforge.sweep.outcomes import Answers, Outcome
from dpuforge.tune.climb import Climb
from dpuforge.tune.costs import Costs
from dpuforge.tune.run_trials import Trial
from tests.squares_project import SPEC, write_project

IMAGES = 200
FIXED = (Override("data.evaluate", "validation"),)
MEASURED = Costs(calibrate=0.1, evaluate=0.1, evaluated=IMAGES, qat_images=40)
Worth = Callable[[Mapping[str, str]], int | None]


def make_outcome(right: int, variant: Variant | None = None, not_amd: tuple[str, ...] = ()) -> Outcome:
    """Return an outcome that recognises the first `right` images; float recognises all."""
    answers = Answers("same", tuple([1] * right + [0] * (IMAGES - right)), (1,) * IMAGES)
    accuracy = 100.0 * right / IMAGES
    metrics = {
        "float_accuracy": 100.0,
        "int8_accuracy": accuracy,
        "accuracy_drop": 100.0 - accuracy,
        "int8_interval": [accuracy, accuracy],
        "test_images": IMAGES,
    }
    document = {"emulated": True, "metrics": metrics, "not_amd": list(not_amd)}
    return Outcome(1, variant or Variant(FIXED), "done", "", document, answers)


class MadeUp:
    """A runner without a network: worth says how many images settings recognise (None: the trial never ends)."""

    def __init__(self, worth: Worth, seconds: float = 10.0) -> None:
        self.worth, self.seconds, self.step_seconds = worth, seconds, 0.0
        self.asked: list[dict[str, str]] = []

    def run(self, number: int, variant: Variant, seconds: float | None = None) -> Trial:
        """Look a variant up."""
        values = {it.key.removeprefix("quantization."): it.text for it in variant.overrides if it not in FIXED}
        self.asked.append(values)
        right = self.worth(values)
        if right is None:
            return Trial(None, seconds or 0.0)
        own = ("fast_finetune",) if values.get("fast_finetune.enabled") == "true" else ()
        learned = self.step_seconds * int(values.get("adjust.steps", 0))
        return Trial(make_outcome(right, variant, own), self.seconds + learned)


def make_climb(
    root: Path, worth: Worth, minutes: float = 100.0, change: tuple[str, str] = ("", ""), **known: object
) -> Climb:
    """Return a climb that begins at 100 of 200 images, on the spec of the squares with a text changed."""
    if not (root / "spec").exists():
        write_project(root, SPEC.replace(*change) if change[0] else SPEC)

    def load(variant: Variant) -> Project:
        return pipeline.load(root / "spec/squares.yaml", variant).project

    settings: dict[str, object] = {
        "runner": MadeUp(worth),
        "load": load,
        "fixed": FIXED,
        "best": (),
        "found": make_outcome(100),
        "costs": MEASURED,
        "operators": frozenset({"conv2d", "relu"}),
        "images": {"train": 400, "validation": 200, "test": 200},
        "emulated": True,
        "target": 1.0,
        "seconds": 60 * minutes,
    }
    return Climb(**{**settings, **known})  # type: ignore[arg-type]


def find_row(climb: Climb, name: str) -> dict[str, object]:
    """Return the row of a rung."""
    return next(row for row in climb.rows if row["rung"] == name)
