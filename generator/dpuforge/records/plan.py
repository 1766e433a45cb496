"""What a project leads to: the files to render and the stages to run, both decided before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dpuforge.records.project import Project

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class PlannedFile:
    """One file of generated/<project>/: a template with its context, or a document written as JSON.

    path and template are relative, with forward slashes; exactly one of template and document is set. The template
    sees the project, the command that makes it anew, and the fields of the context (a dataclass, or None).
    """

    path: str
    template: str = ""
    context: Any = None
    document: Any = None
    executable: bool = False


@dataclass(frozen=True)
class PlannedStage:
    """One run of one script: a stage, or a stage on one board.

    argv follows the interpreter; scripts are the generated files that decide what the stage does (relative to
    generated/<project>/); needs are the keys of the stages whose outputs it reads, folders the images and files the
    user's own files that it reads (relative to the project root); tools are the programs it calls beside the
    interpreter. runner is who executes it: "python", "bash" or "dpuforge" (this package). uses_toolchain says that
    the quantizer decides its result; packages are those whose versions decide it, settings the values that do and
    stand in no script.
    """

    name: str
    runner: str
    argv: tuple[str, ...]
    scripts: tuple[str, ...]
    needs: tuple[str, ...] = ()
    board: str = ""
    tools: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    uses_toolchain: bool = False
    packages: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The stage's folder below build/<project>/, which is also its display name."""
        return f"{self.name}/{self.board}" if self.board else self.name


@dataclass(frozen=True)
class Plan:
    """Everything that one spec leads to; command makes the files anew.

    settings are the effective values of all keys of the spec; boards gives target and fingerprint of each board's DPU;
    image is the release's container image. The manifest keeps the three, so that a later diff can say what changed.
    """

    project: Project
    command: str
    spec_sha256: str
    files: tuple[PlannedFile, ...]
    stages: tuple[PlannedStage, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    boards: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    image: str = ""

    def with_options(self, words: tuple[str, ...]) -> Plan:
        """Return the plan with words added to the command of each stage that reads the spec itself."""
        stages = (replace(it, argv=it.argv + words) if it.runner == "dpuforge" else it for it in self.stages)
        return replace(self, stages=tuple(stages))
