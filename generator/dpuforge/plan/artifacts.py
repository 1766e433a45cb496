"""The ARTIFACTS table: every file of generated/<project>/; reading it is reading the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dpuforge.plan import contexts, deploy_contexts, flow_contexts
from dpuforge.records.hardware import BoardTarget, Release
from dpuforge.records.plan import PlannedFile
from dpuforge.records.project import Project

MakeContext = Callable[[Project, Sequence[BoardTarget], Release], Any]


@dataclass(frozen=True)
class Artifact:
    """One row: a file made once a project; path may hold {net}, the network's name.

    template defaults to the template of the same path; make_context gives what is derived for it, where anything is;
    wanted says whether a project has the file.
    """

    path: str
    make_context: MakeContext | None = None
    template: str = ""
    executable: bool = False
    wanted: Callable[[Project], bool] = lambda project: True


def _of_project(make: Callable[[Project], Any]) -> MakeContext:
    """Adapt a context that depends on the project alone."""
    return lambda project, targets, release: make(project)


def _of_targets(make: Callable[[Project, Sequence[BoardTarget]], Any]) -> MakeContext:
    """Adapt a context that depends on the project and its boards."""
    return lambda project, targets, release: make(project, targets)


# fmt: off
ARTIFACTS = (
    Artifact("results.py",            _of_project(flow_contexts.make_results_context)),
    Artifact("preprocess.py",         _of_project(contexts.make_preprocess_context)),
    Artifact("find_images.py"),
    Artifact("check_images.py"),
    Artifact("compare_images.py"),
    Artifact("pictures.py"),
    Artifact("splits.py"),
    Artifact("checkpoint.py"),
    Artifact("model.py",              _of_project(contexts.make_model_context)),
    Artifact("figures.py"),
    Artifact("check_model.py",        _of_project(contexts.make_check_model_context)),
    Artifact("prepare.py"),
    Artifact("train.py",              _of_project(contexts.make_train_context)),
    Artifact("inspect_model.py",      _of_targets(contexts.make_inspect_context)),
    Artifact("quantizer.py"),
    Artifact("quantize.py"),
    Artifact("class_maps.py"),
    Artifact("fake_quantize.py",      wanted=lambda project: project.quantization.adjust.enabled),
    Artifact("adjust.py",             wanted=lambda project: project.quantization.adjust.enabled),
    Artifact("quantizable.py",        wanted=lambda project: project.quantization.qat.enabled),
    Artifact("qat.py",                wanted=lambda project: project.quantization.qat.enabled),
    Artifact("import_calibration.py", wanted=lambda project: not project.quantization.qat.enabled),
    Artifact("evaluate.py"),
    Artifact("Snakefile",             _of_targets(flow_contexts.make_snakefile_context)),
    Artifact("compile.sh",            _of_project(flow_contexts.make_compile_context), executable=True),
    Artifact("bundle.py",             _of_project(deploy_contexts.make_bundle_context)),
    Artifact("deploy/app.py"),
    Artifact("deploy/bench.py"),
    Artifact("deploy/preprocess.py",  _of_project(contexts.make_preprocess_context), "preprocess.py.j2"),
    Artifact("deploy/preprocess.hpp", _of_project(deploy_contexts.make_header_file_context)),
    Artifact("deploy/app.cpp"),
    Artifact("deploy/CMakeLists.txt"),
    Artifact("deploy/{net}.service", None, "deploy/network.service.j2"),
    Artifact("deploy/{net}.prototxt", _of_project(deploy_contexts.make_prototxt_context), "deploy/network.prototxt.j2"),
    Artifact("deploy/README.md",      deploy_contexts.make_readme_context),
)
# fmt: on


# What a first look at the network runs: check_model.py and all that it imports.
NETWORK_CHECK = (
    "results.py",
    "preprocess.py",
    "find_images.py",
    "splits.py",
    "checkpoint.py",
    "model.py",
    "figures.py",
    "train.py",
    "check_model.py",
)


def plan_files(project: Project, targets: Sequence[BoardTarget], release: Release) -> tuple[PlannedFile, ...]:
    """Return every file that a project leads to, manifest.json excepted: it is made from the rendered others."""
    return (
        *(_plan_artifact(row, project, targets, release) for row in ARTIFACTS if row.wanted(project)),
        PlannedFile("int8_config.json", document=project.quantization.int8_config),
        *(file for target in targets for file in _plan_board(target, release)),
    )


def find_artifact(path: str, project: Project) -> Artifact | None:
    """Return the row of a generated file, None where it is a document or a board's."""
    net = project.target.net_name
    return next((row for row in ARTIFACTS if row.path.format(net=net) == path), None)


def _plan_artifact(row: Artifact, project: Project, targets: Sequence[BoardTarget], release: Release) -> PlannedFile:
    context = row.make_context(project, targets, release) if row.make_context else None
    path = row.path.format(net=project.target.net_name)
    return PlannedFile(path, row.template or f"{row.path}.j2", context, executable=row.executable)


def _plan_board(target: BoardTarget, release: Release) -> Iterator[PlannedFile]:
    """Yield what differs from board to board: data alone."""
    context = deploy_contexts.make_board_context(target, release)
    yield PlannedFile(f"boards/{target.board}/arch.json", document=dict(target.arch_json))
    yield PlannedFile(f"boards/{target.board}/board.env", "boards/board.env.j2", context)
