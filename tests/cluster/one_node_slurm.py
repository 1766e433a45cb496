"""A real Slurm of one node: munge, slurmctld and slurmd with keys, folders and ports of their own, and no systemd.

Nothing of the machine's own Slurm or munge is read or touched: all that these daemons keep lies in one folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
_DAEMONS = ("slurmd", "slurmctld", "munged")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_NODE = "node"
_CONF = """\
ClusterName=dpuforge
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
MailProg=/bin/true
MinJobAge=3000
KillWait=3
OverTimeLimit=0
ReturnToService=2
GresTypes=gpu
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=short Nodes={node} Default=YES MaxTime=60 State=UP
PartitionName=long Nodes={node} MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running cluster; environment is what its clients need."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *words: str) -> str:
        """Run a client of Slurm and return what it printed."""
        env = {**os.environ, **self.environment}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def list_jobs(self) -> list[dict[str, str]]:
        """Return all that Slurm knows of every job, oldest first."""
        text = self.ask("scontrol", "show", "job", "--oneliner")
        rows = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines()]
        return [row for row in rows if "JobId" in row]

    def running(self) -> list[str]:
        """Return the numbers of the jobs that wait or run."""
        return self.ask("squeue", "--noheader", "--format=%i").split()


def find_lack() -> str:
    """Return why no Slurm can be started here, "" where one can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install slurm-wlm munge, or `nox -s cluster` as root"
    working = [name for name in _DAEMONS if _is_running(name)]
    return f"{', '.join(working)} of this machine is at work, and is left alone" if working else ""


def _is_running(name: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() == name:
                return True
    return False


@contextlib.contextmanager
def start_slurm(folder: Path) -> Iterator[Slurm]:
    """Start a cluster in an empty folder, and end it with all that runs on it."""
    folder.chmod(0o755)  # munged wants a socket that every user reaches
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    ports = _find_ports(2)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    text = _CONF.format(host=host, controller=ports[0], daemon=ports[1], folder=folder, user=user, node=_NODE)
    (folder / "slurm.conf").write_text(text)
    for number in range(2):  # no GPU is here: Slurm counts files and hands out their numbers
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"NodeName={_NODE} Name=gpu File={folder}/gpu[0-1]\n")
    _write_srun(folder)
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    slurm = Slurm(folder, {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder}/bin:{_PATH}"})
    with contextlib.ExitStack() as stack:
        stack.enter_context(_start(_munge(folder), folder, slurm))
        stack.enter_context(_start(["slurmctld", "-D"], folder, slurm))
        stack.enter_context(_start(["slurmd", "-D", "-N", _NODE], folder, slurm))
        _wait_for_node(slurm)
        try:
            yield slurm
        finally:
            _end_jobs(slurm)


def _write_srun(folder: Path) -> None:
    """Put an srun on PATH that knows this cluster: the plugin takes SLURM_CONF away, and /etc/slurm is not ours."""
    (folder / "bin").mkdir()
    (folder / "bin/srun").write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    (folder / "bin/srun").chmod(0o755)


def _munge(folder: Path) -> list[str]:
    """Return the command of munged, with a new key of its own."""
    key = folder / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    (folder / "munge").chmod(0o755)
    kept = {"key-file": key, **{f"{it}-file": folder / "munge" / it for it in ("pid", "log", "seed")}}
    options = [f"--{name}={path}" for name, path in kept.items()]
    return ["munged", "--foreground", "--num-threads=2", f"--socket={folder}/munge/socket", *options]


def _find_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


@contextlib.contextmanager
def _start(command: list[str], folder: Path, slurm: Slurm) -> Iterator[None]:
    program = shutil.which(command[0], path=_PATH)
    assert program is not None
    env = {**os.environ, **slurm.environment}
    with (folder / f"{command[0]}.out").open("wb") as log:
        words = [program, *command[1:]]
        child = subprocess.Popen(words, env=env, stdout=log, stderr=log, start_new_session=True, preexec_fn=_die_too)
    try:
        yield
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _die_too() -> None:
    """Let the kernel end a daemon with the tests, whatever ends them."""
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))


def _wait_for_node(slurm: Slurm) -> None:
    end, seen = time.monotonic() + 30, ""
    while time.monotonic() < end:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            seen = slurm.ask("sinfo", "--noheader", "--format=%T", "--partition=short").strip()
            if seen == "idle":
                return
        time.sleep(0.3)
    logs = "\n".join(f"{path}:\n{path.read_text()[-1500:]}" for path in sorted(slurm.folder.glob("*.[lo]*")))
    raise AssertionError(f"the node is {seen or 'unknown'}, not idle\n{logs}")


def _end_jobs(slurm: Slurm) -> None:
    """Cancel what still waits or runs, so that no process outlives the daemons."""
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        for job in slurm.running():
            slurm.ask("scancel", job)
        end = time.monotonic() + 20
        while slurm.running() and time.monotonic() < end:
            time.sleep(0.2)
