"""figures.py: what stands beside an accuracy, and the warnings on what it hides."""

from __future__ import annotations

import types
from typing import Any

import pytest
import shapes_project as shapes

TWO, THREE = ("good", "scratch"), ("across", "diagonal", "upright")


@pytest.fixture(scope="module")
def figures() -> Any:
    """Return the generated module."""
    module = types.ModuleType("figures")
    exec(shapes.render_scripts(shapes.make_project())["figures.py"], module.__dict__)
    return module


def spread(*counts: int) -> list[int]:
    """Return counts[0] zeros, counts[1] ones, and so on."""
    return [index for index, count in enumerate(counts) for _ in range(count)]


def codes(warnings: list[dict[str, Any]]) -> list[str]:
    return [warning["code"] for warning in warnings]


def find(warnings: list[dict[str, Any]], code: str) -> dict[str, Any]:
    """Return the only warning with a code."""
    (found,) = [warning for warning in warnings if warning["code"] == code]
    return found


def test_balanced_accuracy_counts_each_class_alike(figures: Any) -> None:
    """190 of 190 and 0 of 10 are 95 % of the images and 50 % of the classes; empty classes do not count."""
    labels = spread(190, 10)
    assert figures.measure_accuracy(labels, [0] * 200) == 95.0
    assert figures.measure_balanced_accuracy(labels, [0] * 200) == 50.0
    assert figures.measure_balanced_accuracy([0, 0, 2], [0, 1, 2]) == 75.0


def test_top_five_is_told_from_ten_classes_on(figures: Any) -> None:
    """With nine classes it is not applicable, with ten it is the share of hits."""
    assert figures.measure_top([0, 1], [True, False], 9) is None
    assert figures.measure_top([0, 1], [True, False], 10) == 50.0


def test_wilson_interval_as_published(figures: Any) -> None:
    """81 of 263: 25.53 to 36.62 % (Newcombe 1998, table I, method 3)."""
    low, high = figures.wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(("pairs", "low", "high"), [((36, 12, 2, 0), 5.69, 34.04), ((53, 1, 0, 0), -4.85, 9.74)])
def test_paired_interval_as_published(figures: Any, pairs: tuple[int, ...], low: float, high: float) -> None:
    """The interval of a paired difference (Newcombe 1998, Statistics in Medicine 17:2635, method 10)."""
    assert figures.drop_interval(pairs) == pytest.approx([low, high], abs=0.2)


def test_paired_interval_mirrors_and_narrows(figures: Any) -> None:
    """Exchanging the networks mirrors the interval; a hundred times the images narrow it to about a tenth."""
    low, high = figures.drop_interval((80, 12, 3, 5))
    assert figures.drop_interval((80, 3, 12, 5)) == pytest.approx([-high, -low], abs=1e-3)
    narrow = figures.drop_interval((8000, 1200, 300, 500))
    assert narrow[0] < 9.0 < narrow[1]
    assert (high - low) / 12 < narrow[1] - narrow[0] < (high - low) / 8


def test_a_class_that_is_never_recognised_is_named(figures: Any) -> None:
    """One answer to everything, 95 % right: the class at zero, the imbalance and chance level are each said."""
    labels = spread(190, 10)
    networks = {"float": [0] * 200, "int8": [0] * 200}
    found = figures.find_warnings(TWO, labels, networks, 5.0)
    assert codes(found) == ["UNEVEN_TEST_SPLIT", "CLASS_NEVER_RECOGNISED", "SAME_ANSWER", "SAME_ANSWER"]
    assert find(found, "CLASS_NEVER_RECOGNISED")["classes"] == ["scratch"]
    assert "float and int8" in find(found, "CLASS_NEVER_RECOGNISED")["text"]
    assert "always answering good would give 95.00 %" in find(found, "UNEVEN_TEST_SPLIT")["text"]


def test_a_class_that_int8_alone_loses_is_told_from_one_that_was_never_learnt(figures: Any) -> None:
    """Float knows the class and int8 does not: the warning is int8's, with what the class is taken for."""
    labels = spread(20, 20, 20)
    int8 = spread(20, 20) + [0] * 15 + [1] * 5
    found = figures.find_warnings(THREE, labels, {"float": labels, "int8": int8}, 1.0)
    warning = find(found, "CLASS_NEVER_RECOGNISED")
    assert warning["classes"] == ["upright"]
    assert "by the int8 network: upright (of 20 images float 20, int8 0; mostly taken for across)" in warning["text"]
    assert "DROP_IN_ONE_CLASS" not in codes(found)


def test_many_classes_that_are_never_recognised_are_counted(figures: Any) -> None:
    """A warning names ten classes and counts the others."""
    classes = [f"class{number}" for number in range(40)]
    labels = spread(*[2] * 40)
    warning = find(figures.find_warnings(classes, labels, {"float": [0] * 80}), "CLASS_NEVER_RECOGNISED")
    assert len(warning["classes"]) == 39
    assert "class10 (" in warning["text"]
    assert "class11 (" not in warning["text"]
    assert warning["text"].endswith("and 29 more")


def test_a_drop_in_one_class_is_named(figures: Any) -> None:
    """Of thirty classes one falls from 100 % to 40 %, while the accuracy drops 2 points."""
    classes = [f"fruit {number}" for number in range(30)]
    labels = spread(*[20] * 30)
    int8 = list(labels)
    int8[140:152] = [8] * 12
    found = figures.find_warnings(classes, labels, {"float": labels, "int8": int8}, 5.0)
    assert codes(found) == ["DROP_IN_ONE_CLASS"]
    assert "class fruit 7: recall falls from 100.00 % to 40.00 % (20 to 8 of 20 images)" in found[0]["text"]
    assert "drops 2.00 points" in found[0]["text"]


def test_each_of_several_classes_that_drop_is_named(figures: Any) -> None:
    """Three of thirty classes lose half of their images each: none has half of the loss, all are told."""
    labels = spread(*[20] * 30)
    int8 = list(labels)
    for index in (2, 11, 29):
        int8[index * 20 : index * 20 + 10] = [0] * 10
    found = figures.find_warnings([str(n) for n in range(30)], labels, {"float": labels, "int8": int8}, 10.0)
    assert [item["classes"] for item in found if item["code"] == "DROP_IN_ONE_CLASS"] == [["2"], ["11"], ["29"]]


def test_a_drop_that_all_classes_share_names_none(figures: Any) -> None:
    """Every class loses two of twenty images: the accuracy says it all."""
    labels = spread(*[20] * 10)
    int8 = [(label + 1) % 10 if place % 20 < 2 else label for place, label in enumerate(labels)]
    found = figures.find_warnings([str(n) for n in range(10)], labels, {"float": labels, "int8": int8}, 1.0)
    assert "DROP_IN_ONE_CLASS" not in codes(found)


def test_a_test_set_too_small_for_the_gate_says_how_many_would_do(figures: Any) -> None:
    """100 images cannot tell a drop of 0 from one of 1 point; the number named decides it, half of it does not."""
    labels = spread(50, 50)
    made = [1] * 5 + [0] * 45 + [1] * 50
    found = figures.find_warnings(TWO, labels, {"float": made, "int8": made}, 1.0)
    assert codes(found) == ["TEST_SET_TOO_SMALL"]
    pairs = figures.count_pairs(labels, made, made)
    needed = figures.count_images_needed(pairs, 1.0)
    assert f"about {needed:,} would" in found[0]["text"]
    assert not figures.is_undecided([part * needed / 100 for part in pairs], 1.0)
    assert figures.is_undecided([part * needed / 200 for part in pairs], 1.0)


def test_a_test_set_that_decides_gives_no_warning(figures: Any) -> None:
    """1000 images with the same answers keep 1 point; 1000 with 100 lost miss it: both are decided."""
    labels = spread(500, 500)
    kept = figures.find_warnings(TWO, labels, {"float": labels, "int8": labels}, 1.0)
    missed = figures.find_warnings(
        TWO, labels, {"float": labels, "int8": [1] * 50 + [0] * 450 + [0] * 50 + [1] * 450}, 1.0
    )
    assert codes(kept) == []
    assert "TEST_SET_TOO_SMALL" not in codes(missed)


def test_a_drop_on_the_limit_is_decided_by_no_number(figures: Any) -> None:
    """max_accuracy_drop 0 and a drop of 0: no test set tells, and none is advised."""
    labels = spread(50, 50)
    text = find(figures.find_warnings(TWO, labels, {"float": labels, "int8": labels}, 0.0), "TEST_SET_TOO_SMALL")
    assert "no number of images within reason would decide" in text["text"]


def test_guessing_is_told_from_knowing(figures: Any) -> None:
    """Answers that repeat regardless of the image are at chance level; those of a network that knows are not."""
    labels = spread(40, 40, 40)
    found = figures.find_warnings(THREE, labels, {"float": [n % 3 for n in range(120)]})
    assert codes(found) == ["CHANCE_LEVEL"]
    assert "chance level for 3 classes is 33.33 %" in found[0]["text"]
    knowing = [label if place % 2 else (label + 1) % 3 for place, label in enumerate(labels)]
    assert codes(figures.find_warnings(THREE, labels, {"float": knowing})) == []


@pytest.mark.parametrize(
    ("classes", "labels", "made", "expected"),
    [
        (("only",), [0, 0, 0], [0, 0, 0], ["ONE_CLASS", "CHANCE_LEVEL"]),
        (TWO, [0, 0, 0, 0], [0, 0, 0, 0], ["ONE_CLASS", "NO_TEST_IMAGES"]),
        (TWO, [1, 1, 1, 1], [0, 0, 0, 0], ["ONE_CLASS", "NO_TEST_IMAGES", "CLASS_NEVER_RECOGNISED", "SAME_ANSWER"]),
        (THREE, [0], [0], ["ONE_CLASS", "NO_TEST_IMAGES", "CHANCE_LEVEL"]),
        (THREE, [2], [0], ["ONE_CLASS", "NO_TEST_IMAGES", "CLASS_NEVER_RECOGNISED", "CHANCE_LEVEL"]),
        (THREE, spread(30, 30, 0), spread(30, 30, 0), ["NO_TEST_IMAGES"]),
        (THREE, spread(30, 30, 30), spread(30, 30, 30), []),
        (TWO, spread(30, 11), spread(30, 11), []),
        (TWO, spread(30, 10), spread(30, 10), ["UNEVEN_TEST_SPLIT"]),
    ],
)
def test_odd_test_splits_give_sane_figures(
    figures: Any, classes: tuple[str, ...], labels: list[int], made: list[int], expected: list[str]
) -> None:
    """One class, one image, empty classes: every figure is a percentage or None, and the split is named as it is."""
    found = figures.find_warnings(classes, labels, {"float": made, "int8": made}, 100.0)
    assert [code for code in dict.fromkeys(codes(found)) if code != "TEST_SET_TOO_SMALL"] == expected
    rows = figures.tabulate_classes(classes, labels, {"float": made, "int8": made})
    for row in rows:
        assert row["float_recall"] is None or 0.0 <= row["float_recall"] <= 100.0
        assert (row["recall_drop"] is None) == (row["images"] == 0)
    low, high = figures.drop_interval(figures.count_pairs(labels, made, made))
    assert -100.0 <= low <= 0.0 <= high <= 100.0


def test_an_output_that_is_no_class_has_its_number(figures: Any) -> None:
    """A network with more outputs than classes is told by the output's number, not by a traceback."""
    networks = {"float": [7, 7, 7, 7], "int8": [7, 0, 7, 1]}
    found = figures.find_warnings(TWO, [0, 0, 1, 1], networks, 5.0)
    assert "the same answer, output 7, for all 4" in find(found, "SAME_ANSWER")["text"]
    assert figures.count_confusions(TWO, [0, 0, 1, 1], networks)[-1]["predicted"] == "output 7"


def test_confusions_and_precision_add_up(figures: Any) -> None:
    """Each pair of true and predicted class is counted for both networks; precision is of what was answered."""
    labels, exact, rounded = [0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]
    rows = figures.count_confusions(TWO, labels, {"float": exact, "int8": rounded})
    assert sum(row["float"] for row in rows) == sum(row["int8"] for row in rows) == 5
    assert {"true": "good", "predicted": "scratch", "float": 1, "int8": 0} in rows
    good, scratch = figures.tabulate_classes(TWO, labels, {"float": exact, "int8": rounded})
    assert (good["float_precision"], good["int8_precision"]) == (100.0, pytest.approx(66.6667))
    assert (scratch["float_precision"], scratch["int8_taken_for"]) == (75.0, "good")
    assert (good["recall_drop"], scratch["recall_drop"]) == (-50.0, pytest.approx(33.3333))
