"""The choices that init shows: boards, backbones with what they would do on them, weights, freeze policies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpuforge.commands.choices.ask import pick
from dpuforge.commands.screen import print_table
from dpuforge.errors import UsageError, UserError
from dpuforge.estimating import KnownRow, estimate_known
from dpuforge.load.backbones import find_backbone
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.boards.resolve_board import HardwareError, find_board, find_serving, resolve_board
from dpuforge.records.hardware import BoardTarget, Catalogue

Boards = tuple[str | Mapping[str, str], ...]
PREFERRED_RELEASE = "3.0"  # the schema's default, for boards that no release ships an image for
_SHOWN = 12

FREEZE = (
    ("all_but_head", "only the new head learns (feature extraction): fast, and enough for pictures like ImageNet's"),
    ("none", "the whole network learns (fine tuning): for pictures of another kind; slower"),
    ("until:MODULE", "everything up to and with a module stays as it is, for example until:layer3"),
    ("match:PATTERNS", "what matches stays as it is, for example match:layer1.*,layer2.*"),
)


def show_boards(every: bool) -> None:
    """Print the boards that a release ships an image or firmware for, or all."""
    catalogue = shipped_catalogue()
    shown = [name for name in catalogue.boards if every or find_serving(catalogue, name)]
    hidden = "" if every else f"; ? lists all {len(catalogue.boards)}"
    rows = [(name, *_describe_board(name), catalogue.boards[name].description) for name in shown]
    title = f"boards, with what they carry; BOARD:B2304 or BOARD:0x... names another DPU{hidden}"
    print_table(title, ("board", "DPU", "release", ""), rows)


def _describe_board(name: str) -> tuple[str, str]:
    """Return the DPU that a board carries and the release that is chosen for it."""
    try:
        release = choose_release((name,))
    except UserError:
        return "name its size", ""
    return resolve_boards((name,), release)[0].target, release


def read_boards(text: str) -> Boards:
    """Return the entries of target.boards that "KV260, CUSTOM_ZYNQMP:B2304" stands for."""
    names = list(shipped_catalogue().boards)
    entries: list[str | Mapping[str, str]] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, _, dpu = word.partition(":")
        board = pick(name.strip(), names)
        key = "fingerprint" if dpu.lower().startswith("0x") else "dpu"
        entries.append({"board": board, key: dpu.strip()} if dpu else board)
    return tuple(entries)


def resolve_boards(boards: Boards, release: str) -> tuple[BoardTarget, ...]:
    """Return the DPU of every board under a release; raise HardwareError where one has none."""
    catalogue = shipped_catalogue()
    choices = [{"board": entry} if isinstance(entry, str) else entry for entry in boards]
    return tuple(resolve_board(catalogue, it["board"], release, it.get("dpu"), it.get("fingerprint")) for it in choices)


def choose_release(boards: Boards) -> str:
    """Return the release for boards: the newest that ships an image for each, else the preferred, else the newest.

    Raises UsageError where no release has a DPU for all of them, HardwareError for a board that does not exist.
    """
    catalogue = shipped_catalogue()
    names = [entry if isinstance(entry, str) else entry["board"] for entry in boards]
    for name in names:
        find_board(catalogue, name)
    usable = [name for name in _newest_first(catalogue) if _all_resolve(boards, name)]
    if not usable:
        each = "; ".join(
            f"{name}: {', '.join(catalogue.boards[find_board(catalogue, name)[0].name].releases)}" for name in names
        )
        raise UsageError(f"no release has a DPU for {', '.join(names)}", f"releases: {each}; one spec for each group")
    served = [{found.name for found in find_serving(catalogue, name)} for name in names]
    serving = [name for name in usable if all(name in some for some in served if some)]
    if any(served) and serving:
        return serving[0]
    return PREFERRED_RELEASE if PREFERRED_RELEASE in usable else usable[0]


def _newest_first(catalogue: Catalogue) -> list[str]:
    supported = [name for name in catalogue.releases if catalogue.releases[name].supported]
    return sorted(supported, key=lambda name: [int(part) for part in name.split(".")], reverse=True)


def _all_resolve(boards: Boards, release: str) -> bool:
    try:
        resolve_boards(boards, release)
    except HardwareError:
        return False
    return True


@dataclass(frozen=True)
class Networks:
    """Every backbone in the order of its number: those that fit the boards first, the fastest first."""

    boards: tuple[str, ...]
    rows: tuple[KnownRow, ...]

    def find(self, name: str) -> KnownRow | None:
        """Return what is known of a backbone on the boards, None for one that is not torchvision's."""
        return next((row for row in self.rows if row.backbone == name), None)

    def show(self, every: bool) -> None:
        """Print the backbones that fit, or all."""
        fitting = [row for row in self.rows if row.fits]
        shown = self.rows if every else fitting[:_SHOWN]
        hidden = f"; ? lists all {len(self.rows)}, {len(fitting)} of them fit" if len(shown) < len(self.rows) else ""
        title = f"backbones by estimated frames per second (1000 classes, not measured){hidden}"
        rows = [(number, *_describe_row(row)) for number, row in enumerate(shown, 1)]
        print_table(title, ("", "backbone", "top-1, %", "M parameters", *self.boards, "DPU subgraphs"), rows)


def rank_networks(boards: Boards, release: str) -> Networks:
    """Estimate every known backbone on the boards: operator limits and latency model, no torch."""
    targets = resolve_boards(boards, release)
    return Networks(tuple(target.board for target in targets), estimate_known(targets))


def _describe_row(row: KnownRow) -> tuple[Any, ...]:
    known = find_backbone(row.backbone)
    top1 = f"{known.default_weights.top1:.1f}" if known else ""
    parameters = f"{known.parameters / 1e6:.1f}" if known else ""
    rates = [f"{found.fps_multi[1]:.3g}" if found.fps_multi else "unknown" for found in row.estimates]
    return (row.backbone, top1, parameters, *rates, " / ".join(map(str, row.subgraphs)))


def show_weights(backbone: str) -> None:
    """Print the published weights of a backbone."""
    known = find_backbone(backbone)
    rows = [(name, f"{top1} % on ImageNet-1K") for name, top1 in _list_weights(backbone)] if known else []
    print_table("weights, or the path of a state_dict", ("", "weights", ""), number_rows((*rows, _NO_WEIGHTS)))


_NO_WEIGHTS = ("none", "random weights: everything is learnt anew")


def _list_weights(backbone: str) -> tuple[tuple[str, float], ...]:
    known = find_backbone(backbone)
    return tuple((item.name, item.top1) for item in known.weights) if known else ()


def name_weights(backbone: str) -> tuple[str, ...]:
    """Return the names of a backbone's weights in the order of their numbers."""
    return (*(name for name, _ in _list_weights(backbone)), _NO_WEIGHTS[0])


def default_weights(backbone: str) -> str:
    """Return the weights to start from: the published ones where there are any."""
    known = find_backbone(backbone)
    return known.default_weights.name if known else "pretrained" if backbone.startswith("timm/") else "none"


def show_freeze() -> None:
    """Print the freeze policies."""
    print_table("what learns", ("", "freeze", ""), number_rows(FREEZE))


def read_freeze(text: str) -> str | Mapping[str, Any]:
    """Return transfer.freeze.layers for all_but_head, none, until:MODULE or match:PATTERN,PATTERN."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "until":
        return {"until": rest.strip()}
    if colon and kind == "match":
        return {"match": [part.strip() for part in rest.split(",") if part.strip()]}
    if text not in ("all_but_head", "none"):
        raise UsageError(f"must be all_but_head, none, until:MODULE or match:PATTERNS, got {text!r}")
    return text


def number_rows(rows: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return rows with their numbers before them."""
    return [(str(number), *row) for number, row in enumerate(rows, 1)]
