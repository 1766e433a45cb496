"""Commands about this machine and a new project: doctor, emulator-path, init."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpuforge.commands.screen import print_json, print_message, print_table
from dpuforge.errors import ExitCode, UsageError
from dpuforge.paths import emulator_path as find_emulator

if TYPE_CHECKING:
    from dpuforge.doctoring import Finding


def emulator_path() -> None:
    """Print the folder to put on PYTHONPATH so that pytorch_nndct, xir and vart come from the emulator.

    Example: PYTHONPATH=$(dpuforge emulator-path) python my_quantize.py
    """
    print(find_emulator())


def doctor(
    spec: Annotated[Path | None, typer.Argument(help="Also check what this spec needs.")] = None,
    toolchain: Annotated[str, typer.Option(help="emulator, native or container; default: the spec's.")] = "",
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


_SPEC = """\
# yaml-language-server: $schema=schema/project.schema.json
# One project: edit this file, then `dpuforge validate {path}` and `dpuforge run {path}`.
# `dpuforge explain {path}` shows every value that is not written here, and where it comes from.
spec_version: 1
project: {project}

model:
  backbone: {backbone}          # any torchvision classifier; timm/<name>; path/to/net.py:factory
  weights: {weights}            # torchvision enum | none | path to a state_dict
  input: {{height: 224, width: 224}}

classes: {classes}              # a number, a list of names, or a file with one name a line

data:                           # torchvision ImageFolder layout: <folder>/<class>/<image>
  train: data/{project}/train
  validation: data/{project}/validation
  test: data/{project}/test     # never used for calibration or model selection

transfer:
  method: {method}              # feature_extraction | fine_tuning | distillation
  freeze: {{layers: {freeze}, batchnorm: {batchnorm}}}

target:
  vitis_ai: "{release}"
  boards: [{boards}]

run:
  toolchain: emulator           # emulator | native (inside AMD's image)
"""
_DEFAULTS = {"all_but_head": ("feature_extraction", "frozen"), "none": ("fine_tuning", "trainable")}


def init(
    path: Annotated[Path, typer.Argument(help="Where the spec goes.")] = Path("spec/my_project.yaml"),
    backbone: Annotated[str, typer.Option(prompt="Backbone (torchvision classifier)")] = "resnet18",
    weights: Annotated[str, typer.Option(prompt="Weights (torchvision enum, none, or a path)")] = "IMAGENET1K_V1",
    classes: Annotated[int, typer.Option(prompt="Number of classes", min=2)] = 10,
    freeze: Annotated[str, typer.Option(prompt="Freeze (all_but_head or none)")] = "all_but_head",
    board: Annotated[str, typer.Option(prompt="Boards (comma between)")] = "KV260",
    release: Annotated[str, typer.Option(prompt="Vitis AI release")] = "3.0",
    force: Annotated[bool, typer.Option(help="Replace a file that exists.")] = False,
) -> None:
    """Ask for backbone, classes, freeze policy and board, and write a commented spec.

    Example: dpuforge init spec/fruits.yaml --backbone resnet18 --classes 30 --board KV260

    Every question has an option of the same name; the spec is checked before it is written.
    """
    from dpuforge.edit.edit_spec import write_spec

    if path.exists() and not force:
        raise UsageError(f"{path} exists", "choose another path, or --force to replace it")
    if freeze not in _DEFAULTS:
        raise UsageError(f"--freeze: must be all_but_head or none, got {freeze!r}")
    method, batchnorm = _DEFAULTS[freeze]
    project = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    values = {"backbone": backbone, "weights": weights, "classes": classes, "freeze": freeze, "release": release}
    boards = ", ".join(name.strip() for name in board.split(","))
    where = path.as_posix()
    text = _SPEC.format(path=where, project=project, boards=boards, method=method, batchnorm=batchnorm, **values)
    write_spec(path, text)
    print(f"create    {path}")
    print_message(f"next: put images below data/{project}/, then run `dpuforge run {where}`")
