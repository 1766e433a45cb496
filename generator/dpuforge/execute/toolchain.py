"""Find the toolchain a project asks for: which Python, which environment, which versions; say what is missing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dpuforge.errors import MissingToolError, UsageError
from dpuforge.execute.engine import find_engines
from dpuforge.paths import PACKAGE_DIR, emulator_path

PYTHON_VARIABLE = "DPUFORGE_PYTHON"
RUN_EXTRA = "pip install 'dpuforge[run]' into this environment"
OLDEST_TORCH = (2, 4)  # that the emulator runs on: pyproject.toml
_EMULATOR_SOURCES = ("emulator", "xmodel", "quant_config", "dropin")
_CHECK_SOURCES = ("xmodel", "hardware")

# The probe asks a Python what it can import, without importing torch itself (that takes seconds).
_PROBE = """
import importlib.util, json, sys
try:
    from importlib.metadata import version
except ImportError:
    def version(name):
        import pkg_resources
        return pkg_resources.get_distribution(name).version
found = {"python": sys.version.split()[0]}
packages = {"PIL": "pillow", "google.protobuf": "protobuf"}
for name in sys.argv[1:]:
    if importlib.util.find_spec(name) is None:
        continue
    try:
        found[name] = version(packages.get(name, name))
    except Exception:
        found[name] = "unknown"
print(json.dumps(found))
"""


@dataclass(frozen=True)
class ToolchainPlace:
    """Where scripts run: the interpreter, its environment and the versions that decide results."""

    name: str
    python: str
    env: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def where(self) -> str:
        """Say where stages of this place run, in words."""
        return f"host ({self.name})"

    @property
    def keeps_time(self) -> bool:
        """Whether run.time_limit is held here; a cluster holds it itself, from the job's start on."""
        return True

    def of(self, stage: str) -> ToolchainPlace:
        """Return the place of one stage."""
        return self

    def find_tool(self, tool: str) -> str | None:
        """Return the path of a program of this toolchain, or None where it is not installed."""
        return shutil.which(tool, path=self.env.get("PATH"))

    def prepare(self, key: str) -> None:
        """Make ready for the stage called key."""

    def wrap(self, argv: Sequence[str], key: str, cwd: Path) -> list[str]:
        """Return the command that runs argv for the stage called key; in a container it is the engine's."""
        return list(argv)

    def signal(self, key: str, name: str) -> None:
        """Send a signal to a stage that the child's own process group does not reach."""

    def explain(self, key: str, code: int, log: str) -> str:
        """Return why the place ended a stage with code, "" where the stage itself ended so."""
        return ""

    def close(self, key: str) -> None:
        """Remove what a stage left running."""

    def describe(self, toolchain: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a result says of its toolchain."""
        return dict(toolchain)


def find_toolchain(name: str, image: str = "") -> ToolchainPlace:
    """Return the place of the toolchain called name; of "container" no more than that an engine answers.

    image is AMD's image of the project's release, named in the remedy. Raises MissingToolError where a part is
    missing, UsageError for an unknown name.
    """
    if name == "emulator":
        return _find_emulator()
    if name == "native":
        return _find_native(image)
    if name != "container":
        raise UsageError(f"there is no toolchain {name!r}", "choose emulator, native or container")
    find_engines()
    return ToolchainPlace("container", "python", dict(os.environ), {})


def _find_emulator() -> ToolchainPlace:
    env = _child_env("emulator", extra_path=emulator_path())
    versions = probe_python(sys.executable, ("torch", "torchvision", "numpy", "PIL", "tqdm", "timm"), env)
    missing = [name for name in ("torch", "torchvision", "numpy", "PIL", "tqdm") if name not in versions]
    if missing:
        raise MissingToolError(f"toolchain emulator: {', '.join(missing)} cannot be imported", RUN_EXTRA)
    refuse_old_torch(versions["torch"])
    return ToolchainPlace("emulator", sys.executable, env, {**versions, "dpuforge": hash_emulator()})


def refuse_old_torch(version: str) -> None:
    """Raise MissingToolError where a version of torch is too old for the emulator; an unknown one passes."""
    numbers = [int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit()]
    if len(numbers) == 2 and tuple(numbers) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise MissingToolError(f"dpuforge's emulator needs torch {oldest} or newer; this is torch {version}", RUN_EXTRA)


def _find_native(image: str) -> ToolchainPlace:
    env = _child_env("native")
    tried = find_candidate_pythons()
    for python in tried:
        versions = probe_python(python, ("torch", "torchvision", "pytorch_nndct", "numpy", "PIL", "timm"), env)
        if "pytorch_nndct" in versions:
            return ToolchainPlace("native", python, env, versions)
    raise MissingToolError(
        f"toolchain native: no Python here can import pytorch_nndct (tried {', '.join(tried)})",
        f"AMD's quantizer lives only inside AMD's image ({image or 'see dpuforge releases'}): run there, name its "
        f"Python in {PYTHON_VARIABLE}, or use --toolchain emulator",
    )


def find_candidate_pythons() -> tuple[str, ...]:
    """Return the Pythons in which AMD's quantizer is looked for, in order."""
    named = os.environ.get(PYTHON_VARIABLE)
    found = (named,) if named else (sys.executable, shutil.which("python"), shutil.which("python3"))
    return tuple(dict.fromkeys(filter(None, found)))


def _child_env(name: str, extra_path: Path | None = None) -> dict[str, str]:
    """Return the environment of a stage: ours, the toolchain's name, unbuffered output, the drop-in first."""
    path = os.pathsep.join(filter(None, [str(extra_path or ""), os.environ.get("PYTHONPATH", "")]))
    env = {**os.environ, "DPUFORGE_TOOLCHAIN": name, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    if path:
        env["PYTHONPATH"] = path
    return env


@lru_cache(maxsize=8)
def _probe(python: str, modules: tuple[str, ...], path: str) -> str:
    done = subprocess.run(
        [python, "-c", _PROBE, *modules],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path} if path else None,
    )
    return done.stdout if done.returncode == 0 else "{}"


def probe_python(python: str, modules: tuple[str, ...], env: Mapping[str, str]) -> dict[str, str]:
    """Return the version of each module that python can import; empty where python itself does not start."""
    try:
        found = json.loads(_probe(python, modules, env.get("PYTHONPATH", "")))
    except (OSError, ValueError):
        return {}
    return {str(name): str(version) for name, version in found.items()}


def hash_emulator() -> str:
    """Return a short digest of the emulator's sources, so that results made by older sources count as stale."""
    return _hash_sources(_EMULATOR_SOURCES)


def hash_checks() -> str:
    """Return a short digest of what the preflight stage is made of, in the same sense."""
    return _hash_sources(_CHECK_SOURCES)


@lru_cache(maxsize=2)
def _hash_sources(folders: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((PACKAGE_DIR / folder).rglob("*.py")):
            digest.update(path.relative_to(PACKAGE_DIR).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
