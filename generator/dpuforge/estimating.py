"""Join specs and xmodels with the hardware model: what a network will do on a board, before hours are spent."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dpuforge.errors import MissingToolError, StageError, UsageError
from dpuforge.hardware.estimate import Estimate, estimate_operators, find_target
from dpuforge.load.catalogue import load_catalogue
from dpuforge.load.resolve_board import HardwareError, resolve_board
from dpuforge.records.hardware import BoardTarget, Catalogue
from dpuforge.records.operator import Operator
from dpuforge.records.project import Project

_RUN_EXTRA = "pip install 'dpuforge[run]' (timm backbones: 'dpuforge[all]')"


def capture_project(project: Project, root: Path) -> tuple[Operator, ...]:
    """Return the operators of a project's network for one image; no weights are made and none are loaded.

    Raises MissingToolError without torch, UsageError where the backbone cannot be built.
    """
    try:
        from dpuforge.emulator.graph.network_operators import capture_operators
    except ImportError as error:
        raise MissingToolError(f"{error.name} cannot be imported", _RUN_EXTRA) from error
    build = _find_builder(project.model.backbone, project.classes.count, root)
    return capture_operators(build, project.model.input.height, project.model.input.width)


def _find_builder(backbone: str, classes: int, root: Path) -> Callable[[], Any]:
    path, colon, factory = backbone.rpartition(":")
    if colon and path.endswith(".py"):
        return _load_factory(root / path, factory)
    if backbone.startswith("timm/"):
        try:
            import timm
        except ImportError as error:
            raise MissingToolError("timm cannot be imported", _RUN_EXTRA) from error
        return lambda: timm.create_model(backbone.removeprefix("timm/"), pretrained=False, num_classes=classes)
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


def resolve_boards(
    catalogue: Catalogue, release: str, boards: Iterable[str], project: Project | None = None
) -> tuple[BoardTarget, ...]:
    """Return the DPUs of the named boards, as the project chooses them; without names those of every board.

    Boards without a DPU under the release are an error when named, and left out otherwise.
    """
    chosen = {choice.board: choice for choice in project.target.boards} if project else {}
    found = []
    for name in tuple(boards) or tuple(catalogue.boards):
        choice = chosen.get(name)
        try:
            dpu, fingerprint = (choice.dpu, choice.fingerprint) if choice else (None, None)
            found.append(resolve_board(catalogue, name, release, dpu, fingerprint))
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


def estimate_boards(operators: Iterable[Operator], targets: Iterable[BoardTarget]) -> tuple[Estimate, ...]:
    """Return one estimate per board, fastest first."""
    catalogue, network = load_catalogue(), tuple(operators)
    found = [estimate_operators(network, target, find_target(catalogue, target)) for target in targets]
    return tuple(sorted(found, key=lambda item: -(item.fps_multi or (0.0, 0.0, 0.0))[1]))


def check_before_training(project: Project, root: Path, targets: Iterable[BoardTarget]) -> tuple[str, ...]:
    """Predict the partition before hours of training; return one line per board.

    Raises StageError where a board's predicted number of DPU subgraphs is not what the spec demands.
    """
    wanted = project.target.dpu_subgraphs
    lines, wrong = [], []
    for item in estimate_boards(capture_project(project, root), targets):
        count = item.partition.dpu_subgraphs
        lines.append(f"{item.board.board} ({item.board.target}): {count} DPU subgraph(s) predicted")
        if count != wanted:
            wrong.append(f"{item.board.board}: {count} predicted, {wanted} demanded by target.dpu_subgraphs")
            wrong += [f"  {cpu.operator.module}: {cpu.reason}" for cpu in item.partition.cpu]
    if wrong:
        raise StageError(
            "before training: the network would not run on the DPU as the spec demands\n" + "\n".join(wrong),
            "change the operators named above, or target.dpu_subgraphs; `dpuforge estimate` shows all boards",
        )
    return tuple(lines)
