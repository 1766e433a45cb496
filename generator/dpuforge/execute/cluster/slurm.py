"""Slurm from outside: which jobs of a project it has, how they are ended, and what its words for an end mean."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dpuforge.errors import Interrupted, MissingToolError

FOLDER = "cluster"  # below build/<project>/: for each stage what Snakemake and its job said
MARK = "of_slurm"  # beside them, once a job went to Slurm
_LONGEST_NAME = 50  # that the plugin takes as the beginning of a job's name
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 2.0
_STATUS = re.compile(r"SLURM-job '(?P<job>[\w.]+)' failed.*?SLURM status is:\s*'(?P<status>\w+)'", re.DOTALL)
_REFUSED = re.compile(r"The error message was '(?P<said>.*?)'\.?\s*$", re.DOTALL | re.MULTILINE)
_SBATCH = re.compile(r"\s*sbatch: (?:error: )?")
# What Slurm says of a job that it ended itself, and what helps; a job that FAILED ended on its own.
_ENDS = {
    "TIMEOUT": "Slurm ended job {job}: it took longer than it asked for; raise run.resources.{stage}.minutes",
    "DEADLINE": "Slurm ended job {job}: its deadline passed",
    "OUT_OF_MEMORY": "Slurm ended job {job}: it took more memory than it asked for; raise "
    "run.resources.{stage}.memory_gb, or lower batch_size",
    "CANCELLED": "job {job} was cancelled (scancel); run the same command again to go on",
    "NODE_FAIL": "the node of job {job} failed; run the same command again to go on",
    "BOOT_FAIL": "the node of job {job} did not start; run the same command again to go on",
}
# Why a job waits that will not start on its own.
HOPELESS = {
    "PartitionTimeLimit": "it asks for more minutes than the partition gives: lower run.resources.{stage}.minutes, "
    "or name another run.cluster.partition",
    "PartitionConfig": "no node of the partition has what it asks for: lower run.resources.{stage}, or name another "
    "run.cluster.partition",
    "PartitionDown": "the partition is down",
    "AssocGrpCpuLimit": "the account may not use that many cores",
    "QOSMaxWallDurationPerJobLimit": "it asks for more minutes than the QOS gives",
}


@dataclass(frozen=True)
class Job:
    """A job that waits or runs: state and reason in Slurm's words."""

    number: str
    name: str
    state: str
    reason: str


def name_jobs(build: Path, key: str = "") -> str:
    """Return how the names of a project's jobs begin, or of one stage's."""
    where = hashlib.sha256(str(build.resolve()).encode()).hexdigest()[:12]
    return f"dpuforge-{where}-{re.sub('[^A-Za-z0-9-]', '-', key)}"[:_LONGEST_NAME]


def choose_words(build: Path, key: str) -> list[str]:
    """Return what Snakemake's plugin must be told of a stage's job, and of a Slurm that keeps no accounts.

    The plugin asks sacct wherever that is installed, and waits for ever where it knows no job.
    """
    words = ["--slurm-jobname-prefix", name_jobs(build, key)]
    return words if _has_accounts() else [*words, "--slurm-status-command", "squeue"]


@lru_cache(maxsize=1)
def _has_accounts() -> bool:
    """Say whether sacct answers."""
    try:
        done = subprocess.run(["sacct", "--noheader"], capture_output=True, check=False, timeout=_PATIENCE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def find_jobs(build: Path, key: str = "") -> tuple[Job, ...]:
    """Return the jobs of a project, or of one of its stages, that wait, run or end just now.

    Raises MissingToolError where Slurm does not answer.
    """
    start = name_jobs(build, key) + ("_" if key else "")
    rows = (line.strip().split("|") for line in ask_queue().splitlines())
    return tuple(Job(*row) for row in rows if len(row) == 4 and row[1].startswith(start))


def ask_queue() -> str:
    """Return what squeue says of one's own jobs; raise MissingToolError where Slurm does not answer."""
    question = ["squeue", "--me", "--noheader", "--format=%i|%j|%T|%r"]
    try:
        done = subprocess.run(question, capture_output=True, text=True, check=False, timeout=_PATIENCE_SECONDS)
        said, code = done.stderr.strip(), done.returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        said, code = str(error), 1
    if code:
        first = said.splitlines()[0] if said else f"squeue ended with {code}"
        raise MissingToolError(
            f"Slurm does not answer: {first}", "ask `squeue --me`; run on a login node of the cluster"
        )
    return done.stdout


def cancel_jobs(build: Path, key: str = "") -> tuple[Job, ...]:
    """Cancel what is left of a project's jobs, or of one stage's, and return it."""
    left = tuple(job for job in find_jobs(build, key) if job.state != "COMPLETING")
    if left:
        numbers = [job.number for job in left]
        subprocess.run(["scancel", *numbers], capture_output=True, check=False, timeout=_PATIENCE_SECONDS)
    return left


def wait_for_jobs(build: Path, say: Callable[[str], None], stop: threading.Event | None = None) -> None:
    """Wait until no job of an earlier run works in build/<project>/: one that was killed leaves its jobs at work.

    Ctrl-C, or stop, cancels them. Nothing is asked where no run went to Slurm, or none is here.
    """
    if not (build / FOLDER / MARK).is_file() or shutil.which("squeue") is None:
        return
    told, stop = set[str](), stop or threading.Event()
    try:
        while jobs := find_jobs(build):
            for job in jobs:
                if job.number not in told and job.state != "COMPLETING":
                    say(
                        f"job {job.number} of an earlier run is {job.state.lower()}: waiting for it, its result is "
                        f"taken over; Ctrl-C or `scancel {job.number}` ends it"
                    )
                told.add(job.number)
            if stop.wait(_LOOK_SECONDS):
                raise Interrupted
    except (KeyboardInterrupt, Interrupted):
        cancel_jobs(build)
        raise


def explain_end(said: str, stage: str) -> str:
    """Return why a job did not end well, of what Snakemake said: "" where the stage itself failed."""
    refused = _REFUSED.search(said)
    if refused is not None:
        lines = [" ".join(text.split()) for text in _SBATCH.split(refused["said"]) if text.strip()]
        return f"Slurm refused the job: {'; '.join(lines)}{_advise(refused['said'], stage)}"
    ended = _STATUS.search(said)
    return _ENDS.get(ended["status"], "").format(job=ended["job"], stage=stage) if ended is not None else ""


def _advise(said: str, stage: str) -> str:
    """Return the keys of the spec that a refusal is about."""
    low = said.lower()
    if "partition" in low:
        return ": name another in run.cluster.partition"
    if "account" in low:
        return ": name another in run.cluster.account"
    if "node configuration" in low or "gres" in low or "memory" in low or "cpu" in low:
        return f": no node has what run.resources.{stage} asks for (cores, memory_gb, gpus)"
    if "time" in low:
        return f": lower run.resources.{stage}.minutes"
    return ""
