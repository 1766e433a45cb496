"""Templates with a project's own files among them: its templates stand for dpuforge's, its code is put in as it is.

A template that stands for another extends or includes that one under the other's own name. All of it runs in Jinja2's
sandbox: an own template reads what it is given, and reaches nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dpuforge.records.own import OwnFile

SHIPPED = "dpuforge/"  # before the name of a template: dpuforge's own, whatever stands for it


class OwnEnvironment(ImmutableSandboxedEnvironment):
    """An environment in which a template that names itself means the one that it stands for."""

    def join_path(self, template: str, parent: str) -> str:
        """Return the name of a template that parent extends or includes."""
        return SHIPPED + template if template == parent else template


class OwnLoader(jinja2.BaseLoader):
    """Finds a project's own files, and dpuforge's templates behind them."""

    def __init__(self, shipped: jinja2.BaseLoader, own: Sequence[OwnFile]) -> None:
        self.shipped = shipped
        self.own = {file.name: file for file in own}

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        """Return text, file name and freshness of a template."""
        file = self.own.get(template)
        if file is None:
            return self.shipped.get_source(environment, template.removeprefix(SHIPPED))
        text = file.text if file.template else "{% raw %}" + file.text.rstrip("\r\n") + "{% endraw %}"
        return text, file.path, lambda: True


def locate_fault(error: BaseException, own: Sequence[OwnFile]) -> str:
    """Return "path:line" of the own file in which an error of a template arose, "" where it was in none of them."""
    paths = {file.path for file in own}
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.filename}:{error.lineno}" if error.filename in paths else ""
    places = [(path, line) for path, line in _walk(error.__traceback__) if path in paths]
    return "{}:{}".format(*places[-1]) if places else ""


def _walk(traceback: TracebackType | None) -> Sequence[tuple[str, int]]:
    places = []
    while traceback is not None:
        places.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return places
