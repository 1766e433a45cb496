"""The preflight stage: read the xmodel back, run it on integers, and check it against every board's DPU.

It is the last stage that needs no AMD tool. It runs as `python -m dpuforge.preflight` in a process of its own, joins
the spec with xmodel and hardware, and predicts: what it says of a board was not measured on one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpuforge import pipeline
from dpuforge.board.compare_outputs import load_preprocess
from dpuforge.board.contents import Image, choose_images
from dpuforge.chance.intervals import wilson
from dpuforge.errors import StageError, UserError
from dpuforge.estimating import estimate_boards
from dpuforge.execute.results import hash_file, read_result, write_json, write_result
from dpuforge.execute.toolchain import hash_checks
from dpuforge.hardware.estimate import Estimate
from dpuforge.paths import name_below
from dpuforge.records.job import Job
from dpuforge.records.project import Project
from dpuforge.records.result import StageResult, Status
from dpuforge.records.variant import Override, Variant
from dpuforge.xmodel.dump import compare_with_dump
from dpuforge.xmodel.integers.classify import rank_classes
from dpuforge.xmodel.integers.run import Images
from dpuforge.xmodel.neutral import neutral_operators
from dpuforge.xmodel.nouns import Graph
from dpuforge.xmodel.read import read_xmodel

_DUMP = "quantize_result/deploy_check_data_int"
# How many test images are run on integers: about a minute's worth on one core, spread evenly over the split.
_OPERATIONS, _FEWEST, _MOST = 10**12, 100, 1000
_BATCH = 4
_TOP, _TOP_FROM = 5, 10  # top-5 says something from ten classes on


def main() -> None:
    """Run the stage and leave its result.json; exit code 3 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m dpuforge.preflight", description=__doc__)
    for option in ("--spec", "--root", "--build"):
        parser.add_argument(option, required=True, type=Path)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE in place of the spec's")
    arguments = parser.parse_args()
    overrides = tuple(Override(*text.split("=", 1)) for text in arguments.set)
    variant = Variant(overrides) if overrides else None
    result = _judge(arguments.root / arguments.spec, arguments.root, arguments.build, variant)
    if result.reason:
        print(f"preflight: {result.reason}")
    write_result(arguments.build / "preflight", result)
    raise SystemExit(StageError.exit_code if result.status is Status.FAILED else 0)


def _judge(spec: Path, root: Path, build: Path, variant: Variant | None) -> StageResult:
    found = StageResult(
        "preflight", Status.DONE, toolchain={"name": "dpuforge", "versions": {"dpuforge": hash_checks()}}
    )
    metrics: dict[str, Any] = {}
    try:
        job = replace(pipeline.load(spec, variant), root=root)
        xmodel = build / "deploy" / f"{job.project.target.net_name}_int.xmodel"
        found = _note_origins(found, job, (xmodel, build / "prepare" / "data.json"))
        device = job.project.quantization.target_device
        if device != "DPU":
            reason = f"the quantizer writes no xmodel for target_device {device}: there is nothing to check"
            return found.with_changes(status=Status.SKIPPED, reason=reason)
        _check(job, xmodel, metrics)
        predictions = build / "preflight" / "predictions.json"
        write_json(predictions, _measure_accuracy(job, xmodel, metrics))
        return found.with_changes(metrics=metrics, outputs={name_below(predictions, root): hash_file(predictions)})
    except UserError as error:
        return found.with_changes(status=Status.FAILED, reason=str(error), metrics=metrics)


def _note_origins(found: StageResult, job: Job, files: Sequence[Path]) -> StageResult:
    """Enter what decides the result: the settings, the script whose functions are called, the files that are read."""
    stage = next(stage for stage in pipeline.plan(job).stages if stage.name == "preflight")
    scripts = {name: job.generated() / name for name in stage.scripts}
    return found.with_changes(
        settings=stage.settings,
        scripts={name: hash_file(path) for name, path in scripts.items() if path.is_file()},
        inputs={name_below(path, job.root): hash_file(path) for path in files if path.is_file()},
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


def _measure_accuracy(job: Job, xmodel: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """Fill in the accuracy of the integer run; return the answers image by image.

    Where the test images are gone the checks still stand: integer_note says why there is no accuracy.
    """
    try:
        whole = choose_images(job.root, xmodel.parent.parent, 0)
        count = count_images(len(whole), max(board["workload"] for board in metrics["boards"].values()))
        images = choose_images(job.root, xmodel.parent.parent, count)
        print(f"integers: classifying {len(images)} of {len(whole)} test images", flush=True)
        batches = _load_batches(job, images)
        ranked = [row for rows in rank_classes(read_xmodel(xmodel), batches, _TOP) for row in rows]
    except UserError as error:
        metrics["integer_note"] = error.message
        print(f"integers: no accuracy: {error}")
        return {}
    labels = [image.label for image in images]
    metrics |= {**_summarise(labels, ranked, job.project.classes.count), "integer_images_of": len(whole)}
    print("integers: {integer_accuracy:.2f} % of {integer_images} test images".format(**metrics))
    return {"files": [image.path for image in images], "label": labels, "integers": [row[0] for row in ranked]}


def _summarise(labels: Sequence[int], ranked: Sequence[Sequence[int]], classes: int) -> dict[str, Any]:
    """Return the figures in percent; ranked holds each image's best classes."""
    count = len(labels)
    right = sum(row[0] == label for row, label in zip(ranked, labels, strict=True))
    hits = sum(label in row for row, label in zip(ranked, labels, strict=True))
    return {
        "integer_accuracy": round(100.0 * right / count, 4),
        "integer_interval": [round(100.0 * bound, 4) for bound in wilson(right, count)],
        "integer_top5_accuracy": round(100.0 * hits / count, 4) if classes >= _TOP_FROM else None,
        "integer_images": count,
    }


def count_images(whole: int, operations: float) -> int:
    """Return how many test images are classified: fewer the more operations (of one image) the network has."""
    return min(whole, _MOST, max(_FEWEST, int(_OPERATIONS / max(operations, 1))))


def _load_batches(job: Job, images: Sequence[Image]) -> Iterator[Images]:
    """Yield float32 batches (N, H, W, C), prepared as training and the board prepare them."""
    module = load_preprocess(job.generated() / "preprocess.py")
    for start in range(0, len(images), _BATCH):
        loaded = [_load(module, job.root / image.path) for image in images[start : start + _BATCH]]
        yield np.stack(loaded).transpose(0, 2, 3, 1)


def _load(module: Any, path: Path) -> Images:
    try:
        image: Images = module.prepare_file(path)
    except Exception as error:  # Pillow raises many kinds
        raise StageError(f"{path} has changed since prepare checked it: {error}", "run the prepare stage") from error
    return image


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
