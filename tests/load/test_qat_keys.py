"""quantization.qat: its keys, and the settings that have no place beside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dpuforge.errors import Problem

from .conftest import GOOD

Validate = Callable[[str], tuple[Problem, ...]]


def errors(validate: Validate, block: str) -> list[tuple[str, str]]:
    """Return (field, message) of what a quantization block leads to."""
    return [(problem.field, problem.message) for problem in validate(f"{GOOD}quantization: {block}\n")]


def test_qat_alone_is_good(validate: Validate) -> None:
    """Every key may be written, also with the defaults of what it leaves out."""
    block = "{qat: {enabled: true, epochs: 2, lr: 1, threshold_lr: 0, batch_size: 2, freeze_epochs: 0, loss: labels}"
    assert errors(validate, block + ", layers: [], overall: {}, include_cle: false}") == []


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ("adjust: {enabled: true}", "adjust.enabled"),
        ("fast_finetune: {enabled: true}", "fast_finetune.enabled"),
        ("target_device: CPU", "target_device"),
        ("overall: {bit_width: 6}", "overall"),
        ("convert_relu6_to_relu: true", "convert_relu6_to_relu"),
        ("exact_torch: true", "exact_torch"),
    ],
)
def test_what_qat_leaves_no_place_for_is_refused(validate: Validate, other: str, field: str) -> None:
    """Without qat it stands; beside it, it is an error at its own key."""
    assert f"quantization.{field}" in [name for name, _ in errors(validate, f"{{qat: {{enabled: true}}, {other}}}")]
    assert not any("qat" in message for _, message in errors(validate, f"{{{other}}}"))


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ("epochs: 0", "epochs"),
        ("lr: 0", "lr"),
        ("threshold_lr: -1", "threshold_lr"),
        ("batch_size: 1", "batch_size"),
        ("loss: mse", "loss"),
        ("enabled: true, epochs: 2, freeze_epochs: 2", "freeze_epochs"),
    ],
)
def test_values_out_of_range_are_named(validate: Validate, keys: str, field: str) -> None:
    """Each names its key."""
    assert [name for name, _ in errors(validate, f"{{qat: {{{keys}}}}}")] == [f"quantization.qat.{field}"]


def test_it_runs_where_its_network_is_measured(validate: Validate) -> None:
    """QAT on the host and evaluation in the container are two quantizers."""
    text = f"{GOOD}quantization: {{qat: {{enabled: true}}}}\nrun: {{toolchain: container, stages: {{%s}}}}\n"
    assert [problem.field for problem in validate(text % "qat: host")] == ["run.stages.qat"]
    assert not validate(text % "qat: host, evaluate: host, deploy: host")
