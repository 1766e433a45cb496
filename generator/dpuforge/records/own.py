"""What a project changes of dpuforge's own templates and scripts: its files, as load read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OwnFile:
    """One file of `own` in the spec; path is relative to the project root, with forward slashes.

    Either template names the shipped template that it stands for (relative to templates/), or script and hook say into
    which generated script it is put and at which named place it is called.
    """

    path: str
    sha256: str
    text: str
    template: str = ""
    script: str = ""
    hook: str = ""

    @property
    def name(self) -> str:
        """The name under which a template finds it: the one that it stands for, or a name of its own."""
        return self.template or f"project/{self.path}"

    @property
    def key(self) -> str:
        """The key of the spec that lists it."""
        return "own.templates" if self.template else "own.append"
