"""Commands about the hardware: boards, backbones, releases, estimate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dpuforge.commands.screen import print_json, print_table
from dpuforge.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]


def boards(json_: Json = False) -> None:
    """Show every board, its DPU per release, clock and cores, with sources.

    Example: dpuforge boards
    """
    from dpuforge.load.catalogue import load_catalogue

    rows = [_board_row(board.name, item) for board in load_catalogue().boards.values() for item in board.configurations]
    if json_:
        print_json(rows)
        return
    headers = ("board", "release", "DPU", "fingerprint", "MHz", "cores", "batch", "status")
    print_table("", headers, [[row[name] for name in _BOARD_COLUMNS] for row in rows])


_BOARD_COLUMNS = ("board", "release", "target", "fingerprint", "clock_mhz", "cores", "batch", "status")


def _board_row(board: str, item: Any) -> dict[str, Any]:
    return {
        "board": board,
        "configuration": item.name,
        "release": item.release,
        "target": item.target,
        "fingerprint": "" if item.fingerprint is None else f"{item.fingerprint:#x}",
        "clock_mhz": item.clock_mhz,
        "cores": item.cores,
        "batch": item.batch,
        "peak_tops": item.peak_tops,
        "arch_json": dict(item.arch_json),
        "status": item.status,
        "source": item.source,
    }


def releases(json_: Json = False) -> None:
    """Show every Vitis AI release: image, environment, boards, with sources.

    Example: dpuforge releases
    """
    from dpuforge.load.catalogue import load_catalogue

    catalogue = load_catalogue()
    rows = [_release_row(release, catalogue) for release in catalogue.releases.values() if release.supported]
    if json_:
        print_json(rows)
        return
    for row in rows:
        row["images"] = "\n".join(row["images"])
        row["boards"] = ", ".join(row["boards"])
    columns = ("release", "images", "python", "torch", "boards")
    print_table("", columns, [[row[name] for name in columns] for row in rows])


def _release_row(release: Any, catalogue: Any) -> dict[str, Any]:
    environment = release.environment
    served = [board.name for board in catalogue.boards.values() if release.name in board.releases]
    return {
        "release": release.name,
        "images": [image.image for image in release.images],
        "conda": environment.conda if environment else "",
        "python": environment.python if environment else "",
        "torch": environment.torch if environment else "",
        "boards": served,
        "source": release.source,
    }


def backbones(json_: Json = False) -> None:
    """Show the torchvision backbones a spec may name: parameters, multiply-accumulates, published weights.

    Example: dpuforge backbones

    Besides these, a spec may name timm/<name> or path/to/net.py:factory.
    """
    from dpuforge.load.backbones import load_backbones

    found = load_backbones().values()
    if json_:
        print_json([asdict(backbone) for backbone in found])
        return
    headers = ("backbone", "parameters", "GMACs", "smallest input, px", "weights: top-1 on ImageNet-1K")
    rows = [(b.name, f"{b.parameters:,}", b.gmacs, b.min_input, _list_weights(b)) for b in found]
    print_table("", headers, rows)


def _list_weights(backbone: Any) -> str:
    return ", ".join(f"{item.name} {item.top1} % at {item.crop} px" for item in backbone.weights)


def estimate(
    what: Annotated[Path, typer.Argument(help="A spec, or an .xmodel file.")],
    board: Annotated[str, typer.Option(help="The board.")] = "",
    json_: Json = False,
) -> None:
    """Predict DPU/CPU partition, subgraphs, workload, latency and frames per second, with a band.

    Example: dpuforge estimate spec/quickstart.yaml --board KV260
    """
    raise UsageError("to be wired")
