"""One frozen context per generated Python file: every value its template prints, computed before rendering."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpuforge.records.hardware import BoardTarget
from dpuforge.records.project import Method, Preprocess, Project

_ENUM_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class HeaderContext:
    """What every generated file says of its origin."""

    spec_path: str
    command: str


@dataclass(frozen=True)
class ResultsContext(HeaderContext):
    """Context of results.py."""

    project: str


@dataclass(frozen=True)
class PreprocessContext(HeaderContext):
    """Context of preprocess.py; mean and scale are for pixels 0..255, per channel in the order of `color`."""

    resize_px: int | tuple[int, int] | None
    crop_px: tuple[int, int] | None
    input_px: tuple[int, int]
    color: str
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]


@dataclass(frozen=True)
class SplitsContext(HeaderContext):
    """Context of splits.py; folders are relative to the project root."""

    train: str
    validation: str
    test: str
    class_count: int
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class PrepareContext(HeaderContext):
    """Context of prepare.py; builtin_source says that the images come from a Python package."""

    builtin_source: bool
    calibration_split: str
    calibration_images: int


@dataclass(frozen=True)
class ModelContext(HeaderContext):
    """Context of model.py; weights_kind is "none", "published" or "file"."""

    backbone: str
    weights: str | None
    weights_kind: str
    uses_torchvision: bool
    uses_timm: bool
    uses_factory: bool


@dataclass(frozen=True)
class TrainContext(HeaderContext):
    """Context of train.py; stop_metric is "" without early stopping, teacher_kind "" without a teacher."""

    method: str
    augment: tuple[str, ...]
    freezes: bool
    freeze_rule: str
    freeze_until: str
    freeze_match: tuple[str, ...]
    batchnorm_learns: bool
    uses_head: bool
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    momentum: float
    scheduler: str
    step_epochs: int
    gamma: float
    stop_metric: str
    patience: int
    teacher_backbone: str
    teacher_weights: str | None
    teacher_kind: str
    temperature: float
    alpha: float
    seed: int
    workers: int
    device: str
    starting_files: tuple[str, ...]


@dataclass(frozen=True)
class QuantizeContext(HeaderContext):
    """Context of quantize.py; finetune_images is 0 without fast fine-tuning."""

    net_name: str
    target_device: str
    calibration_split: str
    calibration_images: int
    batch_size: int
    finetune_images: int
    seed: int
    device: str


@dataclass(frozen=True)
class EvaluateContext(HeaderContext):
    """Context of evaluate.py."""

    max_accuracy_drop: float


@dataclass(frozen=True)
class InspectContext(HeaderContext):
    """Context of inspect_model.py; targets maps a board to its DPU's name or fingerprint."""

    targets: Mapping[str, str]


def make_header_context(project: Project) -> HeaderContext:
    """Return the origin of a generated file: the spec and the command that makes it anew."""
    return HeaderContext(project.spec.path, f"dpuforge generate {project.spec.path}")


def _header(project: Project) -> dict[str, str]:
    header = make_header_context(project)
    return {"spec_path": header.spec_path, "command": header.command}


def make_results_context(project: Project) -> ResultsContext:
    """Return the context of results.py."""
    return ResultsContext(**_header(project), project=project.project)


def round_to_float32(value: float) -> float:
    """Return the shortest decimal that reads back as the float32 nearest to value, so that Python and C++ agree."""
    exact: float = struct.unpack("f", struct.pack("f", value))[0]
    shortest = (float(f"{exact:.{digits}g}") for digits in range(6, 10))
    return next(number for number in shortest if struct.unpack("f", struct.pack("f", number))[0] == exact)


def scale_pixels(preprocess: Preprocess) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return (mean, scale) for pixels 0..255: input = (pixel - mean) * scale, both float32.

    The arithmetic of the Vitis AI Library's prototxt: mean * 255 and 1 / (255 * std).
    """
    red, green, blue = (round_to_float32(255.0 * mean) for mean in preprocess.mean)
    scales = [round_to_float32(1.0 / (255.0 * std)) for std in preprocess.std]
    return (red, green, blue), (scales[0], scales[1], scales[2])


def make_preprocess_context(project: Project) -> PreprocessContext:
    """Return the context of preprocess.py."""
    preprocess = project.data.preprocess
    mean, scale = scale_pixels(preprocess)
    return PreprocessContext(
        **_header(project),
        resize_px=preprocess.resize,
        crop_px=preprocess.crop,
        input_px=(project.model.input.height, project.model.input.width),
        color=preprocess.color,
        mean=mean,
        scale=scale,
    )


def make_splits_context(project: Project) -> SplitsContext:
    """Return the context of splits.py."""
    data = project.data
    return SplitsContext(
        **_header(project),
        train=data.train,
        validation=data.validation,
        test=data.test,
        class_count=project.classes.count,
        class_names=project.classes.names,
    )


def make_prepare_context(project: Project) -> PrepareContext:
    """Return the context of prepare.py."""
    calibration = project.quantization.calibration
    return PrepareContext(
        **_header(project),
        builtin_source=project.data.source is not None,
        calibration_split=calibration.from_split,
        calibration_images=calibration.images,
    )


def classify_weights(weights: str) -> str:
    """Return where weights come from: "none", "published" (a torchvision or timm name) or "file"."""
    if weights.lower() == "none":
        return "none"
    return "published" if _ENUM_NAME.fullmatch(weights) or ("." not in weights and "/" not in weights) else "file"


def _name_weights(weights: str) -> str | None:
    return None if classify_weights(weights) == "none" else weights


def make_model_context(project: Project) -> ModelContext:
    """Return the context of model.py; its builders cover the teacher's backbone too."""
    teacher = project.transfer.teacher
    backbones = [project.model.backbone, *([teacher.backbone] if teacher else [])]
    factories = [".py:" in backbone for backbone in backbones]
    timms = [backbone.startswith("timm/") for backbone in backbones]
    return ModelContext(
        **_header(project),
        backbone=project.model.backbone,
        weights=_name_weights(project.model.weights),
        weights_kind=classify_weights(project.model.weights),
        uses_torchvision=not all(a or b for a, b in zip(factories, timms, strict=True)),
        uses_timm=any(timms),
        uses_factory=any(factories),
    )


def make_train_context(project: Project) -> TrainContext:
    """Return the context of train.py."""
    train, transfer = project.train, project.transfer
    layers, stopping, teacher = transfer.freeze.layers, train.early_stopping, transfer.teacher
    teacher_kind = classify_weights(teacher.weights) if teacher else ""
    frozen_batchnorm = transfer.freeze.batchnorm == "frozen"
    return TrainContext(
        **_header(project),
        method=Method(transfer.method).value,
        augment=project.data.augment,
        freezes=layers.rule != "none" or frozen_batchnorm,
        freeze_rule=layers.rule,
        freeze_until=layers.until or "",
        freeze_match=layers.match,
        batchnorm_learns=not frozen_batchnorm,
        uses_head=layers.rule == "all_but_head" or teacher_kind == "published",
        epochs=train.epochs,
        batch_size=train.batch_size,
        optimizer=train.optimizer.name,
        learning_rate=train.optimizer.lr,
        weight_decay=train.optimizer.weight_decay,
        momentum=train.optimizer.momentum,
        scheduler=train.scheduler.name,
        step_epochs=train.scheduler.step_epochs,
        gamma=train.scheduler.gamma,
        stop_metric=stopping.metric if stopping else "",
        patience=stopping.patience if stopping else 0,
        teacher_backbone=teacher.backbone if teacher else "",
        teacher_weights=_name_weights(teacher.weights) if teacher else None,
        teacher_kind=teacher_kind,
        temperature=teacher.temperature if teacher else 0.0,
        alpha=teacher.alpha if teacher else 0.0,
        seed=train.seed,
        workers=train.workers,
        device=train.device,
        starting_files=find_starting_files(project),
    )


def find_starting_files(project: Project) -> tuple[str, ...]:
    """Return the user's own files that training reads beside the images: network sources and weights."""
    teacher = project.transfer.teacher
    pairs = [
        (project.model.backbone, project.model.weights),
        *([(teacher.backbone, teacher.weights)] if teacher else []),
    ]
    sources = [backbone.rpartition(":")[0] for backbone, _ in pairs if ".py:" in backbone]
    return tuple(dict.fromkeys(sources + [weights for _, weights in pairs if classify_weights(weights) == "file"]))


def make_quantize_context(project: Project) -> QuantizeContext:
    """Return the context of quantize.py."""
    quantization = project.quantization
    calibration, finetune = quantization.calibration, quantization.fast_finetune
    return QuantizeContext(
        **_header(project),
        net_name=project.target.net_name,
        target_device=quantization.target_device,
        calibration_split=calibration.from_split,
        calibration_images=calibration.images,
        batch_size=calibration.batch_size,
        finetune_images=finetune.images if finetune.enabled else 0,
        seed=project.train.seed,
        device=project.train.device,
    )


def make_evaluate_context(project: Project) -> EvaluateContext:
    """Return the context of evaluate.py."""
    return EvaluateContext(**_header(project), max_accuracy_drop=project.quantization.max_accuracy_drop)


def make_inspect_context(project: Project, targets: Sequence[BoardTarget]) -> InspectContext:
    """Return the context of inspect_model.py: the Inspector takes a registered name or a fingerprint."""
    named = {target.board: target.target if target.registered else target.fingerprint_text for target in targets}
    return InspectContext(**_header(project), targets=named)
