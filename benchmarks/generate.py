"""How long `dpuforge generate` takes from start to exit, side by side with Python alone and with --help.

Usage: python benchmarks/generate.py [--repeats N]. Medians and ratios of wall time, interleaved; goal for one spec:
under 0.5 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOAL_SECONDS = 0.5


def measure(command: list[str]) -> float:
    """Return the wall time of a command in seconds."""
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    """Print one line per command: median, ratio to Python alone, smallest and largest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    dpuforge = [sys.executable, "-m", "dpuforge"]
    with tempfile.TemporaryDirectory() as out:
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "dpuforge --help": [*dpuforge, "--help"],
            "generate quickstart": [*dpuforge, "generate", "spec/quickstart.yaml", "--out", out],
            "generate boards_matrix (23 boards)": [*dpuforge, "generate", "spec/boards_matrix.yaml", "--out", out],
            "check, three specs": [*dpuforge, "check"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                times[name].append(measure(command))
    base = statistics.median(times["python -c pass"])
    print(f"{'command':<36} {'median s':>9} {'ratio':>7} {'min':>7} {'max':>7}")
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name:<36} {median:>9.3f} {median / base:>7.1f} {min(found):>7.3f} {max(found):>7.3f}")
    median = statistics.median(times["generate quickstart"])
    print(f"goal for one spec: {GOAL_SECONDS} s, {'met' if median < GOAL_SECONDS else 'missed'} here")


if __name__ == "__main__":
    main()
