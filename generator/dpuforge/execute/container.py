"""Stages in AMD's image: how one is started, stopped and looked after from outside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpuforge.errors import MissingToolError, StageError, UsageError
from dpuforge.execute.engine import (
    Engine,
    ImageFacts,
    describe_size,
    find_engines,
    find_image,
    inspect_image,
    measure_download,
    pull_image,
)
from dpuforge.execute.faults import explain_container, explain_engine
from dpuforge.execute.process import RUN_VARIABLE
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.hardware import Image
from dpuforge.records.run_settings import Container

STAND_IN_LABEL = "dpuforge.stand-in"  # of an image that holds stand-ins for AMD's tools: which ones
_PID_LABEL = "dpuforge.pid"
_HANDED_ON = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")

# What runs in the image first. A signal goes on to all that the stage started (set -m gives it a process group), since
# the first process of a container is deaf to signals it does not ask for. Exit code 4: a tool is missing.
_ENTRY = r"""
conda=$1; name=$2; shift 2
if [ ! -r "$conda/etc/profile.d/conda.sh" ]; then
    echo "dpuforge: the image has no conda folder $conda" >&2; exit 4
fi
. "$conda/etc/profile.d/conda.sh"
if ! conda activate "$name"; then
    echo "dpuforge: the image has no conda environment $name" >&2; exit 4
fi
for signal in INT TERM ABRT; do trap "kill -$signal -- -\$child 2>/dev/null" "$signal"; done
set -m
"$@" </dev/null &
child=$!
set +m
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
wait "$child" 2>/dev/null; last=$?
[ "$last" -eq 127 ] || code=$last
exit "$code"
"""


@dataclass(frozen=True)
class ContainerPlace(ToolchainPlace):
    """AMD's image on this machine for some stages, the host for the others.

    inside names the stages that run in the image; environment is the image's conda environment; mounts are folders
    outside the project that stages read.
    """

    engine: Engine
    image: ImageFacts
    settings: Container
    environment: str
    host: ToolchainPlace
    inside: frozenset[str]
    root: Path
    mounts: tuple[Path, ...] = ()
    project: str = ""

    def of(self, stage: str) -> ToolchainPlace:
        """Return the place of one stage: this image, or the host."""
        return self if stage in self.inside else self.host

    @property
    def where(self) -> str:
        """Say where stages of this place run, in words."""
        return f"container ({self.image.name}, {self.engine.name})"

    def find_tool(self, tool: str) -> str | None:
        """Return the tool's name: what the image lacks, the stage's script says."""
        return tool

    def wrap(self, argv: Sequence[str], key: str, cwd: Path) -> list[str]:
        """Return the engine's command that runs argv for the stage called key, in the image."""
        self._refuse_paths()
        start = [self.engine.path, "run", "--name", self.name_container(key), "--pull=never", "--log-driver", "none"]
        labels = ["--label", f"{_PID_LABEL}={os.getpid()}", "--label", f"dpuforge.stage={key}"]
        entry = ["--entrypoint", "/bin/bash", self.image.identity.removeprefix("sha256:"), "-c", _ENTRY, "dpuforge"]
        return [
            *(*start, *labels, *self._limits(), *self._identity(), *self._devices()),
            *(*self._mounts(), *self._variables(), "--workdir", str(cwd), *self.settings.options),
            *(*entry, self.settings.conda, self.environment, *argv),
        ]

    def name_container(self, key: str) -> str:
        """Return the name of a stage's container: the same for each run of that stage in that folder."""
        where = hashlib.sha256(f"{self.root}\0{self.project}".encode()).hexdigest()[:12]
        return f"dpuforge-{where}-{key.replace('/', '-')}"

    def _limits(self) -> list[str]:
        given = self.settings
        limits = [f"--network={given.network}", f"--shm-size={round(given.shm_gb * 1024)}m"]
        if given.memory_gb is not None:  # without swap, or the limit would be twice as high
            megabytes = round(given.memory_gb * 1024)
            limits += [f"--memory={megabytes}m", f"--memory-swap={megabytes}m"]
        return limits + ([] if given.cpus is None else [f"--cpus={given.cpus:g}"])

    def _identity(self) -> list[str]:
        """Return what keeps the user's ids, so that what a stage writes is the user's."""
        labels = ["--security-opt", "label=disable"]  # SELinux would forbid the project's own label
        if self.engine.name == "podman":
            return [*labels, "--userns=keep-id"] if self.engine.rootless else [*labels, "--user=0:0"]
        ids = "0:0" if self.engine.rootless else f"{os.getuid()}:{os.getgid()}"
        return [*labels, f"--user={ids}"]

    def _devices(self) -> list[str]:
        if self.settings.flavour == "cuda":
            return ["--gpus=all"] if self.engine.name == "docker" else ["--device=nvidia.com/gpu=all"]
        if self.settings.flavour == "rocm":
            return ["--device=/dev/kfd", "--device=/dev/dri", "--group-add=video"]
        return []

    def _mounts(self) -> list[str]:
        writable = [f"--volume={self.root}:{self.root}"]
        return writable + [f"--volume={path}:{path}:ro" for path in self.mounts]

    def _refuse_paths(self) -> None:
        """Raise UsageError for a folder that no engine can mount: its options are separated by colons."""
        for path in (self.root, *self.mounts):
            if ":" in str(path) or "\n" in str(path):
                raise UsageError(f"toolchain container: {path} cannot be mounted", "take the colon out of its name")

    def _variables(self) -> list[str]:
        values = {
            **{name: os.environ[name] for name in _HANDED_ON if name in os.environ},
            "DPUFORGE_TOOLCHAIN": self.name,
            RUN_VARIABLE: str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "HOME": "/tmp",
            "USER": "dpuforge",
        }
        return [f"--env={name}={value}" for name, value in values.items()]

    def prepare(self, key: str) -> None:
        """Remove what a killed run left of this stage's container; raise StageError where another run has it."""
        name = self.name_container(key)
        left = self._inspect(name)
        if left is None:
            return
        owner = str(((left.get("Config") or {}).get("Labels") or {}).get(_PID_LABEL, ""))
        running = bool((left.get("State") or {}).get("Running"))
        if running and owner.isdigit() and int(owner) != os.getpid() and _is_alive(int(owner)):
            raise StageError(
                f"container {name} is at work for another run (process {owner})", "wait for it, or stop that run"
            )
        self._remove(name)

    def explain(self, key: str, code: int, log: str) -> str:
        """Return why the container ended as it did, "" where the stage itself ended badly."""
        if code == 0:
            return ""
        state = (self._inspect(self.name_container(key)) or {}).get("State") or {}
        killed = bool(state.get("OOMKilled"))
        return explain_container(code, log, killed, self.settings.memory_gb, self.image.name)

    def close(self, key: str) -> None:
        """End and remove a stage's container, whatever state it is in."""
        self._remove(self.name_container(key))

    def signal(self, key: str, name: str) -> None:
        """Send a signal to a stage in its container."""
        self.engine.ask("kill", f"--signal={name}", self.name_container(key))

    def _remove(self, name: str) -> None:
        self.engine.ask("kill", "--signal=KILL", name)
        self.engine.ask("rm", "--force", name)

    def _inspect(self, name: str) -> dict[str, Any] | None:
        done = self.engine.ask("container", "inspect", name)
        with contextlib.suppress(ValueError, IndexError):
            found = json.loads(done.stdout)[0] if done.returncode == 0 else None
            return found if isinstance(found, dict) else None
        return None

    def describe(self, toolchain: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a result says of its toolchain: the image, who started it, and what was a stand-in in it."""
        stand_ins = list(filter(None, (self.image.labels or {}).get(STAND_IN_LABEL, "").split()))
        if toolchain.get("name") == "emulator" and "pytorch_nndct" not in stand_ins:
            stand_ins.append("pytorch_nndct")
        engine = f"{self.engine.name} {self.engine.version}"
        known = {"image": self.image.name, "digest": self.image.identity, "engine": engine}
        versions = {**toolchain.get("versions", {}), "image": self.image.identity}
        return {"name": self.name, "versions": versions, **known, "stand_ins": sorted(stand_ins)}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class Wish:
    """What a project wants of a container: settings, the release's images, and the conda environment in them.

    engine overrides the spec's; pull says whether a missing image may be fetched: it is asked with what it costs.
    """

    settings: Container
    images: tuple[Image, ...]
    environment: str
    release: str
    engine: str = ""
    pull: Callable[[str], bool] = lambda question: False
    tell: Callable[[str], None] = lambda text: None


def find_container(wish: Wish) -> tuple[Engine, ImageFacts]:
    """Return the engine and the image that a project's stages run in.

    Raises MissingToolError where no engine answers or the image is not there and may not be pulled, UsageError where
    no image is known.
    """
    known = choose_image(wish)
    engine, facts = find_image(find_engines(wish.engine or wish.settings.engine), known.image)
    if facts is not None:
        return engine, facts
    if not known.pull:
        raise MissingToolError(
            f"toolchain container: {known.image} is not on this machine, and no registry has it",
            known.note or "build it with AMD's docker/docker_build.sh, and name it in run.container.image",
        )
    cost = describe_size(measure_download(engine, known.image))
    if not wish.pull(f"{known.image} is not on this machine: {cost}. AMD's licence holds for what is in it."):
        raise MissingToolError(
            f"toolchain container: {known.image} is not on this machine; {cost}",
            f"`dpuforge run --pull` fetches it, or: {engine.name} pull {engine.qualify(known.image)}",
        )
    pull_image(engine, known.image, wish.tell)
    pulled = inspect_image(engine, known.image)
    if pulled is None:
        raise MissingToolError(f"{engine.name} pulled {known.image} and does not have it: {explain_engine('')}")
    return engine, pulled


def choose_image(wish: Wish) -> Image:
    """Return the image that a project's stages run in: the spec's own, or the release's of its flavour.

    Raises UsageError where none is on record.
    """
    kind = "gpu" if wish.settings.flavour == "cuda" else wish.settings.flavour
    if wish.settings.image is not None:
        local = wish.settings.image.startswith("localhost/")
        return Image(wish.settings.image, kind, not local, "the spec", "make it again: run.container.image is local")
    ranked = sorted((image for image in wish.images if image.kind == kind), key=lambda image: not image.pull)
    if not ranked:
        raise UsageError(
            f"no {wish.settings.flavour} image of Vitis AI {wish.release} is on record",
            "name one in run.container.image (with its tag), or choose another run.container.flavour",
        )
    return ranked[0]


def make_place(
    found: tuple[Engine, ImageFacts], wish: Wish, host: ToolchainPlace, inside: frozenset[str], root: Path
) -> ContainerPlace:
    """Return the place where stages named inside run in the image, the others on the host."""
    engine, image = found
    return ContainerPlace(
        name="container",
        python="python",
        env=dict(os.environ),
        versions={"image": image.identity},
        engine=engine,
        image=image,
        settings=wish.settings,
        environment=wish.environment,
        host=host,
        inside=inside,
        root=root,
    )


def add_mounts(place: ContainerPlace, folders: Sequence[str], project: str) -> ContainerPlace:
    """Return the place with what lies outside the project and is read by it mounted too, read-only."""
    named = [Path(os.path.abspath(place.root / name)) for name in folders]
    paths = [path for name in named if name.exists() for path in (name, name.resolve())]
    outside = [path if path.is_dir() else path.parent for path in paths if not path.is_relative_to(place.root)]
    return replace(place, mounts=tuple(dict.fromkeys(outside)), project=project)
