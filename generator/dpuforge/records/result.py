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
    """One result.json: what decided it, written by the script itself whoever started it, and what it made.

    inputs and outputs map paths relative to the project root to sha256 digests, scripts the generated files (relative
    to generated/<project>/); settings are values that decided it and stand in no script. A result without scripts
    decided nothing: a tool was missing, or an older dpuforge made it. seconds is wall time; checked says that dpuforge
    held the outcome against the project; exit_code is that of a script that failed, 128 + n where
    signal n ended its work.
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
    scripts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    checked: bool = False
    exit_code: int = 0

    def with_changes(self, **changes: Any) -> StageResult:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the document of result.json."""
        document = {**asdict(self), "status": self.status.value}
        return {name: value for name, value in document.items() if name not in _LEFT_OUT_EMPTY or value}

    @property
    def says_why(self) -> bool:
        """Whether it holds what decided it."""
        return bool(self.scripts or self.settings)


_LEFT_OUT_EMPTY = ("board", "settings", "checked", "exit_code")
_DIGESTS = ("inputs", "outputs", "scripts")
_MAPPINGS = ("toolchain", "inputs", "outputs", "metrics", "scripts", "settings")


def parse_result(document: Any) -> StageResult | None:
    """Return the result that a decoded result.json holds, or None where it is not one."""
    if not isinstance(document, dict) or not isinstance(document.get("stage"), str):
        return None
    known = {name: document[name] for name in StageResult.__dataclass_fields__ if name in document}
    if any(not isinstance(known.get(name, {}), dict) for name in _MAPPINGS if name != "settings"):
        return None
    if any(not isinstance(digest, str) for name in _DIGESTS for digest in known.get(name, {}).values()):
        return None
    if not isinstance(known.get("seconds", 0), (int, float)):
        return None
    if not isinstance(known.get("settings", {}), dict):  # an older dpuforge's digest
        del known["settings"]
    try:
        return StageResult(**{**known, "status": Status(document.get("status"))})
    except (TypeError, ValueError):
        return None
