"""The test image of the recorded micro networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def read_test_image(golden: Path) -> Any:
    """Return image 6 of the recording, float32 (1, 32, 32, 3)."""
    spec = importlib.util.spec_from_file_location("micro_models", golden / "micro/models.py")
    assert spec is not None
    assert spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    return models.images()[6:7].numpy().transpose(0, 2, 3, 1)
