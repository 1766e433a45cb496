"""Render every planned file in memory, tidy it, parse it in its own language, and add the manifest."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import jinja2

from dpuforge.errors import UserError
from dpuforge.records.files import RenderedFile, hash_text
from dpuforge.records.plan import SCHEMA_VERSION, Plan, PlannedFile
from dpuforge.render.environment import format_json, make_environment

MANIFEST = "manifest.json"


class TemplateError(UserError):
    """A template yields a file that its own language refuses: a bug of the template, never written to disk."""


def render_plan(plan: Plan, environment: jinja2.Environment | None = None) -> tuple[RenderedFile, ...]:
    """Return all files of generated/<project>/, sorted by path, manifest included.

    Nothing is written. Raises TemplateError where a file does not parse; then no file may be written.
    """
    environment = environment or make_environment()
    rendered = [_render_file(planned, plan, environment) for planned in plan.files]
    rendered.append(_make_manifest(plan, rendered, environment))
    _parse_shell([file for file in rendered if file.path.endswith(".sh")])
    return tuple(sorted(rendered, key=lambda file: file.path))


def _render_file(planned: PlannedFile, plan: Plan, environment: jinja2.Environment) -> RenderedFile:
    text = render_text(planned, plan, environment)
    parse_text(planned.path, text)
    return RenderedFile(planned.path, text, planned.executable)


def render_text(planned: PlannedFile, plan: Plan, environment: jinja2.Environment, tidy: bool = True) -> str:
    """Return the text of one planned file, as its template gives it where tidy is False."""
    if not planned.template:
        return format_json(planned.document) + "\n"
    derived = fields(planned.context) if planned.context is not None else ()
    context = {item.name: getattr(planned.context, item.name) for item in derived}
    text = environment.get_template(planned.template).render(project=plan.project, command=plan.command, **context)
    return tidy_text(text) if tidy else text


def tidy_text(text: str) -> str:
    """Return text without trailing blanks, with at most two empty lines in a row and one newline at the end."""
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{4,}", "\n\n\n", lines).strip("\n") + "\n"


def _parse_python(text: str) -> None:
    ast.parse(text, feature_version=(3, 7))


_PARSERS: dict[str, Callable[[str], Any]] = {".py": _parse_python, ".json": json.loads}


def parse_text(path: str, text: str) -> None:
    """Parse text in the language that its path names; raise TemplateError where it does not parse."""
    parser = _PARSERS.get("." + path.rpartition(".")[2])
    if parser is None:
        return
    try:
        parser(text)
    except (SyntaxError, ValueError) as error:
        raise TemplateError(f"{path}: the rendered file does not parse: {error}", "mend its template") from error


def _parse_shell(files: list[RenderedFile]) -> None:
    """Parse shell scripts with `bash -n`; a machine without bash cannot run them and does not check them."""
    bash = shutil.which("bash")
    if bash is None:
        return
    for text in dict.fromkeys(file.text for file in files):
        done = subprocess.run([bash, "-n"], input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            names = ", ".join(file.path for file in files if file.text == text)
            raise TemplateError(f"{names}: the rendered script does not parse: {done.stderr.strip()}")


def _make_manifest(plan: Plan, rendered: list[RenderedFile], environment: jinja2.Environment) -> RenderedFile:
    """List what was made from what; no time, host, path or user, so that equal specs give equal bytes."""
    templates = sorted({planned.template for planned in plan.files if planned.template})
    document = {
        "schema_version": SCHEMA_VERSION,
        "project": plan.project.project,
        "spec": {"path": plan.project.spec.path, "sha256": plan.spec_sha256},
        "image": plan.image,
        "boards": plan.boards,
        "templates": {name: hash_text(_template_source(environment, name)) for name in templates},
        "files": {file.path: hash_text(file.text) for file in sorted(rendered, key=lambda file: file.path)},
        "settings": None,
    }
    rows = [f"    {format_json(key)}: {format_json(value, None)}" for key, value in plan.settings.items()]
    settings = "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"  # one line a setting, for who reviews its diff
    return RenderedFile(MANIFEST, format_json(document).replace('"settings": null', f'"settings": {settings}') + "\n")


def _template_source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
