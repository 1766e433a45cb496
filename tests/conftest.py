"""Where the tests find recorded truth: the shared golden data, absent on a plain clone."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Tools of this environment (ruff, shellcheck) come before those of the machine.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

# Machines are noisy, so no example has a deadline; CI tries the same examples every time, people try new ones.
settings.register_profile("dpuforge", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("dpuforge")

REPO = Path(__file__).resolve().parent.parent
GOLDEN = REPO.parent / "shared" / "golden"
FACTS = REPO.parent / "shared" / "facts"


@pytest.fixture(autouse=True)
def _reset_tool_options() -> Iterator[None]:
    """Give the quantizer's options of the process their defaults again: QatProcessor switches some off."""
    yield
    options = sys.modules.get("dpuforge.emulator.nndct.tool_options")
    if options is not None:
        options.reset_options()


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of golden data recorded from the real tool, or skip where it is absent."""
    if not GOLDEN.is_dir():
        pytest.skip("golden data is not beside this checkout (../shared/golden)")
    return GOLDEN


@pytest.fixture(scope="session")
def facts() -> Path:
    """Return the folder of measured facts, or skip where it is absent."""
    if not FACTS.is_dir():
        pytest.skip("the facts are not beside this checkout (../shared/facts)")
    return FACTS
