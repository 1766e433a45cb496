"""Commands about this machine and a new project: doctor, emulator-path, init."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpuforge.commands.choices import complete
from dpuforge.commands.screen import print_json, print_message, print_table
from dpuforge.errors import ExitCode
from dpuforge.paths import emulator_path as find_emulator

if TYPE_CHECKING:
    from dpuforge.doctoring import Finding


def emulator_path() -> None:
    """Print the folder to put on PYTHONPATH so that pytorch_nndct, xir and vart come from the emulator.

    Example: PYTHONPATH=$(dpuforge emulator-path) python my_quantize.py
    """
    print(find_emulator())


def doctor(
    spec: Annotated[
        Path | None, typer.Argument(help="Also check what this spec needs.", shell_complete=complete.complete_specs)
    ] = None,
    toolchain: Annotated[
        str,
        typer.Option(
            help="emulator, native or container; default: the spec's.", shell_complete=complete.complete_toolchains
        ),
    ] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Say what this machine has, what is missing, and which command supplies it; exit code 4 where it cannot run.

    Example: dpuforge doctor spec/quickstart.yaml

    Container engines are asked whether they may be used, AMD's quantizer is imported in a process of its own, and with
    a spec disk and memory are held against an estimate.
    """
    from dpuforge import pipeline
    from dpuforge.doctoring import examine_machine

    seen = examine_machine(pipeline.load(spec) if spec else None, toolchain)
    rows = [{"name": f.name, "version": f.found, "for": f.use, **_show_gap(f)} for f in seen.findings]
    if json_:
        print_json({"toolchain": seen.toolchain, "ready": seen.ready, "problem": seen.problem, "found": rows})
    else:
        table = [(r["name"], r["version"] or "missing", r["for"], r["gap"], r["remedy"]) for r in rows]
        print_table("", ("what", "found", "for", "gap", "what closes it"), table)
        lacking = [f"{row['name']}: {row['gap']}" for row in rows if row["needed"] and row["gap"]]
        print_message("; ".join(filter(None, [seen.problem, *lacking])) or f"toolchain {seen.toolchain}: ready")
    raise typer.Exit(ExitCode.DONE if seen.ready else ExitCode.ENVIRONMENT)


def _show_gap(finding: Finding) -> dict[str, Any]:
    return {"gap": finding.gap, "remedy": finding.remedy if finding.gap else "", "needed": finding.needed}
