"""The command that tries many variants of a spec: sweep."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpuforge.commands.on_spec import ClusterName, Json, Spec, ToolchainName
from dpuforge.commands.runs.watch_variant import watch_variant
from dpuforge.commands.screen import print_json, print_message, print_table
from dpuforge.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from dpuforge.records.job import Job
    from dpuforge.records.variant import Variant
    from dpuforge.sweep.outcomes import Outcome
    from dpuforge.sweep.record import Asked
    from dpuforge.sweep.run_variants import Sweep


def sweep(
    spec: Spec,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUES", help="May be repeated.")] = None,
    toolchain: ToolchainName = None,
    until: Annotated[str, typer.Option(help="As `run --until`; without preflight there are no frame rates.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Variants to run side by side.")] = 1,
    images: Annotated[int, typer.Option(min=0, help="Images of each split, for a quick look; 0: all.")] = 0,
    prune: Annotated[
        bool, typer.Option("--prune", help="No further seeds for a setting that is clearly worse.")
    ] = False,
    sampler: Annotated[str, typer.Option(help="tpe or random, of Optuna, instead of the whole grid.")] = "",
    trials: Annotated[int, typer.Option(min=0, help="Variants that the sampler tries, all calls together.")] = 0,
    cluster: ClusterName = "",
    apply: Annotated[int, typer.Option(min=0, metavar="N", help="Write variant N into the spec; runs nothing.")] = 0,
    json_: Json = False,
) -> None:
    """Run variants of a spec, share what they have in common, and say which differences are more than luck.

    Example: dpuforge sweep spec/quickstart.yaml --set quantization.overall.method=maxmin,diffs --set train.seed=0..4

    Values are YAML, separated by commas; 0..4 counts. Each variant lives in build/<project>/variants/; a stage that
    is the same in two of them runs once. Tables and pareto.png lie in build/<project>/sweeps/. The same command goes
    on after Ctrl-C. --sampler tpe --trials 20 searches where a grid is too large, ranges of reals (1e-4..1e-2) too.
    """
    from dpuforge.sweep.record import Asked

    asked = Asked(tuple(settings or ()), images, sampler)
    if apply:
        _apply(spec, asked if settings else None, apply)
        return
    document, folder = _run(spec, asked, (toolchain or "", until, cluster), jobs, trials, prune)
    _show(document, folder, json_)
    bad = [row for row in document["variants"] if row["status"] == "failed"]
    raise typer.Exit(ExitCode.STAGE_FAILED if bad else ExitCode.DONE)


def _run(
    spec: Path, asked: Asked, where: tuple[str, str, str], jobs: int, trials: int, prune: bool
) -> tuple[dict[str, Any], Path]:
    """Run a sweep under the lock of its spec; return its document and folder."""
    from dpuforge import pipeline
    from dpuforge.execute.lock import claim
    from dpuforge.execute.run_stages import Selection, select_stages
    from dpuforge.records.job import VARIANTS
    from dpuforge.running import Request
    from dpuforge.sweep.record import SWEEPS
    from dpuforge.sweep.run_variants import Sweep
    from dpuforge.sweep.write_page import check_extra

    check_extra()
    job = pipeline.load(spec)
    folder = job.build / SWEEPS / asked.name
    request = Request(where[0], selection=Selection(until=where[1]), cluster=where[2])
    select_stages(pipeline.plan(job).stages, request.selection)
    task = Sweep(spec, request, partial(watch_variant, live=jobs == 1), print_message, prune=prune)
    task.tell = lambda outcome: _tell(job, task, asked, folder, outcome)
    with claim(job.build / VARIANTS, print_message):
        (_search if asked.sampler else _run_grid)(task, asked, folder, jobs, trials)
        return _write(job, task, asked, folder), folder


def _run_grid(task: Sweep, asked: Asked, folder: Path, jobs: int, trials: int) -> None:
    from dpuforge.sweep.axes import make_grid, name_setting, parse_axes
    from dpuforge.sweep.run_variants import check_variants

    if not asked.options and not asked.images:
        raise UsageError("nothing is to differ", "say what with --set KEY=VALUES")
    if trials:
        raise UsageError("--trials is for a sampler", "add --sampler tpe, or leave it out")
    variants = [asked.limit(variant) for variant in make_grid(parse_axes(asked.options))]
    check_variants(task.spec, variants)
    task.settings, task.total = len({name_setting(variant) for variant in variants}), len(variants)
    task.run_grid(variants, jobs)


def _search(task: Sweep, asked: Asked, folder: Path, jobs: int, trials: int) -> None:
    from dpuforge.sweep.axes import parse_axes
    from dpuforge.sweep.sampler import SAMPLERS, Study

    if asked.sampler not in SAMPLERS:
        raise UsageError(f"--sampler {asked.sampler} is not known", f"choose {' or '.join(SAMPLERS)}")
    if not trials or not asked.options:
        raise UsageError("a sampler needs --trials and at least one --set", "for example --sampler tpe --trials 20")
    study = Study(parse_axes(asked.options), asked.sampler, folder)
    finished = study.finished()
    task.total = max(trials, len(finished))

    def look_again(number: int, variant: Variant) -> Outcome:
        return task.run_one(number, asked.limit(variant))

    def try_next() -> Outcome:
        number, variant = study.ask()
        outcome = task.run_one(number + 1, asked.limit(variant))
        study.tell(number, outcome.int8)
        return outcome

    again = [partial(look_again, number, variant) for number, variant in enumerate(finished, 1)]
    task.run_all([*again, *[try_next] * (trials - len(finished))], jobs)


def _tell(job: Job, task: Sweep, asked: Asked, folder: Path, outcome: Outcome) -> None:
    _write(job, task, asked, folder)
    said = outcome.reason or f"int8 {outcome.int8:.2f} %" if outcome.int8 is not None else outcome.reason
    print_message(f"variant {outcome.number}: {outcome.status}: {said} ({len(task.done)} of {task.total} ended)")


def _write(job: Job, task: Sweep, asked: Asked, folder: Path) -> dict[str, Any]:
    """Write what is known of a sweep; return its document."""
    from dpuforge.sweep import record, verdicts, write_page

    outcomes = [task.done[number] for number in sorted(task.done)]
    document = {"spec": job.project.spec.path, **verdicts.judge_sweep(outcomes)}
    record.save(folder, asked, document)
    if len(outcomes) >= task.total:
        write_page.write_page(folder / record.TABLE, document)
        write_page.draw_plot(folder / record.PLOT, document)
    return document


def _show(document: dict[str, Any], folder: Path, json_: bool) -> None:
    from dpuforge.sweep import record, write_page

    if json_:
        print_json(document)
        return
    print_table("", write_page.VARIANT_COLUMNS, write_page.list_variants(document))
    rows = write_page.list_settings(document)
    print_table("", write_page.SETTING_COLUMNS, [row[: len(write_page.SETTING_COLUMNS)] for row in rows])
    print_table(
        "", ("setting", *write_page.TEST_COLUMNS), [(row[0], *row[-len(write_page.TEST_COLUMNS) :]) for row in rows]
    )
    for line in write_page.explain_tests(document):
        print(line)
    trained = [row["shared"].get("train") for row in document["variants"] if row["test_images"]]
    print(f"{len(trained)} variants, {trained.count(None)} trained, the others took their training over")
    print(f"sweep: {folder / record.TABLE}" + (f", {record.PLOT}" if (folder / record.PLOT).is_file() else ""))


def _apply(spec: Path, asked: Asked | None, number: int) -> None:
    """Write a variant's values into the spec, comments kept."""
    from dpuforge import pipeline
    from dpuforge.edit.edit_spec import apply_overrides
    from dpuforge.sweep.record import find_variant, read_latest

    job = pipeline.load(spec)
    found, document = read_latest(job.build, asked)
    variant = found.free(find_variant(document, number))
    apply_overrides(spec, variant.overrides, job.catalogue)
    row = next(row for row in document["settings"] if number in row["variants"])
    print(f"{spec}: {variant}")
    print(f"of {len(document['settings'])} settings this one is: {row['verdict']}")
    print_message(f"next: `dpuforge run {spec}`, which takes over what the sweep made")
