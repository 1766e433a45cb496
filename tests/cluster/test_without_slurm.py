"""What needs no scheduler: resources in the Snakefile, profiles, what is missing here, and words for a job's end."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpuforge.errors import LockedError
from dpuforge.execute.cluster.cluster_place import PROFILES
from dpuforge.execute.cluster.slurm import explain_end, name_jobs
from dpuforge.execute.lock import refuse_orphan
from dpuforge.load.spec_schema import read_schema
from dpuforge.plan.stages import STAGES
from tests.conftest import REPO
from tests.squares_project import SPEC, dpuforge, write_project

pytest.importorskip("snakemake", reason="snakemake comes with the extras cluster, all and dev")
RUN = "run: {toolchain: emulator}"


def make(root: Path, run: str = RUN) -> Path:
    """Write a project whose spec has this run section."""
    write_project(root, SPEC.replace(RUN, run))
    return root


def read_rule(root: Path, name: str) -> list[str]:
    """Return the lines of a rule of the generated Snakefile."""
    text = (root / "generated/squares/Snakefile").read_text()
    return [line.strip() for line in text.split(f"rule {name}:")[1].split("\n\n\n")[0].splitlines()]


def read_resources(rule: list[str]) -> dict[str, object]:
    """Return what a rule asks for."""
    (text,) = re.findall(r"resources: \*\*(\{.*?\})", " ".join(rule))
    found: dict[str, object] = ast.literal_eval(text)
    return found


def test_the_spec_names_resources_of_every_stage_that_can_be_a_job() -> None:
    """run.resources has a key for each stage of the plan; preflight is dpuforge's own and stays here."""
    keys = read_schema()["run"]["schema"]
    assert set(keys["resources"]["schema"]) == {row.name for row in STAGES} - {"preflight"}


def test_what_the_spec_asks_for_stands_in_the_snakefile(tmp_path: Path) -> None:
    """Cores, memory, minutes, GPUs, partition and account in Snakemake's words; several GPUs are torchrun's."""
    resources = "{train: {cores: 6, memory_gb: 2.5, minutes: 90, gpus: 2}, calibrate: {minutes: 5}}"
    cluster = "{partition: gpu-a, account: lab}"
    root = make(tmp_path / "p", f"run: {{toolchain: emulator, resources: {resources}, cluster: {cluster}}}")
    assert dpuforge(root, "generate").returncode == 0
    train, calibrate, prepare = (read_rule(root, name) for name in ("train", "calibrate", "prepare"))
    asked = {"mem_mb": 2500, "runtime": 90, "gpu": 2, "slurm_partition": "gpu-a", "slurm_account": "lab"}
    assert "threads: 6" in train
    assert read_resources(train) == asked
    assert any("{PYTHON} -m torch.distributed.run --standalone --nproc_per_node 2" in line for line in train)
    assert read_resources(calibrate) == {"runtime": 5, "slurm_partition": "gpu-a", "slurm_account": "lab"}
    assert not any("torch.distributed" in line or line.startswith("threads") for line in calibrate)
    assert "runtime" not in read_resources(prepare)


@pytest.mark.slow
def test_resources_make_nothing_stale(tmp_path: Path) -> None:
    """The Snakefile decides no result."""
    root = make(tmp_path / "p")
    assert dpuforge(root, "run", "--until", "prepare").returncode == 0
    spec = root / "spec/squares.yaml"
    spec.write_text(spec.read_text().replace(RUN, "run: {toolchain: emulator, resources: {prepare: {cores: 5}}}"))
    done = dpuforge(root, "run", "--until", "prepare")
    assert "fresh     prepare" in done.stderr


def test_a_profile_of_ones_own_runs_a_stage_through_snakemake(tmp_path: Path) -> None:
    """A folder with a config.yaml for any executor; what the stage prints is shown and logged, in paths with spaces."""
    root = make(tmp_path / 'a project\'s "own" folder')
    profile = root / "our cluster"
    profile.mkdir()
    (profile / "config.yaml").write_text("executor: local\ncores: 1\n")
    done = dpuforge(root, "run", "--until", "prepare", "--cluster", "our cluster")
    assert done.returncode == 0, done.stderr
    assert "done      prepare" in done.stderr
    assert "SNAKEMAKE" not in (root / "build/squares/prepare/log.txt").read_text()
    assert "Finished job" in (root / "build/squares/cluster/prepare/snakemake.log").read_text()
    again = dpuforge(root, "run", "--until", "prepare", "--cluster", "our cluster")
    assert "fresh     prepare" in again.stderr


@pytest.mark.slow
def test_a_stage_that_fails_keeps_its_reason_and_exit_code(tmp_path: Path) -> None:
    """Snakemake would remove the result of a failed job and end with 1 whatever happened."""
    root = make(tmp_path / "p")
    (root / "profile").mkdir()
    (root / "profile/config.yaml").write_text("executor: local\ncores: 1\n")
    (root / "images/test/light/0.png").write_bytes(b"no picture")
    done = dpuforge(root, "run", "--until", "prepare", "--cluster", "profile")
    assert done.returncode == 3
    reason = json.loads((root / "build/squares/prepare/result.json").read_text())["reason"]
    assert "0.png" in reason
    assert f"failed    prepare            {reason}" in done.stderr


@pytest.mark.parametrize(
    ("words", "run", "code", "said"),
    [
        (("--cluster", "nowhere"), RUN, 2, "choose kubernetes or slurm, or name a folder with a profile"),
        (("--cluster", "slurm", "--toolchain", "container"), RUN, 4, "container"),
        (("--cluster", "slurm"), RUN, 4, "sbatch, squeue, scancel not found on PATH"),
        (("--cluster", "broken"), RUN, 2, "names no executor"),
        (("--cluster", "unknown"), RUN, 4, "snakemake-executor-plugin-of-nobody is not installed"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(
    tmp_path: Path, words: tuple[str, ...], run: str, code: int, said: str
) -> None:
    """No such profile, no Slurm on this machine, no plugin: one line with what to do, and no stage is started."""
    root = make(tmp_path / "p", run)
    for name, text in (("broken", "jobs: 3\n"), ("unknown", "executor: of-nobody\n")):
        (root / name).mkdir()
        (root / name / "config.yaml").write_text(text)
    done = dpuforge(root, "run", *words, environment={"PATH": "/nonexistent"})
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert not (root / "build/squares/prepare").exists()


def test_a_slurm_that_does_not_answer_is_said_before_anything_runs(tmp_path: Path) -> None:
    """Debian's clients may lie on a machine of no cluster: one line, and no stage is started."""
    root, tools = make(tmp_path / "p"), tmp_path / "tools"
    tools.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (tools / name).write_text(
            "#!/bin/sh\necho 'squeue: fatal: Could not establish a configuration source' >&2\nexit 1\n"
        )
        (tools / name).chmod(0o755)
    done = dpuforge(root, "run", "--cluster", "slurm", environment={"PATH": f"{tools}:{os.environ['PATH']}"})
    assert done.returncode == 4, done.stderr
    assert "Slurm does not answer: squeue: fatal: Could not establish a configuration source" in done.stderr
    assert not (root / "build/squares/prepare").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_shipped_profile_is_valid(tmp_path: Path, name: str) -> None:
    """Snakemake takes every option of it, with the plugin that it names, and plans the training; nothing is run."""
    pytest.importorskip(f"snakemake_executor_plugin_{name}", reason="comes with the extra cluster")
    root = make(tmp_path / "p")
    assert dpuforge(root, "generate").returncode == 0
    words = ["-s", "generated/squares/Snakefile", "--profile", str(PROFILES / name), "-n", "--jobs", "1"]
    words += ["--default-storage-prefix", str(root / "store")] if name == "kubernetes" else []
    command = [sys.executable, "-m", "snakemake", *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule train:" in done.stdout + done.stderr


# What Snakemake's plugin for Slurm says, from runs and from public reports.
ENDS = [
    ("SLURM-job '7' failed, SLURM status is: 'TIMEOUT'. Reason: Unknown.", "raise run.resources.train.minutes"),
    ("message: SLURM-job '7' failed, SLURM status is: 'OUT_OF_MEMORY'.", "raise run.resources.train.memory_gb"),
    ("message: SLURM-job '7' failed due to a node failure, SLURM status is: 'NODE_FAIL'.", "the node of job 7 failed"),
    ("message: SLURM-job '7' failed, SLURM status is: 'CANCELLED'.", "job 7 was cancelled"),
    ("message: SLURM-job '7' failed, SLURM status is: 'FAILED'.", ""),
    ("all went well", ""),
    (
        "SLURM sbatch failed. The error message was 'sbatch: error: Batch job submission failed: Requested node "
        "configuration is not available'.\n    sbatch call:\n        sbatch --parsable",
        "no node has what run.resources.train asks for",
    ),
    (
        "SLURM sbatch failed. The error message was 'sbatch: error: Batch job submission failed: Invalid account or "
        "account/partition combination specified'.\n    sbatch call:",
        "name another in run.cluster.partition",
    ),
    (
        "SLURM sbatch failed. The error message was 'sbatch: error: You must specify an account!\n"
        "sbatch: error: Batch job submission failed: Unspecified error'.\n    sbatch call:",
        "Slurm refused the job: You must specify an account!; Batch job submission failed: Unspecified error: name "
        "another in run.cluster.account",
    ),
    (
        "SLURM sbatch failed. The error message was 'sbatch: error: Batch job submission failed: Requested time limit "
        "is invalid (missing or exceeds some limit)'.\n",
        "lower run.resources.train.minutes",
    ),
]


@pytest.mark.parametrize(("said", "told"), ENDS)
def test_the_end_of_a_job_is_told_with_the_key_that_helps(said: str, told: str) -> None:
    """Limits, refusals and nodes that fail; a stage that failed on its own has its own reason."""
    found = explain_end(said, "train")
    assert told in found
    assert bool(found) == bool(told)


def test_a_job_is_announced_with_what_its_rule_asks_for(tmp_path: Path) -> None:
    """The defaults in Snakemake's own command are not what the job got."""
    said = (
        "  Command: snakemake --default-resources mem_mb=3000 runtime=15 --set-threads train=2\n"
        "rule train:\n    threads: 3\n    resources: tmpdir=<TBD>, disk_mb=1000, mem_mb=2500, runtime=7, gpu=2\n"
        "Job 0 has been submitted with SLURM jobid 12 (log: /somewhere/12.log).\n"
    )
    code = f"print({said!r}, end='', flush=True)"
    words = [sys.executable, "-m", "dpuforge.execute.cluster.watch_job", str(tmp_path), sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "job 12: 3 cores, 2.5 GB, 7 minutes, 2 GPUs\n")


def test_names_of_jobs_are_what_the_plugin_takes(tmp_path: Path) -> None:
    """At most fifty letters, digits and hyphens, and another project's are others."""
    name = name_jobs(tmp_path / "Übung", "compile/A_BOARD with a very long name that goes on and on")
    assert len(name) <= 50
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
    assert name_jobs(tmp_path / "a", "train") != name_jobs(tmp_path / "b", "train")


def test_a_job_that_outlives_its_run_is_respected(tmp_path: Path) -> None:
    """On a node it has no part in the run's lock and holds its stage's: who holds the other one is refused."""
    script = REPO / "generated/quickstart/results.py"
    code = (
        f"import sys, pathlib, time; sys.path.insert(0, {str(script.parent)!r}); import results; "
        "held = results.hold_build(pathlib.Path(sys.argv[1]), 'train'); print('held', len(held), flush=True); "
        "time.sleep(60)"
    )
    build = tmp_path / "build"
    build.mkdir()
    (build / ".lock").write_text('{"pid": 7}')  # of a run that was killed
    env = {**os.environ, "DPUFORGE_RUN": "7", "DPUFORGE_CLUSTER": "slurm"}
    with (
        (build / ".lock").open() as lock,
        subprocess.Popen([sys.executable, "-c", code, str(build)], env=env, stdout=subprocess.PIPE, text=True) as job,
    ):
        assert job.stdout is not None
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the next run has it
        assert job.stdout.readline() == "held 2\n"
        with pytest.raises(LockedError, match=f"process {job.pid}"):
            refuse_orphan(build)
        job.send_signal(signal.SIGKILL)
        job.wait()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                refuse_orphan(build)
                break
            except LockedError:
                time.sleep(0.05)
        refuse_orphan(build)
