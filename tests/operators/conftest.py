"""What every operator test starts from: the shipped catalogue."""

import pytest

from dpuforge.load.boards.catalogue import load_catalogue
from dpuforge.records.hardware import Catalogue


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """Return the catalogue as it is shipped."""
    return load_catalogue()
