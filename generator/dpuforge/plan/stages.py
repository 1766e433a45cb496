"""The STAGES table: every stage of a run, in order, with what it reads and who runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dpuforge.plan.contexts import find_starting_files
from dpuforge.records.plan import PlannedStage
from dpuforge.records.project import Project

NETWORK_SCRIPTS = (
    *("model.py", "checkpoint.py", "preprocess.py", "find_images.py"),
    *("splits.py", "results.py", "figures.py"),
)
DATA_SCRIPTS = ("preprocess.py", "find_images.py", "check_images.py", "compare_images.py", "pictures.py", "results.py")
QAT_SCRIPTS = ("qat.py", "quantizable.py")
# compile.sh ends with the folder that is copied to the board.
BUNDLE_PARTS = (
    "bundle.py",
    "results.py",
    "deploy/app.py",
    "deploy/app.cpp",
    "deploy/bench.py",
    "deploy/CMakeLists.txt",
    "deploy/preprocess.py",
    "deploy/preprocess.hpp",
    "deploy/{net}.prototxt",
    "deploy/{net}.service",
)


# Packages whose versions decide what a stage yields; what reports progress or checks arguments decides nothing.
IMAGE_PACKAGES = ("PIL", "numpy")
NETWORK_PACKAGES = (*IMAGE_PACKAGES, "torch", "torchvision", "timm")
QUANTIZER_PACKAGES = (*NETWORK_PACKAGES, "pytorch_nndct", "dpuforge")


@dataclass(frozen=True)
class StageRow:
    """One row: argv follows the interpreter; needs names earlier stages; per_board repeats it for every board.

    wanted says whether a project has the stage; where it does not, nothing needs it. trained names the scripts that
    the stage reads beside the others where the network is quantised by training.
    """

    name: str
    does: str
    runner: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    shared_scripts: tuple[str, ...] = NETWORK_SCRIPTS
    tools: tuple[str, ...] = ()
    reads_images: bool = False
    uses_toolchain: bool = True
    packages: tuple[str, ...] = QUANTIZER_PACKAGES
    per_board: bool = False
    wanted: Callable[[Project], bool] = lambda project: True
    trained: tuple[str, ...] = ()


# fmt: off
STAGES = (
    StageRow("prepare", "decode, count and hash the images; refuse leaks between splits", "python", ("prepare.py",),
             shared_scripts=DATA_SCRIPTS, reads_images=True, uses_toolchain=False, packages=IMAGE_PACKAGES),
    StageRow("train", "train the network by transfer learning", "python", ("train.py",), ("prepare",),
             uses_toolchain=False, packages=NETWORK_PACKAGES),
    StageRow("inspect", "see which operators the DPU takes", "python", ("inspect_model.py",), ("train",),
             (*NETWORK_SCRIPTS, "quantizer.py")),
    StageRow("adjust", "adjust the float weights so that calibration quantises them well", "python", ("adjust.py",),
             ("prepare", "train"),
             (*NETWORK_SCRIPTS, "quantizer.py", "quantize.py", "fake_quantize.py", "int8_config.json"),
             uses_toolchain=False, packages=NETWORK_PACKAGES,
             wanted=lambda project: project.quantization.adjust.enabled),
    StageRow("qat", "train on with rounded values: weights and fix positions", "python", ("qat.py",),
             ("prepare", "train"), (*NETWORK_SCRIPTS, *QAT_SCRIPTS, "quantizer.py", "quantize.py", "train.py"),
             wanted=lambda project: project.quantization.qat.enabled),
    StageRow("calibrate", "find the fix positions on calibration images", "python",
             ("quantize.py", "--mode", "calib"), ("prepare", "train", "adjust"),
             (*NETWORK_SCRIPTS, "quantizer.py", "int8_config.json"),
             wanted=lambda project: not project.quantization.qat.enabled),
    StageRow("evaluate", "measure float and int8 accuracy on the test split", "python", ("evaluate.py",),
             ("prepare", "train", "adjust", "qat", "calibrate"),
             (*NETWORK_SCRIPTS, "pictures.py", "class_maps.py", "train.py", "quantizer.py", "quantize.py",
              "int8_config.json"), trained=QAT_SCRIPTS),
    StageRow("deploy", "export xmodel, ONNX and TorchScript", "python", ("quantize.py", "--mode", "deploy"),
             ("prepare", "train", "adjust", "qat", "calibrate"), (*NETWORK_SCRIPTS, "quantizer.py", "int8_config.json"),
             trained=QAT_SCRIPTS),
    StageRow("preflight", "read the xmodel back, run it on integers, check it against each board's DPU", "dpuforge",
             ("dpuforge.preflight", "--spec", "{spec}"), ("prepare", "train", "adjust", "qat", "calibrate", "deploy"),
             ("preprocess.py",), packages=("dpuforge",)),
    StageRow("compile", "compile for the board with AMD's vai_c_xir", "bash", ("compile.sh", "{board}"),
             ("deploy",), (*BUNDLE_PARTS, "boards/{board}/arch.json", "boards/{board}/board.env"), ("vai_c_xir",),
             packages=(), per_board=True),
)
# fmt: on


def plan_stages(
    project: Project, boards: Sequence[str], settings: Mapping[str, Any] = MappingProxyType({})
) -> tuple[PlannedStage, ...]:
    """Return the stages of a project, one per board where the row says so.

    settings decide the stage that no generated script runs: it reads the spec itself.
    """
    rows = [row for row in STAGES if row.wanted(project)]
    planned = [stage for row in rows for stage in _plan_row(row, project, boards, settings)]
    known = {row.name for row in rows}
    return tuple(replace(stage, needs=tuple(name for name in stage.needs if name in known)) for stage in planned)


def list_scripts(project: Project) -> dict[str, tuple[str, ...]]:
    """Return the files that may decide each stage that Python runs, those of stages that are turned off among them.

    results.py, which every stage reads, is then the same whatever is turned on: nothing is trained again for that.
    """
    rows = [replace(row, shared_scripts=(*row.shared_scripts, *row.trained)) for row in STAGES]
    planned = [stage for row in rows for stage in _plan_row(row, project, (), {})]
    return {stage.name: stage.scripts for stage in planned if stage.runner == "python"}


def _plan_row(
    row: StageRow, project: Project, boards: Sequence[str], settings: Mapping[str, Any]
) -> Iterator[PlannedStage]:
    shared = (*row.shared_scripts, *(row.trained if project.quantization.qat.enabled else ()))
    for board in boards if row.per_board else ("",):
        names = {"board": board, "net": project.target.net_name, "spec": project.spec.path}
        argv = tuple(word.format(**names) for word in row.argv)
        own = argv[:1] if row.runner != "dpuforge" else ()
        yield PlannedStage(
            name=row.name,
            runner=row.runner,
            argv=argv,
            scripts=tuple(dict.fromkeys((*own, *(name.format(**names) for name in shared)))),
            needs=row.needs,
            board=board,
            tools=row.tools,
            folders=(project.data.train, project.data.validation, project.data.test) if row.reads_images else (),
            files=find_starting_files(project) if "model.py" in row.shared_scripts else (),
            uses_toolchain=row.uses_toolchain,
            packages=row.packages,
            settings=settings if row.runner == "dpuforge" else {},
        )
