"""What can go wrong with a container engine, tried with a fake one: one clear line each, with its remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dpuforge.errors import MissingToolError, StageError, UsageError
from dpuforge.execute.container import ContainerPlace, Wish, add_mounts, find_container, make_place
from dpuforge.execute.engine import Engine, ImageFacts
from dpuforge.execute.run_stages import Folders, run_stages
from dpuforge.execute.staleness import find_version_changes
from dpuforge.execute.toolchain import ToolchainPlace
from dpuforge.records.hardware import Image
from dpuforge.records.plan import PlannedStage
from dpuforge.records.result import StageResult, Status
from dpuforge.records.run_settings import Container
from tests.conftest import REPO

# A fake docker or podman: what it answers is in the folder beside it, one file for a word of the command line.
FAKE = r"""#!/bin/bash
here=$(cd "$(dirname "$0")" && pwd)
printf '%s\n' "$*" >> "$here/calls"
word=$1; case $1 in image | manifest | container) word="$1-$2" ;; esac
[ ! -f "$here/$word.out" ] || cat "$here/$word.out"
[ ! -f "$here/$word.err" ] || cat "$here/$word.err" >&2
[ ! -f "$here/$word.sh" ] || . "$here/$word.sh"
[ ! -f "$here/$word.rc" ] || exit "$(cat "$here/$word.rc")"
exit 0
"""
IMAGE = "xilinx/vitis-ai-pytorch-cpu:ubuntu2004-3.0.0.106"
FACTS = {"Id": "sha256:" + "ab" * 32, "Size": 5, "Config": {"Labels": None}, "RepoDigests": []}
INFO = {"docker": {"ServerVersion": "28.0"}, "podman": {"version": {"Version": "4.9"}, "host": {"security": {}}}}


class FakeEngine:
    """A fake engine on PATH; answer says what it prints and how it ends for a word of its command line."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
        self.answer("--version", f"{name} version 4")
        self.answer("info", json.dumps(INFO[name]))
        self.answer("image-inspect", json.dumps([FACTS]))
        self.answer("container-inspect", "[]", code=1)

    def answer(self, word: str, out: str = "", err: str = "", code: int = 0, script: str = "") -> None:
        for suffix, text in (("out", out), ("err", err), ("rc", str(code)), ("sh", script)):
            path = self.folder / f"{word}.{suffix}"
            path.unlink(missing_ok=True)
            if text:
                path.write_text(text)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.is_file() else []


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which no other engine is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    system = tmp_path / "system"
    system.mkdir()
    for name in ("bash", "cat", "dirname", "sleep", "sh"):
        (system / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", f"{folder}:{system}")
    monkeypatch.delenv("DPUFORGE_ENGINE", raising=False)
    return folder


def wish(**changes: object) -> Wish:
    """What a project wants by default."""
    images = (Image(IMAGE, "cpu", True, "x"), Image("xilinx/vitis-ai-pytorch-gpu:3", "gpu", False, "x", "build it so"))
    return replace(Wish(Container(), images, "vitis-ai-pytorch", "3.0"), **changes)


def test_without_an_engine_both_are_named(bin_folder: Path) -> None:
    """No docker and no podman is a missing tool that says how to get one."""
    with pytest.raises(MissingToolError, match="docker is not installed; podman is not installed") as caught:
        find_container(wish())
    assert "install podman or docker" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "err", "words"),
    [
        ("docker", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "systemctl start docker"),
        ("docker", "permission denied while trying to connect to unix:///var/run/docker.sock", "usermod -aG docker"),
        ("podman", "cannot find UID/GID for user ann: no subuid ranges found", "--add-subuids"),
        ("podman", "something never seen before", "something never seen before"),
    ],
)
def test_an_engine_that_does_not_answer_says_why(bin_folder: Path, name: str, err: str, words: str) -> None:
    """A dead daemon, a forbidden socket and missing ids each give one line with the remedy."""
    FakeEngine(bin_folder, name).answer("info", err=err, code=1)
    with pytest.raises(MissingToolError) as caught:
        find_container(wish())
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_docker_that_prints_its_client_alone_is_a_dead_one(bin_folder: Path) -> None:
    """docker info exits 0 or 1 with an empty server: that is no working engine."""
    errors = {
        "ServerVersion": "",
        "ServerErrors": ["Cannot connect to the Docker daemon. Is the docker daemon running?"],
    }
    FakeEngine(bin_folder, "docker").answer("info", json.dumps(errors))
    with pytest.raises(MissingToolError, match="the engine does not run"):
        find_container(wish())


def test_auto_takes_the_engine_that_has_the_image(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker first, unless podman alone has the image, or the spec, an option or the environment names one."""
    docker, podman = FakeEngine(bin_folder / "d", "docker"), FakeEngine(bin_folder / "p", "podman")
    monkeypatch.setenv("PATH", f"{docker.folder}:{podman.folder}:{os.environ['PATH']}")
    assert find_container(wish())[0].name == "docker"
    docker.answer("image-inspect", err="No such image", code=1)
    assert find_container(wish())[0].name == "podman"
    docker.answer("image-inspect", json.dumps([FACTS]))
    assert find_container(wish(settings=Container(engine="podman")))[0].name == "podman"
    assert find_container(wish(engine="podman"))[0].name == "podman"
    monkeypatch.setenv("DPUFORGE_ENGINE", "podman")
    assert find_container(wish())[0].name == "podman"
    assert any(call == f"image inspect docker.io/{IMAGE}" for call in podman.calls)


def test_podman_that_calls_itself_docker_is_spoken_to_as_podman(bin_folder: Path) -> None:
    """The package podman-docker installs podman under the name docker."""
    fake = FakeEngine(bin_folder, "docker")
    fake.answer("--version", "podman version 4.9")
    fake.answer("info", json.dumps(INFO["podman"]))
    assert find_container(wish())[0].name == "podman"


def test_a_missing_image_is_not_pulled_unasked_and_its_size_is_told(bin_folder: Path) -> None:
    """Nothing is fetched without a yes; the refusal names the gigabytes and the command."""
    fake = FakeEngine(bin_folder, "podman")
    fake.answer("image-inspect", err="image not known", code=1)
    fake.answer("manifest-inspect", json.dumps({"layers": [{"size": 3_000_000_000}, {"size": 2_200_000_000}]}))
    asked: list[str] = []
    with pytest.raises(MissingToolError, match=r"5\.2 GB to download") as caught:
        find_container(wish(pull=lambda question: bool(asked.append(question))))
    assert f"podman pull docker.io/{IMAGE}" in caught.value.remedy
    assert "5.2 GB" in asked[0]
    assert not any(call.startswith("pull") for call in fake.calls)


def test_a_yes_pulls_the_pinned_image(bin_folder: Path) -> None:
    """With a yes the pinned image is pulled, after its size was told."""
    fake = FakeEngine(bin_folder, "podman")
    fake.answer("image-inspect", err="image not known", code=1)
    good = json.dumps([FACTS]).replace("'", "")
    fake.answer("pull", script=f'echo \'{good}\' > "$here/image-inspect.out"; rm "$here/image-inspect.rc"')
    (fake.folder.parent / "system/rm").symlink_to("/bin/rm")
    told: list[str] = []
    engine, facts = find_container(wish(pull=lambda question: True, tell=told.append))
    assert facts.identity == FACTS["Id"]
    assert f"pull docker.io/{IMAGE}" in fake.calls
    assert "its size is not known" in told[0]
    assert engine.name == "podman"


def test_a_pull_that_fails_says_why(bin_folder: Path) -> None:
    """A registry that does not know the tag is named as the cause."""
    fake = FakeEngine(bin_folder, "docker")
    fake.answer("image-inspect", err="No such image", code=1)
    fake.answer("pull", err="Error response from daemon: manifest unknown", code=1)
    with pytest.raises(MissingToolError, match="the registry has no such image"):
        find_container(wish(pull=lambda question: True))


def test_images_that_are_built_by_hand_are_never_pulled(bin_folder: Path) -> None:
    """The CUDA image has no registry: the remedy is how to build it; a flavour without an image is a usage error."""
    fake = FakeEngine(bin_folder, "docker")
    fake.answer("image-inspect", err="No such image", code=1)
    with pytest.raises(MissingToolError) as caught:
        find_container(wish(settings=Container(flavour="cuda"), pull=lambda question: True))
    assert caught.value.remedy == "build it so"
    with pytest.raises(UsageError, match=r"no rocm image of Vitis AI 3\.0"):
        find_container(wish(settings=Container(flavour="rocm")))


@pytest.fixture
def place(tmp_path: Path, bin_folder: Path) -> ContainerPlace:
    """A place in a project, with a fake podman."""
    FakeEngine(bin_folder, "podman")
    (tmp_path / "project/generated").mkdir(parents=True)
    host = ToolchainPlace("emulator", sys.executable, {}, {})
    return make_place(find_container(wish()), wish(), host, frozenset({"one"}), tmp_path / "project")


class Silent:
    """An observer that looks away."""

    def start(self, stage: str, why: str) -> None: ...
    def line(self, stage: str, text: str) -> None: ...
    def finish(self, stage: str, result: StageResult, fresh: bool) -> None: ...


def run_one(place: ContainerPlace) -> StageResult:
    """Run a stage in the fake container and return its result."""
    (place.root / "generated/one.py").write_text("")
    one = PlannedStage("one", "python", ("one.py",), ("one.py",), uses_toolchain=True)
    folders = Folders(place.root, place.root / "generated", place.root / "build")
    return run_stages([(one, True)], [one], place, folders, Silent())[0]


@pytest.mark.parametrize(
    ("code", "err", "killed", "words"),
    [
        (137, "", True, "memory ran out: the container was killed at the limit of 2 GB"),
        (137, "", False, "killed from outside"),
        (125, "Error: OCI runtime error: crun: create keyring", False, "[--runtime, runc]"),
        (125, "error during connect: EOF", False, "the engine died while the stage ran"),
        (127, "Error: executable file `/bin/bash` not found in $PATH", False, "no /bin/bash"),
        (4, "dpuforge: the image has no conda environment vitis-ai-pytorch", False, "no conda environment"),
    ],
)
def test_the_end_of_a_container_fails_its_stage_with_the_cause(
    place: ContainerPlace, bin_folder: Path, code: int, err: str, killed: bool, words: str
) -> None:
    """Out of memory, a runtime that fails, an engine that dies: each is the stage's reason, in one line."""
    fake = FakeEngine(bin_folder, "podman")
    fake.answer("run", err=err, code=code)
    fake.answer("container-inspect", json.dumps([{"State": {"OOMKilled": killed}}]))
    place = replace(place, settings=Container(memory_gb=2.0))
    result = run_one(place)
    assert result.status is Status.FAILED
    assert words in result.reason
    assert result.toolchain["digest"] == FACTS["Id"]
    assert fake.calls[-1].startswith("rm --force dpuforge-")


def test_memory_that_ran_out_in_a_watched_script_names_the_limit(place: ContainerPlace, bin_folder: Path) -> None:
    """Where the kernel kills the script's work and its watcher ends with 3, the container's judge still tells why."""
    told = {"stage": "one", "status": "failed", "reason": "ended by SIGKILL", "exit_code": 137}
    folder = place.root / "build/one"
    leave = f"mkdir -p '{folder}'; echo '{json.dumps(told)}' > '{folder}/result.json'"
    (bin_folder / "mkdir").symlink_to("/bin/mkdir")
    FakeEngine(bin_folder, "podman").answer("run", script=leave, code=3)
    result = run_one(replace(place, settings=Container(memory_gb=2.0)))
    assert "memory ran out: the limit of 2 GB; raise run.container.memory_gb" in result.reason
    assert result.exit_code == 137


def test_an_engine_killed_while_a_stage_runs_is_named(place: ContainerPlace, bin_folder: Path) -> None:
    """A client that a signal ends is no failure of the stage's script."""
    FakeEngine(bin_folder, "podman").answer("run", script="kill -KILL $$")
    assert "did not start, or its engine ended" in run_one(place).reason


def test_an_error_of_the_quantizer_counts_in_a_container_too(place: ContainerPlace, bin_folder: Path) -> None:
    """Exit code 0 from the container does not outweigh an error line in its log."""
    line = "[VAIQ_ERROR][QUANTIZER_TORCH_XMODEL_BATCHSIZE]: Batch size must be 1"
    FakeEngine(bin_folder, "podman").answer("run", out=line)
    assert "batch size 1" in run_one(place).reason


def test_another_image_makes_its_stages_stale_and_another_engine_does_not(
    place: ContainerPlace, bin_folder: Path
) -> None:
    """The digest of the image decides with the script; who started it does not."""
    (place.root / "generated/one.py").write_text("")
    one = PlannedStage("one", "python", ("one.py",), ("one.py",), uses_toolchain=True)
    folders = Folders(place.root, place.root / "generated", place.root / "build")
    fake = FakeEngine(bin_folder, "podman")

    def count_starts(where: ContainerPlace) -> int:
        before = sum(call.startswith("run ") for call in fake.calls)
        run_stages([(one, False)], [one], where, folders, Silent())
        return sum(call.startswith("run ") for call in fake.calls) - before

    assert [count_starts(place), count_starts(place)] == [1, 0]
    assert count_starts(replace(place, engine=replace(place.engine, version="5"))) == 0
    other = f"sha256:{'cd' * 32}"
    image = replace(place.image, identity=other)
    assert count_starts(replace(place, image=image, versions={"image": other})) == 1


@pytest.mark.parametrize(
    ("made_by", "versions", "words"),
    [
        ("emulator", {"torch": "2.5"}, "the place changed: no image -> sha256:abab"),
        ("native", {"torch": "2.5"}, "the place changed: no image -> sha256:abab"),  # a script started by hand
        ("native", {"torch": "1.12.1", "pytorch_nndct": "3.0.0"}, ""),  # AMD's own: inside its image
        ("container", {"torch": "1.12.1", "image": FACTS["Id"]}, ""),
    ],
)
def test_what_the_host_made_is_stale_where_the_spec_sends_the_stage_into_an_image(
    place: ContainerPlace, made_by: str, versions: dict[str, str], words: str
) -> None:
    """Nobody knows that the image would have made the same: the stage runs again, and says so."""
    one = PlannedStage("one", "python", ("one.py",), ("one.py",), uses_toolchain=False, packages=("torch",))
    result = StageResult("one", Status.DONE, toolchain={"name": made_by, "versions": versions})
    assert next(find_version_changes(one, result, place), "").startswith(words)
    assert bool(list(find_version_changes(one, result, place))) == bool(words)


def test_a_container_of_another_run_is_left_alone(place: ContainerPlace, bin_folder: Path) -> None:
    """A running container whose dpuforge is alive is refused; one whose dpuforge is gone is removed."""
    fake = FakeEngine(bin_folder, "podman")
    parent = subprocess.Popen(["sleep", "30"])
    try:
        state = {"State": {"Running": True}, "Config": {"Labels": {"dpuforge.pid": str(parent.pid)}}}
        fake.answer("container-inspect", json.dumps([state]))
        with pytest.raises(StageError, match=f"another run \\(process {parent.pid}\\)"):
            run_one(place)
        assert not any(call.startswith(("kill", "run ")) for call in fake.calls)
    finally:
        parent.kill()
        parent.wait()
    assert run_one(place).status is Status.DONE
    assert any(call.startswith("rm --force") for call in fake.calls)


def test_the_command_mounts_one_place_and_gives_no_network(place: ContainerPlace) -> None:
    """The project at its own path alone, no network, no pull, the conda environment, and the words as they are."""
    argv = place.wrap(["python", "a b.py", "--root", "ü"], "one", place.root / "build")
    assert argv[:2] == [place.engine.path, "run"]
    assert [word for word in argv if word.startswith("--volume")] == [f"--volume={place.root}:{place.root}"]
    assert {"--network=none", "--pull=never", "--entrypoint"} <= set(argv)
    assert argv[-6:] == ["/opt/vitis_ai/conda", "vitis-ai-pytorch", "python", "a b.py", "--root", "ü"]
    assert argv[argv.index("--entrypoint") + 2] == "ab" * 32


@pytest.mark.parametrize(
    ("name", "rootless", "expected"),
    [
        ("podman", True, "--userns=keep-id"),
        ("podman", False, "--user=0:0"),
        ("docker", False, f"--user={os.getuid()}:{os.getgid()}"),
        ("docker", True, "--user=0:0"),
    ],
)
def test_the_users_ids_are_kept(place: ContainerPlace, name: str, rootless: bool, expected: str) -> None:
    """In each of the four ways an engine runs, files get the ids of the user outside."""
    argv = replace(place, engine=Engine(name, name, "1", rootless)).wrap(["true"], "one", place.root)
    assert expected in argv


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        (Container(flavour="cuda"), "docker", ["--gpus=all"]),
        (Container(flavour="cuda"), "podman", ["--device=nvidia.com/gpu=all"]),
        (Container(flavour="rocm"), "docker", ["--device=/dev/kfd", "--device=/dev/dri", "--group-add=video"]),
        (
            Container(network="host", memory_gb=8.0, cpus=2.5),
            "podman",
            ["--network=host", "--memory=8192m", "--memory-swap=8192m", "--cpus=2.5"],
        ),
        (
            Container(shm_gb=0.5, options=("--ulimit", "nofile=9")),
            "docker",
            ["--shm-size=512m", "--ulimit", "nofile=9"],
        ),
    ],
)
def test_settings_become_words_of_the_engine(
    place: ContainerPlace, settings: Container, name: str, words: list[str]
) -> None:
    """Flavour, network, limits and further options stand in the command."""
    argv = replace(place, settings=settings, engine=Engine(name, name, "1")).wrap(["true"], "one", place.root)
    assert [word for word in argv if word in words] == words


def test_what_lies_outside_the_project_is_mounted_read_only(place: ContainerPlace, tmp_path: Path) -> None:
    """Images behind a link or above the project are seen in the container, and cannot be written there."""
    (tmp_path / "images").mkdir()
    (place.root / "data").symlink_to(tmp_path / "images")
    (place.root / "own").mkdir()
    mounted = add_mounts(place, ("data", "own", "../images", "absent"), "p").mounts
    assert mounted == (tmp_path / "images",)
    argv = replace(place, mounts=mounted).wrap(["true"], "one", place.root)
    assert f"--volume={tmp_path / 'images'}:{tmp_path / 'images'}:ro" in argv


def test_a_colon_in_a_path_is_refused(place: ContainerPlace) -> None:
    """Engines separate a mount's parts by colons: such a folder is refused before anything starts."""
    with pytest.raises(UsageError, match="cannot be mounted"):
        replace(place, root=place.root / "a:b").wrap(["true"], "one", place.root)


def test_stages_go_where_the_spec_sends_them(place: ContainerPlace) -> None:
    """A stage that is not inside runs on the host, with the host's toolchain."""
    assert place.of("one") is place
    assert place.of("train") is place.host
    assert place.where == f"container ({IMAGE}, podman)"


@pytest.mark.parametrize(
    "image", [ImageFacts("x", "y"), ImageFacts("x", "y", labels={"dpuforge.stand-in": "vai_c_xir"})]
)
def test_stand_ins_are_named_where_they_can_be_recognised(place: ContainerPlace, image: ImageFacts) -> None:
    """The emulator marks itself, and a label names other stand-ins."""
    told = replace(place, image=image).describe({"name": "emulator", "versions": {"torch": "2"}})
    assert told["stand_ins"] == ["pytorch_nndct", *(["vai_c_xir"] if image.labels else [])]
    assert (told["name"], told["versions"]["torch"]) == ("container", "2")
    assert replace(place, image=ImageFacts("x", "y")).describe({"name": "container"})["stand_ins"] == []


def write_quickstart(folder: Path) -> Path:
    """Write the quickstart's spec with toolchain container and return its path."""
    document = yaml.safe_load((REPO / "spec/quickstart.yaml").read_text())
    document["run"] = {"toolchain": "container"}
    (folder / "root/spec").mkdir(parents=True)
    (folder / "root/spec/q.yaml").write_text(yaml.safe_dump(document))
    return folder / "root/spec/q.yaml"


def test_run_without_the_image_exits_4_before_anything(tmp_path: Path, bin_folder: Path) -> None:
    """At the command line a missing image is exit code 4 with the command that fetches it, and nothing is written."""
    fake = FakeEngine(bin_folder, "podman")
    fake.answer("image-inspect", err="image not known", code=1)
    write_quickstart(tmp_path)
    argv = [sys.executable, "-m", "dpuforge", "run", "spec/q.yaml", "--engine", "podman"]
    done = subprocess.run(argv, cwd=tmp_path / "root", capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "dpuforge run --pull" in done.stderr
    assert IMAGE in done.stderr
    assert not (tmp_path / "root/build").exists()
    assert not (tmp_path / "root/generated").exists()


def test_what_runs_on_the_host_alone_needs_no_image(bin_folder: Path, tmp_path: Path) -> None:
    """Up to train nothing of AMD's is needed: neither an engine nor its image is asked for."""
    from dpuforge import pipeline
    from dpuforge.running import find_place

    job = pipeline.load(write_quickstart(tmp_path))
    assert find_place(job, wanted=frozenset({"prepare", "train"})).name == "emulator"
    with pytest.raises(MissingToolError, match="no container engine answers"):
        find_place(job, wanted=frozenset({"train", "calibrate"}))
