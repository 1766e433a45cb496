"""The first look at a network, seconds before hours: check_model.py of the generated scripts, in a process of its own.

The user's code runs there and nowhere else, so that nothing of it stays in this process. What it found is kept in
build/<project>/check_model/, together with the user's files that the network was made of: they decide when it is
looked at again.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dpuforge.errors import ExitCode, MissingToolError, UsageError
from dpuforge.execute.results import hash_file, read_result, write_json
from dpuforge.execute.toolchain import RUN_EXTRA, ToolchainPlace, probe_python, refuse_old_torch
from dpuforge.plan.artifacts import NETWORK_CHECK
from dpuforge.plan.make_plan import make_plan
from dpuforge.records.hardware import BoardTarget, Release
from dpuforge.records.operator import Operator
from dpuforge.records.project import Project
from dpuforge.records.result import StageResult, Status
from dpuforge.render.render import render_plan
from dpuforge.writing import replacing

FOLDER = "check_model"  # below build/<project>/
RECORD = "look.json"
_FROZEN = "Python reads a tensor's value at {}: what it decided is frozen as for black images"


@dataclass(frozen=True)
class Look:
    """What the first look found: warnings, notes on the weights, the user's own files, and the operators.

    frozen are the lines of code (path:line) where a tensor's value decides what runs.
    """

    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    operators: tuple[Operator, ...] = ()
    frozen: tuple[str, ...] = ()


def look_at_network(
    project: Project,
    root: Path,
    targets: Iterable[BoardTarget],
    release: Release,
    place: ToolchainPlace | None = None,
) -> Look:
    """Build the project's network, run it on shapes, read its weights; nothing is trained and no weights are made.

    With a place whose Python is another one, the network is tried there and no operators are recorded.
    Raises UsageError with everything that is wrong at once, each with its key; MissingToolError without torch.
    """
    scripts = _render_scripts(project, targets, release)
    with TemporaryDirectory(prefix="dpuforge-") as name:
        folder = Path(name) / "generated" / project.project
        folder.mkdir(parents=True)
        for path, text in scripts.items():
            (folder / path).write_text(text, encoding="utf-8")
        out = Path(name) / "operators"
        where = (str(root), str(Path(name) / "build"))
        if place is None or place.python == sys.executable:
            _need_torch()
            argv = [sys.executable, "-m", "dpuforge.capturing", str(folder), *where, str(out), _rewrites(project)]
        else:
            argv = [place.python, str(folder / "check_model.py"), "--root", where[0], "--build", where[1]]
        done = _run(argv, folder, place.env if place else None)
        result = read_result(Path(where[1]) / FOLDER)
        log = root / "build" / project.project / FOLDER / "log.txt"
        _refuse(done, result, log, out if "dpuforge.capturing" in argv else None)
        return _describe(result, out, root)


def _render_scripts(project: Project, targets: Iterable[BoardTarget], release: Release) -> dict[str, str]:
    """Return {path: text} of the generated scripts that the look needs."""
    plan = make_plan(project, tuple(targets), release)
    files = tuple(file for file in plan.files if file.path in NETWORK_CHECK)
    return {file.path: file.text for file in render_plan(replace(plan, files=files, stages=()))}


def _rewrites(project: Project) -> str:
    """Return what the quantizer will rewrite in the network, as the spec's configuration has it."""
    given = project.quantization
    return json.dumps(
        {
            "equalisation": given.include_cle,
            "relu6_to_relu": given.convert_relu6_to_relu,
            "silu_to_hswish": given.convert_silu_to_hswish,
        }
    )


def _need_torch() -> None:
    """Say what is missing in this Python before it is started for nothing."""
    needed = ("torch", "torchvision", "numpy", "PIL", "tqdm")
    found = probe_python(sys.executable, needed, os.environ)
    missing = [name for name in needed if name not in found]
    if missing:
        raise MissingToolError(f"{', '.join(missing)} cannot be imported", RUN_EXTRA)
    refuse_old_torch(found["torch"])


def _run(argv: list[str], folder: Path, env: Mapping[str, str] | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=folder,
        env={**(env or os.environ), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def _refuse(done: subprocess.CompletedProcess[str], result: StageResult | None, log: Path, out: Path | None) -> None:
    """Raise what the look found wrong; what it printed, tracebacks among it, goes to the log."""
    found = result.metrics.get("problems", []) if result else []
    errors = [text for severity, text in found if severity == "error"]
    well = done.returncode == 0 and result is not None and result.status is Status.DONE
    if well and (out is None or out.is_file()):
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with replacing(log) as partial:
        partial.write_text(done.stdout, encoding="utf-8")
    if not errors:
        reason = result.reason if result and result.status is Status.FAILED else ""
        last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "")
        errors = [f"model.backbone: {reason or f'it ended Python with exit status {done.returncode}: {last.strip()}'}"]
    remedy = f"nothing was run; the log is {_show(log)}"
    if done.returncode == ExitCode.ENVIRONMENT:
        raise MissingToolError("\nerror: ".join(errors), remedy)
    raise UsageError("\nerror: ".join(errors), remedy)


def _show(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _describe(result: StageResult | None, out: Path, root: Path) -> Look:
    metrics: Mapping[str, Any] = result.metrics if result else {}
    operators, lines = pickle.loads(out.read_bytes()) if out.is_file() else ((), ())  # made by this very package
    frozen = tuple(str(line).removeprefix(f"{root}{os.sep}") for line in lines)
    warnings = [text for severity, text in metrics.get("problems", []) if severity == "warning"]
    warnings += [f"model.backbone: {_FROZEN.format(line)}" for line in frozen]
    notes, sources = (tuple(metrics.get(name, ())) for name in ("notes", "sources"))
    return Look(tuple(warnings), notes, sources, operators, frozen)


def remember(
    look: Look, project: Project, build: Path, root: Path, place: ToolchainPlace, forecast: Mapping[str, Any]
) -> None:
    """Keep what a look that found nothing wrong was made of, so that the next run need not look again.

    forecast holds the lines on the partition, and the hardware that they were predicted for; empty where none were.
    """
    document = {"key": _key(project, look.sources, root, place), "sources": look.sources, "warnings": look.warnings}
    write_json(build / FOLDER / RECORD, {**document, "forecast": dict(forecast)})


def recall_forecast(build: Path, hardware: str) -> tuple[str, ...] | None:
    """Return the lines on the partition that a look of the same network left for this hardware, or None."""
    forecast = _read(build).get("forecast")
    if not isinstance(forecast, dict) or forecast.get("hardware") != hardware:
        return None
    return tuple(str(line) for line in forecast.get("lines", ()))


def is_known(project: Project, build: Path, root: Path, place: ToolchainPlace) -> bool:
    """Say whether the network was looked at since its spec, its files or the toolchain changed."""
    record = _read(build)
    return bool(record) and record.get("key") == _key(project, record.get("sources", ()), root, place)


def _key(project: Project, sources: Iterable[str], root: Path, place: ToolchainPlace) -> str:
    weights = [project.model.weights, *([project.transfer.teacher.weights] if project.transfer.teacher else [])]
    files = [root / name for name in (*sources, *weights)]
    seen = {str(path): hash_file(path) if path.is_file() else "" for path in files}
    made = (project.model, project.classes, project.data.preprocess, project.transfer, project.train.unfreeze_epochs)
    decides = repr((made, _rewrites(project), project.quantization.target_device, project.target.vitis_ai))
    text = json.dumps([decides, seen, place.name, dict(place.versions)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(build: Path) -> dict[str, Any]:
    try:
        found = json.loads((build / FOLDER / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
