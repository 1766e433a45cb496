"""Where a project's images come from: what a folder holds is told, and only what it leaves open is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpuforge.commands.choices.answers import Answers, find_problems
from dpuforge.commands.choices.ask import Interview, Question, pick
from dpuforge.commands.choices.given import WAYS, Given, Missing
from dpuforge.commands.choices.offers import number_rows
from dpuforge.commands.choices.read_images import SPLITS, Data, Images, compare_classes, read_data, write_list
from dpuforge.commands.screen import print_table
from dpuforge.errors import UsageError
from dpuforge.paths import find_root, name_below

MOST_NAMES = 200  # more classes are counted in the spec, not named


@dataclass
class Found:
    """What was found of the images: where they should lie, whether they do, and a list of them to be written."""

    name: str
    here: bool = False
    classes: bool = False
    list_name: str = ""
    list_text: str = ""


def settle_data(interview: Interview, given: Given) -> Found:
    """Settle the section data, and the classes where the images tell them."""
    root = find_root(interview.path)
    found = Found(f"data/{interview.answers.project}")
    read: list[Data] = []

    def take(answers: Answers, text: str) -> Answers:
        name = _name_below(root, text)
        data = read_data(root, name)
        if data is None and text != found.name and not interview.confirm(f"  {name} is not there yet: fill it later?"):
            raise UsageError(f"there is no {name}", "name the folder of the images, or a CSV file")
        read[:], found.name, found.here = ([data] if data else []), name, data is not None
        _tell(interview, data)
        return _describe(answers, name, data)

    words = "Images: a folder (one folder a class, or train, validation and test in it), or a CSV file"
    interview.settle(Question("data", words, found.name, take, ("data",)), given.data)
    for data in read:
        _settle_splits(interview, given, data, found, root)
        _take_found_classes(interview, given, data, found)
    return found


def _name_below(root: Path, text: str) -> str:
    """Return a path as the spec names it: relative to the project root where it lies below."""
    below, here = root / text, Path.cwd() / text
    path = below if below.exists() or not here.exists() else here
    return name_below(Path(os.path.abspath(path)), root)


def _tell(interview: Interview, data: Data | None) -> None:
    if data is not None and interview.asking:
        for images in [data.whole] if data.whole else data.splits.values():
            print(f"  {images.describe()}")


def _describe(answers: Answers, name: str, data: Data | None) -> Answers:
    """Return the section data as far as it is known: what is missing gets a name, to be filled later."""
    if data is not None and data.whole:
        return replace(answers, data={"split": {"from": data.whole.name}})
    names = {split: images.name for split, images in data.splits.items()} if data else {}
    above = Path(names["train"]).parent.as_posix() if names else name
    return replace(answers, data={split: names.get(split, f"{above}/{split}") for split in SPLITS})


def _settle_splits(interview: Interview, given: Given, data: Data, found: Found, root: Path) -> None:
    """Settle how three splits come of what is there."""
    way = None
    differ = compare_classes(data.splits) if data.splits else ""
    if data.missing:
        way = _choose_way(interview, given, f"there is no {' and no '.join(data.missing)}")
    elif differ:
        way = _choose_way(interview, given, differ)
    if way is Missing.POOL:
        found.list_name = f"{Path(data.splits['train'].name).parent.as_posix()}_images.csv"
        if (root / found.list_name).exists():
            raise UsageError(f"{found.list_name} exists", f"name it: --data {found.list_name}")
        found.list_text = write_list(root, found.list_name, data.splits)
    start = {Missing.POOL: found.list_name, Missing.TRAIN: data.splits["train"].name if data.splits else ""}
    name = data.whole.name if data.whole else start.get(way, "") if way else ""
    if name:
        split = {"from": name, "validation": 0.1, "test": 0.2, "seed": given.seed}
        interview.answers = replace(interview.answers, data={"split": split})
        for key, share in (("validation", given.validation), ("test", given.test)):
            _settle_share(interview, key, None if share is None else f"{share:g}")


def _choose_way(interview: Interview, given: Given, why: str) -> Missing | None:
    """Ask what becomes of images without all splits; without a person the option must say."""
    if given.split is not None or not interview.asking:
        if given.split is None:
            remedy = "choose with --split: " + "; ".join(f"{way.value}: {words}" for way, words in WAYS.items())
            interview.faults.append(UsageError(f"--data: {why}", remedy))
        return given.split
    print(f"  {why}")
    chosen: list[Missing] = []

    def take(answers: Answers, text: str) -> Answers:
        name = pick(text, [way.value for way in WAYS])
        if name not in [way.value for way in WAYS]:
            raise UsageError(f"must be one of {', '.join(way.value for way in WAYS)}, got {text!r}")
        chosen[:] = [Missing(name)]
        return answers

    rows = number_rows((way.value, words) for way, words in WAYS.items())
    show = lambda every: print_table("", ("", "split", ""), rows)  # noqa: E731
    interview.settle(Question("split", "What now", "pool", take, (), show), None)
    return chosen[0]


def _settle_share(interview: Interview, key: str, given: str | None) -> None:
    def take(answers: Answers, text: str) -> Answers:
        try:
            share = float(text)
        except ValueError:
            raise UsageError(f"should be a share such as 0.2, got {text!r}") from None
        return replace(answers, data={"split": {**answers.data["split"], key: share}})

    default = f"{interview.answers.data['split'][key]:g}"
    words = f"Share of each class for {key} (the same images always make the same split)"
    interview.settle(Question(key, words, default, take, ("data",)), given)


def _take_found_classes(interview: Interview, given: Given, data: Data, found: Found) -> None:
    """Take the classes that the images tell, by name where there are few; an option must agree."""
    images = data.whole or data.splits["train"]
    wanted = given.answers["classes"]
    if wanted is not None and wanted.isdigit() and int(wanted) != len(images.classes):
        text = f"--classes: {images.name} holds {len(images.classes)} classes, got {wanted}"
        interview.faults.append(UsageError(text, "leave --classes out: the images tell"))
    if wanted is not None and not wanted.isdigit():
        return  # an order of names, or a file: a person's own
    found.classes = True
    interview.answers = _name_classes(interview, images)


def _name_classes(interview: Interview, images: Images) -> Answers:
    """Return the answers with the names of the classes, or their number where the names cannot stand in a spec."""
    counted = replace(interview.answers, classes=len(images.classes))
    named = replace(counted, classes=images.classes)
    problems: Mapping[str, Any] | tuple[Any, ...] = ()
    if len(images.classes) <= MOST_NAMES:
        problems = find_problems(interview.path, named)
        if not any(it.severity == "error" and it.field.startswith("classes") for it in problems):
            return named
    return counted
