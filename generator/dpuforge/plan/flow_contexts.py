"""Contexts of the files that drive the flow: compile.sh per board and the Snakefile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpuforge.plan.stages import plan_stages
from dpuforge.records.hardware import BoardTarget, Release
from dpuforge.records.plan import PlannedStage
from dpuforge.records.project import Project


@dataclass(frozen=True)
class CompileContext:
    """What boards/<BOARD>/compile.sh is rendered from; registered says that the compiler prints the target's name."""

    board: str
    release: str
    image: str
    target: str
    registered: bool
    fingerprint: str


@dataclass(frozen=True)
class SnakeRule:
    """One rule: scripts and needs are its inputs, output the file that proves it ran, command its shell line."""

    name: str
    scripts: tuple[str, ...]
    needs: tuple[str, ...]
    folders: tuple[str, ...]
    output: str
    command: str


@dataclass(frozen=True)
class SnakefileContext:
    """What the Snakefile is rendered from; goals are the outputs that need no compiler, compiled those that do."""

    rules: tuple[SnakeRule, ...]
    goals: tuple[str, ...]
    compiled: tuple[str, ...]


def make_compile_context(project: Project, target: BoardTarget, release: Release) -> CompileContext:
    """Return the context of one board's compile.sh."""
    return CompileContext(
        board=target.board,
        release=target.release,
        image=find_image(release),
        target=target.target,
        registered="target" in target.arch_json,
        fingerprint=target.fingerprint_text or "unknown",
    )


def find_image(release: Release) -> str:
    """Return the release's image to run on a CPU, with its pinned tag, or a note that none is known."""
    ranked = sorted(release.images, key=lambda image: (image.kind != "cpu", not image.pull))
    return ranked[0].image if ranked else f"of release {release.name} (no image is known)"


def make_snakefile_context(project: Project, targets: Sequence[BoardTarget]) -> SnakefileContext:
    """Return the context of the Snakefile: one rule per generated script that a stage runs."""
    boards = [target.board for target in targets]
    stages = [stage for stage in plan_stages(project, "", boards) if stage.runner != "dpuforge"]
    rules = tuple(_make_rule(stage, project) for stage in stages)
    is_compiled = {rule.output: bool(stage.tools) for stage, rule in zip(stages, rules, strict=True)}
    return SnakefileContext(
        rules=rules,
        goals=tuple(output for output, compiled in is_compiled.items() if not compiled),
        compiled=tuple(output for output, compiled in is_compiled.items() if compiled),
    )


def _make_rule(stage: PlannedStage, project: Project) -> SnakeRule:
    program = {"python": "{PYTHON}", "bash": "bash"}[stage.runner]
    return SnakeRule(
        name=stage.key.replace("/", "_").replace("-", "_").lower(),
        scripts=stage.scripts,
        needs=tuple(f"{name}/result.json" for name in stage.needs),
        folders=tuple(_existing_only(stage, project)),
        output=f"{stage.key}/{project.target.net_name}.xmodel"
        if stage.runner == "bash"
        else f"{stage.key}/result.json",
        command=f"{program} {{HERE}}/{' '.join(stage.argv)} --root {{ROOT}} --build {{BUILD}}",
    )


def _existing_only(stage: PlannedStage, project: Project) -> Iterator[str]:
    """Yield the image folders a workflow engine may demand: those that no stage writes itself."""
    if project.data.source is None:
        yield from stage.folders
