"""Commands on .xmodel files: show, run, diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dpuforge.commands.screen import PlainCommand, PlainGroup, make_progress, print_json, print_message, print_table
from dpuforge.errors import ExitCode, FormatError, UsageError
from dpuforge.writing import replacing

app = typer.Typer(
    cls=PlainGroup, help="Read, execute and compare .xmodel files without AMD's tools.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
File = Annotated[Path, typer.Argument(help="The .xmodel file.")]


@app.command(cls=PlainCommand)
def show(file: File, json_: Json = False) -> None:
    """Show operators, fix positions, parameters, MACs and, for a compiled file, its subgraphs.

    Example: dpuforge xmodel show build/quickstart/deploy/ResNet_int.xmodel
    """
    from dpuforge.xmodel.read import read_xmodel
    from dpuforge.xmodel.show import show_xmodel

    summary = show_xmodel(read_xmodel(file))
    if json_:
        print_json(summary)
        return
    print(f"{summary['graph_name']}: {summary['parameters']:,} parameters, {summary['macs']:,} MACs")
    print_table("operators", ("type", "count"), sorted(summary["op_types"].items()))
    print_table("fix positions", ("operator", "fix position"), summary["fix"].items())
    rows = [(s["name"], s["device"], s["dpu_name"], s["fingerprint"]) for s in summary["subgraphs"]]
    if rows:
        print_table("subgraphs", ("name", "device", "DPU", "fingerprint"), rows)


@app.command(cls=PlainCommand)
def run(
    file: File,
    input_: Annotated[Path, typer.Option("--input", help="float32 array (N, H, W, C), .npy.")],
    output: Annotated[Path, typer.Option("--output", help="Where the float32 outputs go, .npy.")],
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 8,
) -> None:
    """Execute an uncompiled xmodel on integers, as the DPU computes.

    Example: dpuforge xmodel run ResNet_int.xmodel --input x.npy --output y.npy
    """
    import numpy as np

    from dpuforge.xmodel.integers.run import run_xmodel
    from dpuforge.xmodel.read import read_xmodel

    try:
        images = np.load(input_, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{input_}: not a .npy array: {error}", "save it with numpy.save") from error
    if not isinstance(images, np.ndarray):
        raise FormatError(f"{input_}: several arrays, one is expected", "save it with numpy.save, not numpy.savez")
    graph = read_xmodel(file)
    print_message("emulation: dpuforge executes the integers of the xmodel; no DPU is used")
    with make_progress(transient=True) as bar:
        task = bar.add_task("images", total=len(images) if images.ndim else 0, note="")
        result = run_xmodel(graph, images, batch_size=batch, progress=lambda done, _: bar.update(task, completed=done))
    _save_array(output, result)
    print_message(f"{output}: {result.shape} {result.dtype}")


def _save_array(path: Path, array: Any) -> None:
    """Write a .npy file in one step, under exactly the name given."""
    import numpy as np

    try:
        with replacing(path) as partial, partial.open("wb") as stream:
            np.save(stream, array)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


@app.command(cls=PlainCommand)
def diff(first: File, second: File, json_: Json = False) -> None:
    """Compare two xmodels up to names and operator order; exit code 1 where they differ.

    Example: dpuforge xmodel diff ours_int.xmodel theirs_int.xmodel
    """
    from dpuforge.xmodel.diff import diff_xmodels
    from dpuforge.xmodel.read import read_xmodel

    differences = diff_xmodels(read_xmodel(first), read_xmodel(second))
    if json_:
        print_json([str(item) for item in differences])
    else:
        for item in differences:
            print(item)
    if differences:
        print_message(f"{len(differences)} difference(s)")
        raise typer.Exit(ExitCode.DRIFT)
