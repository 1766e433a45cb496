"""After a stage failed: its outputs are set aside, and one that took too long says what it was doing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from dpuforge.execute.results import RESULT
from dpuforge.writing import replacing

FAILED = "failed"  # below a stage's folder: what it made before it failed, where no later stage looks
# What no later stage reads: checkpoints to go on from, what is known of images by digest, and lists that a log names.
_KEPT = ("*.last.pth", "*.best.pth", "*.jsonl", "copies.json", "notes.json", "left_out.json")
_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)$', re.MULTILINE)
_STACK = re.compile(r"^Current thread 0x\w+.*?\(most recent call first\):\n((?: *File .*\n?)+)", re.MULTILINE)
_LAST_LINES = 3


def set_aside(folder: Path, log: str, kept: tuple[str, ...] = _KEPT) -> tuple[str, ...]:
    """Move all that a failed stage made into failed/ below its folder, and return the names that were moved.

    Its result, its log and what lets it go on are left; log is the log's name. What an earlier failure left there goes.
    """
    if not folder.is_dir():
        return ()
    clear_failed(folder)
    aside = folder / FAILED
    left = (RESULT, log, FAILED, *kept)
    moved = sorted(path for path in folder.iterdir() if not any(path.match(name) for name in left))
    for path in moved:
        aside.mkdir(exist_ok=True)
        path.rename(aside / path.name)
    return tuple(path.name for path in moved)


def clear_failed(folder: Path) -> None:
    """Remove what an earlier failure of a stage left in failed/."""
    shutil.rmtree(folder / FAILED, ignore_errors=True)


def part_links(folder: Path) -> None:
    """Give a stage that is to run files of its own where it shares them with another run: it may write into them."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
            with replacing(path) as partial:
                shutil.copy2(path, partial)


def describe_overrun(minutes: float, stage: str, script: str, log: str) -> str:
    """Return why a stage was ended and what it was doing: its place in the code, where the log has one, its last words.

    script is the name of the stage's own file: the line in it is told beside the innermost one.
    """
    stack = list(_STACK.finditer(log))
    frames = list(_FRAME.finditer(stack[-1][1])) if stack else []
    own = [frame for frame in frames if Path(frame["file"]).name == script]
    places = dict.fromkeys(f"{Path(f['file']).name}:{f['line']} ({f['function']})" for f in (*frames[:1], *own[:1]))
    doing = f": it was in {', called by '.join(places)}" if places else ""
    spoken = log[: stack[-1].start()] if stack else log
    lines = [line.strip() for line in spoken.splitlines() if line.strip() and not line.startswith("Fatal Python error")]
    words = f"; its last lines: {' | '.join(lines[-_LAST_LINES:])}" if lines else "; it had printed nothing"
    return f"ended after {minutes:g} minutes, the spec's run.time_limit.{stage}{doing}{words}"
