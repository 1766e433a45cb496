"""What the drop-in packages share: dpuforge made importable, and one line on stderr that says what they are."""

import importlib.util
import os
import sys
from pathlib import Path

_found = importlib.util.find_spec("dpuforge")
if _found is None or _found.origin is None:  # only this folder is on the path, or a folder of data has the name
    sys.path.append(str(Path(__file__).resolve().parents[2]))

_announced: set[int] = set()


def announce(text: str) -> None:
    """Print text on stderr, once in each process (a forked worker is a process of its own)."""
    if os.getpid() not in _announced:
        _announced.add(os.getpid())
        print(f"dpuforge: EMULATION: {text}", file=sys.stderr, flush=True)
