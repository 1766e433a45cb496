"""Commands about the hardware: boards, backbones, releases, estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpuforge.commands.choices import complete
from dpuforge.commands.screen import print_json, print_message, print_table
from dpuforge.commands.show_fingerprint import show_fingerprint

if TYPE_CHECKING:
    from dpuforge.hardware.estimate import Estimate
    from dpuforge.load.backbones import Backbone
    from dpuforge.records.hardware import Catalogue, Configuration, Release

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]


def boards(
    fingerprint: Annotated[str, typer.Option(help="Say in words what this DPU fingerprint (0x...) is, instead.")] = "",
    json_: Json = False,
) -> None:
    """Show every board, its DPU per release, clock and cores, with sources; or what a fingerprint says.

    Example: dpuforge boards --fingerprint 0x101000056010407
    """
    if fingerprint:
        show_fingerprint(fingerprint, json_)
        return
    from dpuforge.load.boards.catalogue import shipped_catalogue

    known = shipped_catalogue().boards.values()
    rows = [_board_row(board.name, dpu) for board in known for dpu in board.configurations]
    if json_:
        print_json(rows)
        return
    headers = ("board", "release", "DPU", "fingerprint", "MHz", "cores", "batch", "status")
    print_table("", headers, [[row[name] for name in _BOARD_COLUMNS] for row in rows])


_BOARD_COLUMNS = ("board", "release", "target", "fingerprint", "clock_mhz", "cores", "batch", "status")


def _board_row(board: str, dpu: Configuration) -> dict[str, Any]:
    return {
        "board": board,
        "configuration": dpu.name,
        "release": dpu.release,
        "target": dpu.target,
        "fingerprint": "" if dpu.fingerprint is None else f"{dpu.fingerprint:#x}",
        "clock_mhz": dpu.clock_mhz,
        "cores": dpu.cores,
        "batch": dpu.batch,
        "peak_tops": dpu.peak_tops,
        "arch_json": dict(dpu.arch_json),
        "status": dpu.status,
        "source": dpu.source,
    }


def releases(json_: Json = False) -> None:
    """Show every Vitis AI release: image, environment, boards, with sources.

    Example: dpuforge releases
    """
    from dpuforge.load.boards.catalogue import shipped_catalogue

    catalogue = shipped_catalogue()
    shown = [it for it in catalogue.releases.values() if it.supported or it.build_with]
    rows = [_release_row(release, catalogue) for release in shown]
    if json_:
        print_json(rows)
        return
    for row in rows:
        row["images"] = "\n".join(row["images"])
        row["boards"] = ", ".join(row["boards"]) or row["note"]
    columns = ("release", "images", "python", "torch", "boards")
    print_table("", columns, [[row[name] for name in columns] for row in rows])


def _release_row(release: Release, catalogue: Catalogue) -> dict[str, Any]:
    environment = release.environment
    served = [board.name for board in catalogue.boards.values() if release.name in board.releases]
    return {
        "release": release.name,
        "images": [image.image for image in release.images],
        "conda": environment.conda if environment else "",
        "python": environment.python if environment else "",
        "torch": environment.torch if environment else "",
        "boards": served,
        "note": f"build with {release.build_with}: {release.status}" if release.build_with else "",
        "source": release.source,
    }


def backbones(
    board: Annotated[
        str,
        typer.Option(
            help="Also estimate every backbone on this board, fastest first.", shell_complete=complete.complete_boards
        ),
    ] = "",
    release: Annotated[
        str,
        typer.Option(
            help="Vitis AI release; default: the newest that serves the board.",
            shell_complete=complete.complete_releases,
        ),
    ] = "",
    json_: Json = False,
) -> None:
    """Show the torchvision backbones a spec may name: parameters, multiply-accumulates, published weights.

    Example: dpuforge backbones --board KV260

    Besides these, a spec may name timm/<name> or path/to/net.py:factory.
    """
    if board:
        _estimate_backbones(board, release, json_)
        return
    from dpuforge.load.backbones import load_backbones

    found = load_backbones().values()
    if json_:
        print_json([asdict(backbone) for backbone in found])
        return
    headers = ("backbone", "parameters", "GMACs", "smallest input, px", "weights: top-1 on ImageNet-1K")
    rows = [(b.name, f"{b.parameters:,}", b.gmacs, b.min_input, _list_weights(b)) for b in found]
    print_table("", headers, rows)


def _list_weights(backbone: Backbone) -> str:
    return ", ".join(f"{item.name} {item.top1} % at {item.crop} px" for item in backbone.weights)


def _estimate_backbones(board: str, release: str, json_: bool) -> None:
    from dpuforge.estimating import estimate_backbones

    target, rows = estimate_backbones(board, release)
    if json_:
        print_json([{"backbone": row.backbone, **_without_layers(row.estimate)} for row in rows])
        return
    table = [(row.backbone, f"{row.height}x{row.width}", *_estimate_row(row.estimate)) for row in rows]
    print_table(f"{target.board}, {target.target}, release {target.release}", ("backbone", "input", *_ESTIMATE), table)


def estimate(
    what: Annotated[
        Path, typer.Argument(help="A spec, or an .xmodel file.", shell_complete=complete.complete_networks)
    ],
    board: Annotated[
        list[str] | None,
        typer.Option(help="The board; may be repeated. Default: every board.", shell_complete=complete.complete_boards),
    ] = None,
    release: Annotated[
        str,
        typer.Option(
            help="Vitis AI release; default: the spec's, or the newest.", shell_complete=complete.complete_releases
        ),
    ] = "",
    fit: Annotated[
        Path | None, typer.Option(help="Folder of results that `dpuforge board` measured: corrects the estimate.")
    ] = None,
    json_: Json = False,
) -> None:
    """Predict DPU/CPU partition, subgraphs, workload, latency and frames per second, with an 80 % band.

    Example: dpuforge estimate spec/quickstart.yaml --board KV260

    Nothing is trained and nothing runs on a board: the figures come from operator limits and a latency model.
    """
    from dpuforge.estimating import estimate_spec, estimate_xmodel

    of_what = estimate_spec if what.suffix in (".yaml", ".yml") else estimate_xmodel
    estimates = of_what(what, tuple(board or ()), release)
    if fit is not None:
        from dpuforge.board.fit_results import correct_estimate, read_measurements

        measurements = read_measurements(fit)
        estimates = tuple(correct_estimate(found, measurements) for found in estimates)
    if json_:
        documents = [found.to_json() for found in estimates]
        print_json(documents[0] if len(board or ()) == 1 else documents)
    else:
        _show_estimates(what, estimates)


def _show_estimates(what: Path, estimates: Sequence[Estimate]) -> None:
    rows = [(found.board.board, found.board.target, *_estimate_row(found)) for found in estimates]
    print_table(f"{what} (estimated, not measured)", ("board", "DPU", *_ESTIMATE), rows)
    for found in estimates if len(estimates) == 1 else ():
        cpu = [(place.operator.name, place.reason, place.remedy) for place in found.partition.cpu]
        if cpu:
            print_table("on the CPU", ("operator", "why", "what helps"), cpu)
        for note in found.notes:
            print_message(note)


_ESTIMATE = ("DPU subgraphs", "on the CPU", "workload, GOP", "latency, ms", "fps, one thread", "fps, threads")


def _estimate_row(found: Estimate) -> tuple[Any, ...]:
    return (
        found.partition.dpu_subgraphs,
        len(found.partition.cpu),
        f"{found.work.workload / 1e9:.3f}",
        _band(found.latency_ms),
        _band(found.fps_single),
        _band(found.fps_multi),
    )


def _band(values: tuple[float, float, float] | None) -> str:
    return f"{values[1]:.4g} ({values[0]:.4g} to {values[2]:.4g})" if values else "unknown"


def _without_layers(found: Estimate) -> dict[str, Any]:
    return {name: value for name, value in found.to_json().items() if name != "layers"}
