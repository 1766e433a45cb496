"""What keys must agree on: one case for every rule that test_messages.py does not spell out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpuforge.load.boards.catalogue import load_catalogue
from dpuforge.load.load_spec import validate_file

from .conftest import GOOD

# Text of GOOD, its replacement, and (severity, field, part of the message) of the one problem expected.
CASES = [
    ("resnet18}", "vit_b_16, input: {height: 256, width: 256}}", "error", "model.input", "takes 224 x 224 pixels"),
    ("resnet18}", "resnet18, weights: none}", "warning", "model.weights", "never learn"),
    ("resnet18}", 'resnet18, weights: "a b"}', "error", "model.weights", "without spaces"),
    ("resnet18}", "timm/, weights: none}", "error", "model.backbone", "no such torchvision"),
    ("{train: d/train, validation: d/val, test: d/test}", "{source: mnist5k}", "error", "classes", "has 10 classes"),
    ("d/test}", "d/test, preprocess: {resize: 224, crop: null}}", "error", "data.preprocess.resize", "without a crop"),
    ("d/test}", "d/test, preprocess: {resize: [224]}}", "error", "data.preprocess.resize", "[height, width]"),
    ("d/test}", "d/test, preprocess: {resize: [true, 9]}}", "error", "data.preprocess.resize[0]", "of pixels"),
    ("d/test}", "d/test, augment: [rotation, rotation]}", "error", "data.augment[1]", "there twice"),
    ("d/test}", "d/test, augment: [random_crop, random_resized_crop]}", "error", "data.augment", "exclude"),
    ("d/test}", 'd/test, source: cifar}', "error", "data.source", "should be mnist5k"),
    ("d/test}", "d/test, preprocess: {mean: [0.5]}}", "error", "data.preprocess.mean", "RGB has 3 channel(s), got 1"),
    ("d/test}", "d/test, preprocess: {color: GRAY}}", "error", "data.preprocess.color", "takes 3 channels"),
    ("d/test}", "d/test, preprocess: {range: [9, 9]}}", "error", "data.preprocess.range", "first value becomes 0"),
    ("d/test}", "d/test, preprocess: {range: [9]}}", "error", "data.preprocess.range", "at least 2 entries"),
    ("d/train", '"d/tr\\x01ain"', "error", "data.train", "control character"),
    ("target:", "transfer: {freeze: {layers: none}}\ntarget:", "warning", "transfer.freeze.layers", "more layers"),
    ("target:", "transfer: {freeze: {layers: {until: a, match: [b]}}}\ntarget:", "error", "transfer.freeze.layers",
     "exactly one of until and match"),
    ("target:", "transfer: {freeze: {layers: {match: []}}}\ntarget:", "error", "transfer.freeze.layers.match", "list"),
    ("target:", "transfer: {freeze: {layers: head}}\ntarget:", "error", "transfer.freeze.layers", "none or all"),
    ("target:", "transfer: {method: distillation, teacher: {backbone: resnet50}}\ntarget:", "warning",
     "transfer.teacher.weights", "starts untrained"),
    ("target:", "transfer: {method: distillation, teacher: {backbone: resnet5, weights: x.pth}}\ntarget:", "error",
     "transfer.teacher.backbone", "no such torchvision"),
    ("target:", "train: {optimizer: {momentum: 0.5}}\ntarget:", "warning", "train.optimizer.momentum", "adam"),
    ("target:", "train: {optimizer: {name: adamw, nesterov: true}}\ntarget:", "warning", "train.optimizer.nesterov",
     "adamw does not use nesterov"),
    ("target:", "train: {optimizer: {name: sgd, nesterov: true, momentum: 0}}\ntarget:", "error",
     "train.optimizer.momentum", "needs a momentum"),
    ("target:", "train: {optimizer: {name: lamb}}\ntarget:", "error", "train.optimizer.name", "lamb"),
    ("target:", "train: {optimizer: {lr: .nan}}\ntarget:", "error", "train.optimizer.lr", "finite"),
    ("target:", "train: {optimizer: {backbone_lr: 0.0001}}\ntarget:", "error", "train.optimizer.backbone_lr",
     "only the head learns"),
    ("target:", "train: {unfreeze_epochs: 2}\ntarget:", "error", "train.unfreeze_epochs", "only the head learns"),
    ("target:", "train: {epochs: 3, scheduler: {warmup_epochs: 3}}\ntarget:", "error", "train.scheduler.warmup_epochs",
     "rise to the end"),
    ("target:", "train: {scheduler: {name: one_cycle, warmup_epochs: 1}}\ntarget:", "warning",
     "train.scheduler.warmup_epochs", "one_cycle does not use"),
    ("target:", "transfer: {method: fine_tuning}\ntrain: {cached_views: 2}\ntarget:", "error", "train.cached_views",
     "nothing to keep"),
    ("target:", "train: {precision: int8}\ntarget:", "error", "train.precision", "int8"),
    ("target:", "train: {epochs: 0}\ntarget:", "error", "train.epochs", "at least 1"),
    ("target:", "train: null\ntarget:", "error", "train", "should have a value, got null"),
    ("target: {", 'target: {vitis_ai: "9.9", ', "error", "target.vitis_ai", "no usable Vitis AI release '9.9'"),
    ("target: {", 'target: {vitis_ai: "2.0", ', "warning", "target.vitis_ai", "reads no config file"),
    ("[KV260]", "[3]", "error", "target.boards[0]", "should be a board's name"),
    ("[KV260]", "[{dpu: B3136}]", "error", "target.boards[0]", "the key board is missing"),
    ("[KV260]", "[{board: KV260, dpu: B9999}]", "error", "target.boards[0]", "there is no DPU 'B9999'"),
    ("[KV260]", '[{board: KV260, fingerprint: "0xzz"}]', "error", "target.boards[0].fingerprint", "16 hex digits"),
    ("classes: 3", "classes: [cat]", "error", "classes", "at least two names"),
    ("classes: 3", 'classes: ""', "error", "classes", "should name a file"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "severity", "field", "needle"), CASES)
def test_one_disagreement_gives_one_problem(
    validate: Any, old: str, new: str, severity: str, field: str, needle: str
) -> None:
    """Each rule speaks once, at the key to mend, with a remedy."""
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    (problem,) = validate(text)
    assert (problem.severity, problem.field) == (severity, field)
    assert needle in problem.message
    assert problem.help


def test_a_unicode_or_missing_class_file_is_refused(write: Any, folder: Path) -> None:
    """A file that is no text, or a folder, is a located problem."""
    (folder / "names.bin").write_bytes(b"\xff\xfe\x00")
    for name in ("names.bin", "spec"):
        (problem,) = validate_file(write(GOOD.replace("classes: 3", f"classes: {name}")))
        assert (problem.field, problem.line) == ("classes", 3)


def test_the_hardware_may_be_passed_in(write: Any) -> None:
    """A catalogue that the caller opened is used instead of the shipped one."""
    assert validate_file(write(GOOD), load_catalogue()) == ()


def test_shipped_specs_are_good() -> None:
    """Every spec of the repository passes without an error."""
    specs = sorted((Path(__file__).parents[2] / "spec").glob("*.yaml"))
    assert specs
    assert [p for spec in specs for p in validate_file(spec) if p.severity == "error"] == []
