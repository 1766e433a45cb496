"""The ARTIFACTS table: every file of generated/<project>/; reading it is reading the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dpuforge.plan import contexts, deploy_contexts, flow_contexts
from dpuforge.records.hardware import BoardTarget, Release
from dpuforge.records.plan import PlannedFile
from dpuforge.records.project import Project


@dataclass(frozen=True)
class Artifact:
    """One row: a file made once a project, from the template of the same path and what is derived for it."""

    path: str
    make_context: Callable[[Project, Sequence[BoardTarget]], Any] | None = None


@dataclass(frozen=True)
class BoardArtifact:
    """One row: a file of boards/<BOARD>/ ({net} is the network's name), from a template and a context."""

    path: str
    template: str
    make_context: Callable[[Project, BoardTarget, Release], Any]
    executable: bool = False


def _of_project(make: Callable[[Project], Any]) -> Callable[[Project, Sequence[BoardTarget]], Any]:
    """Adapt a context that depends on the project alone."""
    return lambda project, targets: make(project)


# fmt: off
ARTIFACTS = (
    Artifact("results.py"),
    Artifact("preprocess.py",    _of_project(contexts.make_preprocess_context)),
    Artifact("splits.py"),
    Artifact("model.py",         _of_project(contexts.make_model_context)),
    Artifact("prepare.py"),
    Artifact("train.py",         _of_project(contexts.make_train_context)),
    Artifact("inspect_model.py", lambda project, targets: contexts.make_inspect_context(targets)),
    Artifact("quantize.py"),
    Artifact("evaluate.py"),
    Artifact("Snakefile",        flow_contexts.make_snakefile_context),
)

BOARD_ARTIFACTS = (
    BoardArtifact("compile.sh", "boards/compile.sh.j2", flow_contexts.make_compile_context, executable=True),
    BoardArtifact("deploy/app.py", "boards/deploy/app.py.j2", deploy_contexts.make_app_context),
    BoardArtifact("deploy/preprocess.py", "preprocess.py.j2", deploy_contexts.make_board_preprocess_context),
    BoardArtifact("deploy/preprocess.hpp", "boards/deploy/preprocess.hpp.j2", deploy_contexts.make_header_file_context),
    BoardArtifact("deploy/{net}.prototxt", "boards/deploy/network.prototxt.j2", deploy_contexts.make_prototxt_context),
    BoardArtifact("deploy/meta.json", "boards/deploy/meta.json.j2", deploy_contexts.make_meta_context),
    BoardArtifact("deploy/README.md", "boards/deploy/README.md.j2", deploy_contexts.make_readme_context),
)
# fmt: on


def plan_files(project: Project, targets: Sequence[BoardTarget], release: Release) -> tuple[PlannedFile, ...]:
    """Return every file that a project leads to, manifest.json excepted: it is made from the rendered others."""
    return (
        *(_plan_artifact(row, project, targets) for row in ARTIFACTS),
        PlannedFile("int8_config.json", document=project.quantization.int8_config),
        *(file for target in targets for file in _plan_board(project, target, release)),
    )


def _plan_artifact(row: Artifact, project: Project, targets: Sequence[BoardTarget]) -> PlannedFile:
    context = row.make_context(project, targets) if row.make_context else None
    return PlannedFile(row.path, f"{row.path}.j2", context)


def _plan_board(project: Project, target: BoardTarget, release: Release) -> Iterator[PlannedFile]:
    folder = f"boards/{target.board}"
    yield PlannedFile(f"{folder}/arch.json", document=dict(target.arch_json))
    for row in BOARD_ARTIFACTS:
        path = f"{folder}/{row.path.format(net=project.target.net_name)}"
        yield PlannedFile(path, row.template, row.make_context(project, target, release), executable=row.executable)
