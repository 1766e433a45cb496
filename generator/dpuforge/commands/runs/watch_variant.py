"""Who watches one of many variants: plain lines with its number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dpuforge.commands.screen import print_message

if TYPE_CHECKING:
    from dpuforge.execute.run_stages import Observer
    from dpuforge.records.variant import Variant
    from dpuforge.running import Watch


class _Prefixed:
    """The observer of one variant: plain lines with its number, so that several can run side by side."""

    def __init__(self, number: int, inner: Observer) -> None:
        self._number, self._inner = number, inner

    def start(self, stage: str, why: str) -> None:
        """Announce a stage."""
        self._inner.start(f"{self._number}:{stage}", why)

    def line(self, stage: str, text: str) -> None:
        """Show the last line that a stage printed."""
        self._inner.line(f"{self._number}:{stage}", text)

    def finish(self, stage: str, result: Any, fresh: bool) -> None:
        """Say how a stage ended."""
        self._inner.finish(f"{self._number}:{stage}", result, fresh)


def watch_variant(number: int, variant: Variant, live: bool) -> Watch:
    """Return what observes one variant, once the number of its stages is known; live where it runs alone."""
    from dpuforge.commands.progress import RunProgress

    @contextmanager
    def watch(total: int) -> Iterator[Observer]:
        print_message(f"variant {number}: {variant}")
        with RunProgress(total, live) as progress:
            yield _Prefixed(number, progress)

    return watch
