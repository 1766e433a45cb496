"""The document of a diff in words as text, as markdown and as annotations of GitHub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpuforge.annotations import format_annotation

_MOST_FILES = 6
_UNKNOWN = "the manifest of before lists no settings, so that what changed is not known"


def format_text(document: Mapping[str, Any]) -> str:
    """Return the changes of one project for the terminal, one line a change and one for its files."""
    settings = document["settings"]
    count = "1 setting changed" if len(settings) == 1 else f"{len(settings)} settings changed"
    lines = [f"{document['project']}: {count if document['settings_known'] else _UNKNOWN}"]
    for change in settings:
        where = f" ({change['where']})" if change["where"] else ""
        lines.append(f"  {change['key']}  {change['words']}{where}")
        if change["files"]:
            lines.append(f"      touches {list_files(change['files'])}")
    lines += [f"  {cause}: {list_files(files)}" for cause, files in document["others"]]
    return "\n".join([*lines, *_format_stages(document)]) + "\n"


def format_markdown(document: Mapping[str, Any]) -> str:
    """Return the changes of one project as a table for a pull request."""
    lines = [f"### {document['project']}", "", "| key | change | where | files |", "|---|---|---|---|"]
    for change in document["settings"]:
        row = (f"`{change['key']}`", change["words"], change["where"], list_files(change["files"]))
        lines.append("| " + " | ".join(_escape(cell) for cell in row) + " |")
    lines += [f"| | {_escape(cause)} | | {_escape(list_files(files))} |" for cause, files in document["others"]]
    return "\n".join([*lines, "", *(line.strip() for line in _format_stages(document)), ""]) + "\n"


def format_github(document: Mapping[str, Any]) -> str:
    """Return one workflow command a change, which GitHub shows at the spec's line."""
    project = document["project"]
    lines = []
    for change in document["settings"]:
        touches = f"; touches {list_files(change['files'])}" if change["files"] else ""
        text = f"{project}: {change['key']} {change['words']}{touches}"
        lines.append(format_annotation("notice", text, change["where"]))
    for cause, files in document["others"]:
        lines.append(format_annotation("notice", f"{project}: {cause}: {list_files(files)}"))
    return "".join(f"{line}\n" for line in lines)


def _format_stages(document: Mapping[str, Any]) -> list[str]:
    """Return one line for each fate of stages: to run again, never run, without their tool."""
    stages = ", ".join(document["stages"])
    if document["judged_by"] == "scripts":
        return (
            [f"  scripts differ, here or before them, of: {stages} (no results of then to judge by)"] if stages else []
        )
    minutes = document["minutes"]
    about = "" if minutes is None else f" (about {minutes:.1f} minutes)"
    lines = [f"  run again: {stages}{about}"] if stages else []
    rows = (("never run here", "never_run"), ("cannot run here, its tool is missing", "unavailable"))
    return lines + [f"  {words}: {', '.join(document[key])}" for words, key in rows if document[key]]


def list_files(files: Sequence[str]) -> str:
    """Return file names in one line; a folder of which several files are named is one word."""
    short = list(dict.fromkeys(_shorten(path, files) for path in files))
    more = len(short) - _MOST_FILES
    return ", ".join(short[:_MOST_FILES]) + (f" and {more} more" if more > 0 else "")


def _shorten(path: str, files: Iterable[str]) -> str:
    folder = path.rpartition("/")[0]
    return f"{folder}/" if folder and sum(other.startswith(f"{folder}/") for other in files) > 1 else path


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
