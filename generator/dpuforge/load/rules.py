"""Third step of load: what two or more keys of a spec must agree on, as one table of rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from pathlib import PurePosixPath
from typing import Any

from dpuforge.load.backbones import classify_backbone, find_backbone, find_weights, is_weights_file
from dpuforge.load.boards.resolve_board import HardwareError, find_board, find_release, find_serving, resolve_board
from dpuforge.load.defaults import look_up
from dpuforge.load.findings import Finding, Path, find_close, show_value
from dpuforge.load.forms import check_board
from dpuforge.load.quantization import check_quantization
from dpuforge.load.sections import own_files, training
from dpuforge.load.sections.aware_training import check_qat
from dpuforge.records.hardware import Catalogue

MIN_CALIBRATION_IMAGES = 100
MOST_BOARDS = 200  # as the schema has it
MAX_HELD_OUT = 0.9  # of the images that data.split does not train on


@dataclass(frozen=True)
class Context:
    """What a rule may look at: the filled spec, the hardware, the project root, and which keys the user wrote.

    broken holds the paths of the values that are wrong on their own.
    """

    spec: Mapping[str, Any]
    catalogue: Catalogue
    root: FilePath
    written: frozenset[Path]
    broken: frozenset[Path]

    def get(self, dotted: str) -> Any:
        """Return the value of a dotted key, None where it is absent."""
        return look_up(self.spec, tuple(dotted.split(".")))


@dataclass(frozen=True)
class Rule:
    """One agreement between keys; it is tried only where every key it reads is well formed on its own."""

    reads: tuple[str, ...]
    check: Callable[[Context], Iterator[Finding]]


def check_rules(context: Context) -> list[Finding]:
    """Return what the rules find; rules that read a broken key are passed over."""
    found: list[Finding] = []
    for rule in RULES:
        if not any(_overlap(tuple(key.split(".")), path) for key in rule.reads for path in context.broken):
            found += rule.check(context)
    return found


def _overlap(key: Path, path: Path) -> bool:
    shorter = min(len(key), len(path))
    return key[:shorter] == path[:shorter]


def _finding(dotted: str, message: str, remedy: str, severity: str = "error") -> Finding:
    return Finding(tuple(dotted.split(".")), message, remedy, severity)


# --- the network ---


def _check_weights(prefix: str) -> Callable[[Context], Iterator[Finding]]:
    def check(context: Context) -> Iterator[Finding]:
        backbone, weights = context.get(f"{prefix}.backbone"), context.get(f"{prefix}.weights")
        if not isinstance(backbone, str) or weights == "none" or is_weights_file(weights):
            return
        known = [item.name for item in found.weights] if (found := find_backbone(backbone)) else []
        if classify_backbone(backbone) == "timm" or weights in known:
            return
        close = find_close(weights.upper(), known, 0.5)
        remedy = f"did you mean {close[0]}? " if close else ""
        remedy += f"choose from {', '.join([*known, 'none'])}, or the path of a state_dict"
        yield _finding(f"{prefix}.weights", f"{backbone} has no such weights, got {show_value(weights)}", remedy)

    return check


def _check_input(context: Context) -> Iterator[Finding]:
    found = find_backbone(context.get("model.backbone"))
    for side in ("height", "width"):
        size = context.get(f"model.input.{side}")
        if found and size < found.min_input:
            what = f"{found.name} needs an input of at least {found.min_input} pixels, got {size}"
            yield _finding(f"model.input.{side}", what, "enlarge the input, or choose a shallower network")
    published = find_weights(context.get("model.backbone"), context.get("model.weights"))
    fixed = str(context.get("model.backbone")).startswith(("vit_", "maxvit_"))
    if (
        found
        and fixed
        and published
        and {context.get("model.input.height"), context.get("model.input.width")} != {published.crop}
    ):
        what = f"{found.name} takes {published.crop} x {published.crop} pixels only, got {_describe_input(context)}"
        yield _finding("model.input", what, "remove the key, or choose a convolutional network")


def _describe_input(context: Context) -> str:
    return f"{context.get('model.input.height')} x {context.get('model.input.width')}"


def _check_random_features(context: Context) -> Iterator[Finding]:
    extracts = context.get("transfer.method") == "feature_extraction"
    if extracts and context.get("model.weights") == "none":
        what = "feature_extraction on random weights: the frozen layers never learn, got 'none'"
        yield _finding("model.weights", what, "name pretrained weights, or use method: fine_tuning", "warning")


# --- the data ---


def _check_splits(context: Context) -> Iterator[Finding]:
    names = ("train", "validation", "test")
    if context.get("data.split") is not None:
        yield from _check_one_folder(context, names)
        return
    folders = {name: context.get(f"data.{name}") for name in names}
    for name in names:
        if folders[name] is None:
            remedy = "give the folder, relative to the project root, or name a built-in data set as source"
            yield Finding(("data", name), "the key is missing", remedy, at_key=True)
    for index, name in enumerate(names):
        for earlier in names[:index]:
            yield from _check_split(context, name, folders[name], earlier, folders[earlier])


def _check_one_folder(context: Context, names: tuple[str, ...]) -> Iterator[Finding]:
    for name in names:
        if ("data", name) in context.written:
            value = show_value(context.get(f"data.{name}"))
            what = f"data.split makes the {name} split, and this names one, got {value}"
            yield Finding(("data", name), what, "remove the key, or data.split", at_key=True)
    if context.get("data.source") is not None:
        what = f"the built-in data set has splits of its own, got {show_value(context.get('data.source'))}"
        yield _finding("data.source", what, "remove data.split, or data.source")
    held = context.get("data.split.validation") + context.get("data.split.test")
    if held > MAX_HELD_OUT:
        what = f"validation and test leave too little for training, got {held:g} of all images"
        yield _finding("data.split", what, f"let them be {MAX_HELD_OUT} together, or less")


def _check_split(context: Context, name: str, folder: Any, earlier: str, other: Any) -> Iterator[Finding]:
    if not isinstance(folder, str) or not isinstance(other, str):
        return
    mine, theirs = (PurePosixPath(_normalise(text)) for text in (folder, other))
    if not (mine.is_relative_to(theirs) or theirs.is_relative_to(mine)):
        return
    relation = "is" if mine == theirs else "lies inside or around"
    remedy = "give every split images of its own: shared images make accuracies too good"
    yield _finding(f"data.{name}", f"the {name} split {relation} the {earlier} split, got {show_value(folder)}", remedy)


def _normalise(text: str) -> str:
    parts: list[str] = []
    for part in text.replace("\\", "/").split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/" * text.startswith("/") + "/".join(parts)


def _check_preprocess(context: Context) -> Iterator[Finding]:
    size = (context.get("model.input.height"), context.get("model.input.width"))
    crop, resize = _pair(context.get("data.preprocess.crop")), context.get("data.preprocess.resize")
    given = _pair(resize) if isinstance(resize, list) else None
    if crop is None and given != size:
        what = f"without a crop, resize should be the input size [{size[0]}, {size[1]}], got {show_value(resize)}"
        yield _finding("data.preprocess.resize", what, f"write resize: [{size[0]}, {size[1]}], or a crop of that size")
    elif crop is not None and crop != size:
        what = f"the crop should be the network's input of {size[0]} x {size[1]} pixels, got {crop[0]} x {crop[1]}"
        yield _finding("data.preprocess.crop", what, "change crop or model.input; without a crop key they agree")
    else:
        yield from _check_crop_fits(crop, resize)


def _check_crop_fits(crop: tuple[int, int] | None, resize: Any) -> Iterator[Finding]:
    if crop is None or resize is None:
        return
    room = _pair(resize) if isinstance(resize, list) else (resize, resize)
    if room and (crop[0] > room[0] or crop[1] > room[1]):
        what = f"the crop of {crop[0]} x {crop[1]} pixels is larger than resize leaves, got resize {show_value(resize)}"
        yield _finding("data.preprocess.resize", what, f"write resize: {max(crop)} or more, or a smaller crop")


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    return (value[0], value[1]) if isinstance(value, list) else None


def _check_channels(context: Context) -> Iterator[Finding]:
    color = context.get("data.preprocess.color")
    wanted = 1 if color == "GRAY" else 3
    for key in ("mean", "std"):
        values = context.get(f"data.preprocess.{key}")
        if len(values) != wanted:
            what = f"color {color} has {wanted} channel(s), got {len(values)} value(s): {show_value(values)}"
            yield _finding(f"data.preprocess.{key}", what, f"give {wanted} value(s), or another data.preprocess.color")
    for owner in ("model", "transfer.teacher"):
        backbone = context.get(f"{owner}.backbone")
        if wanted == 1 and isinstance(backbone, str) and classify_backbone(backbone) == "torchvision":
            what = f"{backbone} ({owner}.backbone) takes 3 channels, GRAY gives 1, got 'GRAY'"
            remedy = "write color: RGB, which makes three equal channels of grey files; timm/ networks take one channel"
            yield _finding("data.preprocess.color", what, remedy)


def _check_range(context: Context) -> Iterator[Finding]:
    limits = context.get("data.preprocess.range")
    if limits is not None and limits[0] >= limits[1]:
        what = f"the first value becomes 0 and the second 255, got {show_value(limits)}"
        yield _finding("data.preprocess.range", what, "write the smaller value first")


def _check_augment(context: Context) -> Iterator[Finding]:
    names = context.get("data.augment")
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Finding(("data", "augment", index), f"the change is there twice, got {name}", "keep one of the two")
    if "random_crop" in names and "random_resized_crop" in names:
        what = f"random_crop and random_resized_crop exclude each other, got {show_value(names)}"
        yield _finding("data.augment", what, "keep one of the two")


def _check_class_file(context: Context) -> Iterator[Finding]:
    name = context.get("classes")
    if not isinstance(name, str):
        return
    try:
        names = read_class_names(context.root / name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = f"the file of class names cannot be used: {reason}, got {show_value(name)}"
        yield _finding("classes", what, "write one name a line, in UTF-8; the path is relative to the project root")
        return
    if len(names) < 2 or len(set(names)) != len(names):
        got = f"{len(names)} ({len(set(names))} distinct)"
        what = f"the file should hold at least two distinct names, one a line, got {got}"
        yield _finding("classes", what, f"mend {name}")


def read_class_names(path: FilePath) -> tuple[str, ...]:
    """Return the class names of a file with one a line; empty lines do not count. Raise OSError or ValueError."""
    if not path.is_file():
        path.stat()
        raise ValueError("it is no file")
    if path.stat().st_size > 10_000_000:
        raise ValueError("it is larger than 10 MB")
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line)


def _check_builtin_classes(context: Context) -> Iterator[Finding]:
    classes = context.get("classes")
    count = len(classes) if isinstance(classes, list) else classes
    if context.get("data.source") == "mnist5k" and isinstance(count, int) and count != 10:
        yield _finding("classes", f"the data set mnist5k has 10 classes, got {count}", "write classes: 10")


# --- training ---


def _check_section(check: Callable[[Mapping[str, Any]], Iterator[Finding]]) -> Callable[[Context], Iterator[Finding]]:
    return lambda context: check(context.spec)


# --- quantisation ---


def _check_quantization(context: Context) -> Iterator[Finding]:
    yield from check_quantization(context.spec, context.get("target.vitis_ai"), context.broken)


def _check_calibration(context: Context) -> Iterator[Finding]:
    images, batch = context.get("quantization.calibration.images"), context.get("quantization.calibration.batch_size")
    if images < batch:
        what = f"a batch holds more than all calibration images, got {batch} of {images}"
        yield _finding("quantization.calibration.batch_size", what, f"write {images} or less")
    if images < MIN_CALIBRATION_IMAGES:
        what = f"few images make the quantisation steps depend on chance, got {images}"
        remedy = f"use {MIN_CALIBRATION_IMAGES} or more"
        yield _finding("quantization.calibration.images", what, remedy, "warning")


# --- the target ---


def _check_release(context: Context) -> Iterator[Finding]:
    release = context.get("target.vitis_ai")
    try:
        found = find_release(context.catalogue, release)
    except HardwareError as error:
        yield _finding("target.vitis_ai", f"{error.message}, got {show_value(release)}", error.remedy)
        return
    if not found.quant_config_file:
        what = f"the quantizer of this release reads no config file, so every setting is its default, got {release}"
        yield _finding("target.vitis_ai", what, "choose release 2.5 or later", "warning")


def _check_boards(context: Context) -> Iterator[Finding]:
    """Judge every well-formed entry on its own; where the release is no good, only whether the board exists."""
    boards, release = context.get("target.boards"), context.get("target.vitis_ai")
    usable = isinstance(release, str) and release in context.catalogue.releases
    for index, entry in enumerate(boards[:MOST_BOARDS] if isinstance(boards, list) else []):
        path: Path = ("target", "boards", index)
        choice = entry if isinstance(entry, Mapping) else {"board": entry}
        if next(check_board(entry), None) is None:
            yield from _check_board(
                context.catalogue, release if usable else None, choice, Finding(path, show_value(entry))
            )


def _check_board(catalogue: Catalogue, release: str | None, choice: Any, where: Finding) -> Iterator[Finding]:
    try:
        if release is None or not catalogue.releases[release].supported:
            find_board(catalogue, choice["board"])
        else:
            resolve_board(catalogue, choice["board"], release, choice.get("dpu"), choice.get("fingerprint"))
            yield from _check_served(catalogue, release, choice["board"], where)
    except HardwareError as error:
        yield Finding(where.path, f"{error.message}, got {where.message}", error.remedy)


def _check_served(catalogue: Catalogue, release: str, board: str, where: Finding) -> Iterator[Finding]:
    """Warn of a board whose DPU the compiler knows under this release, and whose image or firmware is another's."""
    serving = {found.name: found for found in find_serving(catalogue, board)}
    if not serving or release in serving:
        return
    newest = max(serving, key=lambda name: [int(part) for part in name.split(".")])
    image = serving[newest].sd_images.get(board, "")
    what = f"release {release} ships no image and no runtime of its own for this board, got {where.message}"
    remedy = f"releases that do: {', '.join(serving)}; the newest is {newest}" + (f" ({image})" if image else "")
    yield Finding(where.path, what, f'{remedy}: write vitis_ai: "{newest}", or check the DPU on the board', "warning")


def _check_paths(context: Context) -> Iterator[Finding]:
    folders = ("data.train", "data.validation", "data.test", "data.split.from")
    for dotted in (*folders, "model.weights", "transfer.teacher.weights"):
        value = context.get(dotted)
        if isinstance(value, str) and re.search(r"[\x00-\x1f]", value):
            yield _finding(dotted, f"a path holds a control character, got {show_value(value)}", "retype the path")


RULES = (
    Rule(("model.backbone", "model.weights"), _check_weights("model")),
    Rule(("transfer.teacher",), _check_weights("transfer.teacher")),
    Rule(("model",), _check_input),
    Rule(("model.backbone", "model.weights", "transfer.method"), _check_random_features),
    Rule(("data.source", "data.split", "data.train", "data.validation", "data.test"), _check_splits),
    Rule(("data.split", "data.train", "data.validation", "data.test", "model.weights", "transfer"), _check_paths),
    Rule(("data.preprocess", "model.backbone", "transfer.teacher"), _check_channels),
    Rule(("data.preprocess.range",), _check_range),
    Rule(("model.input", "data.preprocess.resize", "data.preprocess.crop"), _check_preprocess),
    Rule(("data.augment",), _check_augment),
    Rule(("classes",), _check_class_file),
    Rule(("classes", "data.source"), _check_builtin_classes),
    Rule(("transfer.method", "transfer.teacher", "transfer.freeze.layers"), _check_section(training.check_transfer)),
    Rule(("transfer.teacher",), _check_section(training.check_teacher_trained)),
    Rule(("train",), lambda context: training.check_unused_keys(context.spec, context.written)),
    Rule(("train", "transfer.freeze"), _check_section(training.check_rates)),
    Rule(("train", "transfer", "data.augment"), _check_section(training.check_views)),
    Rule(("quantization.calibration",), _check_calibration),
    Rule(("quantization",), lambda context: check_qat(context.spec, context.written)),
    Rule(("own",), lambda context: own_files.check_files(context.spec, context.root)),
    Rule(("target.vitis_ai",), _check_release),
    Rule((), _check_boards),
    Rule((), _check_quantization),
)
