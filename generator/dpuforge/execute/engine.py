"""Docker and podman from outside: which of them works here, which image it has, and what its failures mean."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpuforge.errors import MissingToolError, UsageError
from dpuforge.execute.faults import explain_engine

ENGINES = ("docker", "podman")
ENGINE_VARIABLE = "DPUFORGE_ENGINE"
_PATIENCE_SECONDS = 120  # for an engine that was asked something; a dead daemon may never answer
_REGISTRY_SECONDS = 20  # for a registry that is asked how large an image is

Answer = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Engine:
    """A container engine that answers; name decides its dialect, path is what is started."""

    name: str
    path: str
    version: str
    rootless: bool = False

    def ask(self, *words: str, patience_seconds: float = _PATIENCE_SECONDS) -> Answer:
        """Run a short command of the engine and return what it said; one that hangs ends with exit code 124."""
        return _ask(self.path, words, patience_seconds)

    def qualify(self, image: str) -> str:
        """Return an image's name as the engine knows it: podman guesses no registry."""
        first = image.split("/")[0]
        known = "/" in image and ("." in first or ":" in first or first == "localhost")
        return image if known or self.name == "docker" else f"docker.io/{image}"


@dataclass(frozen=True)
class ImageFacts:
    """An image that an engine has; identity is the digest of its content, digests what registries call it."""

    name: str
    identity: str
    digests: tuple[str, ...] = ()
    size_bytes: int = 0
    labels: Mapping[str, str] | None = None


def _ask(
    path: str, words: Sequence[str], patience_seconds: float = _PATIENCE_SECONDS
) -> subprocess.CompletedProcess[str]:
    argv = [path, *words]
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=patience_seconds,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 124, "", f"no answer in {patience_seconds:g} seconds: is it running?")
    except OSError as error:
        return subprocess.CompletedProcess(argv, 126, "", str(error))


def find_engines(wanted: str = "auto") -> tuple[Engine, ...]:
    """Return the engines here that answer, in the order in which they are tried.

    wanted is "auto", "docker" or "podman"; auto obeys DPUFORGE_ENGINE. Raises MissingToolError, with what each of
    them said, where none answers.
    """
    named = os.environ.get(ENGINE_VARIABLE, "auto") if wanted == "auto" else wanted
    if named not in ("auto", *ENGINES):
        raise UsageError(f"{ENGINE_VARIABLE}: there is no container engine {named!r}", "choose docker or podman")
    names = ENGINES if named == "auto" else (named,)
    found, said = [], []
    for name in names:
        path = shutil.which(name)
        if path is None:
            said.append(f"{name} is not installed")
            continue
        engine, problem = _try_engine(name, path)
        found += [engine] if engine else []
        said += [problem] if problem else []
    if not found:
        raise MissingToolError(
            "toolchain container: no container engine answers here: " + "; ".join(said),
            "install podman or docker with the system's package manager; run.container.engine chooses between them",
        )
    return tuple(found)


def _try_engine(name: str, path: str) -> tuple[Engine | None, str]:
    """Return the engine, or why it does not answer."""
    asked = _ask(path, ("--version",))
    dialect = "podman" if "podman" in asked.stdout.lower() else name  # the package podman-docker calls itself docker
    question = ("info", "--format", "{{json .}}")
    done = _ask(path, question)
    try:
        told = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        told = None
    # docker prints what it knows of itself and exits 0, or not, where the daemon is away.
    if not isinstance(told, dict) or (told.get("ServerErrors") and not told.get("ServerVersion")):
        errors = told.get("ServerErrors") if isinstance(told, dict) else None
        text = "; ".join(map(str, errors or ())) or done.stderr.strip() or f"exit code {done.returncode}"
        return None, f"{name}: {explain_engine(text) or last_line(text)}"
    return Engine(dialect, path, _read_version(told, asked.stdout), _is_rootless(told)), ""


def _read_version(told: Mapping[str, Any], printed: str) -> str:
    version = told.get("ServerVersion") or (told.get("version") or {}).get("Version")
    return str(version or printed.strip() or "unknown")


def _is_rootless(told: Mapping[str, Any]) -> bool:
    of_podman = ((told.get("host") or {}).get("security") or {}).get("rootless")
    return bool(of_podman) or any("rootless" in str(item) for item in told.get("SecurityOptions") or ())


def find_image(engines: Sequence[Engine], image: str) -> tuple[Engine, ImageFacts | None]:
    """Return the first engine that has the image, with what it knows of it; else the first engine and None."""
    for engine in engines:
        facts = inspect_image(engine, image)
        if facts is not None:
            return engine, facts
    return engines[0], None


def inspect_image(engine: Engine, image: str) -> ImageFacts | None:
    """Return what an engine knows of an image, None where it does not have it."""
    done = engine.ask("image", "inspect", engine.qualify(image))
    try:
        found = json.loads(done.stdout)[0] if done.returncode == 0 else None
    except (ValueError, IndexError, KeyError):
        found = None
    if not isinstance(found, dict):
        return None
    identity = str(found.get("Id", ""))
    labels = (found.get("Config") or {}).get("Labels") or found.get("Labels") or {}
    return ImageFacts(
        image,
        identity if identity.startswith("sha256:") else f"sha256:{identity}",
        tuple(map(str, found.get("RepoDigests") or ())),
        int(found.get("Size") or 0),
        {str(key): str(value) for key, value in labels.items()},
    )


def measure_download(engine: Engine, image: str) -> int | None:
    """Return the bytes that pulling an image would download, asked of its registry; None where it does not say."""
    done = engine.ask("manifest", "inspect", engine.qualify(image), patience_seconds=_REGISTRY_SECONDS)
    try:
        document = json.loads(done.stdout) if done.returncode == 0 else {}
        return sum(int(layer["size"]) for layer in document["layers"])
    except (ValueError, KeyError, TypeError):
        return None


def pull_image(engine: Engine, image: str, tell: Callable[[str], None]) -> None:
    """Pull an image, its progress on this process's stderr; raise MissingToolError with the cause where it fails."""
    tell(f"pulling {image} with {engine.name}: {describe_size(measure_download(engine, image))}")
    argv = [engine.path, "pull", engine.qualify(image)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace")
        raise MissingToolError(f"{image} could not be pulled: {explain_engine(text) or last_line(text)}")


def describe_size(size_bytes: int | None) -> str:
    """Return a download's size in words, and the free disk beside it where it is known."""
    free = shutil.disk_usage("/").free / 1e9
    what = "its size is not known (the registry was asked and did not say)"
    if size_bytes is not None:
        what = f"{size_bytes / 1e9:.1f} GB to download, two to three times that on the disk"
    return f"{what}; {free:.0f} GB are free"


def last_line(text: str) -> str:
    """Return the last line of a text that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
