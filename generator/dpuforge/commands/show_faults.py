"""What commands print of faults: a code that was asked for, a stage that failed, an image that is not there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dpuforge.commands.screen import print_json, print_message
from dpuforge.errors import UsageError

if TYPE_CHECKING:
    from dpuforge.running import Failure


def explain_word(word: str, spec: Path | None, json_: bool) -> None:
    """Print cause, keys and remedy of a code of AMD's tools; with a spec, where it says so."""
    from dpuforge.explaining import explain_code, format_row

    rows = explain_code(word, spec)
    if json_:
        print_json({"code": word, "found": rows})
        return
    for row in rows:
        print("\n".join(format_row(row)))


def print_faults(spec: Path, log: Path) -> None:
    """Print what a failed stage's log says went wrong, with the keys of the spec that lead there."""
    from dpuforge.explaining import explain_log

    for line in explain_log(spec, log):
        print_message(f"      {line}")


def make_question(pull: bool) -> Callable[[str], bool]:
    """Return who answers whether an image may be fetched: --pull, or the user at a terminal, else nobody."""

    def answer(question: str) -> bool:
        if pull:
            print_message(question)
            return True
        return sys.stdin.isatty() and typer.confirm(f"{question} Fetch it now?", err=True)

    return answer


def choose_engine(engine: str) -> str:
    """Return the engine that an option names; raise UsageError for another word."""
    if engine not in ("", "auto", "docker", "podman"):
        raise UsageError(f"there is no container engine {engine!r}", "choose docker or podman")
    return engine


def tell_failure(spec: Path, failed: Failure) -> None:
    """Say which stage failed and why, what its log tells, and which keys are behind it."""
    print_message(f"stage {failed.key} failed: {failed.reason}\nhelp: read {failed.log}")
    print_faults(spec, failed.log)
    _explain_failure(spec, failed.log)


def _explain_failure(spec: Path, log: Path) -> None:
    """Name the keys of the spec behind the lines of generated scripts that a failed stage's traceback names."""
    from dpuforge import pipeline
    from dpuforge.trace.explain_line import explain_traceback

    text = log.read_text("utf-8", errors="replace") if log.is_file() else ""
    if "Traceback" in text:
        job = pipeline.load(spec)
        for line in explain_traceback(job, pipeline.plan(job), text):
            print_message(f"      {line}")
