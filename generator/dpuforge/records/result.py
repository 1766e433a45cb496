"""What a stage leaves behind: result.json, read back and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any


class Status(str, Enum):
    """How a stage ended."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class StageResult:
    """One result.json. inputs and outputs map paths relative to the project root to sha256 digests.

    seconds is wall time. key is the digest of all that decides the stage (see execute/staleness.py); a result
    without it was made by a script run by hand and counts as stale. settings is the digest of the same without the
    toolchain. exit_code is that of a script that failed.
    """

    stage: str
    status: Status
    reason: str = ""
    seconds: float = 0.0
    toolchain: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    board: str = ""
    key: str = ""
    settings: str = ""
    exit_code: int = 0

    def with_changes(self, **changes: Any) -> StageResult:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the document of result.json."""
        document = {**asdict(self), "status": self.status.value}
        return {name: value for name, value in document.items() if name not in ("board", "exit_code") or value}


def parse_result(document: Any) -> StageResult | None:
    """Return the result that a decoded result.json holds, or None where it is not one."""
    if not isinstance(document, dict) or not isinstance(document.get("stage"), str):
        return None
    known = {name: document[name] for name in StageResult.__dataclass_fields__ if name in document}
    try:
        return StageResult(**{**known, "status": Status(document.get("status"))})
    except (TypeError, ValueError):
        return None
