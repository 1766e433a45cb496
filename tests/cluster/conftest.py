"""One Slurm for all tests of this folder, and small projects whose stages it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.one_node_slurm import Slurm, find_lack, start_slurm
from tests.squares_project import SPEC, write_project

REQUIRED = "DPUFORGE_CLUSTER_TESTS"  # set by `nox -s cluster`: a Slurm that cannot be started fails
# Status checks after 1, 11, ... seconds: the profile's own are for stages that take minutes.
_CLUSTER = 'run: {{toolchain: emulator, cluster: {{options: ["--slurm-init-seconds-before-status-checks", "1"]{}}}{}}}'


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Start a Slurm of one node; skip where it is not installed or another one is at work."""
    lack = find_lack()
    if lack:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(f"no Slurm: {lack}")
    with tempfile.TemporaryDirectory(prefix="dpuforge-slurm-") as folder, start_slurm(Path(folder)) as started:
        yield started


@dataclass
class ClusterProject:
    """A project in a folder with a space, and the cluster that its stages run on."""

    root: Path
    slurm: Slurm
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self, resources: str = "", cluster: str = "", name: str = "squares", epochs: int = 2) -> None:
        """Write a spec; resources and cluster are YAML for its run section."""
        run = _CLUSTER.format(f", {cluster}" if cluster else "", f", resources: {resources}" if resources else "")
        text = SPEC.replace("run: {toolchain: emulator}", run).replace("project: squares", f"project: {name}")
        text = text.replace("epochs: 2", f"epochs: {epochs}, early_stopping: null")
        if not self.root.exists():
            write_project(self.root, text)
        (self.root / f"spec/{name}.yaml").write_text(text)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start dpuforge in the project's root; what the last training printed is removed: none waits for it."""
        (self.root / "build/squares/train/log.txt").unlink(missing_ok=True)
        env = {**os.environ, **self.slurm.environment, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "dpuforge", *words]
        pipe = subprocess.PIPE
        self.started.append(
            subprocess.Popen(command, cwd=self.root, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        )
        return self.started[-1]

    def run(self, *words: str) -> tuple[int, str]:
        """Run dpuforge to its end; return its exit code and all that it printed."""
        child = self.start(*words)
        said, _ = child.communicate(timeout=900)
        return child.returncode, said

    def wait_for(self, path: str, text: str, seconds: float = 240) -> None:
        """Wait until a file below build/squares/ holds a text."""
        file, end = self.root / "build/squares" / path, time.monotonic() + seconds
        while not (file.is_file() and text in file.read_text(errors="replace")):
            assert time.monotonic() < end, f"{file} never held {text!r}"
            time.sleep(0.05)

    def list_stages(self) -> list[str]:
        """Return the stage of every job that this project made, oldest first."""
        from dpuforge.execute.cluster.slurm import name_jobs

        start = name_jobs(self.root / "build/squares")
        names = [job["JobName"] for job in self.slurm.list_jobs()]
        return [name.removeprefix(start).split("_")[0] for name in names if name.startswith(start)]


@pytest.fixture
def project(slurm: Slurm, tmp_path: Path) -> Iterator[ClusterProject]:
    """Return a project that nothing was written of yet; what it started and left is ended."""
    made = ClusterProject(tmp_path / "mein Projekt", slurm)
    yield made
    for child in made.started:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    for job in slurm.running():
        slurm.ask("scancel", job)
