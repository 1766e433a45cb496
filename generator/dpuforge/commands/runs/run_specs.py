"""What `run` does with its specs: one after the other, sharing what they and earlier sweeps have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpuforge.commands.progress import RunProgress
from dpuforge.commands.screen import print_message, print_table
from dpuforge.commands.show_faults import tell_failure
from dpuforge.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from dpuforge.execute.run_stages import Share
    from dpuforge.running import Request


def run_specs(specs: Sequence[Path], request: Request) -> ExitCode:
    """Run each spec, whatever becomes of those before it, and return the first exit code that is not 0.

    A spec that cannot be loaded stops all before anything runs.
    """
    from dpuforge import pipeline

    share, code = find_share(specs), ExitCode.DONE
    for spec in specs:
        if len(specs) > 1:
            print_message(f"spec {spec}")
        asked = replace(request, share=share) if share is not None else request
        document, failed = pipeline.run(spec, asked, RunProgress, print_message)
        print_summary(document)
        if failed is not None:
            tell_failure(spec, failed)
            code = failed.exit_code if code is ExitCode.DONE else code
    return code


def find_share(specs: Sequence[Path]) -> Share | None:
    """Return what lets runs of these specs take results from each other and from sweeps, None of a lone one without."""
    if len(specs) == 1 and not _may_have_variants(specs[0]):
        return None
    from dpuforge import pipeline
    from dpuforge.sweep.sharing import Sharing, find_variants

    jobs = [pipeline.load(spec) for spec in specs]
    if len({job.build for job in jobs}) < len(jobs):
        names = ", ".join(job.project.project for job in jobs)
        raise UsageError(f"two of these specs are one project: {names}", "give each spec a project of its own")
    return Sharing(jobs, {build: name for job in jobs for build, name in find_variants(job).items()}).obtain


def _may_have_variants(spec: Path) -> bool:
    from dpuforge.paths import find_root
    from dpuforge.records.job import VARIANTS

    return any((find_root(spec) / "build").glob(f"*/{VARIANTS}"))


def bind_to_plan(approved: Path, request: Request, specs: Sequence[Path]) -> Request:
    """Return the request of a saved plan; raise UsageError where the command says otherwise."""
    from dpuforge import planning

    if len(specs) > 1:
        raise UsageError("--plan: the saved plan is of one spec", "name that one alone")
    selection = request.selection
    if request.toolchain or request.boards or selection.start or selection.until:
        raise UsageError("--plan: the saved plan says toolchain, boards and stages", "give them to `dpuforge plan`")
    return replace(planning.read_approval(approved, request.jobs), edits=request.edits)


def print_summary(document: dict[str, Any]) -> None:
    """Print what a run came to: accuracies, what they hide, and where the report lies."""
    metrics = document["metrics"]
    if metrics["int8_accuracy"] is not None:
        kind = "emulated int8" if document["emulated"] else "int8"
        own = f" after dpuforge's own {' and '.join(document['not_amd'])}, not AMD's" if document["not_amd"] else ""
        print(
            f"{document['project']}: float {_both(metrics, 'float')}, {kind} {_both(metrics, 'int8')}{own}, "
            f"drop {metrics['accuracy_drop']:.2f} points on {metrics['test_images']} {metrics['split'] or 'test'} "
            "images"
        )
    for warning in document["warnings"]:
        print_message(f"warning: {warning['text']}")
    print(f"report: build/{document['project']}/report.html")


def _both(metrics: dict[str, Any], network: str) -> str:
    """Return an accuracy with the balanced one beside it."""
    balanced = metrics[f"{network}_balanced_accuracy"]
    beside = "" if balanced is None else f" (balanced {balanced:.2f} %)"
    return f"{metrics[f'{network}_accuracy']:.2f} %{beside}"


def print_comparison(document: Mapping[str, Any], folder: Path) -> None:
    """Print how several runs compare, and where the pages of it lie."""
    rows = [
        (
            row["project"],
            *(row[name] for name in ("float_accuracy", "int8_accuracy", "accuracy_drop")),
            row["fps"] and row["fps"][1],
            "yes" if row["on_front"] else "no",
        )
        for row in document["runs"]
    ]
    columns = (
        "run",
        "float, %",
        "int8, %",
        "drop, points",
        f"fps on {document['board'] or 'no common board'}",
        "on the front",
    )
    print_table("", columns, rows)
    for item in document["differences"]:
        print(item["words"])
    print(f"comparison: {folder / 'comparison.html'}")
