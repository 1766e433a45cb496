"""`dpuforge init`: a new spec by questions at a terminal, or by options alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dpuforge.commands.choices import complete
from dpuforge.commands.choices.given import Given, Missing, describe_ways
from dpuforge.commands.screen import print_message
from dpuforge.errors import ExitCode, UsageError


def init(
    path: Annotated[Path, typer.Argument(help="Where the spec goes.")] = Path("spec/my_project.yaml"),
    data: Annotated[str | None, typer.Option(help="Folder (one folder a class) or CSV file of images.")] = None,
    validation: Annotated[float | None, typer.Option(help="Share to validate on, where one folder is split.")] = None,
    test: Annotated[float | None, typer.Option(help="Share to test on, where one folder is split.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another split of one folder.")] = 0,
    split: Annotated[Missing | None, typer.Option(help=f"Where a split is missing: {describe_ways()}.")] = None,
    classes: Annotated[str | None, typer.Option(help="A number, names with commas, or a file.")] = None,
    board: Annotated[
        str | None, typer.Option(help="Boards, comma between.", shell_complete=complete.complete_board_list)
    ] = None,
    release: Annotated[
        str | None, typer.Option(help="Vitis AI release.", shell_complete=complete.complete_releases)
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The network.", shell_complete=complete.complete_backbones)
    ] = None,
    weights: Annotated[str | None, typer.Option(help="A torchvision enum, none, or a path.")] = None,
    freeze: Annotated[str | None, typer.Option(help="all_but_head, none, until:MODULE or match:PATTERNS.")] = None,
    force: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
) -> None:
    """Ask for images, boards, backbone and freeze policy, and write a commented spec.

    Example: dpuforge init spec/fruits.yaml --classes 30 --board KV260 --backbone resnet18

    What can be found out is not asked: classes and splits are read from the images, the release from the boards. A
    wrong answer is asked again, and Ctrl-C leaves nothing behind. Every question has an option; without a terminal the
    options and the defaults are all there is. Images are never moved or removed.
    """
    from dpuforge.commands.choices.conduct import conduct

    _refuse_path(path, force)
    options = {"classes": classes, "board": board, "release": release, "backbone": backbone}
    given = Given(data, validation, test, seed, split, {**options, "weights": weights, "freeze": freeze})
    with _leaving_nothing(path.parent):
        conduct(path, given)


def _refuse_path(path: Path, force: bool) -> None:
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path}: a spec's name ends in .yaml", f"for example {path.with_suffix('.yaml')}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "name the file to write")
    if path.exists() and not force:
        raise UsageError(f"{path} exists", "choose another path, or --force to replace it")


@contextmanager
def _leaving_nothing(folder: Path) -> Iterator[None]:
    """Make a folder for the block; where the block fails, take away what of it was not there before."""
    made = [above for above in (folder, *folder.parents) if not above.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for one in made:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()
        if isinstance(error, (KeyboardInterrupt, typer.Abort)):
            print_message("\ninterrupted; nothing was written")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        raise
