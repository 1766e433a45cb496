"""Outcomes of variants made by hand, for the tests of the judge."""

from __future__ import annotations

from collections.abc import Sequence

from dpuforge.records.variant import Override, Variant
from dpuforge.sweep.outcomes import Answers, Outcome


def make_outcome(
    number: int, right: Sequence[int], images: str = "same", fps: float | None = 100.0, weights: str = "", **values: str
) -> Outcome:
    """Return the outcome of a variant that recognises the images marked with 1; a key's dot is written as __."""
    variant = Variant(tuple(Override(key.replace("__", "."), text) for key, text in values.items()))
    accuracy = 100.0 * sum(right) / len(right)
    document = {
        "emulated": True,
        "metrics": {
            "float_accuracy": 99.0,
            "int8_accuracy": accuracy,
            "accuracy_drop": 99.0 - accuracy,
            "test_images": len(right),
        },
        "boards": {"KV260": {"fps_estimate": None if fps is None else [fps, fps, fps]}},
    }
    answers = Answers(images, tuple(right), tuple(right))
    return Outcome(number, variant, "done", "", document, answers, weights=weights)
