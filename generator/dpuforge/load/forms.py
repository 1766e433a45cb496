"""Values of a spec that have more than one form (a number or a list, a name or a mapping), judged one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dpuforge.load.backbones import classify_backbone, is_weights_file, load_backbones
from dpuforge.load.findings import Path, find_close, show_value

MAX_CLASSES = 100_000
SIZE_PX = (8, 8192)
_FINGERPRINT = re.compile(r"0x[0-9a-fA-F]{1,16}")
_WEIGHTS = re.compile(r"[^\s\x00-\x1f]+")
_LAYER = re.compile(r"[^\s.\x00-\x1f]+(\.[^\s.\x00-\x1f]+)*")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a value, or with the part of it at path."""

    message: str
    help: str = ""
    path: Path = ()
    severity: str = "error"
    at_key: bool = False


Check = Callable[[object], Iterator[Fault]]


def check_backbone(value: object) -> Iterator[Fault]:
    """A torchvision classifier, timm/<name> or path/to/net.py:factory."""
    if not isinstance(value, str) or classify_backbone(value):
        return
    names = list(load_backbones())
    close = find_close(value.lower(), names)
    remedy = f"did you mean {close[0]}?" if close else "`dpuforge backbones` lists the names"
    yield Fault(
        f"there is no such torchvision classifier, got {show_value(value)}",
        f"{remedy} Others: timm/<name> or path/to/net.py:factory",
    )


def check_weights(value: object) -> Iterator[Fault]:
    """One word: an enum name, a tag, none; or a path. Which ones a backbone has is a rule of its own."""
    if isinstance(value, str) and not _WEIGHTS.fullmatch(value) and not is_weights_file(value.strip()):
        yield Fault(
            f"should be one name without spaces, or a path, got {show_value(value)}", "write none for random weights"
        )


def check_head(value: object) -> Iterator[Fault]:
    """A layer's dotted name, or a list of them."""
    remedy = "write the layer's name as the network has it, for example classifier.1"
    for index, name in enumerate(value if isinstance(value, list) else [value] if value is not None else []):
        where: Path = (index,) if isinstance(value, list) else ()
        if not isinstance(name, str) or not _LAYER.fullmatch(name):
            yield Fault(f"should be the name of a layer, got {show_value(name)}", remedy, where)
    if value == []:
        yield Fault("should name at least one layer, got []", remedy)


def check_output(value: object) -> Iterator[Fault]:
    """A place from 0, or a key or field; dots lead deeper."""
    text = isinstance(value, str) and _LAYER.fullmatch(value)
    place = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if value is not None and not text and not place:
        remedy = "write its place, counted from 0, or its key, for example logits"
        yield Fault(f"should name one output, got {show_value(value)}", remedy)


def check_classes(value: object) -> Iterator[Fault]:
    """At least two classes: a number, distinct names, or a file."""
    if isinstance(value, list):
        yield from _check_names(value)
    elif isinstance(value, int) and not 2 <= value <= MAX_CLASSES:
        yield Fault(
            f"should be a number from 2 to {MAX_CLASSES}, got {value}", "a classifier tells at least two classes apart"
        )
    elif value == "":
        yield Fault(
            "should name a file with one class a line, got ''", "write the number of classes, or a list of names"
        )


def _check_names(names: list[object]) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            yield Fault(f"a class name should be text, got {show_value(name)}", f'quote it: "{name}"', (index,))
        elif name in seen:
            yield Fault(
                f"the class name is there twice, got {show_value(name)}", "give every class a name of its own", (index,)
            )
        else:
            seen.add(name)
    if len(names) < 2:
        yield Fault(
            f"should list at least two names, got {len(names)}", "a classifier tells at least two classes apart"
        )


def check_size(value: object) -> Iterator[Fault]:
    """Pixels: one number, or [height, width]."""
    if value is None:
        return
    low, high = SIZE_PX
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, list) and len(value) != 2:
        yield Fault(f"should be a number or [height, width], got {show_value(value)}", "give both, height first")
        return
    for index, part in enumerate(parts):
        if isinstance(part, bool) or not isinstance(part, int) or not low <= part <= high:
            where: Path = (index,) if isinstance(value, list) else ()
            yield Fault(
                f"should be a whole number of pixels from {low} to {high}, got {show_value(part)}",
                "write pixels, such as 224",
                where,
            )


def check_freeze_layers(value: object) -> Iterator[Fault]:
    """none, all_but_head, {until: module} or {match: [patterns]}."""
    remedy = "write none, all_but_head, {until: layer3} or {match: [pattern, ...]}"
    if isinstance(value, str) and value not in ("none", "all_but_head"):
        yield Fault(f"should be none or all_but_head, got {show_value(value)}", remedy)
    if not isinstance(value, Mapping):
        return
    unknown = [key for key in value if key not in ("until", "match")]
    yield from (Fault(f"unknown key, got {show_value(key)}", remedy, (key,), at_key=True) for key in unknown)
    if not unknown and len(value) != 1:
        yield Fault(f"should have exactly one of until and match, got {show_value(value)}", remedy)
    yield from _check_freeze_patterns(value, remedy)


def _check_freeze_patterns(value: Mapping[str, object], remedy: str) -> Iterator[Fault]:
    until, match = value.get("until", "x"), value.get("match", ["x"])
    if not isinstance(until, str) or not until:
        yield Fault(f"should be the name of a module, got {show_value(until)}", remedy, ("until",))
    if not isinstance(match, list) or not match or not all(isinstance(item, str) and item for item in match):
        yield Fault(f"should be a list of patterns, got {show_value(match)}", remedy, ("match",))


def check_boards(value: object) -> Iterator[Fault]:
    """Each entry is a board's name, or a mapping of board, dpu and fingerprint; each board once."""
    seen: dict[str, int] = {}
    for index, entry in enumerate(value if isinstance(value, list) else []):
        name = entry.get("board") if isinstance(entry, Mapping) else entry
        yield from (
            Fault(fault.message, fault.help, (index, *fault.path), at_key=fault.at_key) for fault in check_board(entry)
        )
        if isinstance(name, str) and name in seen:
            what = f"the board is there twice, got {show_value(name)}"
            yield Fault(what, "one project builds once for a board; use a second spec for another DPU on it", (index,))
        elif isinstance(name, str):
            seen[name] = index


def check_board(entry: object) -> Iterator[Fault]:
    """A board's name, or a mapping of board, dpu and fingerprint."""
    if isinstance(entry, str) and entry:
        return
    if not isinstance(entry, Mapping):
        yield Fault(
            f"should be a board's name or {{board, dpu, fingerprint}}, got {show_value(entry)}", "for example KV260"
        )
        return
    known = ("board", "dpu", "fingerprint")
    for key in entry:
        if key not in known:
            close = find_close(str(key), known)
            remedy = f"did you mean {close[0]}?" if close else f"known keys here: {', '.join(known)}"
            yield Fault(f"unknown key, got {show_value(key)}", remedy, (key,), at_key=True)
    yield from _check_board_values(entry)


def _check_board_values(entry: Mapping[str, object]) -> Iterator[Fault]:
    if "board" not in entry:
        yield Fault("the key board is missing", "name the board, for example board: KV260")
    for key in ("board", "dpu"):
        value = entry.get(key, "x")
        if not isinstance(value, str) or not value:
            yield Fault(f"should be text, got {show_value(value)}", "`dpuforge boards` lists the names", (key,))
    fingerprint = entry.get("fingerprint", "0x0")
    if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
        remedy = 'copy it from `xdputil query` and quote it, for example "0x101000056010407"'
        yield Fault(f"should be 0x and up to 16 hex digits, got {show_value(fingerprint)}", remedy, ("fingerprint",))


_MEASURED = ("evaluate", "deploy")  # one quantizer: what it calibrates it measures and exports


def check_run(value: object) -> Iterator[Fault]:
    """One quantizer for all that depends on the calibration; places and settings that take effect."""
    if not isinstance(value, Mapping):
        return
    stages = value.get("stages", {})
    if not isinstance(stages, Mapping):
        return
    named = ("qat" if "qat" in stages else "calibrate", *_MEASURED)  # qat stands in the place of calibrate
    places = {name: stages.get(name, "container") for name in named}
    odd = next((name for name in named if places[name] == "host"), "")
    if odd and len(set(map(str, places.values()))) > 1:
        told = ", ".join(f"{name} in the container" for name in named if places[name] != "host")
        yield Fault(
            f"{odd} on the host and {told}: two quantizers, and a calibration of the one is refused by the other",
            f"send {named[0]}, evaluate and deploy to one place",
            ("stages", odd),
        )
    if stages and value.get("toolchain", "emulator") != "container":
        what = "the places of stages count under toolchain container only"
        yield Fault(what, "write toolchain: container, or run with --toolchain container", ("stages",), "warning")
