"""The keys of the data: one channel, wide inputs, one folder that is split, and what explain says the network sees."""

from __future__ import annotations

from typing import Any

import pytest

from dpuforge.load.load_spec import load_project
from dpuforge.load.view import describe_view, find_seen_sides
from dpuforge.records.project import DataSplit, Preprocess

from .conftest import GOOD

SPLITS = "{train: d/train, validation: d/val, test: d/test}"


def test_gray_has_one_mean_and_std(write: Any) -> None:
    """With color: GRAY and a network of one's own the defaults are one value each."""
    text = GOOD.replace("resnet18", "nets/a.py:make").replace("d/test}", "d/test, preprocess: {color: GRAY}}")
    preprocess = load_project(write(text)).project.data.preprocess
    assert (preprocess.mean, preprocess.std, preprocess.channels) == ((0.449,), (0.226,), 1)


@pytest.mark.parametrize(("height", "width"), [(50, 100), (100, 50), (32, 320)])
def test_the_defaults_of_a_wide_input_keep_the_picture(write: Any, height: int, width: int) -> None:
    """Without preprocess keys a picture of the input's shape reaches the network whole, and so does any other."""
    text = GOOD.replace("resnet18}", f"nets/a.py:make, input: {{height: {height}, width: {width}}}}}")
    project = load_project(write(text)).project
    for shape in ((height, width), (480, 640), (100, 100)):
        assert find_seen_sides(project.data.preprocess, *shape) == (1.0, 1.0)
    assert describe_view(project)[0].endswith("the network sees 100.0%")
    assert "stretched" in describe_view(project)[1]


def test_explain_says_what_is_cut_off(write: Any) -> None:
    """torchvision's 224 of 256 leaves 76.6 % of a square picture and less of a wide one."""
    lines = describe_view(load_project(write(GOOD)).project)
    assert "of a square picture the network sees 76.6% (the middle 87.5% of its height, 87.5% of its width)" in lines
    assert "of a 4:3 picture the network sees 57.5% (the middle 87.5% of its height, 65.7% of its width)" in lines


def test_a_crop_without_resize_sees_less_of_a_larger_picture() -> None:
    """resize: null cuts pixels out as they are."""
    preprocess = Preprocess(None, (50, 100), (0.5,), (0.5,), "GRAY")
    assert find_seen_sides(preprocess, 100, 400) == (0.5, 0.25)


def test_one_folder_that_is_split_needs_no_others(write: Any) -> None:
    """data.split gives the three splits their folder, shares and seed."""
    data = load_project(write(GOOD.replace(SPLITS, "{split: {from: d/all, test: 0.3}}"))).project.data
    assert data.split == DataSplit("d/all", 0.1, 0.3, 0)
    assert (data.train, data.validation, data.test) == ("d/all", "d/all", "d/all")


@pytest.mark.parametrize(
    ("data", "field", "needle"),
    [
        ("{split: {from: d/all}, test: d/test}", "data.test", "data.split makes the test split"),
        ("{split: {from: d/all, validation: 0.5, test: 0.5}}", "data.split", "too little for training"),
        ("{split: {validation: 0.5}}", "data.split.from", "the key is missing"),
        ("{split: {from: d/all, test: 2}}", "data.split.test", "at most 0.9"),
        ("{split: {from: d/all}, source: mnist5k}", "data.source", "splits of its own"),
    ],
)
def test_a_split_that_cannot_be_is_refused(validate: Any, data: str, field: str, needle: str) -> None:
    """Keys that contradict data.split are named."""
    problems = validate(GOOD.replace(SPLITS, data).replace("classes: 3", "classes: 10"))
    assert any(problem.field == field and needle in problem.message for problem in problems), problems
