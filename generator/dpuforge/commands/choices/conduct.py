"""READ FIRST of choices: the questions of init in their order, what each changes, and the writing at the end."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from dpuforge.commands.choices import offers
from dpuforge.commands.choices.answers import SCHEMA_LINE, Answers, write_text
from dpuforge.commands.choices.ask import Interview, Question, can_ask, pick
from dpuforge.commands.choices.choose_data import Found, settle_data
from dpuforge.commands.choices.given import Given
from dpuforge.commands.screen import print_message
from dpuforge.edit.edit_spec import write_spec
from dpuforge.errors import UsageError
from dpuforge.load.backbones import classify_backbone, load_backbones
from dpuforge.load.json_schema import project_json_schema
from dpuforge.paths import find_root
from dpuforge.writing import replacing

SCHEMA = "schema/project.schema.json"  # beside the spec, for editors
_INTRO = """\
A new spec, {path}: project {project}. Enter takes what stands in brackets, a number or a name chooses from a list,
? shows all of a list. Nothing is written before the last answer; Ctrl-C leaves nothing behind.
"""


def conduct(path: Path, given: Given) -> None:
    """Take every answer from its option or a person, and write the spec; raise UsageError with all that is wrong."""
    project = name_project(path)
    start = Answers(project, {name: f"data/{project}/{name}" for name in ("train", "validation", "test")})
    interview = Interview(path, start, can_ask() and None in (given.data, *given.answers.values()))
    if interview.asking:
        print(_INTRO.format(path=path, project=project))
    found = settle_data(interview, given)
    if not found.classes:
        interview.settle(_CLASSES, given.answers["classes"])
    interview.settle(_BOARDS, given.answers["board"])
    _settle_release(interview, given.answers["release"])
    _settle_network(interview, given.answers)
    interview.refuse()
    _write(path, interview.answers, found)


def name_project(path: Path) -> str:
    """Return the project's name that a file's name stands for."""
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    return name if name[:1].isalpha() else f"project_{name}".strip("_")


def _take_classes(answers: Answers, text: str) -> Answers:
    if re.fullmatch(r"\d+", text):
        return replace(answers, classes=int(text))
    names = tuple(part.strip() for part in text.split(","))
    return replace(answers, classes=names if len(names) > 1 else text)


def _take_boards(answers: Answers, text: str) -> Answers:
    boards = offers.read_boards(text)
    return replace(answers, boards=boards, release=offers.choose_release(boards))


def _take_release(answers: Answers, text: str) -> Answers:
    return replace(answers, release=text)


def _take_weights(answers: Answers, text: str) -> Answers:
    return replace(answers, weights=pick(text, offers.name_weights(answers.backbone)))


def _take_freeze(answers: Answers, text: str) -> Answers:
    names = [name for name, _ in offers.FREEZE]
    return replace(answers, freeze=offers.read_freeze(pick(text, names)))


_CLASSES = Question("classes", "Classes: a number, names with commas, or a file", "", _take_classes, ("classes",))
_BOARDS = Question("board", "Boards, comma between", "KV260", _take_boards, ("target",), offers.show_boards)


def _settle_release(interview: Interview, given: str | None) -> None:
    """Take the release that was named, else the one that the boards lead to."""
    if given is not None:
        question = Question("release", "Vitis AI release", interview.answers.release, _take_release, ("target",))
        interview.settle(question, given)
    elif interview.asking:
        print(f"Vitis AI release {interview.answers.release} (--release names another)")


def _settle_network(interview: Interview, given: Mapping[str, str | None]) -> None:
    """Take backbone, weights and what learns; what a backbone would do on the boards is told before it is taken."""
    networks = offers.Networks((), ())
    if interview.asking:
        networks = offers.rank_networks(interview.answers.boards, interview.answers.release)
    take = partial(_take_backbone, networks, interview)
    keys = ("model.backbone", "model.input")
    interview.settle(Question("backbone", "Backbone", "resnet18", take, keys, networks.show), given["backbone"])
    backbone = interview.answers.backbone
    offer = Question(
        *("weights", "Weights", offers.default_weights(backbone), _take_weights, ("model.weights",)),
        show=lambda every: offers.show_weights(backbone),
    )
    interview.settle(offer, given["weights"])
    policy = "none" if interview.answers.weights == "none" else "all_but_head"
    freeze = Question("freeze", "Freeze", policy, _take_freeze, ("transfer",), lambda every: offers.show_freeze())
    interview.settle(freeze, given["freeze"])


def _take_backbone(networks: offers.Networks, interview: Interview, answers: Answers, text: str) -> Answers:
    """Take a backbone; one that does not run on the DPU in one piece only where a person wants it all the same."""
    name = pick(text, [row.backbone for row in networks.rows] or list(load_backbones()))
    known = networks.find(name)
    subgraphs = max(known.subgraphs) if known and not known.fits else 1
    if known and not known.fits:
        on_cpu = f"{known.most_on_cpu} operators on the CPU between them"
        print(f"  {name} would run as {subgraphs} DPU subgraphs, with {on_cpu}")
        if not interview.confirm("  take it all the same?"):
            raise UsageError("choose another", "those of the list fit")
    elif interview.asking and classify_backbone(name) in ("timm", "factory"):
        print("  not estimated here, which would need torch: `dpuforge estimate` does, once the spec is written")
    return replace(answers, backbone=name, weights=offers.default_weights(name), subgraphs=max(1, subgraphs))


def _write(path: Path, answers: Answers, found: Found) -> None:
    """Write the spec, the list of images where one is wanted, and the schema for editors where there is none."""
    root = find_root(path)
    if found.list_name:
        _write_new(root / found.list_name, found.list_text)
    schema = path.parent / SCHEMA
    try:
        loaded = write_spec(path, SCHEMA_LINE.format(schema=SCHEMA) + write_text(path, answers))
    except BaseException:
        if found.list_name:
            (root / found.list_name).unlink()
        raise
    print(f"create    {path}")
    if not schema.exists():
        _write_new(schema, json.dumps(project_json_schema(), indent=2, ensure_ascii=False) + "\n")
    for problem in loaded.warnings:
        print_message(str(problem))
    waits = "" if found.here else f"put images below {found.name}/, then "
    print_message(f"next: {waits}run `dpuforge run {path.as_posix()}`")


def _write_new(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial_file:
        partial_file.write_text(text, encoding="utf-8")
    print(f"create    {path}")
