"""Runs share a stage exactly where the rule of staleness sees no difference; what is shared stays whole for all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpuforge import pipeline
from dpuforge.errors import Interrupted
from dpuforge.execute.aftermath import part_links
from dpuforge.execute.results import hash_file, read_result, write_result
from dpuforge.execute.staleness import Present, explain_changes, explain_staleness
from dpuforge.records.files import hash_text
from dpuforge.records.job import Job
from dpuforge.records.plan import PlannedStage
from dpuforge.records.result import StageResult, Status
from dpuforge.records.variant import Override, Variant
from dpuforge.running import read_scripts
from dpuforge.sweep.run_variants import share_kept
from dpuforge.sweep.sharing import Sharing, find_variants
from tests.squares_project import SPEC, write_project

Load = Callable[..., Job]
WEIGHTS = os.urandom(1 << 17)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a variant of a project whose files are generated."""
    write_project(tmp_path / "p")

    def load_variant(*values: str, spec: str = "squares") -> Job:
        variant = Variant(tuple(Override(*text.split("=", 1)) for text in values)) if values else None
        job = pipeline.load(tmp_path / f"p/spec/{spec}.yaml", variant)
        pipeline.write(job, pipeline.render(pipeline.plan(job)))
        return job

    return load_variant


def find(job: Job, name: str) -> tuple[PlannedStage, Present]:
    """Return a stage of a job, and what it would be made of."""
    plan = pipeline.plan(job)
    return next(it for it in plan.stages if it.name == name), Present(job.root, job.build, read_scripts(job, plan))


def make(job: Job, name: str = "train", content: bytes = WEIGHTS, status: Status = Status.DONE) -> None:
    """Leave what a stage's script would: one file, a log and its result."""
    stage, present = find(job, name)
    folder = job.build / stage.key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pth").write_bytes(content)
    (folder / "log.txt").write_text("a log")
    (folder / "model.last.pth").write_bytes(b"to go on from")
    scripts = {it: hash_text(present.scripts[it]) for it in stage.scripts if it in present.scripts}
    outputs = {(folder / "model.pth").relative_to(job.root).as_posix(): hash_file(folder / "model.pth")}
    inputs = {}
    for need in stage.needs:
        earlier = read_result(job.build / need)
        inputs.update(earlier.outputs if earlier else {})
    write_result(folder, StageResult(name, status, inputs=inputs, outputs=outputs, scripts=scripts, seconds=9.0))


def take(sharing: Sharing, job: Job, name: str = "train") -> StageResult | None:
    """Ask for a stage's result of another run."""
    with sharing.obtain(*find(job, name)) as taken:
        return taken


def test_an_equal_training_is_taken_over_and_is_then_fresh(load: Load) -> None:
    """Files, result and names are the taker's own, a large output is one file on disk, and it says whose it is."""
    one, two = load("quantization.overall.method=maxmin"), load("quantization.overall.method=diffs")
    make(one)
    taken = take(Sharing([one, two]), two)
    assert taken is not None
    assert taken.taken_from == "variant quantization.overall.method=maxmin"
    assert read_result(two.build / "train") == taken
    assert (two.build / "train/model.pth").samefile(one.build / "train/model.pth")
    assert not (two.build / "train/log.txt").samefile(one.build / "train/log.txt")
    assert not (two.build / "train/model.last.pth").exists()
    assert explain_staleness(*find(two, "train")) == ""


@pytest.mark.parametrize(
    ("values", "stage"),
    [
        (("train.seed=1",), "train"),
        (("train.epochs=3",), "train"),
        (("quantization.overall.method=maxmin",), "calibrate"),
    ],
)
def test_a_stage_that_the_variant_decides_is_not_shared(load: Load, values: tuple[str, ...], stage: str) -> None:
    """Another seed is another training; another method another calibration."""
    one, two = load("train.workers=0"), load(*values)
    make(one, stage)
    assert take(Sharing([one, two]), two, stage) is None


def test_what_an_earlier_stage_made_decides_too(load: Load) -> None:
    """Equal scripts on other weights are another calibration, on equal weights the same."""
    one, two = load("train.seed=0"), load("target.net_name=squares")
    for job in (one, two):
        make(job)
    make(one, "calibrate")
    assert take(Sharing([one, two]), two, "calibrate") is not None
    (two.build / "calibrate/result.json").unlink()
    make(two, content=os.urandom(99))
    assert take(Sharing([one, two]), two, "calibrate") is None


@pytest.mark.parametrize("harm", ["changed", "cut", "gone", "failed", "imported", "no result"])
def test_a_result_that_does_not_hold_is_not_taken(load: Load, harm: str) -> None:
    """What was changed since, failed, was imported or has no result decides nothing for others."""
    one, two = load("train.workers=0"), load("data.limit=null")
    make(one, status=Status.FAILED if harm == "failed" else Status.DONE)
    weights, folder = one.build / "train/model.pth", one.build / "train"
    if harm == "changed":
        weights.write_bytes(os.urandom(1 << 17))
    elif harm == "cut":
        weights.write_bytes(WEIGHTS[:100])
    elif harm == "gone":
        weights.unlink()
    elif harm == "no result":
        (folder / "result.json").unlink()
    elif harm == "imported":
        result = read_result(folder)
        assert result is not None
        write_result(folder, result.with_changes(metrics={"imported": {"from": "elsewhere"}}))
    assert take(Sharing([one, two]), two) is None
    assert not (two.build / "train/result.json").exists()


@pytest.mark.parametrize("status", [Status.FAILED, Status.DONE])
def test_what_a_failed_stage_made_need_not_be_there(load: Load, status: Status) -> None:
    """It was set aside, so that the figures of a missed gate are those of the present configuration."""
    job = load("train.workers=0")
    make(job, status=status)
    (job.build / "train/model.pth").unlink()
    stage, present = find(job, "train")
    result = read_result(job.build / "train")
    assert result is not None
    why = explain_changes(stage, result, present)
    assert why == "" if status is Status.FAILED else "model.pth is missing" in why


def test_two_specs_that_differ_in_the_board_share_their_training(load: Load, tmp_path: Path) -> None:
    """Names of project and spec decide nothing; the inspection, which knows the board, is not shared."""
    other = SPEC.replace("project: squares", "project: other").replace("[KV260]", "[ZCU104]")
    (tmp_path / "p/spec/other.yaml").write_text(other)
    one, two = load(), load(spec="other")
    for stage in ("train", "inspect"):
        make(one, stage)
    sharing = Sharing([one, two])
    taken = take(sharing, two)
    assert taken is not None
    assert taken.taken_from == "squares"
    assert all(name.startswith("build/other/") for name in taken.outputs)
    assert explain_staleness(*find(two, "train")) == ""
    assert take(sharing, two, "inspect") is None


def test_a_stage_that_runs_again_writes_into_files_of_its_own(load: Load) -> None:
    """Links are parted first: what a tool writes in place reaches no other variant."""
    one, two = load("train.workers=0"), load("data.limit=null")
    make(one)
    assert take(Sharing([one, two]), two) is not None
    part_links(two.build / "train")
    with (two.build / "train/model.pth").open("r+b") as stream:
        stream.write(b"other")
    assert (one.build / "train/model.pth").read_bytes() == WEIGHTS
    assert (two.build / "train/model.pth").read_bytes()[5:] == WEIGHTS[5:]


def test_of_equal_stages_at_the_same_time_one_runs(load: Load) -> None:
    """The second waits for the first and takes what that made; who waits ends when all are stopped."""
    jobs = [load("train.workers=0"), load("data.limit=null")]
    sharing, trained = Sharing(jobs), list[str]()

    def run(job: Job) -> None:
        with sharing.obtain(*find(job, "train")) as taken:
            if taken is None:
                trained.append(job.shown)
                time.sleep(0.3)
                make(job)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1
    assert all((job.build / "train/result.json").is_file() for job in jobs)
    for job in jobs:
        (job.build / "train/result.json").unlink()
    stop = threading.Event()
    stopped = Sharing(jobs, stop=stop)
    with stopped.obtain(*find(jobs[0], "train")):
        stop.set()
        with pytest.raises(Interrupted):
            take(stopped, jobs[1])


def test_a_killed_take_over_leaves_no_result(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result comes last: what was brought half is nobody's result, and the next try is whole."""
    one, two = load("train.workers=0"), load("data.limit=null")
    make(one)

    def kill(*paths: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", kill)
        with pytest.raises(KeyboardInterrupt):
            take(Sharing([one, two]), two)
    assert not (two.build / "train/result.json").exists()
    assert take(Sharing([one, two]), two) is not None


def test_without_links_files_are_copied(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no hard links shares all the same."""
    one, two = load("train.workers=0"), load("data.limit=null")
    make(one)

    def refuse(*paths: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert take(Sharing([one, two]), two) is not None
    assert not (two.build / "train/model.pth").samefile(one.build / "train/model.pth")


def test_variants_of_earlier_sweeps_are_found_by_what_they_set(load: Load) -> None:
    """Another sweep, and the run of the spec itself, take over what an earlier one made."""
    job = load("train.seed=1")
    make(job)
    (job.home / "variant.txt").write_text("train.seed=1\n")
    assert find_variants(load()) == {job.build: "variant train.seed=1"}
    (job.home / "variant.txt").unlink()
    assert find_variants(load()) == {job.build: f"variant {job.home.name}"}


@pytest.mark.parametrize("name", ["pixels", "cache"])
def test_what_is_kept_by_content_is_shared_by_a_link(load: Load, name: str) -> None:
    """A variant's pictures and features are the spec's own; asked twice, nothing changes; a person's folder stays."""
    own, variant, other = load(), load("train.seed=1"), load("train.seed=2")
    for _ in range(2):
        share_kept(own.build, variant.build)
    assert (variant.build / name).resolve() == (own.build / name).resolve()
    (other.build / name).mkdir(parents=True)
    share_kept(own.build, other.build)
    assert not (other.build / name).is_symlink()
