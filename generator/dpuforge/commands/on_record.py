"""Commands on what a project left: verify, pack."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpuforge.commands.choices import complete
from dpuforge.commands.on_spec import Json, Spec
from dpuforge.commands.screen import print_json, print_message
from dpuforge.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from dpuforge.prove.digests import Verdict


def verify(
    what: Annotated[
        Path, typer.Argument(help="A spec, or an archive of `dpuforge pack`.", shell_complete=complete.complete_specs)
    ],
    json_: Json = False,
) -> None:
    """Recompute every recorded digest and say what no longer matches; exit code 1 where anything does not.

    Example: dpuforge verify spec/quickstart.yaml

    Of a spec: the spec itself, the generated files, every image, what each stage read and made, and versions. An
    archive is held against itself, without being unpacked; a hostile one is refused (exit code 2).
    """
    import zipfile

    from dpuforge.prove.archive import verify_archive

    if not what.is_file():
        raise UsageError(f"{what} does not exist", "name a spec, or an archive")
    verdict = verify_archive(what) if zipfile.is_zipfile(what) or what.suffix == ".zip" else _verify_spec(what)
    if json_:
        print_json(verdict.to_json())
    else:
        _print(verdict)
    raise typer.Exit(ExitCode.DRIFT if verdict.differs else ExitCode.DONE)


def _verify_spec(spec: Path) -> Verdict:
    from dpuforge import pipeline
    from dpuforge.prove.digests import verify_project
    from dpuforge.running import find_place_if_any

    job = pipeline.load(spec)
    planned = pipeline.plan(job)
    rendered = {file.path: file.text for file in pipeline.render(planned)}
    return verify_project(job, planned, rendered, find_place_if_any(job))


def _print(verdict: Verdict) -> None:
    for stage, text in verdict.stages.items():
        print(f"{stage:<18} {text}")
    for text in verdict.differs:
        print(f"differs            {text}")
    for text in verdict.unseen:
        print(f"not looked at      {text}")
    right = verdict.checked - len(verdict.differs)
    print(f"{max(right, 0)} digests match" + (f", {len(verdict.differs)} do not" if verdict.differs else ""))


def pack(
    spec: Spec, out: Annotated[Path | None, typer.Option("--out", help="The archive; default: in build/.")] = None
) -> None:
    """Write one archive with spec, generated files, results and xmodels, and no images; equal files give equal bytes.

    Example: dpuforge pack spec/quickstart.yaml --out quickstart.zip

    What does not match its record is not packed (exit code 1). `dpuforge verify ARCHIVE` checks it elsewhere.
    """
    from dpuforge import pipeline
    from dpuforge.execute.results import hash_file
    from dpuforge.prove import archive
    from dpuforge.running import read_results

    job = pipeline.load(spec)
    results = read_results(job, pipeline.plan(job))
    if not results:
        raise UsageError(f"{job.project.project} has no results yet", f"run `dpuforge run {spec}` first")
    archive.refuse_to_pack(_verify_spec(spec))
    target = out or job.build / f"{job.project.project}.zip"
    names = archive.pack(job, results, target)
    print(f"{target}: {len(names)} files, {target.stat().st_size / 1e6:.1f} MB, sha256 {hash_file(target)}")
    print_message(f"next: `dpuforge verify {shlex.quote(str(target))}`, here or elsewhere")
