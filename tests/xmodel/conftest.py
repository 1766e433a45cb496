"""The fixture that runs a test on each small recorded network."""

from __future__ import annotations

import pytest
from recorded_xmodels import SMALL


@pytest.fixture(params=SMALL)
def small_net(request: pytest.FixtureRequest) -> str:
    """Name each small network in turn."""
    return str(request.param)
