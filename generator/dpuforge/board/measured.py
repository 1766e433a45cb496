"""build/<project>/board/<BOARD>/result.json: what was measured on a board, of which network, and on what machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpuforge import __version__
from dpuforge.board.contents import quantised_xmodel
from dpuforge.errors import UserError
from dpuforge.execute.results import hash_file, read_result, write_result
from dpuforge.records.job import Job
from dpuforge.records.result import StageResult, Status

if TYPE_CHECKING:
    from dpuforge.board.visit import Visit
    from dpuforge.hardware.estimate import Estimate

STAGE = "board"
EMULATED = "emulated board"
NOTE = (
    "the board was emulated: its vart is dpuforge's and ran the quantised xmodel; nothing was compiled, no DPU ran, "
    "and times and sensors say nothing about a board"
)


def record_visit(visit: Visit, status: Status, reason: str = "") -> StageResult:
    """Write what a visit found and return it; sections of earlier visits with the same network and host are kept."""
    network = quantised_xmodel(visit.job)
    inputs = {network.relative_to(visit.job.root).as_posix(): hash_file(network)}
    before = read_result(visit.here)
    host, emulated = visit.session.host.name, visit.checked.emulated
    kept: Mapping[str, Any] = {}
    own = {"host": host, "network": visit.found["network"]}
    if before is not None and before.inputs == inputs and own.items() <= before.metrics.items():
        kept = before.metrics
    facts = {"host": host, "emulated": emulated, "note": NOTE if emulated else "", "check": visit.checked.describe()}
    metrics = {**kept, **facts, **visit.found, "estimate": _estimate(visit)}
    result = StageResult(
        STAGE,
        status,
        reason,
        toolchain={"name": EMULATED if emulated else "board", "versions": _list_versions(visit)},
        inputs=inputs,
        metrics=metrics,
        board=visit.checked.target.board,
    )
    write_result(visit.own, result)
    write_result(visit.here, result)
    return result


def read_measured(job: Job) -> dict[str, dict[str, Any]]:
    """Return what was measured on each board with the present network, {} where nothing was."""
    try:
        digest = hash_file(quantised_xmodel(job))
    except UserError:
        return {}
    found = {}
    for target in job.targets:
        result = read_result(job.build / STAGE / target.board)
        if result is not None and digest in result.inputs.values():
            found[target.board] = {"status": result.status.value, "reason": result.reason, **result.metrics}
    return found


def describe_boards(job: Job) -> dict[str, str]:
    """Return in words what was measured on each of a project's boards with the present network."""
    found = read_measured(job)
    words = {target.board: "nothing was measured with the present network" for target in job.targets}
    for board, metrics in found.items():
        emulated = ", emulated" if metrics["emulated"] else ""
        words[board] = f"measured on {metrics['host']}{emulated}: {metrics['reason'] or metrics['status']}"
    return words


def find_result_files(folder: Path) -> tuple[Path, ...]:
    """Return the result files of boards below a folder, one a board and host."""
    return tuple(sorted(path for path in folder.rglob("result.json") if path.parent.parent.name == "hosts"))


def _list_versions(visit: Visit) -> dict[str, str]:
    modules = visit.checked.facts["modules"]
    versions = {name: str(found["version"]) for name, found in modules.items() if found.get("version")}
    runtime = visit.checked.dpu.runtime if visit.checked.dpu else ""
    return {"dpuforge": __version__, "python": visit.checked.facts["python"], "vart": runtime, **versions}


def _estimate(visit: Visit) -> dict[str, Any] | None:
    """Return what the latency model says of the same network on the same board, before any fit."""
    from dpuforge.estimating import estimate_boards
    from dpuforge.xmodel.neutral import neutral_operators
    from dpuforge.xmodel.read import read_xmodel

    operators = neutral_operators(read_xmodel(quantised_xmodel(visit.job)))
    (found,) = estimate_boards(visit.job.catalogue, operators, [visit.checked.target])
    return _bands(found)


def _bands(found: Estimate) -> dict[str, Any] | None:
    if found.fps_single is None or found.fps_multi is None:
        return None
    return {"configuration": found.board.configuration, "single": found.fps_single, "multi": found.fps_multi}
