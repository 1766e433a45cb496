"""What rendering yields and what writing did with it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class RenderedFile:
    """One file of generated/<project>/; path is relative to that folder, with forward slashes."""

    path: str
    text: str
    executable: bool = False


class Change(str, Enum):
    """What a write did, or would do, to one file: one word each, printed by generate."""

    CREATE = "create"
    UPDATE = "update"
    IDENTICAL = "identical"
    PRUNE = "prune"


@dataclass(frozen=True)
class FileChange:
    """One difference between the rendered files and the folder on disk.

    before and after are the texts on either side (empty where the file is absent there);
    detail names a difference that is not in the text: a mode, a link, bytes that are no text.
    """

    path: str
    change: Change
    before: str = ""
    after: str = ""
    detail: str = ""
