"""Join specs and xmodels with the hardware model: what a network will do on a board, before hours are spent."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpuforge.errors import MissingToolError, StageError, UsageError
from dpuforge.hardware.estimate import Estimate, estimate_operators, find_target
from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.boards.lock_file import resolve_targets
from dpuforge.load.boards.resolve_board import HardwareError, resolve_board
from dpuforge.load.load_spec import load_project
from dpuforge.paths import find_root
from dpuforge.records.hardware import BoardTarget, Catalogue
from dpuforge.records.job import Job
from dpuforge.records.operator import Operator
from dpuforge.records.project import Project

_CHANNEL_REMEDIES = {
    1: "write data.preprocess.color: GRAY with one mean and one std, or ",
    3: "write data.preprocess.color: RGB with three means and three stds, or ",
}
_RUN_EXTRA = "pip install 'dpuforge[run]' (timm backbones: 'dpuforge[all]')"


@dataclass(frozen=True)
class BackboneRow:
    """One network of the table of all backbones."""

    backbone: str
    height: int
    width: int
    estimate: Estimate


def estimate_spec(path: Path, boards: tuple[str, ...], release: str) -> tuple[Estimate, ...]:
    """Return one estimate per board, fastest first; of every board that has a DPU where boards is empty.

    release "" is the spec's own: under it the spec's boards are what they are built for, lock included.
    """
    catalogue = shipped_catalogue()
    loaded = load_project(path, catalogue)
    project = loaded.project
    built = resolve_targets(catalogue, loaded) if release in ("", project.target.vitis_ai) else ()
    targets = _resolve_boards(catalogue, release or project.target.vitis_ai, boards, project, built)
    return sort_fastest(estimate_boards(catalogue, capture_project(project, find_root(path)), targets))


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
        targets += _resolve_boards(catalogue, wanted, [name])
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


def check_before_training(job: Job) -> tuple[str, ...]:
    """Predict the partition before hours of training; return one line per board.

    Raises StageError where an operator could run nowhere, or a board's predicted number of DPU subgraphs is not what
    the spec demands.
    """
    wanted = job.project.target.dpu_subgraphs
    operators = capture_project(job.project, job.root)
    _refuse_stops(operators)
    lines, wrong = [], []
    for estimate in sort_fastest(estimate_boards(job.catalogue, operators, job.targets)):
        board, count = estimate.board, estimate.partition.dpu_subgraphs
        lines.append(f"{board.board} ({board.target}): {count} DPU subgraph(s) predicted")
        if count != wanted:
            wrong.append(f"{board.board}: {count} predicted, {wanted} demanded by target.dpu_subgraphs")
            wrong += [f"  {cpu.operator.module}: {cpu.reason}" for cpu in estimate.partition.cpu]
    if wrong:
        raise StageError(
            "before training: the network would not run on the DPU as the spec demands\n" + "\n".join(wrong),
            "change the operators named above, or target.dpu_subgraphs; `dpuforge estimate` shows all boards",
        )
    return tuple(lines)


def _resolve_boards(
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


def capture_project(project: Project, root: Path) -> tuple[Operator, ...]:
    """Return the operators of the xmodel that a project's network will become; no weights are made and none are loaded.

    Raises MissingToolError without torch, UsageError where the backbone cannot be built.
    """
    try:
        from dpuforge.emulator.export.network_operators import capture_operators
    except ImportError as error:
        raise MissingToolError(f"{error.name} cannot be imported", _RUN_EXTRA) from error
    channels, size = project.data.preprocess.channels, project.model.input
    build = _find_builder(project.model.backbone, project.classes.count, root, channels)

    def capture(channels: int) -> tuple[Operator, ...]:
        return capture_operators(build, size.height, size.width, _rewrites(project), channels)

    try:
        return capture(channels)
    except RuntimeError:
        _refuse_channels(project, capture)
        raise


def _rewrites(project: Project) -> Any:
    """Return what the quantizer will rewrite in the network, as the spec's configuration has it."""
    from dpuforge.emulator.prepare.passes import PrepareOptions

    given = project.quantization
    return PrepareOptions(
        equalisation=given.include_cle,
        relu6_to_relu=given.convert_relu6_to_relu,
        silu_to_hswish=given.convert_silu_to_hswish,
    )


def _refuse_channels(project: Project, capture: Callable[[int], Any]) -> None:
    """Raise UsageError where a network that failed works with another number of channels."""
    color, channels = project.data.preprocess.color, project.data.preprocess.channels
    for other in (1, 3, 2, 4):
        if other == channels:
            continue
        try:
            capture(other)
        except Exception:
            continue
        given = f"data.preprocess.color {color} gives {channels}"
        what = f"model.backbone: {project.model.backbone} takes {other} channel(s), {given}"
        raise UsageError(what, _CHANNEL_REMEDIES.get(other, "") + "change the network's first layer")


def _find_builder(backbone: str, classes: int, root: Path, channels: int = 3) -> Callable[[], Any]:
    path, colon, factory = backbone.rpartition(":")
    if colon and path.endswith(".py"):
        return _load_factory(root / path, factory)
    if backbone.startswith("timm/"):
        try:
            import timm
        except ImportError as error:
            raise MissingToolError("timm cannot be imported", _RUN_EXTRA) from error
        name = backbone.removeprefix("timm/")
        return lambda: timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
    from torchvision import models

    extra = {"init_weights": False} if backbone in ("googlenet", "inception_v3") else {}
    return lambda: models.get_model(backbone, weights=None, num_classes=classes, **extra)


def _load_factory(path: Path, factory: str) -> Callable[[], Any]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"model.backbone: {path} does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found: Callable[[], Any] | None = getattr(module, factory, None)
    if found is None:
        raise UsageError(f"model.backbone: {path} has no {factory}")
    return found
