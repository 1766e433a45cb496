"""READ FIRST. The whole of dpuforge on one page: load, plan, render, write, execute, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpuforge.errors import UsageError
from dpuforge.load.board_lock import settle_targets
from dpuforge.load.catalogue import load_catalogue
from dpuforge.load.project import LoadedSpec, load_project
from dpuforge.load.resolve_board import resolve_board
from dpuforge.paths import find_root
from dpuforge.plan.plan import make_plan
from dpuforge.records.files import Change, FileChange, RenderedFile
from dpuforge.records.hardware import BoardTarget, Catalogue
from dpuforge.records.plan import Plan
from dpuforge.records.project import Project
from dpuforge.records.result import StageResult
from dpuforge.render.folder import compare_folder, write_folder
from dpuforge.render.render import render_plan


@dataclass(frozen=True)
class Prepared:
    """A spec that was loaded, planned and rendered; nothing is written yet."""

    loaded: LoadedSpec
    root: Path
    targets: tuple[BoardTarget, ...]
    plan: Plan
    files: tuple[RenderedFile, ...]

    @property
    def project(self) -> Project:
        """The project of the spec."""
        return self.loaded.project

    def generated(self, out: Path | None = None) -> Path:
        """Return the folder of the generated files: out/<project>, by default root/generated/<project>."""
        return (out or self.root / "generated") / self.project.project

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

    @property
    def build(self) -> Path:
        """The folder where stages run and write."""
        return self.root / "build" / self.project.project


def prepare_spec(path: Path) -> Prepared:
    """Load, plan and render a spec; nothing is written.

    Raises SpecError with every problem of the spec at once, or where a board's lock says that it carries another DPU.
    """
    catalogue = load_catalogue()
    loaded = load_project(path, catalogue)
    project = loaded.project
    targets = settle_targets(catalogue, loaded, resolve_targets(catalogue, project), path)
    plan = make_plan(project, targets, catalogue.releases[project.target.vitis_ai])
    return Prepared(loaded, find_root(path), targets, plan, render_plan(plan))


def resolve_targets(catalogue: Catalogue, project: Project) -> tuple[BoardTarget, ...]:
    """Return the DPU that each board of a project stands for, whatever the boards themselves reported."""
    return tuple(
        resolve_board(catalogue, choice.board, project.target.vitis_ai, choice.dpu, choice.fingerprint)
        for choice in project.target.boards
    )


def generate(prepared: Prepared, out: Path | None = None, boards: Sequence[str] = ()) -> tuple[FileChange, ...]:
    """Write generated/<project>/ and return what was done to every file.

    With boards, the folders of the project's other boards are left as they are.
    """
    left = tuple(f"boards/{name}/" for name in prepared.other_boards(boards))
    return write_folder(prepared.files, prepared.generated(out), left)


def compare(prepared: Prepared, out: Path | None = None) -> tuple[FileChange, ...]:
    """Return the differences between generated/<project>/ and what the spec says."""
    changes = compare_folder(prepared.files, prepared.generated(out))
    return tuple(change for change in changes if change.change is not Change.IDENTICAL)


def report(prepared: Prepared, results: dict[str, StageResult], toolchain: str) -> dict[str, Any]:
    """Write report.json, report.md and report.html into build/<project>/ and return the document."""
    from dpuforge.execute.results import write_json
    from dpuforge.report.document import build_report
    from dpuforge.report.pages import render_pages, write_pages

    document = build_report(prepared.project.project, prepared.plan.spec_sha256, toolchain, prepared.targets, results)
    write_pages(prepared.build, render_pages(document))
    write_json(prepared.build / "report.json", document)
    return document
