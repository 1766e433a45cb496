"""Join the plan with execution: run the stale stages of a spec, say which are stale, report what there is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dpuforge import pipeline
from dpuforge.errors import ExitCode, FormatError
from dpuforge.execute.results import read_result
from dpuforge.execute.stages import (
    LOG,
    Check,
    Folders,
    Observer,
    Selection,
    Verdict,
    check_tools,
    run_stages,
    select_stages,
)
from dpuforge.execute.staleness import describe_inputs, explain_staleness, hash_inputs
from dpuforge.execute.toolchain import ToolchainPlace, find_toolchain
from dpuforge.load.catalogue import load_catalogue
from dpuforge.plan.flow_contexts import find_image
from dpuforge.records.plan import PlannedStage
from dpuforge.records.result import StageResult, Status


@dataclass(frozen=True)
class Failure:
    """The first stage that failed, and where its log is."""

    key: str
    reason: str
    log: Path
    exit_code: ExitCode = ExitCode.STAGE_FAILED


@dataclass(frozen=True)
class Request:
    """What the user asked to run; toolchain "" means the spec's, boards () all of them."""

    toolchain: str = ""
    boards: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)
    jobs: int = 1


Watch = Callable[[int], AbstractContextManager[Observer]]


def run_spec(path: Path, request: Request, watch: Watch) -> tuple[dict[str, Any], Failure | None]:
    """Generate, run the stale stages, report; return the report's document and the failure, if there is one.

    watch is given the number of stages and returns who observes them.
    Raises SpecError, MissingToolError or UsageError before anything runs, and Interrupted on Ctrl-C.
    """
    item = pipeline.prepare_spec(path)
    place = find_place(item, request.toolchain)
    others = item.other_boards(request.boards)
    selection = request.selection
    planned = [stage for stage in item.plan.stages if not stage.board or stage.board not in others]
    if selection.start == "report":
        return report_spec(item, place.name), None
    until_report = Selection(selection.start, "" if selection.until == "report" else selection.until)
    chosen = select_stages(planned, until_report)
    check_tools([stage for stage, _ in chosen], place)
    _check_partition(item, chosen)
    pipeline.generate(item)
    folders = Folders(item.root, item.generated(), item.build)
    with watch(len(chosen)) as observer:
        ended = run_stages(chosen, item.plan.stages, place, folders, observer, request.jobs, _make_check(item))
    failed = next((result for result in ended if result.status is Status.FAILED), None)
    document = report_spec(item, place.name)
    return document, _describe_failure(failed, item.build) if failed else None


def _check_partition(item: pipeline.Prepared, chosen: tuple[tuple[PlannedStage, bool], ...]) -> None:
    """Refuse, before a training that has never been done, a network that would not run on the DPU as demanded."""
    training = [stage for stage, _ in chosen if stage.name == "train"]
    on_dpu = item.project.quantization.target_device == "DPU"
    if not training or not on_dpu or read_result(item.build / training[0].key) is not None:
        return
    from dpuforge.estimating import check_before_training

    for line in check_before_training(item.project, item.root, item.targets):
        print(line, file=sys.stderr)


def _make_check(item: pipeline.Prepared) -> Check:
    """Return what holds a compiled xmodel against its board, once compile.sh is content."""
    targets = {target.board: target for target in item.targets}

    def check(stage: PlannedStage, folder: Path) -> Verdict:
        if stage.name != "compile":
            return Verdict()
        from dpuforge.xmodel.check_compiled import check_compiled
        from dpuforge.xmodel.show import read_compiled

        try:
            compiled = read_compiled(folder / f"{item.project.target.net_name}.xmodel")
        except FormatError as error:
            return Verdict(metrics={"read_back": f"not checked: {error.message}"})
        if not compiled.dpu_subgraphs:
            return Verdict(metrics={"read_back": "not checked: the xmodel names no DPU subgraph"})
        wrong = check_compiled(compiled, targets[stage.board], item.project.target.dpu_subgraphs)
        return Verdict("; ".join(wrong), {"read_back": "checked", **asdict(compiled)})

    return check


def _describe_failure(result: StageResult, build: Path) -> Failure:
    key = f"{result.stage}/{result.board}" if result.board else result.stage
    return Failure(key, result.reason, build / key / LOG)


def find_place(item: pipeline.Prepared, toolchain: str) -> ToolchainPlace:
    """Return where the project's scripts run; toolchain overrides the spec's."""
    release = load_catalogue().releases[item.project.target.vitis_ai]
    return find_toolchain(toolchain or item.project.run.toolchain.value, find_image(release))


def read_results(item: pipeline.Prepared) -> dict[str, StageResult]:
    """Return what the stages of a project left in build/, in the order of the plan."""
    found = {stage.key: read_result(item.build / stage.key) for stage in item.plan.stages}
    return {key: result for key, result in found.items() if result is not None}


def report_spec(item: pipeline.Prepared, toolchain: str = "") -> dict[str, Any]:
    """Write the report of whatever results there are and return its document."""
    results = read_results(item)
    quantized = [stage.key for stage in item.plan.stages if stage.uses_toolchain and stage.key in results]
    made_by = {str(results[key].toolchain.get("name", "")) for key in quantized} - {"", "dpuforge"}
    # One emulated result makes the whole report an emulated one.
    named = toolchain or next(iter(sorted(made_by)), item.project.run.toolchain.value)
    name = "emulator" if "emulator" in made_by else named
    return pipeline.report(item, results, name)


def find_stale(item: pipeline.Prepared, toolchain: str) -> list[dict[str, Any]]:
    """Return one row per stage: its key, why it must run ("" where it need not or cannot), its minutes last time."""
    place = find_place(item, toolchain)
    results = read_results(item)
    stale: dict[str, str] = {}
    rows = []
    for stage in item.plan.stages:
        key = hash_inputs(describe_inputs(stage, place, item.generated(), item.root, results))
        missing = any(place.find_tool(tool) is None for tool in stage.tools)
        waits = [name for name in stage.needs if stale.get(name)]
        why = explain_staleness(item.build / stage.key, key, item.root) or (f"after {waits[0]}" if waits else "")
        stale[stage.key] = why = "" if missing else why
        last = results.get(stage.key)
        minutes = round(last.seconds / 60, 2) if last and last.seconds else None
        rows.append({"stage": stage.key, "why": why, "minutes": minutes})
    return rows
