"""What the drop-in packages share: dpuforge made importable, and one line on stderr that says what they are.

Comes before all else that they import, and is read by every Python since 3.7: an older one than the emulator needs is
told so in one line.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

PYTHON, TORCH = (3, 10), (2, 4)  # the oldest that the emulator runs on: pyproject.toml
TOOL_MISSING = 4  # exit status


def refuse(found: str) -> None:
    """End the script with one line on what the emulator needs and what there is."""
    python, torch = (".".join(map(str, version)) for version in (PYTHON, TORCH))
    reason = f"dpuforge's emulator needs Python {python} or newer and torch {torch} or newer; this is {found}"
    print(reason, file=sys.stderr, flush=True)
    ended = SystemExit(TOOL_MISSING)
    ended.reason = reason  # type: ignore[attr-defined]  # a generated script puts it into its result
    raise ended


def require_torch() -> None:
    """Go on where the installed torch is new enough."""
    if importlib.util.find_spec("torch") is None:
        refuse(f"Python {sys.version.split()[0]} without torch")
    import torch

    numbers = [part for part in str(torch.__version__).split("+")[0].split(".")[:2] if part.isdigit()]
    if tuple(map(int, numbers)) < TORCH:
        refuse(f"torch {torch.__version__}")


if tuple(sys.version_info[:2]) < PYTHON:
    refuse("Python " + ".".join(map(str, sys.version_info[:3])))

_found = importlib.util.find_spec("dpuforge")
if _found is None or _found.origin is None:  # only this folder is on the path, or a folder of data has the name
    sys.path.append(str(Path(__file__).resolve().parents[2]))

_announced: set[int] = set()


def announce(text: str) -> None:
    """Print text on stderr, once in each process (a forked worker is a process of its own)."""
    if os.getpid() not in _announced:
        _announced.add(os.getpid())
        print(f"dpuforge: EMULATION: {text}", file=sys.stderr, flush=True)
