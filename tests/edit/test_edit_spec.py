"""Editing a spec's text: the value changes, and nothing else of a person's file does."""

from __future__ import annotations

import difflib
from typing import Any

import pytest
import yaml

from dpuforge.edit.edit_spec import edit_text, load_text
from dpuforge.errors import SpecError, UsageError
from tests.conftest import REPO

SPECS = sorted((REPO / "spec").glob("*.yaml"))
TEXT = """\
# head

spec_version: 1   # one
train:
    epochs: 4  # few
    optimizer: {name: adam, lr: 1.0e-3}   # flow
target:
    vitis_ai: '3.0'  # release
    boards:
    - KV260   # on my desk
    # the next one is borrowed
    - {board: ZCU104, dpu: B4096}  # from a friend
    - "ZCU102"
# tail
"""


def changed(before: str, after: str) -> list[str]:
    """Return the lines that a person would see in a diff."""
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in diff if line[:1] in "+-" and line[:3] not in ("+++", "---")]


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_setting_what_is_there_changes_no_byte(spec: Any) -> None:
    """A value set to itself gives the shipped specs back to the byte, comments and all."""
    text = spec.read_text(encoding="utf-8")
    assert edit_text(text, {"target.vitis_ai": yaml.safe_load(text)["target"]["vitis_ai"]}) == text


@pytest.mark.parametrize(
    ("values", "diff"),
    [
        ({"train.epochs": 5}, ["-    epochs: 4  # few", "+    epochs: 5  # few"]),
        (
            {"train.optimizer.lr": 0.01},
            [
                "-    optimizer: {name: adam, lr: 1.0e-3}   # flow",
                "+    optimizer: {name: adam, lr: 0.01}     # flow",
            ],
        ),
        ({"target.vitis_ai": "3.5"}, ["-    vitis_ai: '3.0'  # release", '+    vitis_ai: "3.5"  # release']),
        ({"target.boards": ["KV260", {"board": "ZCU104", "dpu": "B4096"}]}, ['-    - "ZCU102"', "-# tail"]),
        ({"run.toolchain": "emulator"}, ["-# tail", "+# tail", "+run:", "+    toolchain: emulator"]),
        ({"train.seed": 7}, ["+    seed: 7"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_one_value_is_one_change(values: dict[str, Any], diff: list[str]) -> None:
    """A scalar, a value in a flow mapping, a quoted one, an item of a list, a new section, a new key."""
    after = edit_text(TEXT, values)
    lines = changed(TEXT, after)
    assert all(line in lines for line in diff if line != "-# tail" and line != "+# tail")
    assert len(lines) <= len(diff) + 2
    assert after.count("#") == TEXT.count("#"), "no comment is lost"
    wanted = yaml.safe_load(TEXT)
    for key, value in values.items():
        *above, last = key.split(".")
        here = wanted
        for name in above:
            here = here.setdefault(name, {})
        here[last] = value
    assert yaml.safe_load(after) == wanted


def test_an_item_that_stays_keeps_its_comment() -> None:
    """Dropping the first board leaves the second with its comment, adding one appends it."""
    after = edit_text(TEXT, {"target.boards": [{"board": "ZCU104", "dpu": "B4096"}, "ZCU102", "KR260"]})
    assert "- {board: ZCU104, dpu: B4096}  # from a friend" in after
    assert "- KR260" in after
    assert "KV260" not in after


@pytest.mark.parametrize("release", ["3.0", "1e5", "0x10", "on", "null", "12:30"])
def test_a_text_that_looks_like_another_type_stays_a_text(release: str) -> None:
    """What YAML would read as a number, a truth value or a time is quoted."""
    assert yaml.safe_load(edit_text(TEXT, {"target.vitis_ai": release}))["target"]["vitis_ai"] == release


def test_a_key_below_a_scalar_is_refused() -> None:
    """A key cannot be set below a value that is no mapping."""
    with pytest.raises(UsageError, match=r"train\.epochs is no mapping"):
        edit_text(TEXT, {"train.epochs.more": 1})


@pytest.mark.parametrize("text", ["a: [1", "\t- x: {", "a: 1\na: 2\n"])
def test_text_that_is_no_yaml_is_refused(text: str) -> None:
    """Broken YAML is one message."""
    with pytest.raises(UsageError, match="no YAML"):
        edit_text(text, {"a": 2})


def test_mistakes_are_located_in_the_file_that_a_person_knows(tmp_path: Any) -> None:
    """The text is judged under the spec's own name, and nothing is left beside it."""
    path = tmp_path / "mine.yaml"
    with pytest.raises(SpecError) as caught:
        load_text(path, "spec_version: 1\nproject: Not Good\n")
    assert {problem.path for problem in caught.value.problems} == {str(path)}
    assert list(tmp_path.iterdir()) == []
