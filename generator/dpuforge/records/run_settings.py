"""How stages are executed: where, for how long, and what a container and a cluster are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Toolchain(str, Enum):
    """Where the generated scripts run."""

    EMULATOR = "emulator"
    NATIVE = "native"
    CONTAINER = "container"

    __str__ = str.__str__


@dataclass(frozen=True)
class Container:
    """How AMD's image is started; image None means the release's pinned one of that flavour.

    engine is "auto", "docker" or "podman"; network is "none", "bridge" or "host"; options are words for the engine.
    """

    engine: str = "auto"
    image: str | None = None
    flavour: str = "cpu"
    conda: str = "/opt/vitis_ai/conda"
    network: str = "none"
    memory_gb: float | None = None
    cpus: float | None = None
    shm_gb: float = 1.0
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resources:
    """What a stage asks a cluster for; None is what is estimated instead."""

    cores: int | None = None
    memory_gb: float | None = None
    minutes: int | None = None
    gpus: int | None = None
    processes: int | None = None

    @property
    def started(self) -> int:
        """The processes that share the stage's work: one for each GPU, unless their number is named."""
        return self.processes or max(1, self.gpus or 0)


@dataclass(frozen=True)
class Cluster:
    """How a cluster is asked; None is its own default, options are words for Snakemake."""

    partition: str | None = None
    account: str | None = None
    options: tuple[str, ...] = ()


# What AMD's tools decide; the rest needs torch alone, and AMD's image carries an old one.
_IN_CONTAINER = ("inspect", "qat", "calibrate", "evaluate", "deploy", "compile")


@dataclass(frozen=True)
class Run:
    """How the stages are executed; stages, time_limit (minutes) and resources hold what the spec names, no more."""

    toolchain: Toolchain
    stages: Mapping[str, str] = field(default_factory=dict)
    time_limit: Mapping[str, float] = field(default_factory=dict)
    container: Container = Container()
    resources: Mapping[str, Resources] = field(default_factory=dict)
    cluster: Cluster = Cluster()

    def place_of(self, stage: str, toolchain: str = "") -> str:
        """Return where a stage runs, "host" or "container"; toolchain overrides the spec's."""
        if (toolchain or self.toolchain) != Toolchain.CONTAINER:
            return "host"
        named = self.stages.get(stage) or (self.stages.get("calibrate") if stage == "qat" else None)
        return named or ("container" if stage in _IN_CONTAINER else "host")
