"""The preflight stage: read the xmodel back, run it on integers, and check it against every board's DPU.

It is the last stage that needs no AMD tool. It runs as `python -m dpuforge.preflight` in a process of its own, joins
the spec with xmodel and hardware, and predicts: what it says of a board was not measured on one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpuforge import pipeline
from dpuforge.errors import StageError, UserError
from dpuforge.estimating import estimate_boards
from dpuforge.execute.results import hash_file, read_result, write_result
from dpuforge.execute.toolchain import hash_checks
from dpuforge.hardware.estimate import Estimate
from dpuforge.records.job import Job
from dpuforge.records.project import Project
from dpuforge.records.result import StageResult, Status
from dpuforge.xmodel.dump import compare_with_dump
from dpuforge.xmodel.neutral import neutral_operators
from dpuforge.xmodel.nouns import Graph
from dpuforge.xmodel.read import read_xmodel

_DUMP = "quantize_result/deploy_check_data_int"


def main() -> None:
    """Run the stage and leave its result.json; exit code 3 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m dpuforge.preflight", description=__doc__)
    for option in ("--spec", "--root", "--build"):
        parser.add_argument(option, required=True, type=Path)
    arguments = parser.parse_args()
    result = _judge(arguments.root / arguments.spec, arguments.root, arguments.build)
    if result.reason:
        print(f"preflight: {result.reason}")
    write_result(arguments.build / "preflight", result)
    raise SystemExit(StageError.exit_code if result.status is Status.FAILED else 0)


def _judge(spec: Path, root: Path, build: Path) -> StageResult:
    metrics: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    settings: Mapping[str, Any] = {}
    status, reason = Status.DONE, ""
    try:
        job = pipeline.load(spec)
        settings = next(stage.settings for stage in pipeline.plan(job).stages if stage.name == "preflight")
        xmodel = build / "deploy" / f"{job.project.target.net_name}_int.xmodel"
        if xmodel.is_file():
            name = xmodel.relative_to(root).as_posix() if xmodel.is_relative_to(root) else str(xmodel)
            inputs[name] = hash_file(xmodel)
        device = job.project.quantization.target_device
        if device == "DPU":
            _check(job, xmodel, metrics)
        else:
            status = Status.SKIPPED
            reason = f"the quantizer writes no xmodel for target_device {device}: there is nothing to check"
    except UserError as error:
        status, reason = Status.FAILED, str(error)
    toolchain = {"name": "dpuforge", "versions": {"dpuforge": hash_checks()}}
    return StageResult(
        "preflight", status, reason, toolchain=toolchain, inputs=inputs, metrics=metrics, settings=settings
    )


def _check(job: Job, xmodel: Path, metrics: dict[str, Any]) -> None:
    """Fill metrics; raise a UserError at the first check that fails, with the boards' figures already in place."""
    _check_context(xmodel.parent.parent, "qat" if job.project.quantization.qat.enabled else "calibrate")
    if not xmodel.is_file():
        raise StageError(f"{xmodel} does not exist", "run the deploy stage; only target_device DPU writes an xmodel")
    graph = read_xmodel(xmodel)
    print(f"read {xmodel.name}: {len(graph.ops)} operators")
    metrics["integer_run"] = _run_on_integers(graph, xmodel.parent / _DUMP)
    estimates = estimate_boards(job.catalogue, neutral_operators(graph), job.targets)
    metrics["boards"] = {estimate.board.board: _describe(estimate) for estimate in estimates}
    _check_subgraphs(job.project, metrics["boards"])


def _check_context(build: Path, first: str) -> None:
    """Raise StageError where what was deployed is not what was calibrated or measured: results of different runs.

    first is the stage that found the fix positions.
    """
    results = {name: read_result(build / name) for name in (first, "evaluate", "deploy")}
    contexts = {name: r.metrics.get("quantisation_context") for name, r in results.items() if r is not None}
    known = {name: context for name, context in contexts.items() if context}
    if len(set(known.values())) > 1:
        other = [name for name in known if known[name] != known.get(first, known.get("deploy"))]
        raise StageError(
            f"{' and '.join(other)} quantised with another configuration, weights or settings than {first}",
            f"run again from {first} on: `dpuforge run SPEC --from {first}`",
        )


def _run_on_integers(graph: Graph, folder: Path) -> dict[str, int]:
    """Compare the integer interpreter with every tensor the quantizer dumped beside the xmodel."""
    dumps = sorted(path for path in folder.glob("*") if path.is_dir())
    if len(dumps) != 1:
        raise StageError(f"{folder} holds {len(dumps)} dumps, one is expected", "run the deploy stage again")
    found = compare_with_dump(graph, dumps[0])
    if found.different:
        names = f"{len(found.different)} tensors: {', '.join(found.different[:5])}"
        raise StageError(f"the xmodel, run on integers, differs from the quantised network in {names}")
    rounded = f"; {found.rounded} of CPU operators rounded the other way at a border" if found.rounded else ""
    print(f"integer run: {found.tensors} tensors, {found.values} values, all equal to the quantised network's{rounded}")
    return {"tensors": found.tensors, "values": found.values, "rounded": found.rounded}


def _describe(estimate: Estimate) -> dict[str, Any]:
    document = estimate.to_json()
    document["fps_estimate"] = document["fps"]["multi"]
    kept = ("target", "dpu_subgraphs", "cpu_ops", "workload", "workload_on_arch", "latency_ms", "fps", "fps_estimate")
    return {name: document[name] for name in (*kept, "notes")}


def _check_subgraphs(project: Project, boards: Mapping[str, Mapping[str, Any]]) -> None:
    wanted = project.target.dpu_subgraphs
    for name, board in boards.items():
        cpu = "; ".join(f"{op['op']}: {op['reason']}" for op in board["cpu_ops"])
        fps = board["fps_estimate"]
        rate = f"{fps[1]:.0f} ({fps[0]:.0f} to {fps[2]:.0f}) frames per second" if fps else "no frame rate is known"
        print(f"{name} ({board['target']}): {board['dpu_subgraphs']} DPU subgraph(s) predicted, {rate} estimated")
        if cpu:
            print(f"{name}: on the CPU: {cpu}")
    wrong = {name: board["dpu_subgraphs"] for name, board in boards.items() if board["dpu_subgraphs"] != wanted}
    if wrong:
        found = ", ".join(f"{count} on {name}" for name, count in wrong.items())
        raise StageError(
            f"target.dpu_subgraphs demands {wanted} DPU subgraph(s), predicted are {found}",
            "change the operators named in the log, or the number in the spec",
        )


if __name__ == "__main__":
    main()
