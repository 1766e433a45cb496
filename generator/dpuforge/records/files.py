"""What rendering yields and what writing did with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum


def hash_text(text: str) -> str:
    """Return the sha256 of a generated file's text as UTF-8, in hexadecimal."""
    return hash_bytes(text.encode())


def hash_bytes(content: bytes) -> str:
    """Return the sha256 of a content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


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
    KEEP = "keep"


class Cause(str, Enum):
    """Why a file on disk is not the rendered one, in words; told by the manifest of the last write."""

    NONE = ""
    EDITED = "edited by hand"
    FOREIGN = "not made by dpuforge"
    DELETED = "deleted by hand"
    SPEC = "the spec changed"
    TEMPLATES = "dpuforge's templates changed"
    BOTH = "the spec and dpuforge's templates changed"
    OWN = "the project's own templates or hooks changed"
    OWN_AND_SPEC = "the spec and the project's own templates or hooks changed"
    ALL = "the spec, the project's own templates or hooks and dpuforge's templates changed"
    OWN_AND_TEMPLATES = "the project's own templates or hooks and dpuforge's templates changed"
    DPUFORGE = "dpuforge changed"
    NEW = "not generated yet"

    @property
    def is_persons(self) -> bool:
        """Say whether a person's work would be lost by a write."""
        return self in (Cause.EDITED, Cause.FOREIGN)


class Edits(str, Enum):
    """What a write does where it would lose a person's work."""

    REFUSE = "refuse"
    OVERWRITE = "overwrite"
    KEEP = "keep"


@dataclass(frozen=True)
class FileChange:
    """One difference between the rendered files and the folder on disk.

    before and after are the texts on either side (empty where the file is absent there);
    detail names a difference that is not in the text: a mode, a link, bytes that are no text;
    cause says who made the difference.
    """

    path: str
    change: Change
    before: str = ""
    after: str = ""
    detail: str = ""
    cause: Cause = Cause.NONE

    @property
    def why(self) -> str:
        """The cause and the detail in words, empty where there is neither."""
        return "; ".join(part for part in (self.cause.value, self.detail) if part)
