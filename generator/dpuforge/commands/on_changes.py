"""The command that shows what changed: diff, as text of the files or in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpuforge.commands.on_spec import Out, Specs, render_specs
from dpuforge.commands.screen import print_json
from dpuforge.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from dpuforge.records.files import FileChange, RenderedFile
    from dpuforge.records.job import Job
    from dpuforge.trace.name_changes import Changes


class Form(str, Enum):
    """How a diff in words is printed."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"
    GITHUB = "github"


def diff(
    specs: Specs = None,
    out: Out = None,
    semantic: Annotated[bool, typer.Option("--semantic", help="In words: settings, files, stages.")] = False,
    form: Annotated[Form, typer.Option("--format", help="Of --semantic; github: at the spec's lines.")] = Form.TEXT,
    against: Annotated[str, typer.Option(metavar="REV", help="Compare with generated/ of a git revision.")] = "",
) -> None:
    """Show what generate would change, as a unified diff; exit code 1 where there is anything.

    Example: dpuforge diff spec/quickstart.yaml --semantic --against main

    --semantic says which settings changed, from what to what, where, which files each touches and which stages have to
    run again, as `plan` judges it; edits by hand and changes of dpuforge itself are told apart. With --against, the
    stages are those that read a script that differs: the results of that revision are not here.
    """
    from dpuforge.render.folder import format_diff

    if against and out:
        raise UsageError("--against and --out exclude each other", "--against reads generated/ of that revision")
    documents, changed = [], False
    for job, files in render_specs(specs):
        before, changes = _compare(job, files, out, against)
        changed = changed or bool(changes)
        if semantic:
            documents.append(_describe(job, files, before, changes, bool(against)))
        else:
            print(format_diff(changes, job.project.project), end="")
    if semantic:
        _print_documents(documents, form)
    raise typer.Exit(ExitCode.DRIFT if changed else ExitCode.DONE)


def _compare(
    job: Job, files: tuple[RenderedFile, ...], out: Path | None, against: str
) -> tuple[dict[str, Any], tuple[FileChange, ...]]:
    """Return the manifest of before, and what differs from it."""
    from dpuforge import pipeline
    from dpuforge.render.authorship import read_manifest
    from dpuforge.trace.git_revision import check_out

    if not against:
        return read_manifest(job.generated(out)), pipeline.compare(job, files, out)
    with check_out(job.root, against, f"generated/{job.project.project}") as folder:
        return read_manifest(folder), pipeline.compare(job, files, folder.parent)


def _describe(
    job: Job, files: tuple[RenderedFile, ...], before: dict[str, Any], changes: tuple[FileChange, ...], against: bool
) -> dict[str, Any]:
    """Return one project's changes in words, as the document that --format json prints."""
    from dpuforge import pipeline
    from dpuforge.planning import name_stages
    from dpuforge.trace.name_changes import name_changes

    plan = pipeline.plan(job)
    named: Changes = name_changes(job, plan, before, changes)
    news = asdict(name_stages(job, plan, files, changes, has_results=not against))
    return {"project": job.project.project, **asdict(named), "stages": news.pop("again"), **news}


def _print_documents(documents: Iterable[dict[str, Any]], form: Form) -> None:
    from dpuforge.trace.format_changes import format_github, format_markdown, format_text

    if form is Form.JSON:
        print_json(list(documents))
        return
    write = {Form.TEXT: format_text, Form.MARKDOWN: format_markdown, Form.GITHUB: format_github}[form]
    for document in documents:
        print(write(document), end="")
