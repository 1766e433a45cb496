"""The text of one planned file: its template filled in, or its document as JSON."""

from __future__ import annotations

import re
from dataclasses import fields

import jinja2

from dpuforge.errors import UserError
from dpuforge.records.plan import Plan, PlannedFile
from dpuforge.render.environment import format_json
from dpuforge.render.own_templates import locate_fault


class TemplateError(UserError):
    """A template that cannot be rendered, or yields what its own language refuses; nothing is written.

    With dpuforge's own templates it is a bug of theirs; with a project's it names the project's file and line. line is
    that of the rendered file, 0 where there is none.
    """

    def __init__(self, message: str, remedy: str = "", path: str = "", line: int = 0) -> None:
        super().__init__(message, remedy)
        self.path = path
        self.line = line


def render_text(planned: PlannedFile, plan: Plan, environment: jinja2.Environment, tidy: bool = True) -> str:
    """Return the text of one planned file, as its template gives it where tidy is False.

    Raises TemplateError with file and line where a template of the project's own fails.
    """
    if not planned.template:
        return format_json(planned.document) + "\n"
    derived = fields(planned.context) if planned.context is not None else ()
    context = {item.name: getattr(planned.context, item.name) for item in derived}
    own = plan.project.own
    hooks = {file.hook: file.name for file in own if file.script == planned.path}
    names = {"project": plan.project, "command": plan.command, "hooks": hooks, **context}
    try:
        text = environment.get_template(planned.template).render(**names)
    except Exception as error:
        place = locate_fault(error, own) if own else ""
        if not place:
            raise
        raise TemplateError(f"{place}: {_describe(error)}", _REMEDY.format(planned.path)) from error
    return tidy_text(text) if tidy else text


_REMEDY = "{} is made with this file; docs/own.md says what a template is given"


def _describe(error: Exception) -> str:
    """Return what went wrong in a template, on one line."""
    if isinstance(error, jinja2.TemplateNotFound):
        return f"there is no template {error.name}"
    if isinstance(error, RecursionError):
        return "the templates include one another in a circle"
    kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def tidy_text(text: str) -> str:
    """Return text without trailing blanks, with at most two empty lines in a row and one newline at the end."""
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{4,}", "\n\n\n", lines).strip("\n") + "\n"
