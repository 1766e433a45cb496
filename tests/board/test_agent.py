"""The program that runs on the board: what its Python must be able to do, and that it needs nothing else."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

AGENT = REPO / "generator/dpuforge/board/agent.py"


def test_the_agent_needs_the_standard_library_alone() -> None:
    """It imports nothing that a board's Python may lack, and parses as Python 3.7."""
    tree = ast.parse(AGENT.read_text(encoding="utf-8"), feature_version=(3, 7))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


def test_the_agent_calls_nothing_newer_than_python_3_7() -> None:
    """vermin finds no function or argument that came later."""
    vermin = shutil.which("vermin", path=str(Path(sys.executable).parent)) or shutil.which("vermin")
    if vermin is None:
        pytest.skip("vermin is not installed (extra test)")
    command = [vermin, "--no-tips", "--violations", "-t=3.7-", str(AGENT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
