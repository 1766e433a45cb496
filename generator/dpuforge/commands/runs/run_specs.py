"""What `run` does with its specs: one after the other, sharing what they and earlier sweeps have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpuforge.commands.progress import RunProgress
from dpuforge.commands.screen import print_message
from dpuforge.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from dpuforge.execute.run_stages import Share
    from dpuforge.running import Failure, Request

Ended = Callable[[Path, dict[str, Any], "Failure | None"], None]


def run_specs(specs: Sequence[Path], request: Request, ended: Ended) -> ExitCode:
    """Run each spec, whatever becomes of those before it, and return the first exit code that is not 0.

    ended is told how each ended. A spec that cannot be loaded stops all before anything runs.
    """
    from dpuforge import pipeline

    share, code = find_share(specs), ExitCode.DONE
    for spec in specs:
        if len(specs) > 1:
            print_message(f"spec {spec}")
        asked = replace(request, share=share) if share is not None else request
        document, failed = pipeline.run(spec, asked, RunProgress, print_message)
        ended(spec, document, failed)
        if failed is not None and code is ExitCode.DONE:
            code = failed.exit_code
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
