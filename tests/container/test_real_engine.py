"""A whole run with podman and an image laid out like AMD's. AMD's tools in it are stand-ins, and results say so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.container.conftest import command, run, write_spec
from tests.container.stand_in_image import IMAGE

pytestmark = pytest.mark.container


def read_result(root: Path, key: str) -> dict[str, Any]:
    """Return the result.json of a stage."""
    found: dict[str, Any] = json.loads((root / "build/squares" / key / "result.json").read_text())
    return found


def list_containers(engine: str) -> list[str]:
    """Return the names of dpuforge's containers that are there, running or not."""
    done = subprocess.run(
        [engine, "ps", "--all", "--filter", "label=dpuforge.stage", "--format", "{{.Names}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def wait_for(condition: Any, seconds: float = 90) -> None:
    """Wait until condition() is true, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_the_whole_flow_runs_from_one_machine(project: Path, engine: str) -> None:
    """Training stays on the host, AMD's part runs in the image to the compiled networks; nothing is left running."""
    done = run(project, "run")
    assert done.returncode == 0, done.stderr
    places = {
        key: read_result(project, key)["toolchain"]["name"] for key in ("train", "calibrate", "evaluate", "deploy")
    }
    assert places == {"train": "emulator", **dict.fromkeys(("calibrate", "evaluate", "deploy"), "container")}
    facts = json.loads(subprocess.run([engine, "image", "inspect", IMAGE], capture_output=True, check=True).stdout)[0]
    for key in ("calibrate", "compile/KV260", "compile/ZCU102"):
        toolchain = read_result(project, key)["toolchain"]
        assert toolchain["image"] == IMAGE
        assert toolchain["digest"] == f"sha256:{facts['Id'].removeprefix('sha256:')}"
        assert toolchain["engine"].startswith("podman ")
        assert "vai_c_xir" in toolchain["stand_ins"], "the compiler of this test is a stand-in"
    assert "pytorch_nndct" in read_result(project, "calibrate")["toolchain"]["stand_ins"]
    assert (project / "build/squares/compile/ZCU102/squares.xmodel").read_bytes() == b"compiled"
    assert (project / "build/squares/bundle/KV260/squares.xmodel").is_file()
    assert list_containers(engine) == []


def test_the_report_calls_stand_ins_by_their_name(project: Path) -> None:
    """A report on stand-ins is an emulated one, whatever the toolchain's name."""
    assert run(project, "run").returncode == 0
    report = json.loads((project / "build/squares/report.json").read_text())
    assert report["emulated"] is True
    assert report["stand_ins"] == ["pytorch_nndct", "vai_c_xir"]
    assert "Stand-ins" in (project / "build/squares/report.md").read_text()


def test_a_second_run_does_nothing_and_plan_names_the_places(project: Path) -> None:
    """Results made in the container are fresh as long as the image is the same one."""
    assert run(project, "run").returncode == 0
    again = run(project, "run")
    assert "run  " not in again.stderr
    planned = run(project, "plan", "--json")
    assert planned.returncode == 0, planned.stdout
    where = {row["stage"]: row["where"] for row in json.loads(planned.stdout)["stages"]}
    assert where["train"].startswith("host")
    assert where["compile/KV260"] == f"container ({IMAGE}, podman)"


def test_what_a_container_writes_belongs_to_the_user(project: Path) -> None:
    """Files of the container stages have the ids of who ran dpuforge."""
    assert run(project, "run").returncode == 0
    made = [path for path in (project / "build/squares/deploy").rglob("*") if path.is_file()]
    assert made
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(os.getuid(), os.getgid())}


def test_a_failure_in_the_container_passes_through_and_is_set_aside(project: Path) -> None:
    """Reason and exit code of a broken script arrive; what it made lies in failed/, out of the next stage's way."""
    assert run(project, "run").returncode == 0
    (project / "order.txt").write_text("break quantize.py")
    try:
        done = run(project, "run", "--from", "deploy", "--until", "deploy")
    finally:
        (project / "order.txt").unlink()
    assert done.returncode == 3
    assert "broken on purpose" in done.stderr
    folder = project / "build/squares/deploy"
    assert not list(folder.glob("*.xmodel"))
    assert (folder / "failed/quantize_result").is_dir()
    assert read_result(project, "deploy")["exit_code"] == 2  # what the script itself ended with
    assert "Exit 2" not in (folder / "log.txt").read_text()
    assert run(project, "run").returncode == 0
    assert not (folder / "failed").exists()


def test_ctrl_c_stops_the_container(project: Path, engine: str) -> None:
    """An interrupt ends the stage in the container within seconds, leaves none behind, and exits with 130."""
    (project / "order.txt").write_text("hang quantize.py")
    child = subprocess.Popen(command("run", "--from", "calibrate"), cwd=project, stderr=subprocess.PIPE, text=True)
    try:
        log = project / "build/squares/calibrate/log.txt"
        wait_for(lambda: log.is_file() and "order: hang" in log.read_text())
        assert len(list_containers(engine)) == 1
        started = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
        assert time.monotonic() - started < 15
    finally:
        (project / "order.txt").unlink()
        child.kill()
        child.communicate()
    assert list_containers(engine) == []


def test_a_killed_run_leaves_a_container_that_the_next_run_removes(project: Path, engine: str) -> None:
    """After SIGKILL the container may go on; the next run ends it before it starts that stage again."""
    (project / "order.txt").write_text("hang quantize.py")
    child = subprocess.Popen(command("run", "--from", "calibrate"), cwd=project, stderr=subprocess.DEVNULL)
    log = project / "build/squares/calibrate/log.txt"
    try:
        wait_for(lambda: bool(list_containers(engine)) and log.is_file() and "order: hang" in log.read_text())
    finally:
        child.kill()
        child.wait()
        (project / "order.txt").unlink()
    (left,) = list_containers(engine)
    done = run(project, "run")
    assert done.returncode == 0, done.stderr
    assert left not in list_containers(engine)


def test_a_stage_that_hangs_is_ended_and_says_where(project: Path, engine: str) -> None:
    """Past run.time_limit a stage in the container is ended; the reason names the line of code it was at."""
    write_spec(project, time_limit={"calibrate": 0.25})
    (project / "order.txt").write_text("hang quantize.py")
    try:
        done = run(project, "run", "--from", "calibrate", "--until", "calibrate")
    finally:
        (project / "order.txt").unlink()
        write_spec(project)
    assert done.returncode == 3
    assert "run.time_limit.calibrate" in done.stderr
    assert "it was in net.py:14 (make_net), called by quantize.py:" in done.stderr
    assert "order: hang" in done.stderr
    assert list_containers(engine) == []


def test_a_stage_that_eats_its_memory_is_killed_at_the_limit(project: Path, engine: str) -> None:
    """The kernel kills it at run.container.memory_gb; the reason names the limit, and the key that raises it."""
    write_spec(project, container={"memory_gb": 1})
    (project / "order.txt").write_text("eat quantize.py")
    try:
        done = run(project, "run", "--from", "calibrate", "--until", "calibrate")
    finally:
        (project / "order.txt").unlink()
        write_spec(project)
    assert done.returncode == 3
    assert "memory ran out" in done.stderr
    assert "1 GB; raise run.container.memory_gb" in done.stderr
    assert list_containers(engine) == []


def test_a_stage_sees_no_network_unless_asked(project: Path) -> None:
    """In the container of a stage the loopback is all there is."""
    from dpuforge import pipeline
    from dpuforge.running import find_place

    place = find_place(pipeline.load(project / "spec/squares.yaml")).of("calibrate")
    script = "print(sorted(line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line))"
    argv = place.wrap(["python", "-c", script], "try", project)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    finally:
        place.close("try")
    assert done.stdout.strip() == "['lo']", done.stderr


def test_training_goes_into_the_container_where_the_spec_says_so(project: Path) -> None:
    """run.stages sends prepare and train into the image, and a host's emulator may quantise for its compiler."""
    write_spec(project, stages={"prepare": "container", "train": "container"})
    try:
        done = run(project, "run", "--until", "train")
        assert done.returncode == 0, done.stderr
        assert read_result(project, "train")["toolchain"]["name"] == "container"
        write_spec(project, stages={"calibrate": "host", "evaluate": "host", "deploy": "host"})
        done = run(project, "run")
        assert done.returncode == 0, done.stderr
    finally:
        write_spec(project)
    assert read_result(project, "calibrate")["toolchain"]["name"] == "emulator"
    assert read_result(project, "compile/KV260")["toolchain"]["name"] == "container"
