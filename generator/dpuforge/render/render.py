"""Render every planned file in memory, tidy it, parse it in its own language, and add the manifest."""

from __future__ import annotations

import jinja2

from dpuforge.records.files import RenderedFile, hash_text
from dpuforge.records.plan import SCHEMA_VERSION, Plan, PlannedFile
from dpuforge.render.environment import format_json, make_environment
from dpuforge.render.marked_lines import find_own_line
from dpuforge.render.own_templates import SHIPPED
from dpuforge.render.parsing import check_script, parse_shell, parse_text
from dpuforge.render.render_text import TemplateError, render_text

MANIFEST = "manifest.json"


def render_plan(plan: Plan, environment: jinja2.Environment | None = None) -> tuple[RenderedFile, ...]:
    """Return all files of generated/<project>/, sorted by path, manifest included.

    Nothing is written. Raises TemplateError where a file does not parse; then no file may be written.
    """
    environment = environment or make_environment(own=plan.project.own)
    try:
        rendered = [_render_file(planned, plan, environment) for planned in plan.files]
        parse_shell([file for file in rendered if file.path.endswith(".sh")])
    except TemplateError as error:
        raise _blame(error, plan) from error
    rendered.append(_make_manifest(plan, rendered, environment))
    return tuple(sorted(rendered, key=lambda file: file.path))


def _render_file(planned: PlannedFile, plan: Plan, environment: jinja2.Environment) -> RenderedFile:
    text = render_text(planned, plan, environment)
    parse_text(planned.path, text)
    if plan.project.own and planned.path.endswith(".py"):
        check_script(planned.path, text)
    return RenderedFile(planned.path, text, planned.executable)


def _blame(error: TemplateError, plan: Plan) -> TemplateError:
    """Return the error with the line of the project's own file that made the faulty line of the script."""
    planned = next((file for file in plan.files if file.path == error.path), None)
    if planned is None or not error.line or not plan.project.own:
        return error
    place = find_own_line(plan, planned, error.line)
    return TemplateError(f"{place}: {error.message}", error.remedy) if place else error


def _make_manifest(plan: Plan, rendered: list[RenderedFile], environment: jinja2.Environment) -> RenderedFile:
    """List what was made from what; no time, host, path or user, so that equal specs give equal bytes."""
    templates = sorted({planned.template for planned in plan.files if planned.template})
    own = {file.path: file.sha256 for file in sorted(plan.project.own, key=lambda file: file.path)}
    document = {
        "schema_version": SCHEMA_VERSION,
        "project": plan.project.project,
        "spec": {"path": plan.project.spec.path, "sha256": plan.spec_sha256},
        "image": plan.image,
        "boards": plan.boards,
        "templates": {name: hash_text(_read_shipped(environment, name, bool(own))) for name in templates},
        **({"own": own} if own else {}),
        "files": {file.path: hash_text(file.text) for file in sorted(rendered, key=lambda file: file.path)},
        "settings": None,
    }
    rows = [f"    {format_json(key)}: {format_json(value, None)}" for key, value in plan.settings.items()]
    settings = "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"  # one line a setting, for who reviews its diff
    return RenderedFile(MANIFEST, format_json(document).replace('"settings": null', f'"settings": {settings}') + "\n")


def _read_shipped(environment: jinja2.Environment, name: str, has_own: bool) -> str:
    """Return the text of dpuforge's own template, whatever stands for it."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, SHIPPED + name if has_own else name)[0]
