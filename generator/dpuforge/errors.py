"""Every error a user can meet, and the exit code it maps to; anything else is a bug and keeps its traceback."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line: the contract of docs/cli.md."""

    DONE = 0
    DRIFT = 1
    BAD_SPEC = 2
    STAGE_FAILED = 3
    ENVIRONMENT = 4
    INTERRUPTED = 130


class UserError(Exception):
    """Something the user can mend; printed as a message with a remedy and no traceback."""

    exit_code = ExitCode.BAD_SPEC

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\nhelp: {self.remedy}" if self.remedy else self.message


class UsageError(UserError):
    """A command was called with arguments that do not fit together."""


class HandEditsError(UserError):
    """A write would lose what a person edited or put among the generated files."""

    exit_code = ExitCode.DRIFT


class FormatError(UserError):
    """A file that a user handed over (xmodel, JSON, log) is not what it claims to be."""


class StageError(UserError):
    """A stage failed or a gate was missed."""

    exit_code = ExitCode.STAGE_FAILED


class DriftError(UserError):
    """What was approved, recorded or packed is not what is there."""

    exit_code = ExitCode.DRIFT


class LockedError(UserError):
    """Another run works in the same build folder."""

    exit_code = ExitCode.STAGE_FAILED


class MissingToolError(UserError):
    """A tool of the chosen toolchain is missing."""

    exit_code = ExitCode.ENVIRONMENT


_DISK_FULL = "the disk is full: free space there"
_FILE_FOR_FOLDER = "a file lies where a folder has to be: move it"
DISK_ERRORS = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.EFBIG: "the file grew larger than this file system or a limit (ulimit -f) allows",
    errno.EROFS: "it lies on a file system that is mounted read-only",
    errno.EACCES: "this user may not read or write there",
    errno.EPERM: "this user may not read or write there",
    errno.EEXIST: _FILE_FOR_FOLDER,
    errno.ENOTDIR: _FILE_FOR_FOLDER,
}


def explain_disk_error(error: OSError) -> str:
    """Return in one line what keeps a file from being read or written, "" for errors of another kind."""
    if error.errno not in DISK_ERRORS:
        return ""
    return f"{error.filename or 'a file'}: {error.strerror}\nhelp: {DISK_ERRORS[error.errno]}"


class Interrupted(Exception):
    """The user asked a run to stop; every child has ended when this is raised."""


@dataclass(frozen=True, order=True)
class Problem:
    """One located mistake in a spec; lines and columns count from 1."""

    path: str
    line: int
    column: int
    field: str
    message: str
    help: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        text = f"{self.path}:{self.line}:{self.column}: {self.field}: {self.message}"
        if self.severity != "error":
            text = f"{self.path}:{self.line}:{self.column}: {self.severity}: {self.field}: {self.message}"
        return f"{text}\n  help: {self.help}" if self.help else text


class SpecError(UserError):
    """A spec holds one or more problems; all of them are reported at once, sorted."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))
