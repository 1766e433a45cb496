"""The command that tries remedies where int8 loses accuracy: tune."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpuforge.commands.on_spec import Json, Spec, ToolchainName
from dpuforge.commands.runs.watch_variant import watch_variant
from dpuforge.commands.screen import print_json, print_message, print_table
from dpuforge.errors import ExitCode

if TYPE_CHECKING:
    from dpuforge.records.job import Job
    from dpuforge.tune.tuning import Tuning


def tune(
    spec: Spec,
    target_drop: Annotated[float, typer.Option(help="Points that int8 may lose against float.")] = 1.0,
    minutes: Annotated[float, typer.Option(help="For trials and the test at the end; training is not counted.")] = 30.0,
    images: Annotated[
        int | None, typer.Option(min=0, help="Validation images that judge a trial; 0: all; else 100 to 500, by time.")
    ] = None,
    toolchain: ToolchainName = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the change that won into the spec.")] = False,
    json_: Json = False,
) -> None:
    """Try remedies for what int8 loses, in order of cost, and keep those that help beyond luck.

    Example: dpuforge tune spec/quickstart.yaml --target-drop 1.0 --minutes 30

    Each is tried on validation images and kept only where AMD's tool gives the same. The test split is looked at once,
    at the end. The same command goes on after Ctrl-C; tables lie in build/<project>/tunes/. Exit code 3: the target was
    not reached. With --apply the change goes into the spec, comments are kept, and what has ended is not run again.
    """
    from dpuforge import pipeline
    from dpuforge.tune.tune_record import Wish
    from dpuforge.tune.tuning import refuse

    wish, job = Wish(target_drop, minutes, images, toolchain or ""), pipeline.load(spec)
    refuse(job, wish)
    task = _run(job, spec, wish)
    _show(task, json_)
    if apply:
        _apply(job, spec, task.document)
    elif task.document["best"]:
        print_message(f"next: the same command with --apply writes this into {spec}")
    raise typer.Exit(ExitCode.DONE if task.document["reached"] else ExitCode.STAGE_FAILED)


def _run(job: Job, spec: Path, wish: Any) -> Tuning:
    """Run a tune under the lock of the spec's variants."""
    from dpuforge.execute.lock import claim
    from dpuforge.execute.run_stages import Selection
    from dpuforge.records.job import VARIANTS
    from dpuforge.running import Request
    from dpuforge.sweep.run_variants import Sweep
    from dpuforge.tune import tune_page, tune_record
    from dpuforge.tune.tuning import Tuning

    request = Request(wish.toolchain, selection=Selection(until="evaluate"))
    with claim(job.build / VARIANTS, print_message):
        sweep = Sweep(spec, request, partial(watch_variant, live=True), print_message)
        task = Tuning(job, spec, wish, sweep)
        if task.document.get("finished"):
            print_message("this tune has ended before; other --minutes, or another spec, tune anew")
        shown: list[int] = []
        task.tell = lambda document: _tell(document, shown)
        tune_page.write_tune_page(task.folder / tune_record.PAGE, task.go())
    return task


def _tell(document: Mapping[str, Any], shown: list[int]) -> None:
    """Say how the last remedy ended, once."""
    rows = document.get("rows", [])
    for row in rows[len(shown) :]:
        figures = f"int8 {row['int8_accuracy']:.2f} %, " if row.get("int8_accuracy") is not None else ""
        print_message(f"{row['rung']}: {figures}{row['verdict']}" + (f": {row['reason']}" if row["reason"] else ""))
        shown.append(1)


def _show(task: Tuning, json_: bool) -> None:
    from dpuforge.tune import tune_page, tune_record

    document = task.document
    if json_:
        print_json({**document, "folder": str(task.folder)})
        return
    print_table("", tune_page.COLUMNS, tune_page.list_rows(document))
    final = tune_page.list_final(document)
    if final:
        print_table("", tune_page.FINAL_COLUMNS, final)
    for line in tune_page.explain(document):
        print(line)
    print(f"tune: {task.folder / tune_record.PAGE}")


def _apply(job: Job, spec: Path, document: Mapping[str, Any]) -> None:
    """Write the change that won into the spec, comments kept."""
    from dpuforge.edit.edit_spec import apply_overrides
    from dpuforge.tune.tune_page import name_change
    from dpuforge.tune.tuning import find_winner

    winner = find_winner(document)
    if not winner:
        print_message(f"{spec} stays as it is: no change won")
        return
    apply_overrides(spec, winner, job.catalogue)
    print_message(f"{spec}: {name_change(document['best'])}")
    print_message(f"next: `dpuforge run {spec}`, which takes over what the tune made")
