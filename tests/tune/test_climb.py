"""The climb, with made-up trials: order, time, what is kept and what is refused, each with its reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpuforge import pipeline
from dpuforge.errors import Interrupted
from dpuforge.records.variant import Override, Variant
from dpuforge.sweep.outcomes import Outcome
from dpuforge.tune.climb import Climb, lay_over
from dpuforge.tune.judge_trial import judge_trial
from dpuforge.tune.run_trials import Trials
from dpuforge.tune.rungs import RUNGS, Situation
from tests.squares_project import SPEC
from tests.tune.cases import FIXED, IMAGES, MEASURED, MadeUp, find_row, make_climb, make_outcome

ALL_KINDS = frozenset({"conv2d", "relu6", "concat", "max pool"})


def go(climb: Climb) -> dict[str, str]:
    """Climb, and return the verdict of each rung."""
    climb.go()
    return {str(row["rung"]): str(row["verdict"]) for row in climb.rows}


def list_asked(climb: Climb) -> list[dict[str, str]]:
    """Return what the trials set."""
    return cast(MadeUp, climb.runner).asked


def test_the_first_remedy_that_reaches_the_target_ends_the_climb(tmp_path: Path) -> None:
    """Nothing runs after it; the rungs behind it say so, those before it why they were refused."""
    climb = make_climb(tmp_path, lambda values: 199 if values.get("include_cle") == "false" else 100)
    verdicts = go(climb)
    assert verdicts["calibration images"] == "refused"
    assert verdicts["include_cle"] == "kept"
    assert find_row(climb, "include_bias_corr")["reason"] == "the target was reached before"
    assert list_asked(climb)[-1] == {"include_cle": "false"}
    assert climb.reached


def test_remedies_are_laid_over_what_was_kept(tmp_path: Path) -> None:
    """Two that each help end together in the best settings; one that was refused is not in them."""

    def worth(values: Mapping[str, str]) -> int:
        return 100 + 30 * (values.get("include_cle") == "false") + 30 * (values.get("adjust.enabled") == "true")

    climb = make_climb(tmp_path, worth)
    go(climb)
    kept = {it.key.removeprefix("quantization."): it.text for it in climb.best}
    assert kept["include_cle"] == "false"
    assert kept["adjust.enabled"] == "true"
    assert "calibration.images" not in kept
    assert "include_bias_corr" not in kept


def test_a_longer_adjustment_takes_the_place_of_a_short_one(tmp_path: Path) -> None:
    """Both help beyond luck against the weights as trained; between them the higher figure decides."""

    def worth(values: Mapping[str, str]) -> int:
        if values.get("qat.enabled") == "true":
            return 150
        return {"110": 160, "500": 163}.get(values.get("adjust.steps", ""), 100)

    climb = make_climb(tmp_path, worth)
    go(climb)
    assert find_row(climb, "adjust")["verdict"] == "kept"
    assert Override("quantization.adjust.steps", "500") in climb.best
    assert find_row(climb, "qat")["reason"] == "it helps, and no more than what was kept"


@pytest.mark.parametrize(
    ("right", "verdict", "reason"),
    [(100, "refused", "gains nothing"), (90, "refused", "loses"), (104, "refused", "luck"), (106, "kept", "")],
)
def test_a_remedy_is_kept_only_beyond_luck(right: int, verdict: str, reason: str) -> None:
    """Four images more may be luck (p = 0.125); six gained and none lost are not (p = 0.03)."""
    judged = judge_trial(make_outcome(100), make_outcome(right))
    assert judged["verdict"] == verdict
    assert reason in judged["reason"]


def test_other_images_and_the_emulators_own_steps_are_never_kept() -> None:
    """However much they gain: one cannot be compared, the other is not what AMD's tool gives."""
    other = make_outcome(200)
    assert other.answers is not None
    moved = replace(other, answers=replace(other.answers, images="other"))
    assert judge_trial(make_outcome(100), moved)["verdict"] == "failed"
    own = judge_trial(make_outcome(100), make_outcome(200, not_amd=("fast_finetune",)))
    assert own["verdict"] == "not tried"
    assert "not AMD's" in own["reason"]


def test_fast_finetune_is_a_rung_of_amds_tool_alone(tmp_path: Path) -> None:
    """The emulator lists it with its reason; under AMD's toolchain it is tried, on plain weights."""
    emulated = make_climb(tmp_path, lambda values: 100)
    go(emulated)
    assert find_row(emulated, "fast_finetune")["verdict"] == "not tried"
    assert "AMD's fast_finetune finds other weights" in str(find_row(emulated, "fast_finetune")["reason"])
    assert all("fast_finetune.enabled" not in values for values in list_asked(emulated))
    real = make_climb(tmp_path, lambda values: 100, emulated=False)
    go(real)
    assert any(values.get("fast_finetune.enabled") == "true" for values in list_asked(real))


def test_what_does_not_end_in_time_is_left_out(tmp_path: Path) -> None:
    """With five minutes nothing that trains has room: no trial of it is started, and the table says what it needs."""
    climb = make_climb(tmp_path, lambda values: 100, minutes=2)
    verdicts = go(climb)
    assert verdicts["adjust, short"] == "no time"
    assert "minutes are needed" in str(find_row(climb, "adjust, short")["reason"])
    assert all("adjust.enabled" not in values for values in list_asked(climb))


def test_adjust_takes_as_many_steps_as_end_in_time(tmp_path: Path) -> None:
    """Five hundred do not fit, so fewer are asked for, at once: a short one before would take their time."""
    climb = make_climb(tmp_path, lambda values: 100, costs=replace(MEASURED, adjust=0.1), minutes=12)
    cast(MadeUp, climb.runner).step_seconds = 1.6
    go(climb)
    steps = [int(values["adjust.steps"]) for values in list_asked(climb) if "adjust.steps" in values]
    assert 143 <= steps[0] < 500
    assert steps[0] % 25 == 0
    assert "better use of the time" in str(find_row(climb, "adjust, short")["reason"])
    assert find_row(climb, "adjust, longer")["verdict"] == "does not apply"
    assert climb.left > 0


def test_settings_beyond_their_share_wait_for_adjust(tmp_path: Path) -> None:
    """Where each trial of a setting is dear, what changes weights comes before the last of them."""
    climb = make_climb(tmp_path, lambda values: 100, costs=replace(MEASURED, evaluate=0.3, adjust=0.01), minutes=6)
    cast(MadeUp, climb.runner).seconds = 100.0
    go(climb)
    order = [str(row["rung"]) for row in climb.rows]
    assert order.index("adjust, short") < order.index("include_bias_corr")
    assert len(order) == len(RUNGS)


def test_a_trial_that_is_stopped_has_its_row(tmp_path: Path) -> None:
    """Its time is spent, nothing of it is kept, and the rungs behind it have none left."""
    climb = make_climb(tmp_path, lambda values: None if values.get("include_cle") == "false" else 100)
    verdicts = go(climb)
    assert verdicts["include_cle"] == "stopped"
    assert verdicts["adjust"] == "no time"
    assert climb.best == ()


@pytest.mark.parametrize(
    ("name", "known", "reason"),
    [
        ("convert_relu6_to_relu", {}, "makes relu of every relu6 anyway"),
        ("change_concat_input_fix", {}, "the network has no concat"),
        ("method", {}, "maxmin has no effect"),
        ("layers in float", {}, "not possible on this target"),
        ("calibration images", {"images": {"train": 16, "validation": 8, "test": 8}}, "the train split has 16 images"),
        ("calibration on training images", {}, "validation images judge the trials"),
        ("calibration images", {"change": ("images: 16,", "images: 5000,")}, "5000 calibration images are not few"),
        ("qat", {"change": ("quantization: {", "quantization: {overall: {bit_width: 8}, ")}, "does not read"),
        ("change_pool_input_fix", {"change": ('"3.0"', '"2.5"')}, "does not know the key"),
    ],
)
def test_what_does_not_apply_says_why(tmp_path: Path, name: str, known: dict[str, Any], reason: str) -> None:
    """Each such row names its reason, and nothing is run for it."""
    climb = make_climb(tmp_path, lambda values: 100, **known)
    go(climb)
    row = find_row(climb, name)
    assert row["verdict"] == "does not apply"
    assert reason in str(row["reason"])


def test_relu6_is_tried_where_it_is_left(tmp_path: Path) -> None:
    """Without equalisation a network with relu6 may have it replaced."""
    change = ("quantization: {", "quantization: {include_cle: false, ")
    climb = make_climb(tmp_path, lambda values: 100, change=change, operators=ALL_KINDS)
    go(climb)
    assert {"convert_relu6_to_relu": "true"} in list_asked(climb)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "include_cle: false, convert_relu6_to_relu: true, change_concat_input_fix: true, ",
        "adjust: {enabled: true, steps: 50}, ",
        "fast_finetune: {enabled: true}, ",
        "include_bias_corr: false, calibration: {images: 4, batch_size: 4, from: validation}, ",
    ],
)
def test_every_rung_makes_a_spec_that_is_good(tmp_path: Path, given: str) -> None:
    """Whatever the spec has turned on, what a rung sets is a spec without mistakes."""
    text = SPEC.replace("quantization: {", "quantization: {" + given)
    if "calibration:" in given:
        text = text.replace("calibration: {images: 16, batch_size: 8, from: train}, ", "")
    climb = make_climb(tmp_path, lambda values: 100, change=(SPEC, text), operators=ALL_KINDS)
    situation = Situation(climb.load(Variant()), False, ALL_KINDS, climb.images)
    for rung in RUNGS:
        if not rung.applies(situation):
            climb.load(Variant(lay_over(FIXED, rung.change(situation))))


def test_no_rung_makes_the_training_stale(tmp_path: Path) -> None:
    """The scripts of training are the same text whatever a rung sets, and whichever split a trial is measured on."""
    climb = make_climb(tmp_path, lambda values: 100, operators=ALL_KINDS)
    situation = Situation(climb.load(Variant()), False, ALL_KINDS, climb.images)

    def render(*overrides: Override) -> dict[str, str]:
        plan = pipeline.plan(pipeline.load(tmp_path / "spec/squares.yaml", Variant(overrides)))
        names = next(stage.scripts for stage in plan.stages if stage.name == "train")
        return {file.path: file.text for file in pipeline.render(plan) if file.path in names}

    plain = render()
    assert "train.py" in plain
    for rung in RUNGS:
        if not rung.applies(situation):
            assert render(*lay_over(FIXED, rung.change(situation))) == plain, rung.name


def test_what_calibrates_on_validation_images_learns_on_training_images(tmp_path: Path) -> None:
    """Adjust must not see, without labels or not, the images that judge it."""
    change = ("from: train}", "from: validation}")
    climb = make_climb(tmp_path, lambda values: 100, change=change)
    go(climb)
    assert find_row(climb, "calibration on training images")["verdict"] == "refused"
    learned = [values for values in list_asked(climb) if values.get("adjust.enabled") == "true"]
    assert learned
    assert all(values["calibration.from"] == "train" for values in learned)


def test_several_tries_are_corrected_for(tmp_path: Path) -> None:
    """Holm's p stands beside each p, and is never smaller."""
    climb = make_climb(tmp_path, lambda values: 106 if values.get("include_cle") == "false" else 101)
    go(climb)
    tested = [row for row in climb.rows if row.get("p") is not None]
    assert len(tested) > 3
    assert all(row["p_holm"] >= row["p"] for row in tested)


def test_a_sweep_that_outlasts_its_time_is_ended_and_the_next_one_is_not() -> None:
    """The stop is set when the time is over, and taken back for the next trial; Ctrl-C is no end of time."""
    stop = threading.Event()

    def run_one(number: int, variant: Variant) -> Outcome:
        if number == 2:
            return replace(make_outcome(IMAGES), document={"stages": [{"stage": "evaluate", "seconds": 3}]})
        if number == 3:
            raise Interrupted
        while not stop.is_set():
            time.sleep(0.01)
        raise Interrupted

    trials = Trials(cast(Any, SimpleNamespace(run_one=run_one, stop=stop)), {"known": 77.0})
    ended = trials.run(1, Variant(FIXED), 0.1)
    assert ended.outcome is None
    assert not stop.is_set()
    assert trials.run(2, Variant((Override("a", "b"),)), 60.0).outcome is not None
    with pytest.raises(Interrupted):
        trials.run(3, Variant(), 60.0)


def test_what_an_earlier_call_spent_is_spent() -> None:
    """A trial that is fresh on a second call counts as long as it took the first time."""
    variant = Variant(FIXED)
    sweep = SimpleNamespace(run_one=lambda number, variant: make_outcome(IMAGES), stop=threading.Event())
    assert Trials(cast(Any, sweep), {variant.name: 77.0}).run(1, variant, 60.0).seconds == 77.0
