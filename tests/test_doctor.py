"""doctor: what is here, what may be used, and the command that closes each gap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpuforge import doctoring, pipeline
from tests.squares_project import SPEC, write_project

DENIED = "#!/bin/sh\necho 'permission denied while trying to connect to the Docker daemon socket' >&2\nexit 1\n"
PODMAN = """#!/bin/sh
case "$1" in
    --version) echo "podman version 4.3.1" ;;
    info) echo '{"host": {"security": {"rootless": true}}, "version": {"Version": "4.3.1"}}' ;;
    image) [ -e "$0.image" ] && echo '[{"Id": "abc", "Size": 27000000000}]' || exit 1 ;;
esac
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project, and engines of the test's own in bin/."""
    write_project(tmp_path / "root")
    (tmp_path / "bin").mkdir()
    for name, text in {"docker": DENIED, "podman": PODMAN}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path / "root"


def doctor(root: Path, *args: str, environment: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the document, its rows by name."""
    path = os.pathsep.join([str(root.parent / "bin"), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, **(environment or {})}
    command = [sys.executable, "-m", "dpuforge", "doctor", "spec/squares.yaml", "--json", *args]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (0, 4), done.stderr
    document = json.loads(done.stdout)
    return done.returncode, {**document, "found": {row["name"]: row for row in document["found"]}}


def test_an_engine_that_may_not_be_used_has_its_remedy(root: Path) -> None:
    """Docker refuses this user, podman works; where the image is missing stands what fetches it."""
    code, seen = doctor(root)
    assert (code, seen["ready"]) == (0, True)
    found = seen["found"]
    assert found["docker"]["version"] == ""
    assert "usermod -aG docker" in found["docker"]["remedy"] + found["docker"]["gap"]
    assert found["podman"]["version"] == "4.3.1 (rootless)"
    assert found["image"]["remedy"].startswith("podman pull docker.io/xilinx/vitis-ai-pytorch-cpu:")
    assert found["image"]["needed"] is False
    assert found["disk"]["gap"] == found["memory"]["gap"] == ""
    assert {"Python", "torch", "torchvision", "pytorch_nndct", "vai_c_xir", "CUDA"} <= set(found)


def test_the_image_is_needed_for_the_container_alone(root: Path) -> None:
    """Toolchain container is not ready without its image, and is with it."""
    code, seen = doctor(root, "--toolchain", "container")
    assert (code, seen["ready"]) == (4, False)
    assert seen["found"]["image"]["needed"] is True
    (root.parent / "bin/podman.image").touch()
    assert "27.0 GB" in doctor(root, "--toolchain", "container")[1]["found"]["image"]["version"]


def test_a_quantizer_that_cannot_be_imported_is_named(root: Path, tmp_path: Path) -> None:
    """pytorch_nndct on the path whose import fails is no toolchain: the error's last line is told."""
    package = tmp_path / "site/pytorch_nndct"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libunilog.so: cannot open shared object file')\n")
    path = os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])
    code, seen = doctor(root, "--toolchain", "native", environment={"PYTHONPATH": path})
    assert code == 4
    assert "libunilog.so: cannot open shared object file" in seen["found"]["pytorch_nndct"]["gap"]
    assert seen["found"]["vai_c_xir"]["needed"] is True


def test_without_torch_doctor_still_answers(root: Path, tmp_path: Path) -> None:
    """torch cannot be imported: exit code 4, and the extra that brings it."""
    (tmp_path / "blocked").mkdir()
    block = "class B:\n    def find_spec(self, name, *rest):\n        if name.split('.')[0] == 'torch':\n"
    block += "            raise ModuleNotFoundError(name)\n\n\nimport sys\nsys.meta_path.insert(0, B())\n"
    (tmp_path / "blocked/sitecustomize.py").write_text(block)
    path = os.pathsep.join([str(tmp_path / "blocked"), os.environ.get("PYTHONPATH", "")])
    code, seen = doctor(root, environment={"PYTHONPATH": path})
    assert code == 4
    assert seen["found"]["torch"]["remedy"] == "pip install 'dpuforge[run]'"


def test_a_gpu_that_the_spec_demands_is_needed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """device: cuda without a GPU is a gap that stops a run; more memory than there is is told."""
    text = SPEC.replace("train: {epochs: 2, batch_size: 8,", "train: {epochs: 2, batch_size: 8, device: cuda,")
    (root / "spec/squares.yaml").write_text(text)
    job = pipeline.load(root / "spec/squares.yaml")
    monkeypatch.setattr(doctoring, "read_free_memory_gb", lambda: 0.1)
    monkeypatch.setattr(doctoring.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctoring.Path, "glob", lambda self, pattern: iter(()))
    seen = {finding.name: finding for finding in doctoring.examine_machine(job, "emulator").findings}
    assert seen["CUDA"].needed
    assert seen["CUDA"].gap == "no NVIDIA GPU here"
    assert seen["memory"].gap.startswith("about ")
    assert "batch_size" in seen["memory"].remedy


def test_the_image_that_is_looked_for_is_the_one_a_run_would_start(root: Path) -> None:
    """An image or a flavour that the spec names is judged, not the release's default; what is built is not pulled."""
    spec = root / "spec/squares.yaml"
    plain = spec.read_text()
    own = "run: {toolchain: container, container: {image: 'localhost/own:7', engine: podman}}"
    spec.write_text(plain.replace("run: {toolchain: emulator}", own))
    image = doctor(root)[1]["found"]["image"]
    assert (image["gap"], image["needed"]) == ("localhost/own:7 is not here", True)
    assert "pull" not in image["remedy"]
    cuda = "run: {toolchain: container, container: {flavour: cuda}}"
    spec.write_text(plain.replace("run: {toolchain: emulator}", cuda))
    image = doctor(root)[1]["found"]["image"]
    assert "vitis-ai-pytorch-gpu" in image["gap"]
    assert "docker_build.sh" in image["remedy"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock", "systemctl start docker"),
        ("cannot find UID/GID for user ann: no subuid ranges found", "--add-subuids 100000-165535"),
        ("Error: no space left on device", "free space where the engine keeps images"),
        ("something never seen before", "`docker info` says more"),
    ],
)
def test_an_engine_that_fails_has_the_command_that_mends_it(root: Path, said: str, words: str) -> None:
    """What the engine says leads to its remedy; of what is unknown the command that tells more."""
    (root.parent / "bin/docker").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    assert words in doctor(root)[1]["found"]["docker"]["remedy"]


def test_a_project_that_may_not_be_written_is_a_gap(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a read-only mount a run would end at once: doctor says so, with the folder."""
    job = pipeline.load(root / "spec/squares.yaml")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    diagnosis = doctoring.examine_machine(job, "emulator")
    disk = next(finding for finding in diagnosis.findings if finding.name == "disk")
    assert disk.gap == f"{root} may not be written"
    assert not diagnosis.ready
