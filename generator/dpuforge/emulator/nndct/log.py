"""The lines that the real quantizer prints, in its words and colours, and the errors that follow them."""

from __future__ import annotations

import platform
import sys

import torch

from dpuforge import __version__
from dpuforge.errors import StageError

QUANTIZER_VERSION = f"3.5.0+dpuforge{__version__}.emulator+torch{torch.__version__.split('+')[0]}"
_GREEN, _YELLOW, _RED, _PLAIN = "\x1b[0;32m", "\x1b[0;33m", "\x1b[0;31m", "\x1b[0m"
_PREFIX = "QUANTIZER_TORCH_"


class QuantizerError(StageError):
    """The quantizer cannot go on; the real tool's error line has been printed. code is the line's code."""

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.code = code


def note(text: str) -> None:
    """Print a [VAIQ_NOTE] line."""
    print(f"\n{_GREEN}[VAIQ_NOTE]: {text}{_PLAIN}", flush=True)


def warn(code: str, text: str) -> None:
    """Print a [VAIQ_WARN] line; an empty code gives the form without one."""
    mark = f"[{_PREFIX}{code}]" if code else ""
    print(f"\n{_YELLOW}[VAIQ_WARN]{mark}: {text}{_PLAIN}", flush=True)


def fail(code: str, text: str, remedy: str = "") -> QuantizerError:
    """Print a [VAIQ_ERROR] line and return the error to raise; the real tool often goes on here."""
    print(f"\n{_RED}[VAIQ_ERROR][{_PREFIX}{code}]: {text}{_PLAIN}", flush=True)
    return QuantizerError(code, text, remedy)


def announce() -> None:
    """Print what the real tool prints first, and that this is an emulation."""
    system = platform.uname()
    machine = _table({"system": system.system, "release": system.release, "machine": system.machine})
    note(f"OS and CPU information:\n{machine}")
    versions = {"python": sys.version.split()[0], "pytorch": torch.__version__, "vai_q_pytorch": QUANTIZER_VERSION}
    note(f"Tools version information:\n{_table(versions)}")
    note(f"This is the emulator of dpuforge {__version__}, not AMD's quantizer: its results are emulated.")


def _table(rows: dict[str, str]) -> str:
    return "\n".join(f"{name:>21} --- {value}" for name, value in rows.items())
