"""Read and write result.json, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dpuforge.records.result import StageResult, parse_result
from dpuforge.writing import replacing

RESULT = "result.json"


def hash_file(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_result(folder: Path) -> StageResult | None:
    """Return the result a stage left in its folder, or None where there is none that can be read."""
    try:
        return parse_result(json.loads((folder / RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


def write_result(folder: Path, result: StageResult) -> None:
    """Write result.json into a stage's folder in one step."""
    write_json(folder / RESULT, result.to_json())


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document in one step: a killed run leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
