"""Which line of which template made each line of a generated file: recorded while the file is rendered.

A marker is laid before every piece of text and every expression of a template. It travels with the rendered text
through includes and loops, and is cut out again; without its markers the text is the generated file, which is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream

from dpuforge.records.files import RenderedFile
from dpuforge.records.plan import Plan, PlannedFile
from dpuforge.render.environment import make_environment
from dpuforge.render.render_text import TemplateError, render_text

_START, _END = "\x01", "\x02"  # no template holds them, and no value of a spec may
_MARKER = re.compile(f"{_START}([de])([^{_START}{_END}]*):([0-9]+){_END}")


@dataclass(frozen=True, order=True)
class TemplateLine:
    """A line of a template, from 1, and whether an expression stands there that was printed."""

    template: str
    line: int
    printed: bool = False


class _Marking(Extension):
    """Lays a marker before each line of text and each expression."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        """Yield the tokens of a template with the markers among them."""
        name = stream.name or ""
        for token in stream:
            if token.type == "data":
                yield Token(token.lineno, "data", _mark_text(name, token.lineno, token.value))
                continue
            if token.type == "variable_begin":
                yield Token(token.lineno, "data", f"{_START}e{name}:{token.lineno}{_END}")
            yield token


def _mark_text(name: str, first: int, text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(f"{_START}d{name}:{first + number}{_END}{line}" for number, line in enumerate(lines))


def trace_lines(plan: Plan, planned: PlannedFile) -> tuple[RenderedFile, tuple[tuple[TemplateLine, ...], ...]]:
    """Return a file rendered anew and, for each of its lines, the lines of templates that it was made from.

    A file that no template makes (JSON) has none. Raises TemplateError where the markers changed the text: a template
    that measures its own text, which none of dpuforge's does.
    """
    plain = render_text(planned, plan, make_environment(own=plan.project.own))
    file = RenderedFile(planned.path, plain, planned.executable)
    if not planned.template:
        return file, tuple(() for _ in plain.splitlines())
    environment = make_environment(own=plan.project.own)
    environment.bytecode_cache = None
    environment.add_extension(_Marking)
    lines = _tidy(_split(render_text(planned, plan, environment, tidy=False)))
    if "\n".join(text for text, _ in lines) + "\n" != plain:
        raise TemplateError(f"{planned.path}: its template measures its own text, so that no line can be traced")
    return file, tuple(found for _, found in lines)


def find_own_line(plan: Plan, planned: PlannedFile, line: int) -> str:
    """Return "path:line" of the project's own file that made a line of a rendered file, or the nearest line before it.

    "" where there is none: then the fault is not the project's.
    """
    own = {file.name: file.path for file in plan.project.own}
    try:
        lines = trace_lines(plan, planned)[1][:line]
    except TemplateError:
        return ""
    for places in reversed(lines):
        found = [f"{own[place.template]}:{place.line}" for place in places if place.template in own]
        if found:
            return found[-1]
    return ""


_Line = tuple[str, tuple[TemplateLine, ...]]


def _split(marked: str) -> list[_Line]:
    """Cut marked text into lines without markers, each with what it was made from."""
    here: TemplateLine | None = None
    lines = []
    for line in marked.split("\n"):
        text, at = "", 0
        found: list[TemplateLine] = []
        for match in _MARKER.finditer(line):
            text, found = _add(line[at : match.start()], text, found, here)
            here = TemplateLine(match[2], int(match[3]), match[1] == "e")
            at = match.end()
        text, found = _add(line[at:], text, found, here)
        lines.append((text, tuple(dict.fromkeys(found))))
    return lines


def _add(piece: str, text: str, found: list[TemplateLine], here: TemplateLine | None) -> tuple[str, list[TemplateLine]]:
    return text + piece, [*found, here] if piece and here else found


def _tidy(lines: list[_Line]) -> list[_Line]:
    """Do what render.tidy_text does, line by line."""
    kept: list[_Line] = []
    for text, found in ((text.rstrip(), found) for text, found in lines):
        blanks = [not before for before, _ in kept[-2:]]
        if text or (kept and blanks != [True, True]):
            kept.append((text, found))
    while kept and not kept[-1][0]:
        kept.pop()
    return kept
