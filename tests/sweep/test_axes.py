"""What --set asks for: lists, counts and ranges of values, and what is refused with its option."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dpuforge import pipeline
from dpuforge.commands.runs.on_sweep import sweep
from dpuforge.errors import SpecError, UsageError
from dpuforge.records.variant import Override, Variant
from dpuforge.sweep.axes import make_grid, name_setting, parse_axes
from dpuforge.sweep.record import Asked, save
from dpuforge.sweep.run_variants import check_variants
from dpuforge.sweep.sampler import Study, write_value
from tests.squares_project import write_project

METHOD = "quantization.overall.method"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("train.seed=0..4", ("0", "1", "2", "3", "4")),
        ("train.seed=7", ("7",)),
        (f"{METHOD}=maxmin,diffs", ("maxmin", "diffs")),
        (f"{METHOD}=maxmin, diffs ,maxmin", ("maxmin", "diffs")),
        ("target.boards=[KV260, ZCU104],[KV260]", ("[KV260, ZCU104]", "[KV260]")),
        (
            "train.optimizer={name: adam, lr: 0.01},{name: sgd, lr: 0.1}",
            ("{name: adam, lr: 0.01}", "{name: sgd, lr: 0.1}"),
        ),
        ("description='a, b',c", ("'a, b'", "c")),
        ("train.optimizer.lr=1e-3,1e-4", ("1e-3", "1e-4")),
        ("data.limit=null,12", ("null", "12")),
        ("train.seed=-1..1", ("-1", "0", "1")),
    ],
)
def test_values_are_cut_as_yaml_would(text: str, values: tuple[str, ...]) -> None:
    """Commas in brackets, braces and quotes part nothing; two dots between whole numbers count; repeats are one."""
    assert parse_axes([text])[0].values == values


@pytest.mark.parametrize(
    "text",
    [
        "train.seed",
        "train.seed=",
        "=3",
        "train..seed=3",
        "train.seed=4..0",
        "train.seed=0..99999",
        "train.optimizer.lr=1e-1..1e-4",
        "train.optimizer.lr=0.1..inf",
        "a=1], b: [2",
        "a=[1",
        "a=1,,2",
        "a=1\nb: 2",
        "project=other",
        "base=[x.yaml]",
        "run.toolchain=native,emulator",
        "a b=1",
        "../a=1",
    ],
)
def test_what_cannot_be_read_is_refused_with_its_option(text: str) -> None:
    """A mistake in an option names the option, and nothing of it becomes another key."""
    with pytest.raises(UsageError, match="--set"):
        make_grid(parse_axes([text]))


def test_a_key_is_set_once() -> None:
    """The same key twice, or a key and one below it, are refused."""
    for pair in (["train.seed=1", "train.seed=2"], ["train={epochs: 1}", "train.seed=0..1"]):
        with pytest.raises(UsageError, match="more than once"):
            parse_axes(pair)


def test_the_grid_tries_every_setting_before_the_next_seed() -> None:
    """Variants that differ in the seed alone are one setting; the first seed comes first for all."""
    variants = make_grid(parse_axes([f"{METHOD}=maxmin,diffs", "train.seed=0..1"]))
    assert [str(it) for it in variants] == [
        f"{METHOD}=maxmin, train.seed=0",
        f"{METHOD}=diffs, train.seed=0",
        f"{METHOD}=maxmin, train.seed=1",
        f"{METHOD}=diffs, train.seed=1",
    ]
    assert [name_setting(it) for it in variants[::2]] == [f"{METHOD}=maxmin"] * 2
    assert [str(it) for it in make_grid(())] == ["the spec as it is"]


def test_a_grid_refuses_a_range_of_reals_and_too_many_variants() -> None:
    """Both say that a sampler can do it."""
    for options in (["train.optimizer.lr=1e-4..1e-2"], ["train.seed=0..99", "data.limit=1..9"]):
        with pytest.raises(UsageError) as error:
            make_grid(parse_axes(options))
        assert "--sampler" in error.value.remedy


def test_every_mistake_of_every_variant_is_told_at_once_with_its_option(tmp_path: Path) -> None:
    """The one loader judges variants; an option stands where a file and a line would."""
    write_project(tmp_path / "p")
    spec = tmp_path / "p/spec/squares.yaml"
    variants = make_grid(parse_axes(["train.epochs=0,1", "train.sed=3", f"{METHOD}=maxmin,best"]))
    with pytest.raises(SpecError) as error:
        check_variants(spec, variants)
    assert {problem.path for problem in error.value.problems} == {
        "--set train.epochs=0",
        "--set train.sed=3",
        f"--set {METHOD}=best",
    }
    assert spec.read_text().count("seed") == 0


def test_a_mistake_that_an_option_makes_elsewhere_names_the_option(tmp_path: Path) -> None:
    """A batch that holds more than all images stands in the spec; the option that took the images away is told."""
    write_project(tmp_path / "p")
    with pytest.raises(SpecError) as error:
        check_variants(
            tmp_path / "p/spec/squares.yaml", make_grid(parse_axes(["quantization.calibration.images=4,16"]))
        )
    assert [problem.field for problem in error.value.problems] == ["quantization.calibration.batch_size"]
    assert "(with --set quantization.calibration.images=4)" in str(error.value)


def test_a_variant_is_the_spec_with_other_values_and_a_home_of_its_own(tmp_path: Path) -> None:
    """Overrides are effective values with the option as their origin, mappings merge, and the digest is another."""
    write_project(tmp_path / "p")
    spec = tmp_path / "p/spec/squares.yaml"
    plain = pipeline.load(spec)
    job = pipeline.load(spec, Variant((Override("train.optimizer", "{lr: 0.5}"), Override("train.seed", "3"))))
    assert (job.project.train.optimizer.lr, job.project.train.optimizer.name, job.project.train.seed) == (
        0.5,
        "adam",
        3,
    )
    assert job.origins["train.seed"].kind == "option"
    assert job.origins["train.seed"].where.startswith("--set train.seed=3:")
    assert job.build.is_relative_to(plain.build / "variants")
    assert job.generated().is_relative_to(plain.build)
    assert pipeline.plan(job).spec_sha256 != pipeline.plan(plain).spec_sha256


def test_a_sampler_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """A trial without an end comes first again, finished ones keep their numbers, ranges are tried in between."""
    axes = parse_axes(["train.optimizer.lr=1e-4..1e-1", f"{METHOD}=maxmin,diffs"])
    study = Study(axes, "tpe", tmp_path)
    number, first = study.ask()
    study.tell(number, 90.0)
    left, second = study.ask()
    again = Study(axes, "tpe", tmp_path)
    assert again.finished() == [first]
    assert again.ask() == (left, second)
    again.tell(left, None)
    third = again.ask()[1]
    assert third not in (first, second)
    for variant in (first, second, third):
        values = {override.key: override.text for override in variant.overrides}
        assert 1e-4 <= float(values["train.optimizer.lr"]) <= 1e-1
        assert values[METHOD] in ("maxmin", "diffs")


@pytest.mark.parametrize(("value", "text"), [(1.23456e-5, "1.235e-05"), (0.5, "0.5"), (3e7, "3.000e+07"), (0.0, "0")])
def test_a_sampled_number_is_a_number_in_yaml(value: float, text: str) -> None:
    """YAML reads an exponent only after a dot."""
    assert write_value(value) == text


def test_the_same_question_is_the_same_sweep() -> None:
    """The order of options names no other sweep; another limit of images does."""
    one, two = Asked(("a=1", "b=2"), 5), Asked(("b=2", "a=1"), 5)
    assert one.name == two.name != Asked(("a=1", "b=2")).name
    limited = one.limit(Variant((Override("a", "1"),)))
    assert str(limited) == "a=1, data.limit=5"
    assert str(one.free(limited)) == "a=1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sampler", "cma", "--trials", "3", "--set", "train.seed=0..1"], "--sampler cma is not known"),
        (["--sampler", "tpe", "--set", "train.seed=0..1"], "--trials"),
        (["--trials", "3", "--set", "train.seed=0..1"], "--sampler tpe"),
        (["--apply", "3"], "no such sweep"),
        (["--set", "train.epochs=0"], "--set train.epochs=0"),
        (["--set", "train.seed=0..1", "--until", "trian"], "no stage is called trian"),
    ],
)
def test_the_command_refuses_before_it_runs(tmp_path: Path, options: list[str], said: str) -> None:
    """Exit code 2, what is wrong in words, and nothing was trained."""
    write_project(tmp_path / "p")
    command = [sys.executable, "-m", "dpuforge", "sweep", "spec/squares.yaml", *options]
    done = subprocess.run(
        command, cwd=tmp_path / "p", env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not list((tmp_path / "p").rglob("train/result.json"))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("train.optimizer.lr", "1.0e-3"),
        ("train.optimizer.lr", "1.000e-03"),
        ("train.optimizer", "{name: sgd, lr: 0.1}"),
        ("data.augment", "[horizontal_flip]"),
        ("target.vitis_ai", '"2.5"'),
        ("data.limit", "null"),
        ("description", "'a: b # no comment'"),
        ("description", "'yes'"),
        ("quantization.calibration.images", "12"),
        ("train.early_stopping.patience", "3"),
    ],
)
def test_an_applied_variant_is_the_variant_that_ran(tmp_path: Path, key: str, text: str) -> None:
    """What is written into the spec loads to the same project as the option did, and comments stay."""
    write_project(tmp_path / "p")
    spec = tmp_path / "p/spec/squares.yaml"
    spec.write_text(spec.read_text().replace("transfer:", "# kept\ntransfer:"))
    before = pipeline.load(spec, Variant((Override(key, text),)))
    document = {"variants": [{"number": 1, "set": {key: text}}], "settings": [{"variants": [1], "verdict": "the best"}]}
    save(pipeline.load(spec).build / "sweeps/x", Asked(()), document)
    sweep(spec, apply=1)
    after = pipeline.load(spec)
    files = {"spec": before.project.spec, "bases": before.project.bases}
    assert replace(after.project, **files) == before.project
    assert "# kept" in spec.read_text()
