"""A cluster as a place: each stage is one rule of the generated Snakefile, handed on by Snakemake's executor plugins.

dpuforge alone decides which stage is stale, and runs them in order: Snakemake is started for one stage at a time, is
told to make it, and looks at no other. What it leaves is judged like that of any place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dpuforge.errors import MissingToolError, UsageError
from dpuforge.execute.cluster import slurm
from dpuforge.execute.cluster.watch_job import CODE, PRINTED, SAID
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.run_settings import Resources

PROFILES = Path(__file__).with_name("profiles")
CLUSTER_VARIABLE = "DPUFORGE_CLUSTER"  # tells a script that it is a job: it holds its stage's lock itself
_OWN_STAGE = "preflight"  # dpuforge's own: it stays on this machine
_EXTRA = "pip install 'dpuforge[cluster]'"


@dataclass(frozen=True)
class Profile:
    """How a cluster is reached: a folder with Snakemake's config.yaml; shipped ones are named."""

    name: str
    folder: Path
    executor: str
    shipped: bool


@dataclass(frozen=True)
class ClusterPlace(ToolchainPlace):
    """A cluster, and the host for what stays here; estimates stand in for what the spec does not ask for."""

    host: ToolchainPlace
    profile: Profile
    root: Path
    scripts: Path
    build: Path
    outputs: Mapping[str, str]
    estimates: Mapping[str, Resources]
    options: tuple[str, ...] = ()

    def of(self, stage: str) -> ToolchainPlace:
        """Return the place of one stage: the cluster, or the host for dpuforge's own checks."""
        return self.host if stage == _OWN_STAGE else self

    @property
    def where(self) -> str:
        """Say where stages of this place run, in words."""
        return f"cluster ({self.profile.name}, {self.name})"

    @property
    def keeps_time(self) -> bool:
        """A job may wait for long: its minutes count from its start, and the cluster counts them."""
        return False

    def find_tool(self, tool: str) -> str | None:
        """Return a program that this machine has: nodes have it at the same path."""
        return self.host.find_tool(tool)

    @property
    def _is_slurm(self) -> bool:
        return self.profile.executor == "slurm"

    def prepare(self, key: str) -> None:
        """Make the folder of a stage's job and leave out what an earlier one said."""
        folder = self._folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (PRINTED, CODE, SAID):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / ".snakemake", ignore_errors=True)  # what a killed Snakemake left
        given = {"python": shlex.quote(self.python), "root": str(self.root), "build": str(self.build)}
        given["scripts"] = str(self.scripts)
        if self._is_slurm:
            (self.build / slurm.FOLDER / slurm.MARK).touch()
        text = json.dumps({**given, "log": str(folder / PRINTED)}, indent=1)
        (folder / "config.json").write_text(text, encoding="utf-8")

    def wrap(self, argv: Sequence[str], key: str, cwd: Path) -> list[str]:
        """Return the command that has the cluster run the rule of a stage, and shows what it prints."""
        folder, rule = self._folder(key), key.partition("/")[0]
        return [
            *(sys.executable, "-m", "dpuforge.execute.cluster.watch_job", str(folder)),
            *(sys.executable, "-m", "snakemake", "--snakefile", str(self.scripts / "Snakefile")),
            *("--directory", str(folder), "--configfile", str(folder / "config.json")),
            *("--profile", str(self.profile.folder), "--workflow-profile", "none", "--jobs", "1", "--nocolor"),
            *("--nolock", "--rerun-incomplete", "--keep-incomplete", "--force", "--allowed-rules", rule),
            *(slurm.choose_words(self.build, key) if self._is_slurm else ()),
            *(("--default-storage-prefix", str(folder / "sources")) if self.profile.executor == "kubernetes" else ()),
            *self._ask_for(rule),
            *self.options,
            *("--", str(self.build / self.outputs[key])),
        ]

    def _folder(self, key: str) -> Path:
        return self.build / slurm.FOLDER / key

    def _ask_for(self, rule: str) -> list[str]:
        """Return the estimates in Snakemake's words; what the spec asks for stands in the Snakefile and prevails."""
        asked = self.estimates.get(rule)
        if asked is None:
            return []
        words = [f"mem_mb={math.ceil((asked.memory_gb or 0) * 1000)}", f"runtime={asked.minutes}"]
        words += [f"gpu={asked.gpus}"] if asked.gpus else []
        threads = [] if asked.cores is None else ["--set-threads", f"{rule}={asked.cores}"]
        return ["--default-resources", *words, *threads]

    def explain(self, key: str, code: int, log: str) -> str:
        """Return why the cluster ended a stage, or never began it; "" where the stage itself ended so."""
        with contextlib.suppress(OSError):
            said = (self._folder(key) / SAID).read_text(encoding="utf-8", errors="replace")
            return slurm.explain_end(said, key.partition("/")[0])
        return ""

    def close(self, key: str) -> None:
        """Cancel what is left of a stage's job, whatever became of Snakemake."""
        if self._is_slurm:
            with contextlib.suppress(MissingToolError):
                slurm.cancel_jobs(self.build, key)


def find_profile(name: str, say: Callable[[str], None]) -> Profile:
    """Return a shipped profile by its name, or the one in a folder.

    Raises UsageError where there is none, MissingToolError where what it needs is not installed.
    """
    shipped = sorted(path.name for path in PROFILES.iterdir() if path.is_dir())
    folder = PROFILES / name if name in shipped else Path(name).resolve()
    files = sorted(folder.glob("config*.yaml"))
    if not files:
        raise UsageError(
            f"--cluster {name}: no profile is called so, and no folder with a config.yaml",
            f"choose {' or '.join(shipped)}, or name a folder with a profile of Snakemake",
        )
    try:
        told = yaml.safe_load(files[-1].read_text(encoding="utf-8"))
        executor = str(told["executor"])
    except (yaml.YAMLError, KeyError, TypeError):
        raise UsageError(f"{files[-1]}: names no executor", "write executor: slurm, or another one's name") from None
    _check_programs(executor)
    if executor == "kubernetes" and name in shipped:
        say("warning: the profile for Kubernetes was never tried on a cluster")
    return Profile(name, folder, executor, name in shipped)


def _check_programs(executor: str) -> None:
    """Raise MissingToolError where Snakemake, its plugin or the scheduler's own programs are missing."""
    plugin = f"snakemake_executor_plugin_{executor.replace('-', '_')}"
    built_in = executor in ("local", "dryrun", "touch")
    for module in ("snakemake", *(() if built_in else (plugin,))):
        if importlib.util.find_spec(module) is None:
            package = module.replace("_", "-")
            known = executor in ("slurm", "kubernetes")
            raise MissingToolError(f"{package} is not installed", _EXTRA if known else f"pip install {package}")
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if executor == "slurm" and missing:
        raise MissingToolError(
            f"{', '.join(missing)} not found on PATH: no Slurm is here", "run this on a login node of the cluster"
        )
    if executor == "slurm":
        slurm.ask_queue()
