"""The command that carries a spec to another release or other boards: migrate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpuforge.commands.choices import complete
from dpuforge.commands.on_spec import Json, Spec
from dpuforge.commands.screen import print_json, print_message, print_table

if TYPE_CHECKING:
    from dpuforge.edit.migrate import Migration


def migrate(
    spec: Spec,
    vitis_ai: Annotated[
        str,
        typer.Option(
            "--vitis-ai",
            metavar="RELEASE",
            help="The release to build with.",
            shell_complete=complete.complete_releases,
        ),
    ] = "",
    board: Annotated[
        list[str] | None,
        typer.Option("--board", help="A board to build for; may be repeated.", shell_complete=complete.complete_boards),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show all of it and write nothing.")] = False,
    json_: Json = False,
) -> None:
    """Rewrite a spec for another release or other boards, comments kept, and show what changes for each board.

    Example: dpuforge migrate spec/quickstart.yaml --vitis-ai 3.5

    Shown are the container image, torch, and each board's DPU, fingerprint and SD image, before and after, then what a
    person has to do. A board that the release does not serve is refused, exit code 2: name the others with --board.
    """
    from dpuforge.edit.migrate import migrate as carry
    from dpuforge.writing import replacing

    found = carry(spec, vitis_ai, tuple(board or ()))
    same = spec.read_text(encoding="utf-8") == found.text
    if not dry_run and not same:
        with replacing(spec) as partial:
            partial.write_text(found.text, encoding="utf-8")
    if json_:
        print_json({**asdict(found), "written": not dry_run and not same})
    else:
        _show(spec, found, same)
        if dry_run:
            print_message("nothing was written (--dry-run)")


def _show(spec: Path, found: Migration, same: bool) -> None:
    for warning in found.warnings:
        print_message(warning)
    print_table(str(spec), ("what", "before", "after"), found.rows) if found.rows else print(f"{spec}: nothing changes")
    for task in found.tasks if not same else ():
        print(f"to do: {task}")
