"""Where an effective value of a spec comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Origin:
    """The value of one dotted key; kind is "spec", "base", "option" or "default".

    where is "path:line:col" for a written value; why is the source of a default.
    """

    value: Any
    kind: str
    where: str = ""
    why: str = ""
