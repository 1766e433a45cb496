"""Runs Snakemake for one stage and prints what the stage prints on its node, as it comes.

A program of its own: watch_job FOLDER WORD... runs the words, keeps what Snakemake says in FOLDER/snakemake.log, and
copies FOLDER/log.txt, which the job writes, to its own output. It ends as the stage ended.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dpuforge.execute.cluster.slurm import HOPELESS

SAID, PRINTED, CODE = "snakemake.log", "log.txt", "log.txt.code"
_TAIL_SECONDS = 0.3
_QUEUE_SECONDS = 10.0
_SUBMITTED = re.compile(r"submitted with SLURM jobid (?P<job>\d+)|submitted with external jobid '(?P<other>[^']+)'")
_OF_A_RULE = re.compile(r" +(threads|resources): ")
# What a rule asks for, in Snakemake's words and in ours.
_ASKED = (
    (re.compile(r"^ *threads: (\d+)", re.MULTILINE), "{:g} cores", 1),
    (re.compile(r"\bmem_mb=(\d+)"), "{:g} GB", 1000),
    (re.compile(r"\bruntime=(\d+)"), "{:g} minutes", 1),
    (re.compile(r"\bgpu=(\d+)"), "{:g} GPUs", 1),
)
_LAST_LINES = 12
_FAILED, _LEAVING = "Error in rule", "Shutting down"
_LEAVING_SECONDS = 2.0  # for Snakemake to say the rest: it sleeps until its next look at a queue without a job


class _Watched:
    """One stage's job: what Snakemake said of it, and how far its output was copied."""

    def __init__(self, folder: Path, child: subprocess.Popen[str]) -> None:
        self.folder, self.child = folder, child
        self.job, self.copied, self.asked_at, self.reason = "", 0, 0.0, ""
        self.failed, self.left_at = False, 0.0

    def read(self, record: IO[str]) -> None:
        """Keep what Snakemake says; tell which job it made of the stage."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            record.write(line)
            record.flush()
            self.failed = self.failed or line.startswith(_FAILED)
            if self.failed and line.startswith(_LEAVING):
                self.left_at = time.monotonic()
            found = _SUBMITTED.search(line)
            if found is not None:
                self.job = found["job"] or ""
                print(f"job {found['job'] or found['other']}{self._describe()}", flush=True)

    def _describe(self) -> str:
        said = (self.folder / SAID).read_text(encoding="utf-8", errors="replace")
        text = "\n".join(line for line in said.splitlines() if _OF_A_RULE.match(line))  # its own command names defaults
        found = ((pattern.search(text), words, unit) for pattern, words, unit in _ASKED)
        asked = [words.format(int(hit[1]) / unit) for hit, words, unit in found if hit]
        return f": {', '.join(asked)}" if asked else ""

    def copy(self) -> None:
        """Print what the stage printed since the last time."""
        with contextlib.suppress(OSError), (self.folder / PRINTED).open("rb") as printed:
            printed.seek(self.copied)
            block = printed.read()
            self.copied += len(block)
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()

    def ask(self, stage: str) -> None:
        """Tell why a job waits, once for each reason."""
        if not self.job or self.copied or time.monotonic() - self.asked_at < _QUEUE_SECONDS:
            return
        self.asked_at = time.monotonic()
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            question = ["squeue", "--noheader", "--jobs", self.job, "--states=PENDING", "--format=%r"]
            done = subprocess.run(question, capture_output=True, text=True, check=False, timeout=30)
            reason = done.stdout.strip()
            if reason and reason not in ("None", self.reason):
                hopeless = HOPELESS.get(reason, "").format(stage=stage)
                print(f"job {self.job} waits: {reason}" + (f": {hopeless}" if hopeless else ""), flush=True)
                self.reason = reason


def main() -> None:
    """Run Snakemake and leave with the stage's exit code, or Snakemake's where the stage has none."""
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    for number in (signal.SIGINT, signal.SIGTERM):  # Snakemake gets them too, and cancels its job
        signal.signal(number, lambda number, frame: None)
    pipe = subprocess.PIPE
    with (
        (folder / SAID).open("w", encoding="utf-8") as record,
        subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as child,
    ):
        watched = _Watched(folder, child)
        reader = threading.Thread(target=watched.read, args=(record,), daemon=True)
        reader.start()
        while child.poll() is None:
            watched.copy()
            watched.ask(folder.name)
            if watched.left_at and time.monotonic() - watched.left_at > _LEAVING_SECONDS:
                child.kill()
            time.sleep(_TAIL_SECONDS)
        reader.join(5)
        watched.copy()
    if child.returncode and not watched.copied:
        print("\n".join(_find_last_words(folder)), flush=True)
    sys.exit(_read_code(folder) or child.returncode)


def _read_code(folder: Path) -> int:
    try:
        return int((folder / CODE).read_text())
    except (OSError, ValueError):
        return 0


def _find_last_words(folder: Path) -> Iterator[str]:
    """Yield the end of what Snakemake said, and of what the job said that never came to run its stage."""
    for path in (*sorted(folder.glob(".snakemake/slurm_logs/**/*.log"))[-1:], folder / SAID):
        lines = [line.rstrip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        yield from [line for line in lines if line][-_LAST_LINES:]


if __name__ == "__main__":
    main()
