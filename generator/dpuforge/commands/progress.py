"""Show a run on the terminal: one line per stage with its last output; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

from dpuforge.commands.screen import make_progress, paint
from dpuforge.records.result import StageResult


class RunProgress:
    """The observer of a run (see execute/run_stages.py); use it as a context manager."""

    def __init__(self, total: int, live: bool = True) -> None:
        """Show a run of total stages; live only where it alone has the terminal."""
        self._lock = threading.Lock()
        self._live = live and sys.stderr.isatty()
        self._progress = make_progress(self._live)
        self._all = self._progress.add_task("stages", total=total, note="")

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, stage: str, why: str) -> None:
        """Announce a stage and why it runs."""
        self._print(f"{'run':<9} {stage:<18} ({why})")
        self._progress.update(self._all, description=stage, note="")

    def line(self, stage: str, text: str) -> None:
        """Show the last line that a stage printed; its log keeps them all."""
        self._progress.update(self._all, description=stage, note=text.strip()[-100:])

    def finish(self, stage: str, result: StageResult, fresh: bool) -> None:
        """Say in one line how a stage ended."""
        taken = result.taken_from and not fresh
        word = "fresh" if fresh else "shared" if taken else result.status.value
        made = f"taken from {result.taken_from}" if taken else result.reason or f"{result.seconds:.1f} s"
        note = "an earlier result still stands" if fresh else made
        self._print(f"{paint(word, 9)} {stage:<18} {note}")
        for text in result.metrics.get("warnings") or ():
            self._print(f"{'warning':<9} {stage:<18} {text}")
        self._progress.advance(self._all)

    def _print(self, text: str) -> None:
        with self._lock:
            if self._live:
                self._progress.console.print(text)
            else:
                sys.stderr.write(f"{text}\n")  # in one piece: variants of a sweep print side by side
                sys.stderr.flush()
