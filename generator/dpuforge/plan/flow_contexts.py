"""What is derived for the files that drive the flow: the Snakefile, and the image that everything names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dpuforge.plan.stages import list_scripts, plan_stages
from dpuforge.records.hardware import BoardTarget, Release
from dpuforge.records.plan import PlannedStage
from dpuforge.records.project import Project
from dpuforge.records.run_settings import Resources

_BOARD = "{board}"  # Snakemake's wildcard: one rule for all boards
_TORCHRUN = " -m torch.distributed.run --standalone --nproc_per_node {}"


@dataclass(frozen=True)
class SnakeRule:
    """One rule: scripts and needs are its inputs, output the file that proves it ran, command its shell line.

    threads and resources hold what the spec asks a cluster for, no more.
    """

    name: str
    scripts: tuple[str, ...]
    needs: tuple[str, ...]
    folders: tuple[str, ...]
    output: str
    command: str
    threads: int | None = None
    resources: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultsContext:
    """What results.py is rendered from: the scripts that decide each stage that Python runs."""

    stage_scripts: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class SnakefileContext:
    """What the Snakefile is rendered from; goals are the outputs that need no compiler, compiled those of a board."""

    boards: tuple[str, ...]
    rules: tuple[SnakeRule, ...]
    goals: tuple[str, ...]
    compiled: tuple[str, ...]


def find_image(release: Release) -> str:
    """Return the release's image to run on a CPU, with its pinned tag, or a note that none is known."""
    ranked = sorted(release.images, key=lambda image: (image.kind != "cpu", not image.pull))
    return ranked[0].image if ranked else f"of release {release.name} (no image is known)"


def make_results_context(project: Project) -> ResultsContext:
    """Return the context of results.py: what a result has to record of each stage, also of those turned off."""
    return ResultsContext(list_scripts(project))


@dataclass(frozen=True)
class CompileContext:
    """What compile.sh is rendered from: the scripts that decide its result, beside the data of the board."""

    scripts: tuple[str, ...]


def make_compile_context(project: Project) -> CompileContext:
    """Return the context of compile.sh."""
    (stage,) = (stage for stage in plan_stages(project, (_BOARD,)) if stage.board)
    return CompileContext(tuple(name for name in stage.scripts if _BOARD not in name))


def make_snakefile_context(project: Project, targets: Sequence[BoardTarget]) -> SnakefileContext:
    """Return the context of the Snakefile: one rule per generated script that a stage runs, whatever the boards."""
    stages = [stage for stage in plan_stages(project, (_BOARD,)) if stage.runner != "dpuforge"]
    rules = {stage.key: _make_rule(stage, project) for stage in stages}
    return SnakefileContext(
        boards=tuple(target.board for target in targets),
        rules=tuple(rules.values()),
        goals=tuple(rules[stage.key].output for stage in stages if not stage.board),
        compiled=tuple(
            rules[stage.key].output.replace(_BOARD, target.board)
            for stage in stages
            if stage.board
            for target in targets
        ),
    )


def _make_rule(stage: PlannedStage, project: Project) -> SnakeRule:
    asked = project.run.resources.get(stage.name, Resources())
    python = "{PYTHON}" + (_TORCHRUN.format(asked.started) if stage.name == "train" and asked.started > 1 else "")
    program = {"python": python, "bash": "bash"}[stage.runner]
    words = " ".join(stage.argv).replace(_BOARD, "{wildcards.board}")
    return SnakeRule(
        name=stage.name,
        scripts=stage.scripts,
        needs=tuple(f"{name}/result.json" for name in stage.needs),
        folders=tuple(_existing_only(stage, project)),
        output=name_output(stage, project),
        command=f"{program} {{HERE:q}}/{words} --root {{ROOT:q}} --build {{BUILD:q}}{{SAID}}",
        threads=asked.cores,
        resources={name: value for name, value in _list_resources(asked, project) if value is not None},
    )


def name_output(stage: PlannedStage, project: Project) -> str:
    """Return the file below build/<project>/ that proves that a stage ran."""
    return f"{stage.key}/" + (f"{project.target.net_name}.xmodel" if stage.runner == "bash" else "result.json")


def _list_resources(asked: Resources, project: Project) -> Iterator[tuple[str, int | str | None]]:
    """Yield what a rule asks for, in the words of Snakemake and its plugins; None is not asked for."""
    yield "mem_mb", None if asked.memory_gb is None else math.ceil(asked.memory_gb * 1000)
    yield "runtime", asked.minutes
    yield "gpu", asked.gpus or None
    yield "slurm_partition", project.run.cluster.partition
    yield "slurm_account", project.run.cluster.account


def _existing_only(stage: PlannedStage, project: Project) -> Iterator[str]:
    """Yield the image folders a workflow engine may demand: those that no stage writes itself."""
    if project.data.source is None:
        yield from stage.folders
