"""The command that says what a run would do: plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpuforge.commands.choices import complete
from dpuforge.commands.on_spec import Boards, Json, Spec, ToolchainName
from dpuforge.commands.screen import paint, print_json, print_message, print_table
from dpuforge.errors import ExitCode

if TYPE_CHECKING:
    from dpuforge.planning import Foresight


def plan(
    spec: Spec,
    toolchain: ToolchainName = None,
    board: Boards = None,
    start: Annotated[
        str, typer.Option("--from", help="As `run --from`.", shell_complete=complete.complete_stages)
    ] = "",
    until: Annotated[str, typer.Option(help="As `run --until`.", shell_complete=complete.complete_stages)] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Save it for `run --plan`.")] = None,
    json_: Json = False,
) -> None:
    """Show which files would change and which stages are stale, and why; exit code 1 where anything is pending.

    Example: dpuforge plan spec/quickstart.yaml

    It judges the files that would be generated, by content, whoever made the results, and needs no torch. A stage is
    fresh, stale, or depends on what an earlier one yields; one whose tool is not here is named so.
    """
    from dpuforge import pipeline, planning, running
    from dpuforge.board.measured import describe_boards
    from dpuforge.execute.run_stages import Selection

    request = running.Request(toolchain or "", tuple(board or ()), Selection(start, until))
    job = pipeline.load(spec)
    planned = pipeline.plan(job)
    files = pipeline.render(planned)
    changes = pipeline.compare(job, files)
    seen = planning.foresee(job, planned, files, changes, request)
    if out is not None:
        planning.save_plan(out, request, planning.describe_plan(job, planned, files, seen.rows))
    rows = [{"path": change.path, "change": change.change.value, "why": change.why} for change in changes]
    _print_plan(job.project.project, rows, seen, describe_boards(job), json_)
    pending = bool(rows) or any(row.pending for row in seen.rows)
    raise typer.Exit(ExitCode.DRIFT if pending else ExitCode.DONE)


def _print_plan(
    project: str, rows: Sequence[dict[str, str]], seen: Foresight, boards: Mapping[str, Any], json_: bool
) -> None:
    """Print the files that would change, the stages, and what is known of the boards."""
    if json_:
        stages = [{**vars(row), "state": row.state.value} for row in seen.rows]
        print_json({"project": project, "files": rows, "stages": stages, "note": seen.note, "boards": boards})
        return
    for row in rows:
        why = f" ({row['why']})" if row["why"] else ""
        print(f"{paint(row['change'], 9)} {project}/{row['path']}{why}")
    _print_stages(seen)
    for name, said in boards.items():
        print(f"{name}: {said}")


def _print_stages(seen: Foresight) -> None:
    table = [
        (
            row.stage,
            row.where,
            row.state,
            row.why or row.lacks,
            *((row.minutes, row.minutes_from) if row.pending else ()),
        )
        for row in seen.rows
    ]
    print_table("", ("stage", "where", "state", "why", "minutes", "from"), table)
    pending = [row for row in seen.rows if row.pending]
    minutes = sum(row.minutes or 0.0 for row in pending)
    unknown = [row.stage for row in pending if row.minutes is None]
    if minutes:
        print(f"about {minutes:.1f} minutes" + (f", and {', '.join(unknown)}: not known" if unknown else ""))
    if seen.note:
        print_message(f"note: {seen.note}")
