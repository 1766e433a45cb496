"""The ladder: intervals, drops, McNemar's test, who made a rung, and which step lost the accuracy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dpuforge.records.result import StageResult, Status
from dpuforge.report.charts import assign_lanes, encode_map, make_ticks, scale_boards, scale_ladder
from dpuforge.report.facts import Facts
from dpuforge.report.ladder import build_ladder, mcnemar
from tests.report.sample import STAGES, make_facts, make_results, name_classes


def climb(board: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return the ladder of the sample, with the measurements of a board and other metrics of evaluate."""
    names = name_classes()
    results, facts = make_results(names), make_facts(names)
    evaluated = results["evaluate"]
    results["evaluate"] = evaluated.with_changes(metrics={**evaluated.metrics, **changes})
    return build_ladder(results, replace(facts, boards={"KV260": board}) if board else facts, True)


@pytest.mark.parametrize(
    ("lost", "gained", "p"), [(0, 0, 1.0), (2, 0, 0.5), (1, 1, 1.0), (10, 2, 0.03857), (150, 100, 0.00187)]
)
def test_mcnemar_is_the_exact_binomial_test(lost: int, gained: int, p: float) -> None:
    """p is twice the smaller tail of a fair coin, at most one."""
    assert mcnemar(lost, gained) == pytest.approx(p, rel=0.02)


def test_the_rungs_stand_in_order_and_say_who_made_them() -> None:
    """Float, int8, integers, compiled, board; what the emulator made is marked, float is not."""
    rungs = climb()["rungs"]
    assert [rung["kind"] for rung in rungs] == ["float", "int8", "integers", "compiled", "board"]
    assert [rung["emulated"] for rung in rungs] == [False, True, True, False, False]
    assert "emulator" in rungs[1]["toolchain"]
    assert "32 tensors" in rungs[2]["note"]
    assert rungs[4]["command"].startswith("dpuforge board test")


def test_the_step_that_lost_the_accuracy_is_named() -> None:
    """The largest drop is quantisation's; its p says that it is no chance."""
    found = climb()
    assert found["lost_by"].startswith("quantisation (calibrate) lost ")
    assert found["rungs"][1]["mcnemar"]["p"] < 0.05
    assert "chance" not in found["lost_by"]
    assert found["gate"]["kept"] is False


def test_a_drop_within_chance_says_so() -> None:
    """Two images lost and none gained are not called a loss of quantisation without a word of doubt."""
    found = climb(float_accuracy=97.3, int8_accuracy=97.1, lost=2, gained=0)
    assert "may be chance" in found["lost_by"]


def test_a_gain_is_no_loss() -> None:
    """Where int8 is better than float no step is blamed."""
    assert climb(float_accuracy=90.0, int8_accuracy=91.0, lost=1, gained=4)["lost_by"] == "no step lost accuracy"


def test_a_measured_board_is_compared_on_the_same_images() -> None:
    """A board's accuracy stands beside that of the integers on the same images, with McNemar's p and equal outputs."""
    pairs = {"lost": 3, "gained": 1, "p": 0.625}
    found = {"accuracy": 80.0, "interval": [75.1, 84.1], "images": 300, "accuracy_here": 80.6667, "mcnemar": pairs}
    ladder = climb({**found, "outputs": {"equal": 296, "images": 300}})
    rung = ladder["rungs"][-1]
    assert (rung["drop"], rung["mcnemar"], rung["interval"]) == (0.6667, pairs, [75.1, 84.1])
    assert rung["against"] == "the integers here, same images"
    assert rung["note"] == "296 of 300 raw outputs equal the integer run, bit for bit"
    assert climb({"accuracy": 80.0})["rungs"][-1]["against"] == "int8, fake-quantised"


def test_integers_that_were_measured_are_compared_with_int8() -> None:
    """An accuracy of the integer run is a rung of its own, and a board is compared with it."""
    names = name_classes()
    results, facts = make_results(names), make_facts(names)
    checked = results["preflight"]
    results["preflight"] = checked.with_changes(metrics={**checked.metrics, "integer_accuracy": 85.0})
    rungs = build_ladder(results, replace(facts, boards={"KV260": {"accuracy": 84.0}}), True)["rungs"]
    assert rungs[2]["against"] == "int8, fake-quantised"
    assert (rungs[4]["against"], rungs[4]["drop"]) == ("xmodel, on integers", 1.0)


def climb_on_integers(answers: Any, int8: Any, **figures: Any) -> dict[str, Any]:
    """Return the rung of the integers; answers and int8 are what preflight and evaluate say image by image."""
    names = name_classes()
    results, facts = make_results(names), make_facts(names)
    checked = results["preflight"]
    measured = {"integer_accuracy": 50.0, "integer_images": 4, "integer_images_of": 4, **figures}
    results["preflight"] = checked.with_changes(metrics={**checked.metrics, **measured})
    files = {**facts.files, "preflight/predictions.json": answers, "evaluate/predictions.json": int8}
    rung: dict[str, Any] = build_ladder(results, replace(facts, files=files), True)["rungs"][2]
    return rung


def test_integers_and_int8_are_compared_on_the_images_that_both_classified() -> None:
    """The drop is of the images of the integer run, in whatever order evaluate lists them; their number is told."""
    answers = {"files": ["a", "c", "e", "g"], "label": [1, 1, 1, 1], "integers": [1, 0, 0, 1]}
    int8 = {"files": list("gfedcba"), "int8": [1, 0, 1, 0, 1, 0, 0], "label": [1] * 7, "float": [1] * 7}
    rung = climb_on_integers(answers, int8, integer_images_of=7)
    assert rung["drop"] == 25.0
    assert (rung["mcnemar"]["lost"], rung["mcnemar"]["gained"]) == (2, 1)
    assert rung["against"] == "int8, same images"
    assert rung["note"].startswith("4 of 7 test images, spread evenly; 32 tensors")
    assert "spread" not in climb_on_integers(answers, int8)["note"]


@pytest.mark.parametrize(
    ("answers", "int8"),
    [
        ({"files": ["z"], "label": [1], "integers": [1]}, {"files": ["a"], "int8": [1]}),
        ({"files": ["a"], "label": [1], "integers": [1]}, {}),
        ({"files": ["a"], "label": [1]}, {"files": ["a"], "int8": [1]}),
        ({"files": [["a"]], "label": [1], "integers": [1]}, {"files": ["a"], "int8": [1]}),
        ({"files": ["a", "b"], "label": [1], "integers": [1]}, {"files": ["a"], "int8": [1]}),
        ([1], "text"),
    ],
)
def test_answers_that_do_not_fit_leave_the_accuracy(answers: Any, int8: Any) -> None:
    """Files of another split, damaged or half ones: the accuracy stands, no drop of same images is claimed."""
    rung = climb_on_integers(answers, int8)
    assert rung["top1"] == 50.0
    assert rung["against"] != "int8, same images"


def test_integers_without_an_accuracy_say_why() -> None:
    """Where the test images are gone the reason stands on the rung."""
    names = name_classes()
    results = make_results(names)
    checked = results["preflight"]
    results["preflight"] = checked.with_changes(metrics={**checked.metrics, "integer_note": "x.png does not exist"})
    rung = build_ladder(results, make_facts(names), True)["rungs"][2]
    assert rung["top1"] is None
    assert "32 tensors" in rung["note"]
    assert "no accuracy: x.png does not exist" in rung["note"]


def test_a_board_run_on_the_emulator_is_marked() -> None:
    """What a stand-in board measured says that it is emulated."""
    assert climb({"accuracy": 80.0, "images": 300, "emulated": True})["rungs"][-1]["emulated"] is True


def test_without_results_no_step_is_named() -> None:
    """An empty ladder has all its rungs, no figure, and a command for each."""
    found = build_ladder({}, Facts(stages=STAGES), False)
    assert all(rung["top1"] is None and rung["command"] for rung in found["rungs"])
    assert found["gate"]["kept"] is None
    assert "no step can be named yet" in found["lost_by"]


def test_a_failed_compilation_gives_its_reason() -> None:
    """The reason of a compile stage that failed stands on its rung."""
    failed = StageResult("compile", Status.FAILED, reason="Op not supported", board="KV260")
    rungs = build_ladder({"compile/KV260": failed}, Facts(stages=STAGES), False)["rungs"]
    assert rungs[3]["note"] == "Op not supported"


def test_places_on_the_ladder_are_within_it() -> None:
    """Every mark lies between 0 and 100 % of the axis, also at 100 % accuracy, and for one rung alone."""
    for top1, interval in ((100.0, [99.6, 100.0]), (0.0, [0.0, 0.4]), (50.0, None)):
        rungs = [{"top1": top1, "interval": interval}, {"top1": None, "interval": None}]
        scale = scale_ladder(rungs, top1 - 1.0)
        place, nothing = scale["rows"]
        assert nothing is None
        assert 0 <= place["left"] <= place["at"] <= place["left"] + place["width"] + 0.01 <= 100.02
    assert scale_ladder([{"top1": None, "interval": None}], None)["rows"] == [None]


def test_boards_of_very_different_speed_stay_apart() -> None:
    """Frame rates of 5 and 50,000 are both visible: the scale is logarithmic."""
    rows = [
        {"fps": [4.0, 5.0, 6.0], "measured_fps": None},
        {"fps": [4e4, 5e4, 6e4], "measured_fps": 5.5e4},
        {"fps": None, "measured_fps": None},
    ]
    slow, fast, none = scale_boards(rows)["rows"]
    assert none is None
    assert slow["at"] < 10
    assert fast["at"] > 90
    assert fast["left"] < fast["measured"] < fast["left"] + fast["width"]
    assert scale_boards([])["ticks"] == []


def test_ticks_are_round_and_few() -> None:
    """An axis has at most seven ticks, at round values within it."""
    for low, high in ((96.1, 98.2), (0.0, 100.0), (0.0, 26315.5), (99.99, 100.0)):
        ticks = make_ticks(low, high)
        assert 1 <= len(ticks) <= 7
        assert all(low <= tick <= high for tick in ticks)


def test_arcs_of_the_network_do_not_share_a_lane() -> None:
    """Two connections that skip rows side by side take two lanes, one after the other the same."""
    graph = [{"reads": [0, 1][:n]} for n in (0, 1)] + [
        {"reads": [1, 0]},
        {"reads": [2, 0]},
        {"reads": [3]},
        {"reads": [4, 3]},
    ]
    lanes = {(source, row): lane for source, row, lane in assign_lanes(graph)}
    assert lanes[0, 2] != lanes[0, 3]
    assert lanes[3, 5] in (lanes[0, 2], lanes[0, 3])
    assert lanes[2, 3] == 0


def test_a_class_map_is_a_png() -> None:
    """Maps become PNG files of their own size, values beyond 0 and 1 are cut."""
    import base64

    png = base64.b64decode(encode_map([[0.0, 0.5, 1.5], [-1.0, 1.0, 0.2]]))
    assert png.startswith(b"\x89PNG")
    assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (3, 2)
