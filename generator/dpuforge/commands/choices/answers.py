"""The answers that make a new spec, its text, and the one judge of every answer: the loader itself."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dpuforge.edit.edit_spec import load_text
from dpuforge.errors import Problem, SpecError
from dpuforge.load.backbones import DEFAULT_INPUT, find_backbone, find_weights

SCHEMA_LINE = "# yaml-language-server: $schema={schema}\n"
_TEXT = """\
# One project: edit this file, then `dpuforge validate {path}` and `dpuforge run {path}`.
# `dpuforge explain {path}` shows every value that is not written here, and where it comes from.
spec_version: 1
project: {project}

model:
  backbone: {backbone}  # any torchvision classifier; timm/<name>; path/to/net.py:factory
  weights: {weights}  # torchvision enum | none | path to a state_dict
  input: {{height: {size}, width: {size}}}

classes: {classes}  # a number, a list of names, or a file with one name a line

data:  # {layout}
{data}

transfer:
  method: {method}  # feature_extraction | fine_tuning | distillation
  freeze: {{layers: {freeze}, batchnorm: {batchnorm}}}

target:
  vitis_ai: "{release}"
  boards: {boards}{subgraphs}

run:
  toolchain: emulator  # emulator | native (inside AMD's image) | container (starts it)
"""
_FOLDERS = "torchvision ImageFolder layout: <folder>/<class>/<image>; or CSV files of path and label"
_ONE_FOLDER = "one folder or CSV file, split by the content of its images; nothing is moved"
_NOTES = {"test": "never used for calibration or model selection"}
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WIDTH = 110
_COLUMN = 31


@dataclass(frozen=True)
class Answers:
    """What was answered so far, the rest as it stands by default; data is the section of the spec."""

    project: str
    data: Mapping[str, Any]
    backbone: str = "resnet18"
    weights: str = "IMAGENET1K_V1"
    classes: int | str | tuple[str, ...] = 2
    freeze: str | Mapping[str, Any] = "all_but_head"
    boards: tuple[str | Mapping[str, str], ...] = ("KV260",)
    release: str = "3.0"
    subgraphs: int = 1


def write_text(path: Path, answers: Answers) -> str:
    """Return the spec's text, with comments."""
    head = answers.freeze == "all_but_head"
    published = find_weights(answers.backbone, answers.weights)
    known = find_backbone(answers.backbone)
    size = published.crop if published else max(DEFAULT_INPUT, known.min_input if known else 0)
    text = _TEXT.format(
        path=path.as_posix(),
        project=answers.project,
        backbone=inline(answers.backbone),
        weights=inline(answers.weights),
        size=size,
        classes=_write_classes(answers.classes),
        layout=_ONE_FOLDER if "split" in answers.data else _FOLDERS,
        data="\n".join(_write_data(answers.data)),
        method="feature_extraction" if head else "fine_tuning",
        freeze=inline(answers.freeze),
        batchnorm="frozen" if head else "trainable",
        release=answers.release,
        boards=inline(list(answers.boards)),
        subgraphs=f"\n  dpu_subgraphs: {answers.subgraphs}" if answers.subgraphs > 1 else "",
    )
    return "".join(_align(line) for line in text.splitlines(keepends=True))


def _align(line: str) -> str:
    """Put the comment after a value into one column."""
    value, mark, comment = line.partition("  # ")
    return f"{value:<{_COLUMN}} # {comment}" if mark else line


def _write_data(data: Mapping[str, Any]) -> Iterable[str]:
    for key, value in data.items():
        yield f"  {key}: {inline(value)}" + (f"  # {_NOTES[key]}" if key in _NOTES else "")


def _write_classes(classes: int | str | tuple[str, ...]) -> str:
    """Return the value of classes; a long list of names takes several lines."""
    if not isinstance(classes, tuple):
        return inline(classes)
    text = f"[{', '.join(inline(name) for name in classes)}]"
    if len(text) < _WIDTH:
        return text
    rows = textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    plain = all(" " not in name for name in classes)  # a line breaks between names, never inside one
    return "\n" + "\n".join(rows if plain else (f"  {text}",)) + "\n "


def inline(value: Any) -> str:
    """Return a value as YAML on one line; text that YAML could read otherwise is quoted."""
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and yaml.safe_load(value) == value
        return value if plain else json.dumps(value, ensure_ascii=not value.isprintable())
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(inline(item) for item in value) + "]"
    return str(value)


def find_problems(path: Path, answers: Answers) -> tuple[Problem, ...]:
    """Return what the loader says of the spec that the answers make; the folder of path must exist."""
    try:
        return load_text(path, write_text(path, answers)).warnings
    except SpecError as error:
        return error.problems
    except UnicodeEncodeError:
        return (Problem(str(path), 1, 1, "classes", "a name is not Unicode and cannot be written to a spec"),)
