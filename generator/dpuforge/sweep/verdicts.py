"""The judge of a sweep: settings against the best one on the same images, seeds against each other, Holm over all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dpuforge.chance.intervals import mean_and_spread, wilson
from dpuforge.chance.paired_tests import ALPHA, correct_holm, count_pairs, mcnemar
from dpuforge.report.comparison import find_common_board, find_front
from dpuforge.sweep.axes import find_seed, name_setting
from dpuforge.sweep.outcomes import Outcome

SAME, WORSE = "not told apart", "worse"


def judge_sweep(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the document of a sweep: a row for each variant, a row for each setting, what the tests are."""
    documents = [outcome.document for outcome in outcomes if outcome.document]
    board = find_common_board(documents) if documents else None
    variants = [_describe(outcome, board) for outcome in outcomes]
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(name_setting(outcome.variant), []).append(outcome)
    settings = [_summarise(name, members, variants) for name, members in groups.items()]
    _compare_with_best(settings, groups)
    front = find_front([(row["int8_mean"], row["fps"]) for row in settings])
    for place, row in enumerate(settings):
        row["on_front"] = place in front
    return {"board": board, "variants": variants, "settings": settings, "alpha": ALPHA}


def _describe(outcome: Outcome, board: str | None) -> dict[str, Any]:
    metrics = outcome.document.get("metrics", {})
    fps = outcome.document.get("boards", {}).get(board, {}).get("fps_estimate") if board else None
    return {
        "number": outcome.number,
        "set": {override.key: override.text for override in outcome.variant.overrides},
        "folder": outcome.variant.name,
        "status": outcome.status,
        "reason": outcome.reason,
        "emulated": outcome.document.get("emulated"),
        **{name: metrics.get(name) for name in ("float_accuracy", "int8_accuracy", "accuracy_drop", "test_images")},
        "split": metrics.get("split") or "test",
        "int8_interval": metrics.get("int8_interval"),
        "fps": fps[1] if fps else None,
        "shared": dict(outcome.shared),
    }


def _summarise(name: str, members: Sequence[Outcome], variants: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the variants of one setting have in common: mean and spread over its seeds."""
    int8 = [outcome.int8 for outcome in members if outcome.int8 is not None]
    exact = [outcome.exact for outcome in members if outcome.exact is not None]
    mean, spread = mean_and_spread(int8) if int8 else (None, None)
    rows = [row for row in variants if row["number"] in {outcome.number for outcome in members}]
    rates = [row["fps"] for row in rows if row["fps"] is not None]
    images = next((row["test_images"] for row in rows if row["test_images"]), 0)
    return {
        "setting": name,
        "variants": [outcome.number for outcome in members],
        "seeds": [find_seed(outcome.variant) for outcome in members if outcome.int8 is not None],
        "float_mean": mean_and_spread(exact)[0] if exact else None,
        "int8_mean": mean,
        "int8_spread": spread,
        "int8_interval": _span_images(mean, images),
        "fps": sum(rates) / len(rates) if rates else None,
        "against_best": None,
        "verdict": "no figures" if mean is None else "",
    }


def _span_images(accuracy: float | None, images: int) -> list[float] | None:
    """Return Wilson's 95 % interval of a mean accuracy in percent: what other images could have given."""
    if accuracy is None or not images:
        return None
    return [100.0 * bound for bound in wilson(accuracy / 100.0 * images, images)]


def span_mean(values: Sequence[float]) -> list[float] | None:
    """Return Student's 95 % interval of the mean over seeds, None of fewer than two."""
    if len(values) < 2:
        return None
    mean, spread = mean_and_spread(values)
    half = find_quantile(len(values) - 1) * (spread or 0.0) / math.sqrt(len(values))
    return [mean - half, mean + half]


def find_quantile(freedom: int) -> float:
    """Return how many standard errors hold 95 % of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(1 - ALPHA / 2, freedom))


def _compare_with_best(settings: Sequence[dict[str, Any]], groups: Mapping[str, Sequence[Outcome]]) -> None:
    known = [row for row in settings if row["int8_mean"] is not None]
    if not known:
        return
    best = max(known, key=lambda row: row["int8_mean"])
    others = [row for row in known if row is not best]
    found = [_test(groups[row["setting"]], groups[best["setting"]]) for row in others]
    tested = [item for item in found if item is not None]
    for item, corrected in zip(tested, correct_holm([item["p"] for item in tested]), strict=True):
        item["p_holm"] = float(f"{corrected:.4g}")
    for row, result in zip(others, found, strict=True):
        row["against_best"] = result
        row["verdict"] = _judge(result)
    even = sum(row["verdict"] != WORSE for row in others)
    best["verdict"] = f"highest, not told apart from {even} of {len(others)}" if even else "the best"


def _test(mine: Sequence[Outcome], best: Sequence[Outcome]) -> dict[str, Any] | None:
    """Compare two settings on the same images with the seeds that both have; None where they share nothing.

    Of several seeds an image counts by how many of the trainings recognise it: the images are what is drawn at random.
    """
    ours, theirs = ({find_seed(it.variant): it for it in side if it.answers} for side in (mine, best))
    seeds = [seed for seed in ours if seed in theirs]
    sides = [[it[seed].answers for seed in seeds] for it in (ours, theirs)]
    if len({found.images for side in sides for found in side if found}) != 1:
        return None
    own, its = (list(map(sum, zip(*(found.int8 for found in side if found), strict=True))) for side in sides)
    lost, gained = count_pairs(its, own)
    gaps = [(theirs[seed].int8 or 0.0) - (ours[seed].int8 or 0.0) for seed in seeds]
    return {
        "seeds": len(seeds),
        "same_training": all(ours[seed].weights == theirs[seed].weights for seed in seeds),
        "behind": sum(gaps) / len(gaps),
        "behind_interval": span_mean(gaps),
        "lost": lost,
        "gained": gained,
        "p": float(f"{mcnemar(lost, gained):.4g}"),
    }


def _judge(found: Mapping[str, Any] | None) -> str:
    """Say "worse" only where neither the choice of images nor, of several seeds, that of seeds explains it."""
    if found is None:
        return "not on the same images and seeds"
    if found["p_holm"] >= ALPHA:
        return SAME
    span = found["behind_interval"]
    if span is None and not found["same_training"]:
        return f"{SAME}: one seed, and they were trained apart"
    return WORSE if span is None or span[0] > 0 else f"{SAME}: seeds differ as much"
