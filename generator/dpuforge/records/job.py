"""What every command on a spec works with, made once by pipeline.load and handed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dpuforge.errors import Problem, UsageError
from dpuforge.records.hardware import BoardTarget, Catalogue, Release
from dpuforge.records.origin import Origin
from dpuforge.records.project import Project
from dpuforge.records.variant import Variant

VARIANTS = "variants"  # below build/<project>/: the homes of the spec's variants


@dataclass(frozen=True)
class Job:
    """One spec: its project, the known hardware, its release, and the DPU that each of its boards carries.

    root is the folder that holds generated/ and build/; warnings are what the user is to be told of the spec; targets
    stand in the order of the spec's boards, and the lock beside the spec was applied to them; origins say where the
    effective value of each key was written. variant is set where it is one of a sweep.
    """

    project: Project
    root: Path
    catalogue: Catalogue
    targets: tuple[BoardTarget, ...]
    warnings: tuple[Problem, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict)
    variant: Variant | None = None

    @property
    def release(self) -> Release:
        """The Vitis AI release that the spec is built with."""
        return self.catalogue.releases[self.project.target.vitis_ai]

    @property
    def build(self) -> Path:
        """The folder where stages run and write."""
        return self.home / "build" / self.project.project

    @property
    def home(self) -> Path:
        """The folder that holds generated/ and build/: the root, for a variant a folder below the root's build/."""
        if self.variant is None:
            return self.root
        return self.root / "build" / self.project.project / VARIANTS / self.variant.name

    @property
    def shown(self) -> str:
        """What the job is called beside others: its project, or its variant."""
        return f"variant {self.variant}" if self.variant is not None else self.project.project

    def generated(self, out: Path | None = None) -> Path:
        """Return the folder of the generated files: out/<project>, by default generated/<project> of the home."""
        return (out or self.home / "generated") / self.project.project

    def other_boards(self, boards: Sequence[str]) -> tuple[str, ...]:
        """Return the project's boards that are not among boards (none where boards is empty)."""
        names = [target.board for target in self.targets]
        unknown = sorted(set(boards) - set(names))
        if unknown:
            raise UsageError(
                f"{self.project.spec.path} has no board {', '.join(unknown)}",
                f"its target.boards are {', '.join(names)}",
            )
        return tuple(name for name in names if boards and name not in boards)
