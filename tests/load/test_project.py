"""A good spec: the project it becomes, its defaults, its bases, and the origin of every value."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpuforge.errors import SpecError, UserError
from dpuforge.load.load_spec import load_project, validate_file
from dpuforge.records.project import BoardChoice, EarlyStopping, FrozenLayers, InputSize, Method

from .conftest import GOOD

Write = Callable[..., Path]


def test_the_smallest_spec_gets_every_default(write: Write) -> None:
    """Only the required keys are written; everything else has the documented value."""
    path = write(GOOD)
    loaded = load_project(path)
    project = loaded.project
    assert loaded.warnings == ()
    assert (project.spec.path, project.spec.sha256) == ("spec/demo.yaml", hashlib.sha256(GOOD.encode()).hexdigest())
    assert (project.model.weights, project.model.input) == ("IMAGENET1K_V1", InputSize(224, 224))
    assert (project.data.preprocess.resize, project.data.preprocess.crop) == (256, (224, 224))
    assert project.transfer.method is Method.FEATURE_EXTRACTION
    assert project.transfer.freeze.layers == FrozenLayers("all_but_head")
    assert project.transfer.freeze.batchnorm == "frozen"
    assert project.train.early_stopping == EarlyStopping("val_accuracy", 5)
    assert project.target.boards == (BoardChoice("KV260"),)
    assert (project.target.net_name, project.target.vitis_ai, project.run.toolchain) == ("demo", "3.0", "emulator")
    assert project.bases == ()


@pytest.mark.parametrize(
    ("old", "new", "key", "value"),
    [
        ("resnet18", "inception_v3", "model.input", InputSize(299, 299)),
        ("resnet18", "inception_v3", "data.preprocess.resize", 342),
        ("resnet18}", "resnet18, input: {height: 64, width: 64}}", "data.preprocess.resize", 73),
        ("resnet18}", "resnet18, input: {height: 64, width: 96}}", "data.preprocess.crop", (64, 96)),
        ("resnet18", "timm/resnet10t.c3_in1k", "model.weights", "pretrained"),
        ("resnet18", "nets/mine.py:make", "model.weights", "none"),
        ("d/test}", "d/test, preprocess: {resize: [224, 224]}}", "data.preprocess.crop", None),
        ("d/test}", "d/test, preprocess: {crop: null}}", "data.preprocess.resize", (224, 224)),
        ("{train: d/train, validation: d/val, test: d/test}", "{source: mnist5k}", "data.test", "data/mnist5k/test"),
        ("classes: 3", "classes: [cat, dog]", "classes.names", ("cat", "dog")),
        ("target:", "transfer: {method: fine_tuning}\ntarget:", "transfer.freeze.batchnorm", "trainable"),
        ("target:", "transfer: {method: fine_tuning}\ntarget:", "transfer.freeze.layers.rule", "none"),
        ("target:", "train: {early_stopping: null}\ntarget:", "train.early_stopping", None),
        ("target:", "train: {optimizer: {lr: 1}}\ntarget:", "train.optimizer.lr", 1.0),
    ],
)
def test_a_default_follows_from_the_other_keys(write: Write, old: str, new: str, key: str, value: Any) -> None:
    """Sizes follow the published transform, folders the data set, freezing the method."""
    text = GOOD.replace(old, new).replace("classes: 3", "classes: 10" if "mnist" in new else "classes: 3")
    found: Any = load_project(write(text)).project
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_class_names_come_from_a_file(write: Write, folder: Path) -> None:
    """The file has one name a line, beside the spec folder; empty lines do not count."""
    (folder / "names.txt").write_text("cat\ndog\n\nfish\n", encoding="utf-8")
    classes = load_project(write(GOOD.replace("classes: 3", "classes: names.txt"))).project.classes
    assert (classes.count, classes.names, classes.file) == (3, ("cat", "dog", "fish"), "names.txt")
    (folder / "names.txt").write_text("cat\ncat\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"at least two distinct names, one a line, got 2 \(1 distinct\)"):
        load_project(Path("spec/demo.yaml"))


def test_a_base_lies_underneath_and_maps_merge_while_lists_replace(write: Write) -> None:
    """The spec wins over its base, key by key; a list is taken whole."""
    write("train: {epochs: 7, batch_size: 8}\ntarget: {boards: [ZCU102, ZCU104], dpu_subgraphs: 2}\n", "common.yaml")
    project = load_project(write(f"base: [common.yaml]\n{GOOD}train: {{epochs: 9}}\n")).project
    assert (project.train.epochs, project.train.batch_size) == (9, 8)
    assert (project.target.boards, project.target.dpu_subgraphs) == ((BoardChoice("KV260"),), 2)
    assert [source.path for source in project.bases] == ["spec/common.yaml"]


def test_later_bases_and_nested_bases_stack(write: Write, folder: Path) -> None:
    """A base may have bases of its own, relative to itself; of two bases the later one wins."""
    (folder / "spec" / "deep").mkdir()
    write("train: {epochs: 1, batch_size: 1, seed: 1}\n", "deep/low.yaml")
    write("base: [low.yaml]\ntrain: {batch_size: 2, seed: 2}\n", "deep/mid.yaml")
    write("train: {seed: 3}\n", "top.yaml")
    train = load_project(write(f"base: [deep/mid.yaml, top.yaml]\n{GOOD}")).project.train
    assert (train.epochs, train.batch_size, train.seed) == (1, 2, 3)


def test_mistakes_point_into_the_file_that_wrote_the_value(write: Write) -> None:
    """A bad value of a base is reported at the base's line, a bad key of the spec at the spec's."""
    write("# first line\ntrain: {epochs: 0}\n", "common.yaml")
    problems = validate_file(write(f"base: [common.yaml]\n{GOOD}trian: 1\n"))
    assert [(p.path, p.line, p.column, p.field) for p in problems] == [
        ("spec/common.yaml", 2, 17, "train.epochs"),
        ("spec/demo.yaml", 7, 1, "trian"),
    ]


def test_a_circle_of_bases_and_a_missing_base_are_refused_where_they_are_named(write: Write) -> None:
    """Neither ends in a traceback or a loop."""
    write("base: [demo.yaml]\n", "common.yaml")
    problems = validate_file(write(f"base: [common.yaml, gone.yaml]\n{GOOD}"))
    assert [(p.path, p.line, p.column) for p in problems] == [("spec/common.yaml", 1, 8), ("spec/demo.yaml", 1, 21)]
    assert "in a circle" in problems[0].message
    assert "No such file" in problems[1].message


def test_bases_that_include_one_another_many_times_stay_bounded(write: Write) -> None:
    """A tree of doubled includes is cut off with a message instead of being read to its end."""
    for level in range(40):
        write(f"base: [b{level + 1}.yaml, b{level + 1}.yaml]\n", f"b{level}.yaml")
    problems = validate_file(write(f"base: [b0.yaml]\n{GOOD}"))
    assert any("more than 32 files" in problem.message for problem in problems)


def test_every_value_has_an_origin(write: Write) -> None:
    """Spec values carry their line, base values the base's, defaults their source."""
    write("train: {epochs: 7}\n", "common.yaml")
    origins = load_project(write(f"base: [common.yaml]\n{GOOD}quantization: {{overall: {{method: maxmin}}}}\n")).origins
    assert (origins["project"].kind, origins["project"].where) == ("spec", "spec/demo.yaml:2:10")
    assert (origins["train.epochs"].kind, origins["train.epochs"].where) == ("base", "spec/common.yaml:1:17")
    assert (origins["train.seed"].kind, origins["train.seed"].why) == ("default", "a run can be repeated")
    assert (origins["quantization.overall.method"].kind, origins["quantization.overall.method"].value) == (
        "spec",
        "maxmin",
    )
    assert origins["quantization.tensors.activation.round_mode"].value == "half_up"
    assert all(origin.why for origin in origins.values() if origin.kind == "default")
    assert all(origin.where for origin in origins.values() if origin.kind != "default")


def test_a_spec_with_mistakes_raises_all_of_them_sorted(write: Write) -> None:
    """load_project raises one error that holds every problem, warnings included."""
    with pytest.raises(SpecError) as caught:
        load_project(write(GOOD.replace("resnet18", "resnet81").replace("3", "1")))
    assert [problem.field for problem in caught.value.problems] == ["model.backbone", "classes"]
    assert str(caught.value).startswith("spec/demo.yaml:2:19: model.backbone: ")


def test_a_spec_that_is_not_there_is_a_users_error(folder: Path) -> None:
    """No traceback for a path that is missing or a folder."""
    for path in (Path("spec/gone.yaml"), Path("spec")):
        with pytest.raises(UserError):
            load_project(path)


def test_loading_a_spec_imports_no_torch() -> None:
    """Names of networks come from data: the loader never imports a framework by itself."""
    import subprocess

    code = (
        "import sys, dpuforge.load.load_spec; print([m for m in ('torch', 'numpy', 'jsonschema') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
