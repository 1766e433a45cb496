"""A variant of a spec: the same file with some values set otherwise, and a home of its own below build/."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Override:
    """One value that takes the place of the spec's: a dotted key, and the value as it would be written in YAML."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}={self.text}"

    @property
    def option(self) -> str:
        """The option of the command line that asks for it, which messages name as its place."""
        return f"--set {self}"


@dataclass(frozen=True)
class Variant:
    """The overrides of one variant; its name is their digest, so that the same values have the same home."""

    overrides: tuple[Override, ...] = ()

    @property
    def name(self) -> str:
        """What the variant's folder is called."""
        return hashlib.sha256("\n".join(sorted(map(str, self.overrides))).encode()).hexdigest()[:10]

    @property
    def options(self) -> tuple[str, ...]:
        """The words of a command line that ask for the variant."""
        return tuple(word for override in self.overrides for word in ("--set", str(override)))

    def __str__(self) -> str:
        return ", ".join(map(str, self.overrides)) or "the spec as it is"
