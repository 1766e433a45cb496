"""The project's chores; they run in the environment that nox itself runs in (pip install -e '.[dev]')."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "check", "tests"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # two workers on two cores; the recorded results are of one thread too
PYTHON_CODE = ("generator", "tests", "benchmarks", "noxfile.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting of our code, and of the generated code and shell scripts."""
    session.run("ruff", "check", *PYTHON_CODE)
    session.run("ruff", "format", "--check", *PYTHON_CODE)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.run("mypy")


@nox.session
def check(session: nox.Session) -> None:
    """Compare generated/ with the specs."""
    session.run("dpuforge", "check")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default tests: under ten minutes on two cores."""
    session.run("pytest", "-q", "-n", "2", "--dist", "loadfile", *session.posargs, env=ONE_THREAD)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take minutes or need the large golden data."""
    session.run("pytest", "-q", "-m", "slow", "-n", "2", "--dist", "loadfile", *session.posargs, env=ONE_THREAD)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed side by side; figures go to docs/ by hand, with machine and date."""
    session.run("python", "benchmarks/generate.py", *session.posargs)
