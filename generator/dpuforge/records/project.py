"""The noun between load and plan: one project as its spec states it, defaults filled in, keys named as in the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dpuforge.records.own import OwnFile
from dpuforge.records.run_settings import Run


class Method(str, Enum):
    """How the pretrained network is taught the new classes."""

    FEATURE_EXTRACTION = "feature_extraction"
    FINE_TUNING = "fine_tuning"
    DISTILLATION = "distillation"

    __str__ = str.__str__


@dataclass(frozen=True)
class SourceFile:
    """One file the project was read from; path is relative to the project root, with forward slashes."""

    path: str
    sha256: str


@dataclass(frozen=True)
class InputSize:
    """Height and width of the network's input in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class Model:
    """The neural network: backbone is a torchvision name, `timm/<name>` or `path/to/net.py:factory`.

    weights is a torchvision enum name, "none", or the path of a state_dict. head names the layers that make the
    scores (none: a forward pass finds them), output the one of several outputs that holds them.
    """

    backbone: str
    weights: str
    input: InputSize
    head: tuple[str, ...] = ()
    output: str | None = None


@dataclass(frozen=True)
class Classes:
    """What the network tells apart; names is empty where the spec gives a number, file is where names were read."""

    count: int
    names: tuple[str, ...] = ()
    file: str | None = None


@dataclass(frozen=True)
class Preprocess:
    """The one definition of what happens to an image before the network.

    resize is the shorter side in pixels, or (height, width), or None (no resize); crop is the centred crop
    (height, width) in pixels, or None. mean and std are per channel, in the channel order of `color` (one for GRAY),
    for values from 0 to 1. exif turns pictures upright; range holds what becomes 0 and 255 in images of more than 8
    bits, None for the whole of 16 bits.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: str
    exif: bool = True
    range: tuple[float, float] | None = None

    @property
    def channels(self) -> int:
        """Return how many channels the network sees."""
        return 1 if self.color == "GRAY" else 3


@dataclass(frozen=True)
class DataSplit:
    """How one folder (or CSV file) becomes three splits: shares of each class, by content and seed."""

    folder: str
    validation: float
    test: float
    seed: int


@dataclass(frozen=True)
class Data:
    """Three disjoint splits, each an ImageFolder tree or a CSV file, relative to the project root.

    source names a built-in data set or is None. With `split` the three name one and the same folder. limit is the most
    images of each split that are used, None for all. evaluate is the split that is measured, "test" or "validation",
    evaluate_images the most of its images, None for all.
    """

    train: str
    validation: str
    test: str
    source: str | None
    preprocess: Preprocess
    augment: tuple[str, ...]
    split: DataSplit | None = None
    limit: int | None = None
    evaluate: str = "test"
    evaluate_images: int | None = None


@dataclass(frozen=True)
class FrozenLayers:
    """Which layers keep their pretrained weights.

    rule is "none", "all_but_head", "until" (every module before `until` in forward order, and that module itself) or
    "match" (modules whose dotted name matches one of the glob patterns).
    """

    rule: str
    until: str | None = None
    match: tuple[str, ...] = ()


@dataclass(frozen=True)
class Freeze:
    """What does not learn; batchnorm is "frozen" (statistics and affine parameters fixed) or "trainable"."""

    layers: FrozenLayers
    batchnorm: str


@dataclass(frozen=True)
class Teacher:
    """The large network of a distillation; alpha weighs the teacher's soft targets against the true labels."""

    backbone: str
    weights: str
    temperature: float
    alpha: float
    head: tuple[str, ...] = ()
    output: str | None = None


@dataclass(frozen=True)
class Transfer:
    """How the pretrained network is adapted; teacher is None unless the method is distillation."""

    method: Method
    freeze: Freeze
    teacher: Teacher | None


@dataclass(frozen=True)
class Optimizer:
    """Gradient descent: name is one of torch.optim in small letters.

    momentum is used by sgd and rmsprop, nesterov by sgd, betas by the others. backbone_lr is the rate of all but the
    head, None where one rate serves all; layer_decay is the factor from one block to the next away from the head.
    """

    name: str
    lr: float
    weight_decay: float
    momentum: float
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    backbone_lr: float | None = None
    layer_decay: float = 1.0


@dataclass(frozen=True)
class Scheduler:
    """Learning-rate schedule: name is "none", "cosine", "step", "exponential" or "one_cycle".

    step multiplies the rate by gamma every step_epochs epochs, exponential every epoch. warmup_epochs come before it.
    """

    name: str
    step_epochs: int
    gamma: float
    warmup_epochs: int = 0


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the metric ("val_accuracy" or "val_loss") has not improved for `patience` epochs."""

    metric: str
    patience: int


@dataclass(frozen=True)
class Train:
    """The training loop; workers are data-loader processes, device is "auto", "cpu" or "cuda".

    balance is "none", "weights" (of the loss) or "sampler". ema is the share that averaged weights keep at a step (0:
    no average), accumulate the batches of a step, unfreeze_epochs the epochs between two blocks that begin to learn
    (0: all from the start). cached_views variants of an image are kept where images vary, in cache_mb at most.
    """

    epochs: int
    batch_size: int
    optimizer: Optimizer
    scheduler: Scheduler
    seed: int
    early_stopping: EarlyStopping | None
    workers: int
    device: str
    balance: str = "none"
    label_smoothing: float = 0.0
    ema: float = 0.0
    clip_norm: float | None = None
    accumulate: int = 1
    precision: str = "auto"
    unfreeze_epochs: int = 0
    cached_views: int = 0
    cache_mb: int = 2000


@dataclass(frozen=True)
class Calibration:
    """Which images fix the quantisation steps; from_split is the spec's `from`: "train" or "validation"."""

    images: int
    batch_size: int
    from_split: str


@dataclass(frozen=True)
class FastFinetune:
    """The quantizer's own fine-tuning of weights after calibration."""

    enabled: bool
    images: int


@dataclass(frozen=True)
class Adjust:
    """dpuforge's own adjustment of the float weights before calibration; batch_size is of one step, lr its size."""

    enabled: bool = False
    images: int = 1000
    steps: int = 500
    batch_size: int = 16
    lr: float = 3e-4


@dataclass(frozen=True)
class Qat:
    """Quantisation-aware training; freeze_epochs are the last ones.

    batchnorm is "frozen" or "trainable", loss "distillation" or "labels".
    """

    enabled: bool = False
    epochs: int = 5
    lr: float = 3e-4
    threshold_lr: float = 1e-2
    batch_size: int = 16
    batchnorm: str = "trainable"
    freeze_epochs: int = 1
    loss: str = "distillation"


@dataclass(frozen=True)
class Quantization:
    """The quantizer's settings; overall, tensors and layers are exactly what the user wrote (defaults not filled in).

    int8_config is the same as the real parser reads it: the content of int8_config.json, keys in canonical order.
    """

    convert_relu6_to_relu: bool
    convert_silu_to_hswish: bool
    include_cle: bool
    include_bias_corr: bool
    keep_first_last_layer_accuracy: bool
    keep_add_layer_accuracy: bool
    change_concat_input_fix: bool
    change_pool_input_fix: bool
    onnx_opset_version: int | None
    target_device: str
    quantizable_data_type: tuple[str, ...]
    overall: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Any]]
    layers: tuple[Mapping[str, Any], ...]
    calibration: Calibration
    fast_finetune: FastFinetune
    max_accuracy_drop: float
    int8_config: Mapping[str, Any]
    adjust: Adjust = Adjust()
    qat: Qat = Qat()
    exact_torch: bool = False


@dataclass(frozen=True)
class BoardChoice:
    """One board to build for; dpu None means the board's default DPU, fingerprint None the DPU's own ("0x..." else)."""

    board: str
    dpu: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Target:
    """Where the network will run; dpu_subgraphs is a gate after compiling, net_name names the compiled files."""

    vitis_ai: str
    boards: tuple[BoardChoice, ...]
    dpu_subgraphs: int
    net_name: str


@dataclass(frozen=True)
class Report:
    """Where the report's figures go besides the report: "tensorboard", "mlflow"."""

    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class Project:
    """One spec, checked and complete."""

    spec_version: int
    project: str
    description: str
    model: Model
    classes: Classes
    data: Data
    transfer: Transfer
    train: Train
    quantization: Quantization
    target: Target
    run: Run
    spec: SourceFile
    bases: tuple[SourceFile, ...] = ()
    report: Report = Report()
    own: tuple[OwnFile, ...] = ()
