"""Every command in the documentation is one that the command line takes, and is run where nothing is lacking."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pytest
import typer
from PIL import Image

from dpuforge.cli import app
from tests.conftest import REPO
from tests.docs_commands import Line, expand, find_lines, find_mentions, list_pages

ROOT_COMMAND = typer.main.get_command(app)

# What is not run here, and why: (page, beginning of the command or its whole line, reason).
NOT_RUN = (
    ("", r"board (check|push|run|pull|test|bench) ", "needs a board; tests/board runs them over a real sshd"),
    ("", r".* --toolchain container", "needs AMD's image; tests/container runs stages in a stand-in"),
    ("", r"estimate .* --fit ", "needs measurements of a board; tests/board/test_fit_results.py has some"),
    ("", r"board-lock ", "needs what xdputil prints on a board; tests/test_board_lock.py has it"),
    ("", r"import-calibration ", "needs a calibration made elsewhere; tests/templates/test_import_calibration.py"),
    ("", r"sweep ", "trains many variants; tests/sweep runs sweeps"),
    ("", r"tune ", "tries many variants; tests/tune runs tunes"),
    ("", r"history (compare|plot|restore)", "needs rows of runs; tests/history makes some"),
    ("", r"pip install ", "installs into the environment; the extra `test` holds the package"),
    (
        "README.md",
        r"run spec/fruits.yaml",
        "needs images and ImageNet weights; the tutorial's test makes some up",
    ),
    ("docs/tutorial.md", r"run spec/fruits30", "needs images and ImageNet weights; its slow test makes up the images"),
)
HEAVY = (r"run spec/digits.yaml",)  # minutes: run by the slow tests
# Nothing compiled; something to do; no Slurm here (tests/cluster starts one).
EXIT_CODES = ((r"bundle ", 3), (r"plan ", 1), (r"diff .*--against", 1), (r"run .*--cluster slurm", 4))
ANSWERED = (r"init \S+$", ("--classes", "30"))  # what `init` asks in a terminal; tests/choices answers in one


def why_not(line: Line) -> str:
    """Return the reason why a line is not run, "" where it is."""
    text = " ".join(line.argv) or line.text
    if line.info in ("sh quickstart", "sh test"):
        return "a whole installation; .ci/run and the slow tests of the quickstart run it"
    found = (reason for page, pattern, reason in NOT_RUN if page in ("", line.page) and re.match(pattern, text))
    return next(found, "")


def is_heavy(line: Line) -> bool:
    return any(re.match(pattern, " ".join(line.argv)) for pattern in HEAVY)


def find_command(words: Sequence[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words lead to and the words behind it; raise LookupError where there is none."""
    command, rest = ROOT_COMMAND, list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        below = command.commands.get(rest[0])
        if below is None:
            raise LookupError(f"no command {rest[0]!r}")
        command, rest = below, rest[1:]
    return command, rest


def judge(words: Sequence[str]) -> str:
    """Return what is wrong with a command in the documentation, "" where the command line knows all of it."""
    try:
        command, rest = find_command(words)
    except LookupError as error:
        return str(error)
    options = {name: param for param in command.params for name in (*param.opts, *param.secondary_opts)}
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    given = 0
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if not word.startswith("-"):
            given += 1
            continue
        option = options.get(word.partition("=")[0])
        if word == "--help":
            continue
        if option is None:
            return f"no option {word}"
        if "=" not in word and not getattr(option, "is_flag", False):
            if not rest:
                return f"{word} without a value"
            rest.pop(0)
    most = float("inf") if any(argument.nargs == -1 for argument in arguments) else len(arguments)
    return f"{given} arguments, it takes {most}" if given > most else ""


@pytest.mark.parametrize("page", list_pages())
def test_every_command_that_a_page_names_exists(page: str) -> None:
    """Commands, options and the number of arguments, in blocks, in tables and in the text, are those of the CLI."""
    assert [f"{' '.join(words)}: {wrong}" for words in find_mentions(page) if (wrong := judge(words))] == []


def test_commands_are_found_in_every_form() -> None:
    """Blocks, indented lines, tables and text are searched, and there is something in each."""
    assert len([words for page in list_pages() for words in find_mentions(page)]) > 100
    assert {line.page for page in list_pages() for line in find_lines(page)} >= {"README.md", "docs/tutorial.md"}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("frobnicate spec/x.yaml", "no command 'frobnicate'"),
        ("run spec/x.yaml --fast", "no option --fast"),
        ("run spec/x.yaml --until", "--until without a value"),
        ("plan a.yaml b.yaml", "2 arguments, it takes 1"),
        ("board fly SPEC", "no command 'fly'"),
        ("zoo copy NAME --as=PROJECT", ""),
        ("generate [SPEC...] [--board B]... [--keep or --overwrite]", ""),
        ("generate [SPEC...] [--keep or --underwrite]", "no option --underwrite"),
        ("board check / push / sing SPEC --host H", "no command 'sing'"),
        ("estimate SPEC or FILE.xmodel --board B [--json]", ""),
        ("board run SPEC --host H [-- ARGUMENTS --anything]", ""),
        ("run --help", ""),
    ],
)
def test_the_judge_of_commands_sees_what_is_wrong(text: str, wrong: str) -> None:
    """A command, option or argument that does not exist is found, in a synopsis too."""
    assert "".join(filter(None, (judge(one.split()) for one in expand(text)))) == wrong


def test_every_exception_is_still_needed() -> None:
    """Each row of the tables of what is not run, or not now, matches a line of the documentation."""
    lines = [line for page in list_pages() for line in find_lines(page)]
    texts = [(line.page, " ".join(line.argv) or line.text) for line in lines]
    rows = [*NOT_RUN, *(("", pattern, "") for pattern in (*HEAVY, *(pattern for pattern, _ in EXIT_CODES)))]
    assert [
        p for page, p, _ in rows if not any(page in ("", where) and re.match(p, text) for where, text in texts)
    ] == []


def make_scratch(root: Path) -> None:
    """Make a git repository that holds the shipped specs and what they lead to, on a branch called main."""
    (root / "spec").mkdir()
    for spec in (REPO / "spec").glob("*.yaml"):
        shutil.copy(spec, root / "spec")
    shutil.copytree(REPO / "generated", root / "generated", ignore=shutil.ignore_patterns("__pycache__"))
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "-q", "-b", "main"), ("add", "."), (*identity, "commit", "-q", "-m", "start")):
        subprocess.run(["git", *command], cwd=root, check=True)


def run_line(line: Line, root: Path, timeout: float = 120) -> None:
    """Run a line of a page as it stands; fail where it does not end as the tables say."""
    pattern, options = ANSWERED
    more = options if re.match(pattern, " ".join(line.argv)) else ()
    program = [sys.executable, "-m", "dpuforge", *line.argv, *more] if line.argv else line.text.split()
    if program[0] == "python":
        program[0] = sys.executable
    done = subprocess.run(
        program, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    text = " ".join(line.argv)
    expected = next((code for pattern, code in EXIT_CODES if re.match(pattern, text)), 0)
    assert done.returncode == expected, f"{line.page}: {line.text}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr


def runnable(page: str) -> list[Line]:
    return [line for line in find_lines(page) if not why_not(line)]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in list_pages() if runnable(page)])
def test_the_commands_of_a_page_do_what_they_say(page: str, tmp_path: Path) -> None:
    """The lines of a page's blocks run one after the other in a scratch copy, but for those of minutes."""
    make_scratch(tmp_path)
    for line in runnable(page):
        if not is_heavy(line):
            run_line(line, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in list_pages() if any(map(is_heavy, runnable(page)))])
def test_the_long_commands_of_a_page_do_what_they_say(page: str, tmp_path: Path) -> None:
    """All lines of a page's blocks run one after the other in a scratch copy, training included."""
    make_scratch(tmp_path)
    for line in runnable(page):
        run_line(line, tmp_path, timeout=1800)


@pytest.mark.long
def test_the_tutorial_runs_from_images_to_a_report(tmp_path: Path) -> None:
    """The tutorial's project with thirty made-up fruits, random weights and one epoch goes through every stage."""
    make_scratch(tmp_path)
    spec = tmp_path / "spec/fruits30_kv260.yaml"
    changes = {"IMAGENET1K_V1": "none", "epochs: 20": "epochs: 1", "max_accuracy_drop: 1.0": "max_accuracy_drop: 100.0"}
    text = spec.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    spec.write_text(text, encoding="utf-8")
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2), ("test", 2)):
        for fruit in range(30):
            folder = tmp_path / "data/fruits" / split / f"fruit{fruit:02d}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    lines = [
        line for line in find_lines("docs/tutorial.md") if "container" not in line.text and "board" not in line.text
    ]
    for line in lines:
        run_line(line, tmp_path, timeout=1800)
    assert (tmp_path / "build/fruits30_kv260/report.html").is_file()
