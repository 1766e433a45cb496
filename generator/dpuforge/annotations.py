"""Problems and notes in the forms that other tools read: workflow commands of GitHub, SARIF 2.1.0."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dpuforge import __version__
from dpuforge.errors import Problem

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def format_annotation(level: str, text: str, where: str = "") -> str:
    """Return one workflow command; level is error, warning or notice, where is "path:line:col" or ""."""
    file, line, column = [*where.rsplit(":", 2), "", ""][:3]
    place = f" file={_escape_property(file)},line={line},col={column}" if file else ""
    return f"::{level}{place}::{_escape(text)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape(text).replace(":", "%3A").replace(",", "%2C")


def annotate_problem(problem: Problem) -> str:
    """Return a mistake or a warning of a spec as a workflow command at its line."""
    text = f"{problem.field}: {problem.message}" + (f"\nhelp: {problem.help}" if problem.help else "")
    return format_annotation(problem.severity, text, f"{problem.path}:{problem.line}:{problem.column}")


def build_sarif(problems: Iterable[Problem]) -> dict[str, Any]:
    """Return problems as one SARIF document, for viewers of static analysis; the rule of each is the spec's key."""
    listed = list(problems)
    rules = [{"id": field} for field in dict.fromkeys(problem.field for problem in listed)]
    driver = {"name": "dpuforge", "version": __version__, "rules": rules}
    results = [_build_result(problem) for problem in listed]
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _build_result(problem: Problem) -> dict[str, Any]:
    region = {"startLine": problem.line, "startColumn": problem.column}
    place = {"artifactLocation": {"uri": problem.path}, "region": region}
    text = problem.message + (f" ({problem.help})" if problem.help else "")
    return {
        "ruleId": problem.field,
        "level": problem.severity,
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
    }
