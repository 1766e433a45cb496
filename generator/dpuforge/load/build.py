"""Last step of load: a filled and checked spec becomes the Project noun.

The records name their fields as the spec names its keys, so a key passes as it is written; only what changes its type
or its name is named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpuforge.load.quantization import to_quant_json
from dpuforge.load.rules import read_class_names
from dpuforge.load.sections.own_files import build_own
from dpuforge.records.project import (
    Adjust,
    BoardChoice,
    Calibration,
    Classes,
    Data,
    DataSplit,
    EarlyStopping,
    FastFinetune,
    Freeze,
    FrozenLayers,
    InputSize,
    Method,
    Model,
    Optimizer,
    Preprocess,
    Project,
    Qat,
    Quantization,
    Report,
    Scheduler,
    SourceFile,
    Target,
    Teacher,
    Train,
    Transfer,
)
from dpuforge.records.run_settings import Cluster, Container, Resources, Run, Toolchain

Spec = Mapping[str, Any]


def build_project(spec: Spec, root: Path, files: tuple[SourceFile, ...]) -> Project:
    """Return the project of a filled spec without mistakes; files are the spec and its bases, the spec first."""
    return Project(
        spec_version=spec["spec_version"],
        project=spec["project"],
        description=spec["description"],
        model=_build_model(spec["model"]),
        classes=_build_classes(spec["classes"], root),
        data=_build_data(spec["data"]),
        transfer=_build_transfer(spec["transfer"]),
        train=_build_train(spec["train"]),
        quantization=_build_quantization(spec["quantization"]),
        target=_build_target(spec["target"]),
        run=_build_run(spec["run"]),
        spec=files[0],
        bases=files[1:],
        report=Report(tuple(spec["report"]["log"])),
        own=build_own(spec["own"], root),
    )


def _build_model(spec: Spec) -> Model:
    return Model(**{**spec, "input": InputSize(**spec["input"]), **_build_ends(spec)})


def _build_ends(spec: Spec) -> dict[str, Any]:
    """Return head and output of a network as the records hold them."""
    head, output = spec["head"], spec["output"]
    names = () if head is None else (head,) if isinstance(head, str) else tuple(head)
    return {"head": names, "output": None if output is None else str(output)}


def _build_classes(value: int | str | list[str], root: Path) -> Classes:
    if isinstance(value, int):
        return Classes(value)
    names = tuple(value) if isinstance(value, list) else read_class_names(root / value)
    return Classes(len(names), names, None if isinstance(value, list) else value)


def _build_data(spec: Spec) -> Data:
    converted = {
        "preprocess": _build_preprocess(spec["preprocess"]),
        "augment": tuple(spec["augment"]),
        "split": _build_split(spec["split"]),
    }
    return Data(**{**spec, **converted})


def _build_split(spec: Spec | None) -> DataSplit | None:
    if spec is None:
        return None
    return DataSplit(spec["from"], float(spec["validation"]), float(spec["test"]), spec["seed"])


def _build_preprocess(spec: Spec) -> Preprocess:
    resize, crop, limits = spec["resize"], spec["crop"], spec["range"]
    converted = {
        "resize": (resize[0], resize[1]) if isinstance(resize, list) else resize,
        "crop": (crop, crop) if isinstance(crop, int) else (crop[0], crop[1]) if crop is not None else None,
        "mean": tuple(float(value) for value in spec["mean"]),
        "std": tuple(float(value) for value in spec["std"]),
        "range": (float(limits[0]), float(limits[1])) if limits is not None else None,
    }
    return Preprocess(**{**spec, **converted})


def _build_transfer(spec: Spec) -> Transfer:
    freeze, teacher = spec["freeze"], spec["teacher"]
    converted = {
        "method": Method(spec["method"]),
        "freeze": Freeze(**{**freeze, "layers": _build_layers(freeze["layers"])}),
        "teacher": None if teacher is None else _build_teacher(teacher),
    }
    return Transfer(**{**spec, **converted})


def _build_teacher(spec: Spec) -> Teacher:
    return Teacher(**{**_real(spec, "temperature", "alpha"), **_build_ends(spec)})


def _build_layers(value: str | Spec) -> FrozenLayers:
    if isinstance(value, str):
        return FrozenLayers(value)
    if "until" in value:
        return FrozenLayers("until", until=value["until"])
    return FrozenLayers("match", match=tuple(value["match"]))


def _build_train(spec: Spec) -> Train:
    stopping = spec["early_stopping"]
    converted = {
        "optimizer": _build_optimizer(spec["optimizer"]),
        "scheduler": Scheduler(**_real(spec["scheduler"], "gamma")),
        "early_stopping": None if stopping is None else EarlyStopping(**stopping),
    }
    return Train(**{**_real(spec, "label_smoothing", "ema", "clip_norm"), **converted})


def _build_optimizer(spec: Spec) -> Optimizer:
    real = _real(spec, "lr", "weight_decay", "momentum", "backbone_lr", "layer_decay")
    return Optimizer(**{**real, "betas": (float(spec["betas"][0]), float(spec["betas"][1]))})


def _build_quantization(spec: Spec) -> Quantization:
    calibration = {("from_split" if key == "from" else key): value for key, value in spec["calibration"].items()}
    fields = dict(spec) | {
        "quantizable_data_type": tuple(spec["quantizable_data_type"]),
        "layers": tuple(spec["layers"]),
        "calibration": Calibration(**calibration),
        "fast_finetune": FastFinetune(**spec["fast_finetune"]),
        "adjust": Adjust(**_real(spec["adjust"], "lr")),
        "qat": Qat(**_real(spec["qat"], "lr", "threshold_lr")),
        "int8_config": to_quant_json(spec),
    }
    return Quantization(**_real(fields, "max_accuracy_drop"))


def _build_target(spec: Spec) -> Target:
    choices = tuple(BoardChoice(entry) if isinstance(entry, str) else BoardChoice(**entry) for entry in spec["boards"])
    return Target(**{**spec, "boards": choices})


def _build_run(spec: Spec) -> Run:
    container = {**spec["container"], "options": tuple(spec["container"]["options"])}
    limits = {stage: float(minutes) for stage, minutes in spec["time_limit"].items()}
    resources = {stage: Resources(**_real(asked, "memory_gb")) for stage, asked in spec["resources"].items()}
    cluster = Cluster(**{**spec["cluster"], "options": tuple(spec["cluster"]["options"])})
    return Run(Toolchain(spec["toolchain"]), dict(spec["stages"]), limits, Container(**container), resources, cluster)


def _real(spec: Spec, *keys: str) -> dict[str, Any]:
    """Return the block with the named keys as floats: a user may write 1 for 1.0."""
    return {key: float(value) if key in keys and value is not None else value for key, value in spec.items()}
