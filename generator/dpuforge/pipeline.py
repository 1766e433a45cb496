"""READ FIRST. The whole of dpuforge on one page: load, plan, render, write, execute, report.

Every command on a spec takes the first steps of `run`. Nothing is touched before `write`. What only the last two steps
need is imported there, so that `generate` and `check` start as fast as they can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpuforge.load.boards.catalogue import shipped_catalogue
from dpuforge.load.boards.lock_file import resolve_targets
from dpuforge.load.load_spec import load_project
from dpuforge.paths import find_root
from dpuforge.plan.make_plan import make_plan
from dpuforge.records.files import Change, Edits, FileChange, RenderedFile
from dpuforge.records.job import Job
from dpuforge.records.plan import Plan
from dpuforge.records.result import StageResult
from dpuforge.records.variant import Variant
from dpuforge.render.folder import compare_folder, refuse_loss, select_changes, write_folder
from dpuforge.render.render import render_plan

if TYPE_CHECKING:
    from dpuforge.report.facts import Facts
    from dpuforge.running import Failure, Request, Watch, Work


def run(
    path: Path, request: Request, watch: Watch, say: Callable[[str], None] = print
) -> tuple[dict[str, Any], Failure | None]:
    """Take a spec through all six steps; return the report's document and the first failure, if there is one.

    watch is given the number of stages and returns who observes them.
    say is told in a line what the run waits for. Raises SpecError, MissingToolError, StageError, UsageError,
    DriftError, LockedError or HandEditsError before anything is written, Interrupted on Ctrl-C.
    """
    from dpuforge.execute.cluster.slurm import wait_for_jobs
    from dpuforge.execute.lock import claim, refuse_orphan
    from dpuforge.history.leave_row import entering
    from dpuforge.planning import hold_to_approval
    from dpuforge.running import choose_work, find_failure

    job = load(path, request.variant)
    planned = plan(job)
    files = render(planned)
    work = choose_work(job, planned, request)
    results: tuple[StageResult, ...] = ()
    with claim(job.build, say) as kept, entering(job, planned, say) as entry:
        wait_for_jobs(job.build, say, request.stop)
        refuse_orphan(job.build)
        hold_to_approval(job, planned, files, request)
        if work.stages:
            changes = write(job, files, edits=request.edits)
            results = execute(job, planned, replace(work, kept=kept, changes=changes), watch)
        document, failed = report(job, planned, work.place.name), find_failure(results, job.build)
        entry.note(results, document, f"{failed.key}: {failed.reason}" if failed else "")
        return document, failed


def load(path: Path, variant: Variant | None = None) -> Job:
    """Read a spec, or a variant of it, and what is known of its hardware.

    Raises SpecError with every problem of the spec at once, or where a board's lock says that it carries another DPU.
    """
    catalogue = shipped_catalogue()
    loaded = load_project(path, catalogue, variant.overrides if variant else ())
    targets = resolve_targets(catalogue, loaded)
    return Job(loaded.project, find_root(path), catalogue, targets, loaded.warnings, loaded.origins, variant)


def plan(job: Job) -> Plan:
    """Say which files and which stages a spec leads to."""
    settings = {key: origin.value for key, origin in job.origins.items()}
    planned = make_plan(job.project, job.targets, job.release, settings)
    return planned.with_options(job.variant.options) if job.variant else planned


def render(planned: Plan) -> tuple[RenderedFile, ...]:
    """Return the text of every generated file."""
    return render_plan(planned)


def compare(job: Job, files: Sequence[RenderedFile], out: Path | None = None) -> tuple[FileChange, ...]:
    """Return the differences between generated/<project>/ and the rendered files; `write` would undo them."""
    changes = compare_folder(files, job.generated(out))
    return tuple(change for change in changes if change.change is not Change.IDENTICAL)


def guard(job: Job, files: Sequence[RenderedFile], out: Path | None = None, boards: Sequence[str] = ()) -> None:
    """Raise HandEditsError where `write` would lose what a person edited or put into generated/<project>/."""
    changes = select_changes(compare(job, files, out), _other_folders(job, boards))
    refuse_loss(changes, job.generated(out))


def write(
    job: Job,
    files: Sequence[RenderedFile],
    out: Path | None = None,
    boards: Sequence[str] = (),
    edits: Edits = Edits.REFUSE,
) -> tuple[FileChange, ...]:
    """Write generated/<project>/ and return what was done to every file.

    With boards, the folders of the project's other boards are left as they are. Raises HandEditsError, before anything
    is touched, where a person's work would be lost and edits does not say what becomes of it.
    """
    return write_folder(files, job.generated(out), _other_folders(job, boards), edits, job.build / "set_aside")


def _other_folders(job: Job, boards: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"boards/{name}/" for name in job.other_boards(boards))


def execute(job: Job, planned: Plan, work: Work, watch: Watch) -> tuple[StageResult, ...]:
    """Run the chosen stages that are stale in build/<project>/, up to the first that fails; return their results."""
    from dpuforge.execute.run_stages import Folders, run_stages
    from dpuforge.foreseeing import remember_times
    from dpuforge.running import make_check

    earlier = {change.path: change.before for change in work.changes}
    folders = Folders(job.root, job.generated(), job.build, earlier, work.kept)
    check = make_check(job)
    with watch(len(work.stages)) as observer:
        limits = {name: time for name, time in job.project.run.time_limit.items() if work.place.of(name).keeps_time}
        results = run_stages(
            work.stages, planned.stages, work.place, folders, observer, work.jobs, check, limits, work.share, work.stop
        )
    remember_times(job, planned.stages, results)
    return results


def report(job: Job, planned: Plan, toolchain: str = "") -> dict[str, Any]:
    """Write report.json, report.md, report.html and card.md of the results in build/<project>/; return the document.

    toolchain names who ran the stages last, "" where that shows in the results alone.
    """
    return report_with_facts(job, planned, toolchain)[0]


def report_with_facts(job: Job, planned: Plan, toolchain: str = "") -> tuple[dict[str, Any], Facts]:
    """Do what `report` does; return the document and what it was made of."""
    from dpuforge.board.measured import read_measured
    from dpuforge.describing.gather_facts import gather_facts, tell_elsewhere
    from dpuforge.execute.results import write_json
    from dpuforge.report.card import render_card
    from dpuforge.report.document import build_report
    from dpuforge.report.pages import render_pages, write_pages
    from dpuforge.running import find_outdated, name_toolchain, read_results

    results = read_results(job, planned)
    name = name_toolchain(job, planned, results, toolchain)
    outdated = find_outdated(job, planned, results, {change.path for change in compare(job, render(planned))})
    measured = read_measured(job)
    facts = gather_facts(job, planned, results, outdated, measured)
    document = build_report(
        job.project.project, planned.spec_sha256, name, job.targets, results, outdated, measured, facts
    )
    write_pages(job.build, {**render_pages(document, facts), "card.md": render_card(document, facts)})
    write_json(job.build / "report.json", document)
    tell_elsewhere(job, document, facts)
    return document, facts


def compare_runs(paths: Sequence[Path]) -> tuple[dict[str, Any], Path]:
    """Report several specs and write their comparison to build/comparison/ beside the first; return both."""
    from dpuforge.execute.results import write_json
    from dpuforge.report.comparison import build_comparison, name_folder, render_comparison
    from dpuforge.report.pages import write_pages

    jobs = [load(path) for path in paths]
    runs = [report_with_facts(job, plan(job)) for job in jobs]
    document = build_comparison(runs)
    folder = jobs[0].root / "build" / "comparison" / name_folder([job.project.project for job in jobs])
    write_pages(folder, render_comparison(document))
    write_json(folder / "comparison.json", document)
    return document, folder
