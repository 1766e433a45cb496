"""Take a calibration made elsewhere with the project's own import_calibration.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpuforge.errors import MissingToolError, StageError
from dpuforge.execute.process import explain_exit, run_logged
from dpuforge.execute.results import read_result
from dpuforge.execute.run_stages import LOG, Folders
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.result import StageResult, Status

FOLDER = "import_calibration"  # below build/<project>/: where the files are checked


def take_calibration(
    folders: Folders, place: ToolchainPlace, source: Path, made_by: str, show: Callable[[str], None]
) -> StageResult:
    """Make the files in source the calibrate stage's result and return it; show is handed each line.

    Raises StageError where they are not of this network, MissingToolError where there is no quantizer; the calibrate
    stage is then left as it was.
    """
    where = ["--root", str(folders.root), "--build", str(folders.build)]
    script = folders.scripts / "import_calibration.py"
    if not script.is_file():
        what = "this project is quantised by training (quantization.qat): there is no calibration to import"
        raise StageError(what, "turn off quantization.qat")
    argv = [place.python, str(script), str(source.resolve()), f"--made-by={made_by}", *where]
    folders.build.mkdir(parents=True, exist_ok=True)
    log = folders.build / FOLDER / LOG
    place.prepare(FOLDER)
    try:
        command = place.wrap(argv, FOLDER, folders.build)
        code = run_logged(command, folders.build, place.env, log, show, threading.Event(), folders.kept)
    finally:
        place.close(FOLDER)
    checked = read_result(folders.build / FOLDER)
    taken = read_result(folders.build / "calibrate")
    if code == 0 and checked is not None and taken is not None and taken.status is Status.DONE:
        return taken
    reason = (checked.reason if checked else "") or explain_exit(code)
    kind = MissingToolError if code == MissingToolError.exit_code else StageError
    raise kind(reason, f"the calibrate stage is as it was; the log is {log}")


def describe_taken(result: StageResult) -> str:
    """Return one line on what was taken and what follows."""
    imported: dict[str, Any] = result.metrics["imported"]
    files = ", ".join(f"{name} {digest[:12]}" for name, digest in imported["files"].items())
    return f"calibrate: imported from {imported['folder']} ({files}); `dpuforge run` goes on from there"
