"""Every run leaves a row: made while the run is at work, added when it ends, however it ends."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpuforge import __version__
from dpuforge.errors import ExitCode, Interrupted, UserError
from dpuforge.history.keep_rows import add_row, keep
from dpuforge.records.job import Job
from dpuforge.records.plan import Plan
from dpuforge.records.result import StageResult, Status

_FIGURES = ("float_accuracy", "float_interval", "int8_accuracy", "int8_interval", "accuracy_drop", "test_images")


@dataclass
class Entry:
    """The row of a run at work; failure is why it failed, "" where it did not."""

    job: Job
    plan: Plan
    results: Sequence[StageResult] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""

    def note(self, results: Sequence[StageResult], document: Mapping[str, Any], failure: str) -> None:
        """Enter what a run came to."""
        self.results, self.document, self.failure = results, document, failure


@contextmanager
def entering(job: Job, plan: Plan, say: Callable[[str], None]) -> Iterator[Entry]:
    """Yield the entry of a run, and add its row to the history at the end.

    A run that was refused before it changed anything leaves none. That a row cannot be written is said and no more.
    """
    entry, begun, started = Entry(job, plan), time.time(), time.monotonic()
    outcome, reason = "", ""
    try:
        yield entry
        outcome, reason = ("failed", entry.failure) if entry.failure else ("done", "")
    except (KeyboardInterrupt, Interrupted):
        outcome = "interrupted"
        raise
    except UserError as error:
        outcome = "" if error.exit_code == ExitCode.DRIFT else "failed"
        reason = error.message
        raise
    except BaseException as error:
        outcome, reason = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        if outcome:
            _add(entry, say, begun, {"outcome": outcome, "reason": reason, "seconds": time.monotonic() - started})


def _add(entry: Entry, say: Callable[[str], None], begun: float, end: Mapping[str, Any]) -> None:
    try:
        add_row(
            entry.job.root, {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun)), **end, **describe(entry)}
        )
    except OSError as error:
        say(f"warning: the history has no row of this run: {error.filename or error}: {error.strerror or ''}")


def describe(entry: Entry) -> dict[str, Any]:
    """Return what a row says of a run beside its end: what decided it, and what it measured."""
    job, plan, document = entry.job, entry.plan, entry.document
    metrics = document.get("metrics", {})
    boards = document.get("boards", {})
    variant = [[override.key, override.text] for override in job.variant.overrides] if job.variant else []
    return {
        "project": job.project.project,
        "spec": job.project.spec.path,
        "spec_sha256": plan.spec_sha256,
        "texts": dict(_keep_texts(job)),
        "variant": variant,
        "settings": dict(plan.settings),
        "boards": {name: dict(facts) for name, facts in plan.boards.items()},
        "image": plan.image,
        "metrics": {name: metrics.get(name) for name in _FIGURES},
        "fps": {name: facts.get("fps_estimate") for name, facts in boards.items()},
        "toolchain": document.get("toolchain", ""),
        "versions": _gather_versions(entry.results),
        "emulated": document.get("emulated"),
        "stages": {_name(it): _describe_stage(it) for it in entry.results},
        "predictions": _keep_predictions(job) if metrics.get("int8_accuracy") is not None else "",
        "machine": describe_machine(),
        "dpuforge": __version__,
    }


def _name(result: StageResult) -> str:
    return f"{result.stage}/{result.board}" if result.board else result.stage


def _describe_stage(result: StageResult) -> dict[str, Any]:
    found = {"status": result.status.value, "seconds": result.seconds}
    return {**found, "taken_from": result.taken_from} if result.taken_from else found


def _gather_versions(results: Sequence[StageResult]) -> dict[str, str]:
    """Return the versions that the stages of a run recorded."""
    found: dict[str, str] = {}
    for result in results:
        versions = result.toolchain.get("versions")
        if result.status is not Status.SKIPPED and isinstance(versions, Mapping):
            found |= {str(name): str(version) for name, version in versions.items()}
    return found


def _keep_texts(job: Job) -> Iterator[tuple[str, str]]:
    """Keep the spec and its bases as they were read, by content; yield the name and digest of each."""
    for source in (job.project.spec, *job.project.bases):
        path = job.root / source.path
        if path.is_file():
            yield source.path, keep(job.root, path.read_bytes(), ".yaml")


def _keep_predictions(job: Job) -> str:
    for path in (job.build / "evaluate/predictions.json", job.build / "evaluate/failed/predictions.json"):
        if path.is_file():
            return keep(job.root, path.read_bytes(), ".json")
    return ""


def describe_machine() -> dict[str, Any]:
    """Return what a machine computes with; neither its name nor its user's."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _find_processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
    }


def _find_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, platform.processor())
