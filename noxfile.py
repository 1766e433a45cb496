"""The project's chores; they run in the environment that nox itself runs in (pip install -e '.[dev]')."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "check", "tests"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # two workers on two cores; the recorded results are of one thread too
OLD_PACKAGES = ("torch==1.13.1", "torchvision==0.14.1", "numpy", "pillow", "tqdm")
SLURM = {"munged": "munge", "slurmctld": "slurm-wlm"}  # a program, and Debian's package that brings it
LANGUAGE_SERVER = "yaml-language-server@1.25.0"
PYTHON_CODE = ("generator", "tests", "benchmarks", "docs/_site", "noxfile.py")


def run_module(session: nox.Session, *command: str) -> None:
    """Run a module of the very environment that nox runs in, whatever PATH says."""
    session.run(sys.executable, "-m", *command, env=ONE_THREAD)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting of our code and of the generated code."""
    run_module(session, "ruff", "check", *PYTHON_CODE)
    run_module(session, "ruff", "check", "--isolated", "--line-length", "100", "generated")
    run_module(session, "ruff", "format", "--check", *PYTHON_CODE)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    run_module(session, "mypy")


@nox.session
def check(session: nox.Session) -> None:
    """Compare generated/ with the specs."""
    run_module(session, "dpuforge", "check")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default tests: under ten minutes on two cores."""
    run_module(session, "pytest", "-q", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take minutes or need the large golden data."""
    run_module(session, "pytest", "-q", "-m", "slow and not long", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session
def long(session: nox.Session) -> None:
    """Run the tests that train, sweep and follow the tutorial with shipped specs: an hour, not part of CI."""
    run_module(session, "pytest", "-q", "-m", "long", *session.posargs)


@nox.session
def board(session: nox.Session) -> None:
    """Run all tests of the board commands against a real sshd; install it (Debian, as root) where it is missing."""
    if shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        session.run("apt-get", "install", "-y", "openssh-server", "openssh-client", external=True)
    run_module(session, "pytest", "-q", "-m", "not fuzz", "tests/board", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Try inputs at random for a fixed time (DPUFORGE_FUZZ_SECONDS for each test, from DPUFORGE_FUZZ_SEED on)."""
    run_module(session, "pytest", "-q", "-m", "fuzz", *session.posargs)


@nox.session(venv_backend="venv", reuse_venv=True)
def report(session: nox.Session) -> None:
    """Open the report in Chromium, log it to a real MLflow; in an environment of its own, without torch.

    Installs Debian's Chromium where there is none, which needs root.
    """
    if not shutil.which("chromium"):
        session.run("apt-get", "update", "-qq", external=True)
        session.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", external=True)
    session.install("--quiet", "-e", ".[report-test]")
    session.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/report", *session.posargs)


@nox.session
def container(session: nox.Session) -> None:
    """Run stages in a real container engine, with stand-ins for AMD's tools; as root it installs podman and runc."""
    lacking = [name for name in ("podman", "runc") if shutil.which(name) is None]
    if lacking and shutil.which("apt-get") is not None and os.geteuid() == 0:
        session.run("apt-get", "update", "-qq", external=True)
        session.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *lacking, external=True)
    elif lacking:
        session.error(f"{' and '.join(lacking)} missing: install them, or run this session as root on Debian or Ubuntu")
    run_module(session, "pytest", "-q", "-m", "container or not slow", "tests/container", *session.posargs)


@nox.session
def cluster(session: nox.Session) -> None:
    """Run stages on a Slurm of one node, which the tests start and end; as root it installs slurm-wlm and munge."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    lacking = [package for program, package in SLURM.items() if shutil.which(program, path=path) is None]
    if lacking and shutil.which("apt-get") is not None and os.geteuid() == 0:
        session.run("apt-get", "update", "-qq", external=True)
        session.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *lacking, external=True)
    elif lacking:
        session.error(f"{' and '.join(lacking)} missing: install them, or run this session as root on Debian or Ubuntu")
    command = ("pytest", "-q", "-m", "not fuzz", "tests/cluster", *session.posargs)
    session.run(sys.executable, "-m", *command, env={**ONE_THREAD, "DPUFORGE_CLUSTER_TESTS": "required"})


@nox.session
def old_and_new(session: nox.Session) -> None:
    """Run the generated scripts under Python 3.8 with torch 1.13.1 and under this environment's: 2 GB of downloads.

    DPUFORGE_OLD_PYTHON names a Python 3.8 or 3.7 where `python3.8` does not start one.
    """
    old = Path(session.create_tmp()).resolve().parent / "old_python"
    python = old / "bin" / "python"
    if not python.exists():
        base = os.environ.get("DPUFORGE_OLD_PYTHON") or find_old_python()
        session.run(base, "-m", "venv", str(old), external=True)
    session.run(str(python), "-m", "pip", "install", "-q", "--no-cache-dir", *OLD_PACKAGES, external=True)
    session.run(sys.executable, "tests/old_and_new.py", str(python), sys.executable, env=ONE_THREAD)


def find_old_python() -> str:
    """Return a Python 3.8: of pyenv where it has one, else the one on PATH."""
    installed = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.8.*/bin/python"))
    return str(installed[-1]) if installed else "python3.8"


@nox.session
def editor(session: nox.Session) -> None:
    """Drive yaml-language-server as an editor does.

    It is installed from npm; node and npm by apt-get where they are missing, which needs root.
    """
    lacking = [name for name in ("node", "npm") if shutil.which(name) is None]
    if lacking:
        session.run("apt-get", "update", "-qq", external=True)
        session.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "nodejs", "npm", external=True)
    folder = Path(session.create_tmp()).resolve()
    session.run("npm", "install", "--prefix", str(folder), "--no-fund", "--no-audit", LANGUAGE_SERVER, external=True)
    program = {"DPUFORGE_LANGUAGE_SERVER": str(folder / "node_modules" / ".bin" / "yaml-language-server")}
    session.run(sys.executable, "-m", "pytest", "-q", "-m", "editor", "tests/editor", *session.posargs, env=program)


@nox.session
def backbones(session: nox.Session) -> None:
    """Write the operators of torchvision's classifiers anew, after the emulator or torchvision changed them."""
    run_module(session, "tests.hardware.pack_backbones")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site of docs/ into build/site, with warnings as errors."""
    session.env["NO_MKDOCS_2_WARNING"] = "1"  # the theme's note on its own future is no warning of ours
    run_module(session, "mkdocs", "build", "--strict", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed side by side; figures go to docs/ by hand, with machine and date."""
    for script in ("generate", "prepare", "training", "emulator", "sensitivity"):
        session.run(sys.executable, f"benchmarks/{script}.py", *session.posargs)
