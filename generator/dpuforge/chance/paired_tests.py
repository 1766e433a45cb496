"""Tests of two networks on the same images, and what several tests at once ask of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

ALPHA = 0.05


def luck(won: int, lost: int) -> float:
    """Return how often a fair coin gives at least `won` of won + lost: the exact one-sided sign test."""
    total = won + lost
    ways = term = math.comb(total, won)
    for wins in range(won, total):
        term = term * (total - wins) // (wins + 1)
        ways += term
    return ways / (1 << total)


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p of McNemar's exact test (1947): images that one of the two alone recognises."""
    return min(1.0, 2.0 * luck(max(lost, gained), min(lost, gained)))


def judge_pairs(lost: int, gained: int) -> dict[str, Any]:
    """Return how many images a step lost and gained, with McNemar's p."""
    return {"lost": lost, "gained": gained, "p": float(f"{mcnemar(lost, gained):.4g}")}


def count_pairs(before: Sequence[float], after: Sequence[float]) -> tuple[int, int]:
    """Return on how many images a second network does worse and better than a first, image by image.

    A figure is 1 or 0 for an image recognised or not, or how many of several trainings recognise it.
    """
    pairs = list(zip(before, after, strict=True))
    return sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)


def correct_holm(chances: Sequence[float]) -> list[float]:
    """Return the p values of several tests, corrected for their number (Holm 1979)."""
    corrected, worst = [1.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=lambda place: chances[place])):
        worst = max(worst, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = worst
    return corrected
