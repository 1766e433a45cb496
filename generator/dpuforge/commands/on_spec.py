"""Commands on a spec: validate, explain, generate, check, diff, run, report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpuforge.commands.choices import complete
from dpuforge.commands.screen import paint, print_json, print_message, print_table
from dpuforge.commands.show_faults import choose_engine, explain_word, make_question
from dpuforge.errors import ExitCode, Problem, UsageError, UserError

if TYPE_CHECKING:
    from dpuforge.records.files import Edits, FileChange, RenderedFile
    from dpuforge.records.job import Job

Specs = Annotated[
    list[Path] | None,
    typer.Argument(help="Spec files; without any: every spec/*.yaml here.", shell_complete=complete.complete_specs),
]
Spec = Annotated[
    Path,
    typer.Argument(help="The spec file, for example spec/quickstart.yaml.", shell_complete=complete.complete_specs),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for <project>/; default: generated/ beside spec/.")]
Boards = Annotated[
    list[str] | None,
    typer.Option("--board", help="Only this board; may be repeated.", shell_complete=complete.complete_boards),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace files edited by hand; they are moved to build/<project>/set_aside/."),
]
Keep = Annotated[bool, typer.Option("--keep", help="Leave files edited by hand as they are; write the others.")]
ToolchainName = Annotated[
    str | None,
    typer.Option(
        help="emulator, native or container; default: the spec's.", shell_complete=complete.complete_toolchains
    ),
]


ClusterName = Annotated[
    str, typer.Option(help="Stages become jobs: slurm, kubernetes, or a folder with a profile of Snakemake.")
]


def find_specs(specs: Iterable[Path] | None) -> tuple[Path, ...]:
    """Return the specs named, or every spec/*.yaml below the working directory; raise UsageError where none is."""
    named = tuple(specs or ())
    found = named or tuple(sorted(path for path in Path("spec").glob("*.y*ml") if _is_spec(path)))
    if not found:
        raise UsageError("no spec given, and no spec/*.yaml here", "name one, or make one with `dpuforge init`")
    return found


def _is_spec(path: Path) -> bool:
    """Tell a spec from a file that specs include as base."""
    return path.is_file() and any(line.startswith("project:") for line in path.read_text("utf-8").splitlines())


class Form(str, Enum):
    """How problems are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    SARIF = "sarif"


def validate(
    specs: Specs = None,
    json_: Json = False,
    form: Annotated[Form, typer.Option("--format", help="github annotates lines; sarif is for viewers.")] = Form.TEXT,
) -> None:
    """Check specs and print every problem with its place.

    Example: dpuforge validate spec/quickstart.yaml

    Exit code 0 where all specs are good (warnings allowed), 2 otherwise.
    """
    found = {str(path): _find_problems(path) for path in find_specs(specs)}
    bad = any(_is_bad(problems) for problems in found.values())
    _print_problems(found, Form.JSON if json_ else form)
    raise typer.Exit(ExitCode.BAD_SPEC if bad else ExitCode.DONE)


def _print_problems(found: Mapping[str, tuple[Problem, ...]], form: Form) -> None:
    """Print the problems of each spec; text goes to stderr, what a program reads to stdout."""
    from dpuforge.annotations import annotate_problem, build_sarif

    every = [problem for problems in found.values() for problem in problems]
    if form is Form.JSON:
        print_json({path: _problems_json(problems) for path, problems in found.items()})
    elif form is Form.SARIF:
        print_json(build_sarif(every))
    elif form is Form.GITHUB:
        for problem in every:
            print(annotate_problem(problem))
    else:
        for problem in every:
            print_message(str(problem))
        for path, problems in found.items():
            if not _is_bad(problems):
                print(f"{path}: good")


def _find_problems(path: Path) -> tuple[Problem, ...]:
    """Return the problems of a spec; one that cannot be read is a problem too, so that the others are still judged."""
    from dpuforge.load.load_spec import validate_file

    try:
        return validate_file(path)
    except UserError as error:
        return (Problem(str(path), 1, 1, "(file)", error.message, error.remedy),)


def _is_bad(problems: Iterable[Problem]) -> bool:
    return any(problem.severity == "error" for problem in problems)


def _problems_json(problems: tuple[Problem, ...]) -> dict[str, Any]:
    keys = ("line", "column", "field", "severity", "message", "help")
    rows = [{key: getattr(problem, key) for key in keys} for problem in problems]
    return {"ok": not _is_bad(problems), "problems": rows}


def explain(
    spec: Annotated[
        Path,
        typer.Argument(
            metavar="SPEC|FILE:LINE|CODE",
            help="A spec, a generated line, or a code.",
            shell_complete=complete.complete_specs,
        ),
    ],
    says: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SPEC]", help="With a code: the spec that led there.", shell_complete=complete.complete_specs
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Show every effective value of a spec and where it came from, and what part of a picture the network sees.

    Example: dpuforge explain spec/quickstart.yaml

    With a line of a generated file (dpuforge explain generated/quickstart/train.py:33): the template's line that made
    it, and the keys of the spec that it prints or depends on, each with its place.

    With a code of AMD's quantizer or compiler (dpuforge explain QUANTIZER_TORCH_NO_FORWARD spec/quickstart.yaml): its
    cause, the keys of the spec that lead there, and a remedy.
    """
    file, _, line = str(spec).rpartition(":")
    if line.isdigit() and file and not spec.exists():
        _explain_line(Path(file), int(line), json_)
    elif says is not None or (not spec.exists() and spec.suffix not in (".yaml", ".yml")):
        explain_word(str(spec), says, json_)
    else:
        _explain_spec(spec, json_)


def _explain_line(path: Path, line: int, json_: bool) -> None:
    """Print where a line of a generated file comes from."""
    from dpuforge import pipeline
    from dpuforge.trace.explain_line import explain_line, find_generated, find_spec

    folder, inside = find_generated(path)
    job = pipeline.load(find_spec(folder))
    found = explain_line(job, pipeline.plan(job), inside, line)
    if json_:
        print_json(asdict(found))
        return
    on_disk = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    if on_disk[line - 1 : line] != [found.text]:
        print_message(f"{path}:{line} is not what the spec leads to now; this is the line as it would be made")
    print(f"{path}:{line}: {found.text.strip()}")
    for place in found.places:
        print(f"made by {place}")
    rows = [(it.how, it.key, it.origin.value, it.origin.where or f"default: {it.origin.why}") for it in found.keys]
    print_table("", ("how", "key", "value", "where, or why"), rows) if rows else print("no key of the spec decides it")


def _explain_spec(spec: Path, json_: bool) -> None:
    """Print every effective value of a spec and its origin."""
    from dpuforge.load.boards.catalogue import shipped_catalogue
    from dpuforge.load.load_spec import load_project
    from dpuforge.load.view import describe_view

    loaded = load_project(spec, shipped_catalogue())
    if json_:
        view = {"value": describe_view(loaded.project), "kind": "derived", "where": "", "why": "resize and crop"}
        print_json({**{key: asdict(origin) for key, origin in loaded.origins.items()}, "view": view})
        return
    rows = [(key, origin.value, origin.kind, origin.where or origin.why) for key, origin in loaded.origins.items()]
    print_table(str(spec), ("key", "value", "origin", "where, or why"), rows)
    for line in describe_view(loaded.project):
        print(line)


def choose_edits(overwrite: bool, keep: bool) -> Edits:
    """Return what becomes of files that a person edited; raise UsageError where two answers were given."""
    from dpuforge.records.files import Edits

    if overwrite and keep:
        raise UsageError("--overwrite and --keep exclude each other")
    return Edits.OVERWRITE if overwrite else Edits.KEEP if keep else Edits.REFUSE


def generate(
    specs: Specs = None, out: Out = None, board: Boards = None, overwrite: Overwrite = False, keep: Keep = False
) -> None:
    """Write generated/<project>/ from each spec: one word per file.

    Example: dpuforge generate spec/quickstart.yaml

    All specs are rendered and parsed before the first file is written. Exit code 1, and nothing is written, where a
    file there was edited by hand or was not made by dpuforge, unless --overwrite or --keep says what becomes of it.
    """
    from dpuforge import pipeline
    from dpuforge.records.files import Edits

    edits, boards = choose_edits(overwrite, keep), tuple(board or ())
    rendered = render_specs(specs)
    _refuse_twins([job for job, _ in rendered])
    if out is None:
        _refuse_while_running([job for job, _ in rendered])
    if edits is Edits.REFUSE:
        for job, files in rendered:
            pipeline.guard(job, files, out, boards)
    for job, files in rendered:
        for problem in job.warnings:
            print_message(str(problem))
        changes = pipeline.write(job, files, out, boards, edits)
        for change in changes:
            print(f"{paint(change.change.value, 9)} {job.project.project}/{change.path}")
        _tell_edits(job, changes)


def _refuse_while_running(jobs: Iterable[Job]) -> None:
    """Raise LockedError where a run is at work: its scripts would change under its feet."""
    for job in jobs:
        if job.build.is_dir():
            from dpuforge.execute.lock import refuse_while_held

            refuse_while_held(job.build)


def _tell_edits(job: Job, changes: Iterable[FileChange]) -> None:
    """Say which files were not dpuforge's own, and what became of them."""
    from dpuforge.records.files import Change
    from dpuforge.render.folder import find_persons

    for change in find_persons(changes):
        fate = "left as it is" if change.change is Change.KEEP else f"moved to {job.build / 'set_aside'}"
        print_message(f"warning: {job.project.project}/{change.path}: {change.why}; {fate}")


def render_specs(specs: Iterable[Path] | None) -> list[tuple[Job, tuple[RenderedFile, ...]]]:
    """Take every spec through load, plan and render."""
    from dpuforge import pipeline

    jobs = [pipeline.load(path) for path in find_specs(specs)]
    return [(job, pipeline.render(pipeline.plan(job))) for job in jobs]


def _refuse_twins(jobs: Iterable[Job]) -> None:
    """Raise UsageError where two specs would write the same folder."""
    seen: dict[Path, str] = {}
    for job in jobs:
        path = job.project.spec.path
        other = seen.setdefault(job.generated(), path)
        if other != path:
            raise UsageError(f"{other} and {path} are both project {job.project.project}")


def check(specs: Specs = None, out: Out = None) -> None:
    """Say whether generated/ is in step with the specs: exit code 0, or 1 with every file that is not.

    Example: dpuforge check
    """
    from dpuforge import pipeline

    drifted = 0
    for job, files in render_specs(specs):
        for change in pipeline.compare(job, files, out):
            drifted += 1
            where = f"{job.project.project}/{change.path}"
            detail = f" ({change.why})" if change.why else ""
            print(f"{_DRIFT[change.change.value]:<9} {where}{detail}")
    if drifted:
        print_message(f"{drifted} file(s) differ; `dpuforge diff` shows how, `dpuforge generate` brings them in step")
        raise typer.Exit(ExitCode.DRIFT)


_DRIFT = {"create": "missing", "update": "different", "prune": "extra"}


def run(
    specs: Annotated[
        list[Path],
        typer.Argument(metavar="SPEC...", help="Several share stages.", shell_complete=complete.complete_specs),
    ],
    toolchain: ToolchainName = None,
    board: Boards = None,
    start: Annotated[
        str, typer.Option("--from", help="Run again from this stage on.", shell_complete=complete.complete_stages)
    ] = "",
    until: Annotated[str, typer.Option(help="Stop after this stage.", shell_complete=complete.complete_stages)] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Boards to compile side by side.")] = 1,
    overwrite: Overwrite = False,
    keep: Keep = False,
    approved: Annotated[Path | None, typer.Option("--plan", help="Run what `plan --out` saved, or refuse.")] = None,
    engine: Annotated[str, typer.Option(help="docker or podman, for toolchain container; default: the spec's.")] = "",
    pull: Annotated[bool, typer.Option("--pull", help="Fetch AMD's image where it is missing (tens of GB).")] = False,
    cluster: ClusterName = "",
) -> None:
    """Generate the scripts, then run every stage that is stale, and report.

    Example: dpuforge run spec/quickstart.yaml

    Stages: prepare, train, inspect, adjust (where the spec asks for it), calibrate (or qat), evaluate, deploy,
    preflight, compile, report. They run in build/<project>/, each with its log.txt and result.json. Ctrl-C stops
    cleanly; the next run goes on from there. Of several specs, equal stages run once; a stage that a sweep ran is
    taken over.
    Scripts that were edited by hand are refused (exit code 1): --keep runs them as they are. One run at a time works
    in a project's build folder; the second says who does (exit code 3). --cluster slurm makes each stage a job.
    """
    from dpuforge import running
    from dpuforge.commands.runs.run_specs import bind_to_plan, run_specs
    from dpuforge.execute.run_stages import Selection

    edits = choose_edits(overwrite, keep)
    request = running.Request(toolchain or "", tuple(board or ()), Selection(start, until), jobs, edits)
    if approved is not None:
        request = bind_to_plan(approved, request, specs)
    request = replace(request, engine=choose_engine(engine), pull=make_question(pull), cluster=cluster)
    raise typer.Exit(run_specs(specs, request))


def report(
    specs: Annotated[
        list[Path], typer.Argument(help="One spec, or several to compare.", shell_complete=complete.complete_specs)
    ],
) -> None:
    """Write report.json, report.md, report.html and card.md from the results in build/<project>/.

    Example: dpuforge report spec/quickstart.yaml

    With several specs, each is reported, and comparison.html, comparison.md and comparison.json in build/comparison/
    set them side by side: accuracy against frames per second, and how the specs differ.
    """
    from dpuforge import pipeline
    from dpuforge.commands.runs.run_specs import print_comparison, print_summary

    if len(specs) == 1:
        job = pipeline.load(specs[0])
        print_summary(pipeline.report(job, pipeline.plan(job)))
        return
    print_comparison(*pipeline.compare_runs(specs))


def schema() -> None:
    """Print the JSON Schema of a spec, for editors.

    Example: dpuforge schema > spec/schema/project.schema.json
    """
    from dpuforge.load.json_schema import project_json_schema

    print_json(project_json_schema())
