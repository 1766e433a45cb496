"""What templates print beside the project itself: values derived from it, computed before anything is rendered.

A template reads the sections of the spec from `project` (records/project.py) and the command that makes it anew from
`command`. A context holds what is in neither; a file whose template needs nothing more has none.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpuforge.records.hardware import BoardTarget
from dpuforge.records.project import Preprocess, Project

MIXES = ("mixup", "cutmix")  # changes of a batch, not of an image
_ENUM_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class PreprocessContext:
    """Context of preprocess.py; mean and scale are for pixels 0..255, per channel in the order of `color`."""

    channels: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class ModelContext:
    """Context of model.py; weights_kind is "none", "published" or "file"."""

    weights: str | None
    weights_kind: str
    uses_torchvision: bool
    uses_timm: bool
    uses_factory: bool


@dataclass(frozen=True)
class TrainContext:
    """Context of train.py; teacher_kind is "" without a teacher, starting_files are the user's own.

    views counts the variants of an image that are cached; mixes names what mixes the images of a batch; options says
    whether the loss takes any; depends_on_epochs that the schedule does.
    """

    freezes: bool
    batchnorm_learns: bool
    uses_head: bool
    teacher_weights: str | None
    teacher_kind: str
    starting_files: tuple[str, ...]
    views: int
    caches: bool
    caches_features: bool
    caches_teacher: bool
    mixes: tuple[str, ...]
    options: bool
    schedules: bool
    depends_on_epochs: bool
    uses_rates: bool
    uses_blocks: bool
    uses_nn: bool


@dataclass(frozen=True)
class CheckModelContext:
    """Context of check_model.py: which pieces of model.py and train.py there are to try."""

    freezes: bool
    uses_head: bool
    uses_timm: bool


@dataclass(frozen=True)
class InspectContext:
    """Context of inspect_model.py; targets maps a board to its DPU's name or fingerprint."""

    targets: Mapping[str, str]


def round_to_float32(value: float) -> float:
    """Return the shortest decimal that reads back as the float32 nearest to value, so that Python and C++ agree."""
    exact: float = struct.unpack("f", struct.pack("f", value))[0]
    shortest = (float(f"{exact:.{digits}g}") for digits in range(6, 10))
    return next(number for number in shortest if struct.unpack("f", struct.pack("f", number))[0] == exact)


def scale_pixels(preprocess: Preprocess) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, scale) for pixels 0..255: input = (pixel - mean) * scale, both float32.

    The arithmetic of the Vitis AI Library's prototxt: mean * 255 and 1 / (255 * std).
    """
    means = tuple(round_to_float32(255.0 * mean) for mean in preprocess.mean)
    return means, tuple(round_to_float32(1.0 / (255.0 * std)) for std in preprocess.std)


def make_preprocess_context(project: Project) -> PreprocessContext:
    """Return the context of preprocess.py."""
    preprocess = project.data.preprocess
    return PreprocessContext(preprocess.channels, *scale_pixels(preprocess))


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
        weights=_name_weights(project.model.weights),
        weights_kind=classify_weights(project.model.weights),
        uses_torchvision=not all(a or b for a, b in zip(factories, timms, strict=True)),
        uses_timm=any(timms),
        uses_factory=any(factories),
    )


def make_train_context(project: Project) -> TrainContext:
    """Return the context of train.py."""
    freeze, teacher, train = project.transfer.freeze, project.transfer.teacher, project.train
    teacher_kind = classify_weights(teacher.weights) if teacher else ""
    frozen_batchnorm = freeze.batchnorm == "frozen"
    freezes = freeze.layers.rule != "none" or frozen_batchnorm
    views = count_views(project)
    caches_features = views > 0 and freeze.layers.rule == "all_but_head" and frozen_batchnorm
    uses_rates = train.optimizer.backbone_lr is not None or train.optimizer.layer_decay != 1.0
    uses_blocks = uses_rates or train.unfreeze_epochs > 0
    return TrainContext(
        freezes=freezes,
        batchnorm_learns=not frozen_batchnorm,
        uses_head=freeze.layers.rule == "all_but_head" or teacher_kind == "published",
        teacher_weights=_name_weights(teacher.weights) if teacher else None,
        teacher_kind=teacher_kind,
        starting_files=find_starting_files(project),
        views=views,
        caches=caches_features or (teacher is not None and views > 0),
        caches_features=caches_features,
        caches_teacher=teacher is not None and views > 0,
        mixes=tuple(name for name in MIXES if name in project.data.augment),
        options=train.balance == "weights" or train.label_smoothing > 0.0,
        schedules=train.scheduler.name != "none" or train.scheduler.warmup_epochs > 0,
        depends_on_epochs=train.scheduler.name in ("cosine", "one_cycle"),
        uses_rates=uses_rates,
        uses_blocks=uses_blocks,
        uses_nn=freezes or caches_features or uses_blocks or train.clip_norm is not None,
    )


def count_views(project: Project) -> int:
    """Return how many variants of a training image there are, 0 where every epoch makes new ones."""
    return project.train.cached_views if project.data.augment else 1


def make_check_model_context(project: Project) -> CheckModelContext:
    """Return the context of check_model.py."""
    train = make_train_context(project)
    return CheckModelContext(
        freezes=train.freezes,
        uses_head=train.uses_head,
        uses_timm=make_model_context(project).uses_timm,
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


def make_inspect_context(project: Project, targets: Sequence[BoardTarget]) -> InspectContext:
    """Return the context of inspect_model.py: the Inspector takes a registered name or a fingerprint."""
    return InspectContext(
        {target.board: target.target if target.registered else target.fingerprint_text for target in targets}
    )
