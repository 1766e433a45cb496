"""The command that takes a calibration made elsewhere: import-calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpuforge.commands.on_spec import Spec, ToolchainName
from dpuforge.commands.screen import print_message


def import_calibration(
    spec: Spec,
    folder: Annotated[Path, typer.Argument(help="Holds quant_info.json and bias_corr.pth; it is only read.")],
    made_by: Annotated[str, typer.Option(help="What made the files, in your words; default: as they declare.")] = "",
    toolchain: ToolchainName = None,
) -> None:
    """Take a calibration made in AMD's container, or elsewhere, as the calibrate stage's result.

    Example: dpuforge import-calibration spec/quickstart.yaml container/quantize_result

    The files have to be of this network and of its trained weights; each mismatch is one line, exit code 3, and the
    calibrate stage stays as it was. They are compared with a calibration made here, if there is one. `dpuforge run`
    then evaluates, diagnoses and exports with them, until the weights or the quantizer's settings change.
    """
    from dpuforge import pipeline, running
    from dpuforge.execute.lock import claim
    from dpuforge.execute.run_stages import Folders
    from dpuforge.execute.take_calibration import describe_taken, take_calibration

    job = pipeline.load(spec)
    place = running.find_place(job, toolchain or "")
    with claim(job.build, print_message) as kept:
        pipeline.write(job, pipeline.render(pipeline.plan(job)))
        folders = Folders(job.root, job.generated(), job.build, kept=kept)
        print(describe_taken(take_calibration(folders, place, folder, made_by, _show)))


def _show(line: str) -> None:
    """Print what import_calibration.py says, without the quantizer's chatter."""
    if line.startswith(("mismatch: ", "note: ", "  ", "no calibration", "imported: ")) or line[:1].isdigit():
        print(line)
