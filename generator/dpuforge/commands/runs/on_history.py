"""Commands on what was run here: history, history compare, history plot, history restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dpuforge.commands.on_spec import Json
from dpuforge.commands.screen import PlainCommand, PlainGroup, print_json, print_message, print_table
from dpuforge.errors import UsageError
from dpuforge.report.figures_shown import format_figure, format_interval

app = typer.Typer(cls=PlainGroup, invoke_without_command=True, rich_markup_mode=None, pretty_exceptions_enable=False)
Root = Annotated[Path, typer.Option(help="The folder that holds build/.")]
Number = Annotated[int, typer.Argument(min=1, help="The row's number, as `dpuforge history` lists it.")]
_COLUMNS = (
    "no.",
    "ended",
    "project",
    "changed",
    "float, %",
    "int8, %",
    "95 % (Wilson)",
    "emulated",
    "seconds",
    "outcome",
)


@app.callback()
def history(context: typer.Context, root: Root = Path(), project: str = "", json_: Json = False) -> None:
    """List every run that was made here: what its spec changed, accuracies, seconds, how it ended.

    Example: dpuforge history

    Rows lie in build/history/ and are only ever added. `history compare A B` says how two runs differ and whether luck
    explains it, `history plot` draws them, `history restore N` brings back the spec of a run.
    """
    from dpuforge.history.compare_rows import tell_changes
    from dpuforge.history.keep_rows import read_rows

    if context.invoked_subcommand is not None:
        return
    rows = read_rows(root)
    shown = {number: row for number, row in rows.items() if project in ("", row["project"])}
    if json_:
        print_json([{"number": number, **row} for number, row in shown.items()])
        return
    if not shown:
        print_message("no run has left a row here yet: `dpuforge run SPEC` does")
        return
    print_table("", _COLUMNS, [_list_row(number, row, tell_changes(rows, number)) for number, row in shown.items()])


def _list_row(number: int, row: dict[str, Any], changes: str) -> tuple[str, ...]:
    metrics = row["metrics"]
    variant = ", ".join(f"{key}={text}" for key, text in row.get("variant") or ())
    return (
        str(number),
        row["time"],
        row["project"] + (f" ({variant})" if variant else ""),
        changes,
        *(format_figure(metrics.get(name)) for name in ("float_accuracy", "int8_accuracy")),
        format_interval(metrics.get("int8_interval")),
        format_figure(row.get("emulated")),
        format_figure(row.get("seconds")),
        row["outcome"] + (f": {row['reason']}" if row.get("reason") else ""),
    )


@app.command(cls=PlainCommand)
def compare(one: Number, two: Number, root: Root = Path(), json_: Json = False) -> None:
    """Say how two runs differ: settings in words, accuracies, and McNemar's test on the same images.

    Example: dpuforge history compare 1 2
    """
    from dpuforge.history.compare_rows import compare_rows
    from dpuforge.history.keep_rows import find_row, read_rows

    rows = read_rows(root)
    first, second = find_row(rows, one), find_row(rows, two)
    document = compare_rows(root, first, second)
    if json_:
        print_json({"rows": [one, two], **document})
        return
    for change in document["settings"]:
        print(f"{change['key']}  {change['words']}")
    if not document["settings"]:
        print("the same settings")
    for name in ("float", "int8"):
        before, after = (row["metrics"].get(f"{name}_accuracy") for row in (first, second))
        test = document[name]
        said = f"; {test['lost']} images lost, {test['gained']} gained, McNemar p = {test['p']:.2g}" if test else ""
        print(f"{name:<5} {format_figure(before)} % -> {format_figure(after)} %{said}")
    if document["note"]:
        print(document["note"])


@app.command(cls=PlainCommand)
def plot(
    root: Root = Path(),
    project: str = "",
    out: Annotated[Path | None, typer.Option("--out", help="Default: build/history/history.png.")] = None,
) -> None:
    """Draw the accuracies of all runs with their intervals, as a PNG file.

    Example: dpuforge history plot --project quickstart
    """
    from dpuforge.history.draw_rows import draw_rows
    from dpuforge.history.keep_rows import find_folder, read_rows
    from dpuforge.sweep.write_page import check_extra

    check_extra("matplotlib")
    rows = {number: row for number, row in read_rows(root).items() if project in ("", row["project"])}
    target = out or find_folder(root) / "history.png"
    draw_rows(target, rows)
    print(target)


@app.command(cls=PlainCommand)
def restore(
    number: Number,
    root: Root = Path(),
    out: Annotated[Path | None, typer.Option("--out", help="Write the spec there instead.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also over a text that no run has kept.")] = False,
) -> None:
    """Bring back the spec of a run, with its bases, as they were then.

    Example: dpuforge history restore 3

    A file whose present text no run has kept is left as it is (exit code 1), unless --overwrite.
    """
    from dpuforge.history.bring_back import bring_back
    from dpuforge.history.keep_rows import find_row, read_rows

    row = find_row(read_rows(root), number)
    if out is not None and out.is_file() and not overwrite:
        raise UsageError(f"{out} exists", "--overwrite replaces it")
    for line in bring_back(root, row, out, overwrite):
        print(line)
