"""Whole runs on a real Slurm: what each job gets, what a cancelled one leaves, and what is said of one that failed."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest

from tests.cluster.conftest import ClusterProject

pytestmark = pytest.mark.cluster
ON_CLUSTER = ("--cluster", "slurm")
EPOCHS = 60  # of a training that is cancelled: some seconds


def weights(project: ClusterProject) -> bytes:
    """Return the trained network's file."""
    return (project.root / "build/squares/train/model.pth").read_bytes()


def last_job(project: ClusterProject, stage: str) -> dict[str, str]:
    """Return what Slurm knows of a stage's last job."""
    return next(job for job in reversed(project.slurm.list_jobs()) if f"-{stage}_" in job["JobName"])


def test_a_run_ends_on_the_cluster_and_the_next_repeats_nothing(project: ClusterProject) -> None:
    """Each stage is one job with what the spec asks for, or the estimate; the report follows, and all is fresh then."""
    project.write("{train: {cores: 3, memory_gb: 2.5, minutes: 7, gpus: 2}}", "partition: long")
    code, said = project.run("run", "spec/squares.yaml", *ON_CLUSTER)
    assert code == 0, said
    assert "report: build/squares/report.html" in said
    assert project.list_stages() == ["prepare", "train", "inspect", "calibrate", "evaluate", "deploy"]
    train, prepare = last_job(project, "train"), last_job(project, "prepare")
    assert (train["TRES"], train["TimeLimit"], train["TresPerJob"], train["Partition"]) == (
        "cpu=3,mem=2500M,node=1,billing=3",
        "00:07:00",
        "gres:gpu:2",
        "long",
    )
    assert (prepare["TRES"], prepare["TimeLimit"]) == ("cpu=2,mem=3000M,node=1,billing=2", "00:15:00")
    log = (project.root / "build/squares/train/log.txt").read_text()
    assert "3 cores, 2.5 GB, 7 minutes, 2 GPUs" in log.splitlines()[0]
    assert "model epoch 2/2" in log
    code, said = project.run("run", "spec/squares.yaml", *ON_CLUSTER)
    assert code == 0, said
    assert len(project.list_stages()) == 6
    code, said = project.run("plan", "spec/squares.yaml", "--json")
    states = {row["stage"]: row["state"] for row in json.loads(said)["stages"]}
    assert {state for stage, state in states.items() if stage != "compile/KV260"} == {"fresh"}


def test_a_training_that_is_cancelled_goes_on_to_the_same_weights(project: ClusterProject) -> None:
    """Ctrl-C, scancel and a login node that dies: each time the same command goes on; weights are the uncancelled's."""
    project.write(epochs=EPOCHS)
    command = ("run", "spec/squares.yaml", "--until", "train", *ON_CLUSTER)
    code, said = project.run(*command)
    assert code == 0, said
    uncancelled = weights(project)
    shutil.rmtree(project.root / "build/squares/train")

    child = project.start(*command)
    project.wait_for("train/log.txt", "epoch 3/")
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 130, said
    wait_until_idle(project)
    assert last_job(project, "train")["JobState"] == "CANCELLED"

    child = project.start(*command)
    project.wait_for("train/log.txt", "going on after epoch")
    project.wait_for("train/log.txt", f"/{EPOCHS}: train")
    project.slurm.ask("scancel", last_job(project, "train")["JobId"])
    said, _ = child.communicate(timeout=120)
    assert child.returncode == 3, said
    assert "was cancelled (scancel); run the same command again to go on" in said

    child = project.start(*command)
    project.wait_for("train/log.txt", f"/{EPOCHS}: train")
    child.send_signal(signal.SIGKILL)
    child.wait()
    jobs = project.list_stages()
    code, said = project.run(*command)
    assert code == 0, said
    assert "of an earlier run is running: waiting for it" in said
    assert project.list_stages() == jobs, "the job of the killed run was taken over"
    assert jobs.count("train") == 4
    assert weights(project) == uncancelled


def wait_until_idle(project: ClusterProject) -> None:
    """Wait until no job is at work."""
    end = time.monotonic() + 60
    while project.slurm.running():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_failing_stage_is_told_with_its_own_reason(project: ClusterProject) -> None:
    """Exit code 3, the script's sentence and not Snakemake's, and no stage after it is tried."""
    project.write()
    (project.root / "images/train/dark/0.png").write_bytes(b"no picture")
    code, said = project.run("run", "spec/squares.yaml", *ON_CLUSTER)
    assert code == 3
    result = json.loads((project.root / "build/squares/prepare/result.json").read_text())
    assert "0.png" in result["reason"]
    assert f"failed    prepare            {result['reason']}" in said
    assert "Snakemake" not in result["reason"]
    assert project.list_stages() == ["prepare"]


def test_a_job_past_its_minutes_names_the_key(project: ClusterProject) -> None:
    """Slurm ends it; the reason says that, and what to raise."""
    project.write("{train: {minutes: 1}}", epochs=5000)
    code, said = project.run("run", "spec/squares.yaml", "--until", "train", *ON_CLUSTER)
    assert code == 3
    assert "it took longer than it asked for; raise run.resources.train.minutes" in said
    assert last_job(project, "train")["JobState"] == "TIMEOUT"


def test_what_slurm_refuses_names_the_key(project: ClusterProject) -> None:
    """A job that Slurm does not take fails at once, in its words and with the key of the spec."""
    project.write(cluster="partition: nowhere")
    code, said = project.run("run", "spec/squares.yaml", "--until", "prepare", *ON_CLUSTER)
    assert code == 3
    assert "Slurm refused the job: invalid partition specified: nowhere; Batch job submission failed" in said
    assert ": name another in run.cluster.partition" in said


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        ("{prepare: {minutes: 100}}", "PartitionTimeLimit: it asks for more minutes than the partition gives"),
        ("{prepare: {cores: 64}}", "PartitionConfig: no node of the partition has what it asks for"),
    ],
)
def test_a_job_that_can_never_start_says_so(project: ClusterProject, resources: str, reason: str) -> None:
    """Slurm lets an impossible job wait for ever; the run says why and what helps, and Ctrl-C leaves no job."""
    project.write(resources, "partition: short")
    child = project.start("run", "spec/squares.yaml", "--until", "prepare", *ON_CLUSTER)
    project.wait_for("prepare/log.txt", f"waits: {reason}")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    assert project.slurm.running() == []


def test_two_specs_share_their_training(project: ClusterProject) -> None:
    """Specs that differ in the board alone: one job each of prepare and train for both."""
    project.write()
    project.write(name="others")
    other = project.root / "spec/others.yaml"
    other.write_text(other.read_text().replace("KV260", "ZCU102"))
    before = len(project.slurm.list_jobs())
    code, said = project.run("run", "spec/squares.yaml", "spec/others.yaml", "--until", "train", *ON_CLUSTER)
    assert code == 0, said
    assert len(project.slurm.list_jobs()) - before == 2
    assert project.list_stages() == ["prepare", "train"]
    assert "shared    train" in said


def test_a_sweep_trains_its_variants_on_the_cluster(project: ClusterProject) -> None:
    """Two seeds: one job that prepares, two that train."""
    project.write()
    before = len(project.slurm.list_jobs())
    words = ("--set", "train.seed=0,1", "--until", "train", "--jobs", "2", *ON_CLUSTER)
    code, said = project.run("sweep", "spec/squares.yaml", *words)
    assert code == 0, said
    names = [job["JobName"] for job in project.slurm.list_jobs()[before:]]
    assert sorted(name.split("_")[0].split("-")[-1] for name in names) == ["prepare", "train", "train"]
