"""Commands on .xmodel files: show, run, diff."""

from __future__ import annotations

from collections.abc import Mapping
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
    output: Annotated[
        Path, typer.Option("--output", help="Where the float32 output goes, .npy; of several outputs, .npz.")
    ],
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 8,
    exponent: Annotated[
        float | None, typer.Option(help="Exponent of aten::pow, which files of AMD's tool leave out.")
    ] = None,
) -> None:
    """Execute an uncompiled xmodel on integers, as the DPU computes.

    A .npz holds output_0, output_1, ... in forward's order, and in `names` the xmodel's tensor of each.

    Example: dpuforge xmodel run ResNet_int.xmodel --input x.npy --output y.npy
    """
    from dpuforge.xmodel.forward_outputs import forward_outputs, knows_forward
    from dpuforge.xmodel.integers.run import run_outputs
    from dpuforge.xmodel.read import read_xmodel

    images, graph = _load_images(input_), read_xmodel(file)
    count = len(forward_outputs(graph))
    if count > 1 and output.suffix != ".npz":
        raise UsageError(f"{file} has {count} outputs, and {output} holds one", f"write --output {output.stem}.npz")
    print_message("emulation: dpuforge executes the integers of the xmodel; no DPU is used")
    with make_progress(transient=True) as bar:
        task = bar.add_task("images", total=len(images) if images.ndim else 0, note="")
        found = run_outputs(graph, images, batch, lambda done, _: bar.update(task, completed=done), exponent=exponent)
    _save_arrays(output, found)
    for number, (name, result) in enumerate(found.items()):
        print_message(f"{output}: output_{number} is {name}: {result.shape} {result.dtype}")
    if not knows_forward(graph):
        print_message("AMD's files do not say in which order forward returns these: this is the file's order")


def _load_images(path: Path) -> Any:
    """Return the one array of a .npy file."""
    import numpy as np

    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{path}: not a .npy array: {error}", "save it with numpy.save") from error
    if not isinstance(images, np.ndarray):
        raise FormatError(f"{path}: several arrays, one is expected", "save it with numpy.save, not numpy.savez")
    return images


def _save_arrays(path: Path, found: Mapping[str, Any]) -> None:
    """Write a .npy file of the one array, or a .npz file of all, in one step, under exactly the name given."""
    import numpy as np

    arrays = {f"output_{number}": array for number, array in enumerate(found.values())}
    try:
        with replacing(path) as partial, partial.open("wb") as stream:
            if path.suffix == ".npz":
                np.savez(stream, names=np.array(list(found)), **arrays)
            else:
                np.save(stream, next(iter(found.values())))
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
