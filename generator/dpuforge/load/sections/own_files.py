"""Rules and reading of `own`: the files that a project puts in place of dpuforge's templates, or adds to scripts."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path as FilePath
from typing import Any

import yaml

from dpuforge.load.findings import Finding, Path, find_close, show_value
from dpuforge.load.forms import Fault
from dpuforge.load.shipped_yaml import LOADER
from dpuforge.paths import find_shipped
from dpuforge.records.files import hash_bytes
from dpuforge.records.own import OwnFile

MAX_BYTES = 1_000_000
_SUFFIX = ".j2"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_END_OF_RAW = re.compile(r"\{%[-+]?\s*endraw\b")
_OUTSIDE = ("generated", "build")

Spec = Mapping[str, Any]


@cache
def list_templates() -> tuple[str, ...]:
    """Return the templates that a project may replace, by their paths below templates/: those of generated files."""
    folder = find_shipped("templates")
    names = (path.relative_to(folder).as_posix() for path in folder.rglob(f"*{_SUFFIX}"))
    return tuple(sorted(name for name in names if not name.startswith("_report/")))


@cache
def read_hooks() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Return the hooks of each generated script: {script: {hook: {arguments, doc}}}."""
    text = (find_shipped("spec/schema") / "hooks.yaml").read_text(encoding="utf-8")
    rows: dict[str, Any] = yaml.load(text, Loader=LOADER)
    return rows


def check_templates(value: object) -> Iterator[Fault]:
    """Each key is a template of dpuforge, each value a path."""
    for name, path in value.items() if isinstance(value, Mapping) else ():
        if name not in list_templates():
            yield _explain_unknown("template", name, list_templates(), (name,))
        else:
            yield from _check_path(path, (name,))


def check_append(value: object) -> Iterator[Fault]:
    """Each key is a script with hooks, each value maps hooks of that script to paths."""
    for script, hooks in value.items() if isinstance(value, Mapping) else ():
        known = read_hooks().get(script)
        if known is None:
            yield _explain_unknown("script with hooks", script, tuple(read_hooks()), (script,))
        elif not isinstance(hooks, Mapping):
            remedy = f"write hook: path; the hooks of {script} are {', '.join(known)}"
            yield Fault(f"should be a mapping of hooks to files, got {show_value(hooks)}", remedy, (script,))
        else:
            yield from _check_hooks(script, hooks, known)


def _check_hooks(script: str, hooks: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[Fault]:
    for hook, path in hooks.items():
        if hook not in known:
            yield _explain_unknown(f"hook of {script}", hook, tuple(known), (script, hook))
        else:
            yield from _check_path(path, (script, hook))


def _explain_unknown(what: str, name: object, known: tuple[str, ...], path: Path) -> Fault:
    close = find_close(str(name), known, 0.5)
    remedy = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
    return Fault(f"there is no such {what}, got {show_value(name)}", remedy, path, at_key=True)


def _check_path(value: object, where: Path) -> Iterator[Fault]:
    """A path that stays in the project, whatever lies there."""
    remedy = "write a path inside the project, relative to its root, for example own/train.py.j2"
    if not isinstance(value, str) or not value.strip() or _CONTROL.search(value) or "\n" in value:
        yield Fault(f"should be a path, got {show_value(value)}", remedy, where)
        return
    parts = value.replace("\\", "/").split("/")
    if "\\" in value or value.startswith(("/", "~")) or re.match(r"[A-Za-z]:", value):
        yield Fault(f"should be a path relative to the project root, got {show_value(value)}", remedy, where)
    elif ".." in parts:
        yield Fault(f"the path leads out of where it starts, got {show_value(value)}", remedy, where)
    elif next((part for part in parts if part != "."), "") in _OUTSIDE:
        yield Fault(f"generated/ and build/ hold no sources, got {show_value(value)}", remedy, where)


def check_files(spec: Spec, root: FilePath) -> Iterator[Finding]:
    """Yield what is wrong with the files themselves; their paths are well formed."""
    for where, path, hook in _iterate_files(spec["own"]):
        try:
            text, _ = read_own(root, path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            what = f"the file cannot be used: {reason}, got {show_value(path)}"
            yield Finding(where, what, "it is a text file inside the project, in UTF-8")
            continue
        fault = _judge_hook(path, text, where) if hook else ""
        if fault:
            yield Finding(where, fault, f"docs/own.md says what the function {hook} is given")


def _iterate_files(own: Spec) -> Iterator[tuple[Path, str, str]]:
    """Yield (path of keys, file, hook) of every file that the spec lists."""
    for template, path in own["templates"].items():
        yield ("own", "templates", template), path, ""
    for script, hooks in own["append"].items():
        for hook, path in hooks.items():
            yield ("own", "append", script, hook), path, hook


def read_own(root: FilePath, path: str) -> tuple[str, str]:
    """Return text and sha256 of a file of the project; raise OSError or ValueError where it must not be read."""
    place = root / path
    real, inside = os.path.realpath(place), os.path.realpath(root)
    if os.path.commonpath([real, inside]) != inside:
        raise ValueError("a symbolic link leads out of the project")
    if not place.is_file():
        raise ValueError("it is no file" if place.exists() else "there is no such file")
    if place.stat().st_size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    content = place.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    found = _CONTROL.search(text)
    if found:
        raise ValueError(f"line {text.count(chr(10), 0, found.start()) + 1} holds a control character")
    return text, hash_bytes(content)


def _judge_hook(path: str, text: str, where: Path) -> str:
    """Return what keeps a file from being put into a script, "" where nothing does; its path and line come first."""
    found = _END_OF_RAW.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        return f"{path}:{line}: a file that is added to a script cannot hold the words {found.group()} %}}"
    script, hook = str(where[2]), str(where[3])
    if script.endswith(".sh"):
        defined = re.search(rf"^[ \t]*(function[ \t]+)?{hook}[ \t]*(\(\)|\{{)", text, re.MULTILINE)
        return "" if defined else f"{path}: it defines no function {hook}()"
    return _judge_function(path, text, hook, read_hooks()[script][hook]["arguments"])


def _judge_function(path: str, text: str, hook: str, arguments: list[str]) -> str:
    try:
        tree = ast.parse(text, feature_version=(3, 7))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        return f"{path}:{line}: it is not Python 3.7: {getattr(error, 'msg', None) or error}"
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == hook]
    if not functions:
        return f"{path}: it defines no function {hook}({', '.join(arguments)})"
    given = functions[-1].args
    optional = len(given.defaults)
    most = float("inf") if given.vararg else len(given.args)
    required = any(default is None for default in given.kw_defaults)
    if not len(given.args) - optional <= len(arguments) <= most or required:
        return f"{path}:{functions[-1].lineno}: {hook} is called with ({', '.join(arguments)})"
    return ""


def build_own(own: Spec, root: FilePath) -> tuple[OwnFile, ...]:
    """Return the files of a checked spec with what is in them."""
    files = []
    for where, path, hook in _iterate_files(own):
        text, digest = read_own(root, path)
        names = {"script": str(where[2]), "hook": hook} if hook else {"template": str(where[2])}
        files.append(OwnFile(FilePath(os.path.normpath(path)).as_posix(), digest, text, **names))
    return tuple(files)
