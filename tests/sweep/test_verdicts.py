"""Luck is not called better: tests on the same images, seeds, Holm's correction."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import binomtest

from dpuforge.chance.intervals import wilson
from dpuforge.chance.paired_tests import correct_holm, count_pairs, luck, mcnemar
from dpuforge.report.comparison import find_front
from dpuforge.sweep.outcomes import parse_answers
from dpuforge.sweep.run_variants import Sweep
from dpuforge.sweep.verdicts import judge_sweep
from dpuforge.sweep.write_page import draw_plot, write_page
from tests.sweep.cases import make_outcome


def first_wrong(count: int, of: int = 200) -> list[int]:
    """Return answers of which the first `count` are wrong."""
    return [0] * count + [1] * (of - count)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 0), (3, 9), (40, 61), (700, 650), (0, 2000)])
def test_mcnemar_equals_scipys_binomial_test(lost: int, gained: int) -> None:
    """The exact test, also where counts are so large that a float cannot hold 2 to their power."""
    expected = binomtest(min(lost, gained), lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)
    assert 0.0 <= luck(gained, lost) <= 1.0


@pytest.mark.parametrize(
    ("chances", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the example of R's p.adjust documentation, by hand
        ([], []),
        ([0.9], [0.9]),
        ([0.5, 0.5, 0.5], [1.0, 1.0, 1.0]),
    ],
)
def test_holm_corrects_for_the_number_of_tests(chances: list[float], corrected: list[float]) -> None:
    """Each p is multiplied by how many are left, and never falls below that of a smaller one."""
    assert correct_holm(chances) == pytest.approx(corrected)


def test_wilson_holds_what_scipy_says() -> None:
    """Also of none and of all."""
    for right, count in ((0, 10), (10, 10), (7, 12), (973, 1000)):
        found = binomtest(right, count).proportion_ci(method="wilson")
        assert wilson(right, count) == pytest.approx((found.low, found.high), abs=1e-12)


def test_one_seed_with_many_images_tells_a_real_difference() -> None:
    """Forty images lost of two hundred are no luck; two of them are."""
    outcomes = [
        make_outcome(1, first_wrong(2), a="x"),
        make_outcome(2, first_wrong(4), a="y"),
        make_outcome(3, first_wrong(42), a="z"),
    ]
    rows = {row["setting"]: row for row in judge_sweep(outcomes)["settings"]}
    assert rows["a=x"]["verdict"] == "highest, not told apart from 1 of 2"
    assert rows["a=y"]["verdict"] == "not told apart"
    assert rows["a=z"]["verdict"] == "worse"
    assert rows["a=z"]["against_best"]["p_holm"] == pytest.approx(2 * rows["a=z"]["against_best"]["p"], rel=1e-3)


def test_a_lucky_seed_is_not_called_better() -> None:
    """Where one setting wins with one seed and loses with another, images alone decide nothing."""
    outcomes = [
        make_outcome(1, first_wrong(0), a="x", train__seed="0"),
        make_outcome(2, first_wrong(40), a="y", train__seed="0"),
        make_outcome(3, first_wrong(12), a="x", train__seed="1"),
        make_outcome(4, first_wrong(8), a="y", train__seed="1"),
    ]
    rows = {row["setting"]: row for row in judge_sweep(outcomes)["settings"]}
    assert rows["a=x"]["verdict"] == "highest, not told apart from 1 of 1"
    assert rows["a=y"]["against_best"]["p_holm"] < 0.05
    assert rows["a=y"]["verdict"] == "not told apart: seeds differ as much"
    assert rows["a=y"]["int8_spread"] == pytest.approx(11.3137, abs=1e-3)


def test_a_difference_that_every_seed_shows_is_called_worse() -> None:
    """Three seeds that lose about as much each are no luck of seeds."""
    worse = {"0": 30, "1": 31, "2": 32}
    outcomes = [make_outcome(n, first_wrong(2), a="x", train__seed=seed) for n, seed in enumerate(worse, 1)]
    outcomes += [make_outcome(n, first_wrong(w), a="y", train__seed=s) for n, (s, w) in enumerate(worse.items(), 4)]
    rows = {row["setting"]: row for row in judge_sweep(outcomes)["settings"]}
    assert rows["a=y"]["verdict"] == "worse"


def test_settings_on_other_images_or_seeds_are_not_tested() -> None:
    """Without the same images there is no paired test, and the table says so."""
    rows = judge_sweep([make_outcome(1, first_wrong(1), a="x"), make_outcome(2, first_wrong(50), "other", a="y")])
    assert rows["settings"][1]["verdict"] == "not on the same images and seeds"
    seeds = [
        make_outcome(1, first_wrong(1), a="x", train__seed="0"),
        make_outcome(2, first_wrong(50), a="y", train__seed="1"),
    ]
    assert judge_sweep(seeds)["settings"][1]["against_best"] is None


def test_an_empty_sweep_and_failures_have_rows() -> None:
    """A variant without figures has no verdict but "no figures"."""
    assert judge_sweep([])["settings"] == []
    failed = make_outcome(1, first_wrong(0), a="x")
    failed = type(failed)(1, failed.variant, "failed", "train: it broke")
    document = judge_sweep([failed, make_outcome(2, first_wrong(1), a="y")])
    assert document["settings"][0]["verdict"] == "no figures"
    assert document["variants"][0]["reason"] == "train: it broke"


def test_ties_are_all_on_the_front() -> None:
    """Settings with equal figures hide none of each other."""
    document = judge_sweep([make_outcome(n, first_wrong(1), a=str(n)) for n in (1, 2)])
    assert [row["on_front"] for row in document["settings"]] == [True, True]
    assert find_front([(1.0, 2.0), (1.0, 1.0)]) == {0}


def test_predictions_that_were_tampered_with_are_no_answers() -> None:
    """Rows of other lengths, and files without rows, are refused."""
    good = {"label": [0, 1], "int8": [0, 0], "float": [0, 1], "files": ["a", "b"]}
    assert (parse_answers(good).int8, parse_answers(good).exact) == ((1, 0), (1, 1))
    for wrong in ({**good, "int8": [0]}, {"label": [0]}, {**good, "files": None, "float": None}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            parse_answers(wrong)


def test_pairs_count_by_how_many_trainings_recognise_an_image() -> None:
    """An image that both recognise equally often says nothing."""
    assert count_pairs([2, 1, 0, 2], [2, 2, 0, 0]) == (1, 1)


def test_the_page_and_the_plot_show_what_was_judged(tmp_path: Path) -> None:
    """Every verdict, p and interval of the document stands on the page; a sweep without frame rates has no plot."""
    outcomes = [make_outcome(1, first_wrong(2), a="x|y"), make_outcome(2, first_wrong(42), a="z")]
    document = {"spec": "spec/a.yaml", **judge_sweep(outcomes)}
    write_page(tmp_path / "sweep.md", document)
    text = (tmp_path / "sweep.md").read_text()
    assert "worse" in text
    assert "a=x\\|y" in text
    assert "emulated" in text
    assert draw_plot(tmp_path / "pareto.png", document)
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    bare = {"spec": "a", **judge_sweep([make_outcome(1, first_wrong(2), fps=None, a="x")])}
    assert not draw_plot(tmp_path / "none.png", bare)


def test_pruning_spares_the_seeds_of_what_is_clearly_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that lost beyond luck with one seed gets no other; one that may only be unlucky does."""
    sweep = Sweep.__new__(Sweep)
    monkeypatch.setattr(sweep, "settings", 3, raising=False)
    monkeypatch.setattr(sweep, "_lock", __import__("threading").Lock(), raising=False)
    ended = [
        make_outcome(1, first_wrong(0), a="x", train__seed="0"),
        make_outcome(2, first_wrong(2), a="y", train__seed="0"),
        make_outcome(3, first_wrong(60), a="z", train__seed="0"),
    ]
    monkeypatch.setattr(sweep, "done", {it.number: it for it in ended}, raising=False)
    found = {name: sweep._find_better(make_outcome(9, [1], a=name, train__seed="1").variant) for name in "xyz"}
    assert found["x"] == found["y"] == ""
    assert found["z"] == "a=x is better beyond luck"
    ended[2] = make_outcome(3, first_wrong(60), weights="of its own", a="z", train__seed="0")
    monkeypatch.setattr(sweep, "done", {it.number: it for it in ended}, raising=False)
    assert sweep._find_better(make_outcome(9, [1], a="z", train__seed="1").variant) == ""


def test_one_seed_says_nothing_of_settings_that_were_trained_apart() -> None:
    """Forty images less with one seed are worse after the same training, and may be luck after another."""
    for weights, verdict in (("x", "worse"), ("y", "not told apart: one seed, and they were trained apart")):
        best, other = (
            make_outcome(1, first_wrong(2), weights="x", a="x"),
            make_outcome(2, first_wrong(42), weights=weights, a="y"),
        )
        assert judge_sweep([best, other])["settings"][1]["verdict"] == verdict
