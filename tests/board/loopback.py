"""A stand-in for a board: a real sshd on the loopback whose account has the drop-in vart, an xdputil, and sensors.

Whatever runs there is emulated, and says so.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dpuforge.paths import emulator_path
from tests.board_queries import make_core, make_query
from tests.conftest import REPO

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
WHY_NOT = "no sshd here (Debian: openssh-server); `nox -s board` installs it"
FINGERPRINT = "0x101000056010407"


@dataclass
class Loopback:
    """One running sshd with the files of the board behind it."""

    folder: Path
    port: int = 0
    server: subprocess.Popen[bytes] | None = None
    settings: list[str] = field(default_factory=list)

    @property
    def board(self) -> Path:
        """The folder on the board that is dpuforge's."""
        return self.folder / "board"

    @property
    def environment(self) -> dict[str, str]:
        """What a dpuforge that knows this board has in its environment."""
        path = os.pathsep.join([str(REPO / "generator"), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "XDG_CONFIG_HOME": str(self.folder / "config"), "PYTHONPATH": path}

    def prepare(self) -> None:
        """Write keys, ssh's configuration, boards.yaml, the stand-in xdputil and the sensors."""
        for name in ("host", "user"):
            make_key(self.folder / name)
        shutil.copy(self.folder / "user.pub", self.folder / "authorized_keys")
        self.port = find_port()
        self.write_configuration()
        self.write_known_host(self.folder / "host.pub")
        self.write_query()
        write_sensors(self.folder / "sys")
        self.write_environment()
        self.write_hosts()

    def write_configuration(self) -> None:
        """Write sshd_config and the client's own configuration."""
        own = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder / 'host'}",
            f"PidFile {self.folder / 'sshd.pid'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "PermitRootLogin prohibit-password",
            *self.settings,
        ]
        (self.folder / "sshd_config").write_text("\n".join(own) + "\n", encoding="utf-8")
        client = f"""\
Host loop
  HostName 127.0.0.1
  Port {self.port}
  User {getpass.getuser()}
  IdentityFile {self.folder / "user"}
  IdentitiesOnly yes
  UserKnownHostsFile {self.folder / "known_hosts"}
  GlobalKnownHostsFile /dev/null
"""
        (self.folder / "ssh_config").write_text(client, encoding="utf-8")

    def write_known_host(self, key: Path) -> None:
        """Let the client know the board by this key."""
        kind, value = key.read_text(encoding="utf-8").split()[:2]
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {value}\n", encoding="utf-8")

    def write_query(self, fingerprint: str = FINGERPRINT, release: str = "3.0.0", **changes: object) -> None:
        """Install an xdputil that reports a DPU of this fingerprint."""
        core = make_core(fingerprint=fingerprint, **changes)
        tool = self.folder / "bin" / "xdputil"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\ncat <<'END'\n{make_query(core, release=release)}\nEND\n", encoding="utf-8")
        tool.chmod(0o755)

    def write_environment(self, *lines: str) -> None:
        """Write the file that the board's shell sources first."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        text = [
            f"export PATH={shlex.quote(path)}",
            f"export PYTHONPATH={shlex.quote(f'{emulator_path()}:{REPO}/generator')}",
            "export OMP_NUM_THREADS=1",
            *lines,
        ]
        (self.folder / "environment.sh").write_text("\n".join(text) + "\n", encoding="utf-8")

    def write_hosts(self, **changes: object) -> None:
        """Write boards.yaml with this board under the name bench."""
        entry = {
            "host": "loop",
            "board": "KV260",
            "folder": str(self.board),
            "environment": str(self.folder / "environment.sh"),
            "python": sys.executable,
            "lock": str(self.folder / "lock"),
            "sensors": str(self.folder / "sys"),
            "ssh_config": str(self.folder / "ssh_config"),
            **changes,
        }
        path = self.folder / "config/dpuforge/boards.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"boards": {"bench": entry}}), encoding="utf-8")

    def start(self) -> None:
        """Start sshd and wait until it listens."""
        assert SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        """End sshd and its connections."""
        if self.server is not None:
            self.cut()
            self.server.kill()
            self.server.wait()
            self.server = None

    def cut(self) -> None:
        """Kill the processes of every connection, as a pulled cable or a crash would end them."""
        assert self.server is not None
        for pid in children_of(self.server.pid):
            for inner in (*children_of(pid), pid):
                if "sshd" in Path(f"/proc/{inner}/comm").read_text():
                    os.kill(inner, signal.SIGKILL)

    def dpuforge(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run the command line in a project."""
        return subprocess.run(
            [sys.executable, "-m", "dpuforge", *arguments],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def start_dpuforge(self, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
        """Start the command line in a project."""
        return subprocess.Popen(
            [sys.executable, "-m", "dpuforge", *arguments],
            cwd=cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def make_key(path: Path) -> None:
    """Make a key pair without a passphrase."""
    path.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def find_port() -> int:
    """Return a port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_sensors(folder: Path) -> None:
    """Write an INA sensor, a thermal zone and a CPU clock as the kernel shows them."""
    values = {
        "class/hwmon/hwmon0/name": "ina260_u14",
        "class/hwmon/hwmon0/power1_input": "7250000",
        "class/hwmon/hwmon0/curr1_input": "604",
        "class/hwmon/hwmon0/in1_input": "12004",
        "class/thermal/thermal_zone0/type": "pl-thermal",
        "class/thermal/thermal_zone0/temp": "41250",
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1333333",
    }
    for name, text in values.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
