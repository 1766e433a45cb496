"""Join specs and xmodels with the hardware model: what a network will do on a board, before hours are spent."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dpuforge.errors import StageError, UsageError
from dpuforge.hardware.estimate import Estimate, estimate_operators, find_target
from dpuforge.hardware.known_networks import read_networks
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.boards.lock_file import resolve_targets
from dpuforge.load.boards.resolve_board import HardwareError, resolve_board
from dpuforge.load.load_spec import load_project
from dpuforge.looking import Look, look_at_network
from dpuforge.paths import find_root, find_shipped
from dpuforge.records.hardware import BoardTarget, Catalogue
from dpuforge.records.job import Job
from dpuforge.records.operator import Operator
from dpuforge.records.project import Project


@dataclass(frozen=True)
class BackboneRow:
    """One network of the table of all backbones."""

    backbone: str
    height: int
    width: int
    estimate: Estimate


@dataclass(frozen=True)
class KnownRow:
    """One torchvision classifier on several boards, in their order."""

    backbone: str
    estimates: tuple[Estimate, ...]

    @property
    def subgraphs(self) -> tuple[int, ...]:
        """DPU subgraphs on each board."""
        return tuple(found.partition.dpu_subgraphs for found in self.estimates)

    @property
    def fits(self) -> bool:
        """Whether the whole network runs on every board's DPU, in one piece."""
        return all(found.partition.dpu_subgraphs == 1 and not found.partition.cpu for found in self.estimates)

    @property
    def most_on_cpu(self) -> int:
        """The most operators that a board would run on its CPU."""
        return max(len(found.partition.cpu) for found in self.estimates)


def estimate_known(targets: Iterable[BoardTarget]) -> tuple[KnownRow, ...]:
    """Estimate the classifiers whose operators are shipped, without torch: those that fit first, then the fastest."""
    catalogue, boards = shipped_catalogue(), tuple(targets)
    rows = [
        KnownRow(network.name, estimate_boards(catalogue, network.operators, boards))
        for network in read_networks(find_shipped("spec/schema"))
    ]
    return tuple(sorted(rows, key=lambda row: (not row.fits, -min(map(_frame_rate, row.estimates)))))


def estimate_spec(path: Path, boards: tuple[str, ...], release: str) -> tuple[Estimate, ...]:
    """Return one estimate per board, fastest first; of every board that has a DPU where boards is empty.

    release "" is the spec's own: under it the spec's boards are what they are built for, lock included.
    """
    catalogue = shipped_catalogue()
    loaded = load_project(path, catalogue)
    project = loaded.project
    built = resolve_targets(catalogue, loaded) if release in ("", project.target.vitis_ai) else ()
    targets = resolve_boards(catalogue, release or project.target.vitis_ai, boards, project, built)
    look = look_at_network(project, find_root(path), built, catalogue.releases[project.target.vitis_ai])
    for warning in look.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return sort_fastest(estimate_boards(catalogue, look.operators, targets))


def estimate_xmodel(path: Path, boards: tuple[str, ...], release: str) -> tuple[Estimate, ...]:
    """Return one estimate per board, fastest first, of an xmodel; release "" is the newest that has each board."""
    from dpuforge.xmodel.neutral import neutral_operators
    from dpuforge.xmodel.read import read_xmodel

    operators, catalogue = neutral_operators(read_xmodel(path)), shipped_catalogue()
    targets: list[BoardTarget] = []
    for name in boards or (name for name in catalogue.boards if catalogue.boards[name].releases):
        try:
            wanted = release or newest_release(catalogue, name)
        except UsageError:
            if boards:
                raise
            continue
        targets += resolve_boards(catalogue, wanted, [name])
    return sort_fastest(estimate_boards(catalogue, operators, targets))


def estimate_backbones(
    board: str, release: str = "", names: Iterable[str] = ()
) -> tuple[BoardTarget, tuple[BackboneRow, ...]]:
    """Estimate torchvision classifiers (all by default) at their own input size; makes no weights.

    Return what the board carries under the release ("": the newest that serves it) and the rows, fastest first.
    """
    from dpuforge.emulator.export.network_operators import backbone_operators, backbone_size, torchvision_backbones

    catalogue = shipped_catalogue()
    target = resolve_board(catalogue, board, release or newest_release(catalogue, board))
    rows = []
    for name in tuple(names) or torchvision_backbones():
        size = backbone_size(name)
        (found,) = estimate_boards(catalogue, backbone_operators(name, size.height, size.width), [target])
        rows.append(BackboneRow(name, size.height, size.width, found))
    return target, tuple(sorted(rows, key=lambda row: -_frame_rate(row.estimate)))


def estimate_boards(
    catalogue: Catalogue, operators: Iterable[Operator], targets: Iterable[BoardTarget]
) -> tuple[Estimate, ...]:
    """Return one estimate per target, in the order of the targets."""
    network = tuple(operators)
    return tuple(estimate_operators(network, target, find_target(catalogue, target)) for target in targets)


def sort_fastest(estimates: Iterable[Estimate]) -> tuple[Estimate, ...]:
    """Return the estimates by their frame rate with several threads, fastest first."""
    return tuple(sorted(estimates, key=lambda estimate: -_frame_rate(estimate)))


def _frame_rate(estimate: Estimate) -> float:
    return (estimate.fps_multi or (0.0, 0.0, 0.0))[1]


def _refuse_stops(operators: Iterable[Operator]) -> None:
    """Raise StageError where preflight could not run an operator: what no DPU takes must run on the CPU."""
    stops = [
        f"  {operator.module or operator.name} ({operator.source}): {operator.stop}"
        for operator in operators
        if operator.stop
    ]
    if stops:
        raise StageError(
            "before training: operators that neither the DPU nor the CPU could run\n" + "\n".join(stops),
            "replace the operators named above, or end the network before them; docs/operators.md lists what runs",
        )


def check_before_training(job: Job, look: Look) -> tuple[str, ...]:
    """Predict the partition of a network before hours of training; return one line per board.

    Raises StageError where an operator could run nowhere, or a board's predicted number of DPU subgraphs is not what
    the spec demands.
    """
    wanted = job.project.target.dpu_subgraphs
    _refuse_stops(look.operators)
    lines, wrong = [], []
    for estimate in sort_fastest(estimate_boards(job.catalogue, look.operators, job.targets)):
        board, count = estimate.board, estimate.partition.dpu_subgraphs
        lines.append(f"{board.board} ({board.target}): {count} DPU subgraph(s) predicted")
        if count != wanted:
            wrong.append(f"{board.board}: {count} predicted, {wanted} demanded by target.dpu_subgraphs")
            wrong += [f"  {cpu.operator.module}: {cpu.reason}" for cpu in estimate.partition.cpu]
    wrong += [f"  {line} decides by a tensor's value what runs" for line in look.frozen if wrong]
    if wrong:
        raise StageError(
            "before training: the network would not run on the DPU as the spec demands\n" + "\n".join(wrong),
            "change the operators named above, or target.dpu_subgraphs; `dpuforge estimate` shows all boards",
        )
    return tuple(lines)


def resolve_boards(
    catalogue: Catalogue,
    release: str,
    boards: Iterable[str],
    project: Project | None = None,
    built: Iterable[BoardTarget] = (),
) -> tuple[BoardTarget, ...]:
    """Return the DPUs of the named boards, without names those of every board: as built, else as the project chooses.

    Boards without a DPU under the release are an error when named, and left out otherwise.
    """
    own = {target.board: target for target in built}
    chosen = {choice.board: choice for choice in project.target.boards} if project else {}
    found = []
    for name in tuple(boards) or tuple(catalogue.boards):
        choice = chosen.get(name)
        dpu, fingerprint = (choice.dpu, choice.fingerprint) if choice else (None, None)
        try:
            found.append(own.get(name) or resolve_board(catalogue, name, release, dpu, fingerprint))
        except HardwareError:
            if boards:
                raise
    return tuple(found)


def newest_release(catalogue: Catalogue, board: str) -> str:
    """Return the newest release that has a default DPU for a board."""
    if board not in catalogue.boards:
        resolve_board(catalogue, board, next(iter(catalogue.releases)))
    for release in sorted((name for name in catalogue.releases if catalogue.releases[name].supported), reverse=True):
        try:
            resolve_board(catalogue, board, release)
        except HardwareError:
            continue
        return release
    raise UsageError(f"no release has a default DPU for {board}", "name a release with --release, or a dpu in a spec")
