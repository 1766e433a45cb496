"""Assemble a board's folder with the project's own bundle.py, which compile.sh calls too."""

from __future__ import annotations

import subprocess
import sys

from dpuforge.errors import StageError
from dpuforge.execute.results import read_result
from dpuforge.execute.run_stages import LOG, Folders
from dpuforge.records.result import Status


def assemble_bundle(folders: Folders, board: str) -> str:
    """Make build/<project>/bundle/<board>/ and return the line that says what it holds.

    Raises StageError where the network is not compiled for the board, or where the compile stage refused the result.
    """
    folder = folders.build / "compile" / board
    result = read_result(folder)
    if result is not None and result.status is Status.FAILED:
        raise StageError(f"the compile stage of {board} failed: {result.reason}", f"read {folder / LOG}")
    where = ["--root", str(folders.root), "--build", str(folders.build)]
    argv = [sys.executable, str(folders.scripts / "bundle.py"), board, *where]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StageError(done.stderr.strip().removeprefix("error: "))
    return done.stdout.strip()
