"""The commands on shipped specs: zoo, zoo show, zoo copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dpuforge.commands.screen import PlainCommand, PlainGroup, print_json, print_message, print_table

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Name = Annotated[str, typer.Argument(help="A shipped spec, as `dpuforge zoo` lists them.", show_default=False)]

app = typer.Typer(
    cls=PlainGroup,
    invoke_without_command=True,
    help="Starting points: specs that ship with dpuforge, checked and estimated.\n\nExample: dpuforge zoo",
    rich_markup_mode=None,
)


@app.callback()
def zoo(context: typer.Context, json_: Json = False) -> None:
    """List the specs that ship with dpuforge: backbone, method, boards, and what is estimated of them.

    Example: dpuforge zoo
    """
    if context.invoked_subcommand is not None:
        return
    from dpuforge.zoo.entries import describe_entry, list_entries

    cards = [describe_entry(entry) for entry in list_entries()]
    if json_:
        print_json(cards)
        return
    rows = [row for card in cards for row in _list_rows(card)]
    headers = ("spec", "backbone", "method", "parameters", "GOP", "board", "DPU subgraphs", "fps, estimated")
    print_table("", headers, rows)
    print_message("`dpuforge zoo show NAME` says more, `dpuforge zoo copy NAME` takes one")


def _list_rows(card: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return a row for each board of a card; what they share stands in the first."""
    backbone = card["backbone"].rpartition("/")[2].partition(".py")[0]
    shared: tuple[Any, ...] = (card["name"], backbone, card["method"], f"{card['parameters']:,}")
    rows = []
    for board, found in card["boards"].items():
        rows.append((*shared, found["workload_gop"], board, found["dpu_subgraphs"], _band(found["fps"])))
        shared = ("", "", "", "")
    return rows


def _band(fps: list[float]) -> str:
    return f"{fps[1]:.4g} ({fps[0]:.4g} to {fps[2]:.4g})" if fps else "unknown"


@app.command(cls=PlainCommand)
def show(name: Name, json_: Json = False) -> None:
    """Show the card of a shipped spec: what it costs and does, and the licences of its weights and images.

    Example: dpuforge zoo show resnet18_kv260_features

    Nothing on a card was measured on a board: operator limits and a latency model say it, as `dpuforge estimate` does.
    """
    from dpuforge.zoo.entries import describe_entry, find_entry

    card = describe_entry(find_entry(name))
    if json_:
        print_json(card)
        return
    height, width = card["input_px"]
    rows: list[tuple[str, Any]] = [
        ("what", card["description"]),
        ("network", f"{card['backbone']}, {height} x {width} pixels, {card['method']}"),
        ("parameters", f"{card['parameters']:,} (batch norm folded)"),
        ("release", f"Vitis AI {card['release']}"),
    ]
    rows += [(board, _describe_board(found)) for board, found in card["boards"].items()]
    for what in card["weights"]:
        rows += [("weights", what["source"]), ("their licence", what["licence"])]
        rows += [("first", what["needs"])] if what["needs"] else []
    rows += [("images", card["data"]["source"]), ("their licence", card["data"]["licence"])]
    print_table(name, ("", ""), rows)


def _describe_board(found: dict[str, Any]) -> str:
    return (
        f"{found['dpu']}: {found['dpu_subgraphs']} DPU subgraph(s), {found['on_the_cpu']} operators on the CPU, "
        f"{found['workload_gop']} GOP, {_band(found['fps'])} frames/s estimated"
    )


@app.command(cls=PlainCommand)
def copy(
    name: Name,
    project: Annotated[str, typer.Option("--as", metavar="PROJECT", help="The project's name; default: NAME.")] = "",
) -> None:
    """Write spec/PROJECT.yaml here from a shipped spec, and the network's file where it has one.

    Example: dpuforge zoo copy resnet18_kv260_features --as fruits

    A file that exists is never replaced (exit code 2).
    """
    from dpuforge.zoo.entries import find_entry, write_copy

    entry = find_entry(name)
    written = write_copy(entry, project or name, Path.cwd())
    for path in written:
        print(f"create    {path.relative_to(Path.cwd())}")
    for source in entry.weights:
        if source.needs:
            print_message(f"first: {source.needs}")
    if not entry.project.data.source:
        print_message(f"images: one folder a class below data/{project or name}/train, validation and test")
    print_message(f"next: dpuforge run {written[0].relative_to(Path.cwd())}")
