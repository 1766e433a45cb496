"""Change values of a spec's text and keep everything else of it: comments, order, quotes, indentation (ruamel.yaml)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.tokens import CommentToken

from dpuforge.errors import Problem, SpecError, UsageError
from dpuforge.load.load_spec import LoadedSpec, load_project
from dpuforge.load.merge import read_value
from dpuforge.records.hardware import Catalogue
from dpuforge.records.variant import Override
from dpuforge.writing import replacing

_INDENTS = tuple((2 * maps, 2 + dash, dash) for maps in (1, 2, 4) for dash in (0, 2, 4))  # of maps, lists, dashes


def edit_text(text: str, values: Mapping[str, Any]) -> str:
    """Return the YAML text with other values at dotted keys ("target.vitis_ai"); keys that are not there are added.

    An item of a list that stays keeps its place and comment. The text keeps its indentation where it is even.
    Raises UsageError where a key leads through a value that is no mapping, or the text is no YAML.
    """
    yaml = _choose_yaml(text)
    document = yaml.load(text)
    for key, value in values.items():
        _set_value(document, key, value)
    return _dump(yaml, document)


def rename_keys(text: str, names: Mapping[str, str]) -> str:
    """Return the YAML text with dotted keys under other names, their values and comments with them.

    A key that stays in its mapping keeps its place there. Raises UsageError where the text is no YAML.
    """
    yaml = _choose_yaml(text)
    document = yaml.load(text)
    for old, new in names.items():
        _rename_key(document, old.split("."), new.split("."))
    return _dump(yaml, document)


def _rename_key(document: Any, old: list[str], new: list[str]) -> None:
    source = document
    for name in old[:-1]:
        source = source[name]
    place, value = list(source).index(old[-1]), source[old[-1]]
    comment = source.ca.items.pop(old[-1], None)
    del source[old[-1]]
    target, first = document, place
    for number, name in enumerate(new[:-1]):
        if not isinstance(target.get(name), dict):
            target.insert(first if number == len(old) - 1 else len(target), name, CommentedMap())
        target = target[name]
    target.insert(place if target is source else len(target), new[-1], value)
    if comment is not None:
        target.ca.items[new[-1]] = comment


def load_text(path: Path, text: str, catalogue: Catalogue | None = None) -> LoadedSpec:
    """Load a text as if it were the spec file path, which is left as it is; the folder of path must exist.

    Raises SpecError with the places in path.
    """
    beside = path.with_name(f".{path.stem}.edited.yaml")  # its bases and its project's root are those of path
    beside.write_text(text, encoding="utf-8")
    try:
        loaded = load_project(beside, catalogue)
    except SpecError as error:
        raise SpecError(_rename(error.problems, beside, path)) from None
    finally:
        beside.unlink()
    return replace(loaded, path=path, warnings=_rename(loaded.warnings, beside, path))


def _rename(problems: tuple[Problem, ...], beside: Path, path: Path) -> tuple[Problem, ...]:
    return tuple(replace(problem, path=problem.path.replace(str(beside), str(path))) for problem in problems)


def write_spec(path: Path, text: str, catalogue: Catalogue | None = None) -> LoadedSpec:
    """Write a spec whole after it was found good; raise SpecError and leave what is there where it is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    loaded = load_text(path, text, catalogue)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return loaded


def apply_overrides(path: Path, overrides: Iterable[Override], catalogue: Catalogue | None = None) -> LoadedSpec:
    """Write what a variant sets into the spec itself, comments kept; raise as write_spec does."""
    return write_spec(path, set_overrides(path.read_text(encoding="utf-8"), overrides), catalogue)


def set_overrides(text: str, overrides: Iterable[Override]) -> str:
    """Return the YAML text with what a variant sets."""
    return edit_text(text, {override.key: read_value(override) for override in overrides})


def _choose_yaml(text: str) -> YAML:
    """Return the YAML whose indentation gives back the text, or comes nearest to it."""
    candidates = []
    for mapping, sequence, offset in _INDENTS:
        yaml = YAML()
        yaml.preserve_quotes = True
        yaml.width = 1_000_000
        yaml.indent(mapping=mapping, sequence=sequence, offset=offset)
        try:
            lines = _dump(yaml, yaml.load(text)).splitlines()
        except YAMLError as error:
            raise UsageError(f"no YAML: {error}") from error
        candidates.append((len(set(text.splitlines()) - set(lines)), yaml))
    return min(candidates, key=lambda pair: pair[0])[1]


def _dump(yaml: YAML, document: Any) -> str:
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _set_value(document: Any, key: str, value: Any) -> None:
    *above, last = key.split(".")
    here = document
    for number, name in enumerate(above):
        if not isinstance(here, dict):
            raise UsageError(f"{'.'.join(above[:number])} is no mapping: {key} cannot be set below it")
        if here.get(name) is None:
            here[name] = CommentedMap()
        here = here[name]
    if not isinstance(here, dict):
        raise UsageError(f"{'.'.join(above)} is no mapping: {key} cannot be set below it")
    old = here.get(last)
    if isinstance(old, CommentedSeq) and isinstance(value, list):
        _set_items(old, value)
    else:
        here[last] = DoubleQuotedScalarString(value) if _needs_quotes(value) else value


def _needs_quotes(value: Any) -> bool:
    """Tell a text that either version of YAML would read as something else: a release's name, yes, 1e-3."""
    if not isinstance(value, str):
        return False
    try:
        return not all(isinstance(load(value or "''"), str) for load in (YAML(typ="safe").load, yaml.safe_load))
    except (YAMLError, yaml.YAMLError):
        return True


def _set_items(old: CommentedSeq, items: list[Any]) -> None:
    """Remove and append until old holds the items, in their order where only ends differ, else replace them all."""
    tail = _cut_tail(old)
    for number in reversed([number for number, item in enumerate(old) if item not in items]):
        del old[number]
    old.extend(item for item in items if item not in old)
    if list(old) != items:
        old[:] = items
    if tail and old:
        _add_tail(old, tail)


def _cut_tail(items: CommentedSeq) -> str:
    """Take away the lines of comments and blanks that follow a list, which ruamel keeps with its last item."""
    token = (items.ca.items.get(len(items) - 1) or [None])[0]
    if token is None:
        return ""
    own, newline, tail = token.value.partition("\n")
    token.value = own + newline
    return str(tail)


def _add_tail(items: CommentedSeq, tail: str) -> None:
    last = len(items) - 1
    token = (items.ca.items.get(last) or [None])[0]
    if token is None:
        items.ca.items[last] = [CommentToken("\n" + tail, CommentMark(0), None), None, None, None]
    else:
        token.value = token.value.rstrip("\n") + "\n" + tail
