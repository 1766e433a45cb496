"""What the sections transfer and train must agree on, with each other and with data.augment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from dpuforge.load.backbones import is_weights_file
from dpuforge.load.findings import Finding, Path, show_value

Spec = Mapping[str, Any]
# Keys of train.optimizer and train.scheduler that only some of the names use, and the value that asks for nothing.
USED_BY: dict[tuple[str, str], tuple[object, tuple[str, ...]]] = {
    ("optimizer", "momentum"): (None, ("sgd", "rmsprop")),
    ("optimizer", "nesterov"): (False, ("sgd",)),
    ("optimizer", "betas"): ([0.9, 0.999], ("adam", "adamw", "nadam", "radam")),
    ("scheduler", "step_epochs"): (10, ("step",)),
    ("scheduler", "gamma"): (0.1, ("step", "exponential")),
    ("scheduler", "warmup_epochs"): (0, ("none", "cosine", "step", "exponential")),
}
MIXES = ("mixup", "cutmix")


def check_transfer(spec: Spec) -> Iterator[Finding]:
    """Yield what is wrong with the method, its teacher and what is frozen."""
    transfer = spec["transfer"]
    method, teacher = transfer["method"], transfer["teacher"]
    if method == "distillation" and teacher is None:
        remedy = "add teacher: {backbone: resnet50}, best with the path of weights trained on the same classes"
        yield Finding(("transfer", "teacher"), "method distillation needs a teacher", remedy, at_key=True)
    elif teacher is not None and method != "distillation":
        what = f"a teacher is used by distillation alone, got method {method}"
        yield Finding(("transfer", "teacher"), what, "write method: distillation, or remove the teacher", at_key=True)
    if method == "feature_extraction" and transfer["freeze"]["layers"] != "all_but_head":
        layers = show_value(transfer["freeze"]["layers"])
        what = f"feature_extraction trains the head alone, and this lets more layers learn, got {layers}"
        remedy = "write all_but_head, or method: fine_tuning"
        yield Finding(("transfer", "freeze", "layers"), what, remedy, "warning")


def check_teacher_trained(spec: Spec) -> Iterator[Finding]:
    """Yield a warning where the teacher has to learn the classes first."""
    weights = (spec["transfer"]["teacher"] or {}).get("weights")
    if weights is not None and not is_weights_file(weights):
        what = f"the teacher's head starts untrained on these classes, got {show_value(weights)}"
        remedy = "give the path of a state_dict that was trained on the same classes"
        yield Finding(("transfer", "teacher", "weights"), what, remedy, "warning")


def check_unused_keys(spec: Spec, written: Set[Path]) -> Iterator[Finding]:
    """Yield a warning for each written key that the chosen optimizer or schedule does not use."""
    for (section, key), (unset, names) in USED_BY.items():
        path: Path = ("train", section, key)
        name, value = spec["train"][section]["name"], spec["train"][section][key]
        if path in written and name not in names and value != unset:
            what = f"{name} does not use {key}, got {show_value(value)}"
            yield Finding(path, what, f"write name: {' or '.join(names)}, or remove it", "warning")


def check_rates(spec: Spec) -> Iterator[Finding]:
    """Yield what is wrong with the optimizer, the schedule and what they have to do with frozen layers."""
    train, optimizer = spec["train"], spec["train"]["optimizer"]
    if optimizer["name"] == "sgd" and optimizer["nesterov"] and not optimizer["momentum"]:
        what = "Nesterov's momentum needs a momentum, got 0"
        yield Finding(("train", "optimizer", "momentum"), what, "write momentum: 0.9, or remove nesterov")
    if train["scheduler"]["warmup_epochs"] >= train["epochs"]:
        what = f"the rate would rise to the end, got {train['scheduler']['warmup_epochs']} of {train['epochs']} epochs"
        yield Finding(("train", "scheduler", "warmup_epochs"), what, "write fewer, or more train.epochs")
    if spec["transfer"]["freeze"]["layers"] != "all_but_head":
        return
    remedy = "write transfer.freeze.layers: none, or remove it"
    for path, unset in (
        (("optimizer", "backbone_lr"), None),
        (("optimizer", "layer_decay"), 1.0),
        (("unfreeze_epochs",), 0),
    ):
        value = train[path[0]] if len(path) == 1 else train[path[0]][path[1]]
        if value != unset:
            what = f"only the head learns, so nothing has this to learn by, got {value}"
            yield Finding(("train", *path), what, remedy)


def check_views(spec: Spec) -> Iterator[Finding]:
    """Yield what is wrong with kept variants of images, and with mixed ones."""
    augment, views = spec["data"]["augment"], spec["train"]["cached_views"]
    mixed = [name for name in augment if name in MIXES]
    frozen = spec["transfer"]["freeze"]["layers"] == "all_but_head"
    if views and mixed:
        what = f"mixed images cannot be kept: every batch mixes others, got {mixed[0]} and cached_views {views}"
        yield Finding(("train", "cached_views"), what, f"remove {mixed[0]} from data.augment, or cached_views")
    elif views and not augment:
        what = f"images do not vary, so one is kept of each, got {views}"
        yield Finding(("train", "cached_views"), what, "add data.augment, or remove it", "warning")
    elif views and not frozen and spec["transfer"]["teacher"] is None:
        what = f"there is nothing to keep where the whole network learns, got {views}"
        yield Finding(("train", "cached_views"), what, "write transfer.freeze.layers: all_but_head, or remove it")
    if mixed and spec["train"]["balance"] == "weights":
        what = f"mixed labels belong to no one class that a weight could be of, got {mixed[0]} and balance: weights"
        yield Finding(("train", "balance"), what, "write balance: sampler", "warning")
