"""The loader and hostile documents: words for every mistake, never a traceback, in bounded time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpuforge.errors import Problem
from tests.conftest import REPO
from tests.load.hostile_documents import MEGABYTES, SECONDS, make_document

FEW, MANY = 240, 10_000


def try_many(first: int, count: int) -> None:
    """Try documents in a process of their own, whose memory is limited."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.load.hostile_documents", str(first), str(count)],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": f"{REPO / 'generator'}{os.pathsep}{REPO}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["tried"] == count
    assert found["failures"] == [], f"more than {SECONDS} s, {MEGABYTES} MB, or a traceback"


def test_hostile_documents_are_refused_in_words() -> None:
    """Some hundred random, mutated and hostile documents, the same every time."""
    try_many(0, FEW)


@pytest.mark.fuzz
def test_ten_thousand_hostile_documents_are_refused_in_words() -> None:
    """Ten thousand others; slow: minutes of trying."""
    try_many(FEW, MANY)


def test_a_document_is_the_same_every_time() -> None:
    """A seed names its document: what failed once can be tried again."""
    assert make_document(17) == make_document(17)
    assert make_document(17) != make_document(18)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # twenty thousand unknown keys took a minute: Cerberus sorted its errors anew for each
        ("\n".join(f"x{number}: 1" for number in range(19_000)), "more than 1000 mistakes"),
        ("classes: [" + ", ".join(f"a{number}" for number in range(19_000)) + "]", "the key is missing"),
        ("target: {boards: [" + ", ".join(f"KV{number}" for number in range(19_000)) + "]}", "at most 200 entries"),
        ("data: {augment: [" + ", ".join(f"flip{number}" for number in range(19_000)) + "]}", "should be"),
        ("base: [" + ", ".join(f"a{number}" for number in range(19_000)) + "]", "at most 32 base files, got 19000"),
        ("data: {train: a, validation: " + "a/" * 300_000 + ", test: b}", "lies inside or around"),
        ("data: " + "9" * 990_000 + "x", "should be"),
        ('target: {boards: ["UltraZed-EG' + " -" * 490_000 + '"]}', "board"),
        # keys that are lists of keys that are lists: libyaml takes hours over as many as a megabyte holds
        ("{? [" * 200_000, "the nesting is too deep"),
        ("? " * 400_000, "the nesting is too deep"),
        ("{? [" + ", ".join("x" * 30_000) + "]}", "too many values"),
        ("base: [/dev/zero]", "the file is too large"),
        ("classes: /dev/zero", "it is no file"),
        ("classes: pipe", "it is no file"),
    ],
)
def test_what_was_slow_or_endless(
    validate: Callable[[str], tuple[Problem, ...]], folder: Path, text: str, words: str
) -> None:
    """Documents and files that once took minutes, or never ended, are answered."""
    os.mkfifo(folder / "pipe")
    assert words in "\n".join(str(problem) for problem in validate(text))
