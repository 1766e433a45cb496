"""The ARTIFACTS table: every file of generated/<project>/; reading it is reading the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dpuforge.plan import contexts, flow_contexts
from dpuforge.records.hardware import BoardTarget, Release
from dpuforge.records.plan import PlannedFile
from dpuforge.records.project import Project


@dataclass(frozen=True)
class Artifact:
    """One row: a file made from the template of the same path with a context, once a project."""

    path: str
    make_context: Callable[[Project], Any]


@dataclass(frozen=True)
class BoardArtifact:
    """One row: a file of boards/<BOARD>/; made from templates/boards/<path>.j2 with a context."""

    path: str
    make_context: Callable[[Project, BoardTarget, Release], Any]
    executable: bool = False


# fmt: off
ARTIFACTS = (
    Artifact("results.py",       contexts.make_results_context),
    Artifact("preprocess.py",    contexts.make_preprocess_context),
    Artifact("data.py",          contexts.make_data_context),
    Artifact("model.py",         contexts.make_model_context),
    Artifact("prepare.py",       contexts.make_prepare_context),
    Artifact("train.py",         contexts.make_train_context),
)

BOARD_ARTIFACTS = (
    BoardArtifact("compile.sh",  flow_contexts.make_compile_context, executable=True),
)
# fmt: on


def plan_files(project: Project, targets: Sequence[BoardTarget], release: Release) -> tuple[PlannedFile, ...]:
    """Return every file that a project leads to, manifest.json excepted: it is made from the rendered others."""
    return (
        *(PlannedFile(row.path, f"{row.path}.j2", row.make_context(project)) for row in ARTIFACTS),
        PlannedFile("int8_config.json", document=project.quantization.int8_config),
        PlannedFile(
            "Snakefile", "Snakefile.j2", flow_contexts.make_snakefile_context(project, [t.board for t in targets])
        ),
        *(file for target in targets for file in _plan_board(project, target, release)),
    )


def _plan_board(project: Project, target: BoardTarget, release: Release) -> Iterator[PlannedFile]:
    folder = f"boards/{target.board}"
    yield PlannedFile(f"{folder}/arch.json", document=dict(target.arch_json))
    for row in BOARD_ARTIFACTS:
        context = row.make_context(project, target, release)
        yield PlannedFile(f"{folder}/{row.path}", f"boards/{row.path}.j2", context, executable=row.executable)
