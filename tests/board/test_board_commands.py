"""dpuforge board, against an emulated board behind a real sshd: what it says, copies, runs, compares and measures."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpuforge.board.visit import name_folder
from tests.board.loopback import Loopback
from tests.board.small_project import IMAGES, change_one_weight

SPEC = ("spec/small.yaml", "--host", "bench")


def read_result(project: Path, board: str = "KV260") -> dict[str, Any]:
    """Return a board's result.json."""
    path = project / "build/small/board" / board / "result.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def use_network(loopback: Loopback, xmodel: Path) -> None:
    """Let the board run another network than the one that is pushed, whatever app.py is told."""
    python = loopback.folder / "python"
    swap = f'case "$1" in app.py) shift; set -- app.py --xmodel {xmodel} "$@";; esac'
    python.write_text(f'#!/bin/sh\n{swap}\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    loopback.write_hosts(python=str(python))


def test_check_says_what_the_board_is(loopback: Loopback, project: Path) -> None:
    """A board that fits gives exit code 0 and its facts, marked as emulated; it is not locked as if it had a DPU."""
    done = loopback.dpuforge("board", "check", *SPEC, "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["board"], found["emulated"], found["fits"]) == ("KV260", True, True)
    assert (found["target"], found["fingerprint"]) == ("DPUCZDX8G_ISA1_B4096", "0x101000056010407")
    assert (found["runtime"], found["cores"], found["clock_mhz"]) == ("3.0.0", 1, 300.0)
    assert found["disk_free_bytes"] > 0
    assert found["memory_kb"]["MemTotal"] > 0
    done = loopback.dpuforge("board", "check", *SPEC, "--lock", cwd=project)
    assert done.returncode == 2
    assert not (project / "spec/small.lock.yaml").exists()


def test_another_dpu_is_refused_with_what_fits(loopback: Loopback, project: Path) -> None:
    """The image of 2.5 on a board that the spec builds 3.0 for: check says which fits, test copies nothing."""
    loopback.write_query("0x101000016010407", "2.5.0")
    done = loopback.dpuforge("board", "check", *SPEC, cwd=project)
    assert done.returncode == 1, done.stderr
    assert "0x101000016010407" in done.stdout
    assert 'set target.vitis_ai: "2.5"' in done.stdout
    assert "xilinx-kv260-dpu-v2022.2-v3.0.0.img.gz" in done.stdout
    assert "the board's runtime is 2.5.0" in done.stdout
    done = loopback.dpuforge("board", "test", *SPEC, cwd=project)
    assert done.returncode == 3
    assert "bench does not fit KV260" in done.stderr
    assert not (loopback.board / "blobs").exists()


@pytest.mark.slow
def test_outputs_equal_the_integer_run_and_a_second_call_copies_nothing(loopback: Loopback, project: Path) -> None:
    """board test ends with 0: all outputs equal, percentiles and threads in result and report, marked as emulated."""
    done = loopback.dpuforge("board", "test", *SPEC, "--seconds", "0.2", "--threads", "1,2", cwd=project)
    assert done.returncode == 0, done.stderr
    result = read_result(project)
    metrics = result["metrics"]
    assert (result["status"], result["toolchain"]["name"]) == ("done", "emulated board")
    assert (metrics["outputs"]["images"], metrics["outputs"]["equal"]) == (IMAGES, IMAGES)
    assert metrics["emulated"] is True
    assert "no DPU ran" in metrics["note"]
    rows = metrics["bench"]["rows"]
    assert [row["threads"] for row in rows] == [1, 2]
    for row in rows:
        for kind in ("dpu", "end_to_end"):
            p50, p95, p99 = (row[kind]["latency"][name]["ms"] for name in ("p50", "p95", "p99"))
            assert 0 < p50 <= p95 <= p99
            assert row[kind]["fps"] > 0
            assert row[kind]["power_w"]["ina260_u14/power1"]["mean"] == 7.25
            assert row[kind]["temperature_c"]["thermal_zone0/pl-thermal"]["low"] == 41.25
    assert metrics["estimate"]["single"][1] > 0
    report = (project / "build/small/report.md").read_text(encoding="utf-8")
    assert "## Measured on KV260 (bench)" in report
    assert "**Emulated:**" in report
    assert f"{IMAGES} of {IMAGES} images equal to the integer run, bit for bit" in report
    planned = json.loads(loopback.dpuforge("plan", "spec/small.yaml", "--json", cwd=project).stdout)
    assert planned["boards"]["KV260"] == "measured on bench, emulated: done"
    done = loopback.dpuforge("board", "test", *SPEC, "--no-bench", cwd=project)
    assert done.returncode == 0, done.stderr
    pushed = read_result(project)["metrics"]["push"]
    assert [pushed[name]["sent"] for name in ("app", "images")] == [0, 0]
    assert done.stderr.count("nothing copied") == 2
    assert read_result(project)["metrics"]["bench"]["rows"] == rows, "what the first call measured is kept"


def test_one_changed_weight_is_caught(loopback: Loopback, project: Path) -> None:
    """A board that runs an xmodel with one other weight: exit code 3, the first image that differs named."""
    changed = loopback.folder / "changed.xmodel"
    change_one_weight(project / "build/small/deploy/small_net_int.xmodel", changed)
    use_network(loopback, changed)
    done = loopback.dpuforge("board", "test", *SPEC, "--no-bench", cwd=project)
    assert done.returncode == 3, done.stderr
    result = read_result(project)
    first = result["metrics"]["outputs"]["first_differing"]
    assert first in [f"data/test/{number}.png" for number in range(IMAGES)]
    assert first in result["reason"]
    assert first in done.stderr
    assert result["metrics"]["outputs"]["inputs"] == 0, "the pictures were prepared alike"
    assert result["status"] == "failed"


@pytest.mark.slow
def test_a_picture_that_is_prepared_otherwise_is_told_from_a_dpu_that_computes_otherwise(
    loopback: Loopback, project: Path
) -> None:
    """A board whose Pillow decodes to other pixels: the result counts the inputs that differ."""
    site = loopback.folder / "site"
    site.mkdir()
    text = "import PIL.Image as I; old = I.open; I.open = lambda *a: old(*a).point(lambda value: 255 - value)\n"
    (site / "sitecustomize.py").write_text(text, encoding="utf-8")
    loopback.write_environment(f"export PYTHONPATH={site}:$PYTHONPATH")
    done = loopback.dpuforge("board", "test", *SPEC, "--no-bench", cwd=project)
    assert done.returncode == 3, done.stderr
    assert read_result(project)["metrics"]["outputs"]["inputs"] == IMAGES
    assert f"{IMAGES} images were already prepared otherwise there" in done.stderr


def test_a_file_changed_on_the_board_is_set_aside_and_copied_anew(loopback: Loopback, project: Path) -> None:
    """An edit in place is found by its digest, kept in set_aside, and does not run."""
    assert loopback.dpuforge("board", "push", *SPEC, cwd=project).returncode == 0
    app = loopback.board / "small/KV260/app/current/app.py"
    good = app.read_text(encoding="utf-8")
    with app.open("a", encoding="utf-8") as stream:
        stream.write("# mine\n")
    done = loopback.dpuforge("board", "push", *SPEC, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "app.py was changed on the board" in done.stderr
    assert app.read_text(encoding="utf-8") == good
    assert [path.read_text(encoding="utf-8") for path in (loopback.board / "set_aside").iterdir()] == [
        good + "# mine\n"
    ]


def test_a_new_network_replaces_the_old_one(loopback: Loopback, project: Path) -> None:
    """After quantising anew one file goes over, and the board keeps no content that nothing uses."""
    assert loopback.dpuforge("board", "push", *SPEC, cwd=project).returncode == 0
    xmodel = project / "build/small/deploy/small_net_int.xmodel"
    change_one_weight(xmodel, xmodel)
    done = loopback.dpuforge("board", "push", *SPEC, cwd=project)
    assert "push app: 1 of 13 files copied" in done.stderr, done.stderr
    current = loopback.board / "small/KV260/app/current"
    assert (current / "small_net.xmodel").read_bytes() == xmodel.read_bytes()
    contents = {path.name for path in (current, current.parent.parent / "images/current") for path in path.iterdir()}
    assert len(list((loopback.board / "blobs").iterdir())) == len(contents) - 1, "but .set.json"


@pytest.mark.slow
def test_run_shows_what_the_application_prints_and_pull_brings_its_results(loopback: Loopback, project: Path) -> None:
    """board run hands arguments to app.py; RESULTS comes back with board pull, whole."""
    assert loopback.dpuforge("board", "push", *SPEC, "--images", "3", cwd=project).returncode == 0
    words = ("--", "../../images/current", "--top", "1", "--lines", "RESULTS/lines.jsonl")
    done = loopback.dpuforge("board", "run", *SPEC, *words, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "000002.png" in done.stdout
    assert "EMULATION" in done.stdout
    done = loopback.dpuforge("board", "pull", *SPEC, cwd=project)
    assert done.returncode == 0, done.stderr
    lines = (project / "build/small/board/KV260/run/lines.jsonl").read_text(encoding="utf-8").splitlines()
    assert [len(json.loads(line)["top"]) for line in lines] == [1, 1, 1]
    done = loopback.dpuforge("board", "run", *SPEC, "--", "nowhere.png", cwd=project)
    assert done.returncode == 3
    assert "nowhere.png" in done.stderr


@pytest.mark.slow
def test_boards_of_one_kind_keep_their_results_apart(loopback: Loopback, project: Path) -> None:
    """Two KV260 at once: each host has raw outputs and a result of its own."""
    path = loopback.folder / "config/dpuforge/boards.yaml"
    hosts = yaml.safe_load(path.read_text(encoding="utf-8"))
    other = {"folder": str(loopback.folder / "other"), "lock": str(loopback.folder / "lock2")}
    hosts["boards"]["twin"] = {**hosts["boards"]["bench"], **other}
    path.write_text(yaml.safe_dump(hosts), encoding="utf-8")
    words = ("--host", "twin", "--jobs", "2", "--no-bench", "--images", "2")
    done = loopback.dpuforge("board", "test", *SPEC, *words, cwd=project)
    assert done.returncode == 0, done.stderr
    folder = project / "build/small/board/KV260/hosts"
    names = sorted(inner.name for inner in folder.iterdir())
    assert names == ["bench", "twin"]
    for name in names:
        assert {inner.name for inner in (folder / name / "run").iterdir()} == {"raw.npz", "lines.jsonl"}
        assert (folder / name / "result.json").is_file()


def test_a_host_of_any_name_has_one_folder_of_its_own() -> None:
    """Addresses with slashes, colons and dots become different names of one folder; plain names stay."""
    names = [
        "kv260",
        "root@kv260.lab",
        "fe80::1%eth0",
        "ssh://root@[::1]:22/",
        "ssh:__root@[::1]:22_",
        "..",
        ".",
        "a/../b",
    ]
    folders = [name_folder(name) for name in names]
    assert folders[:2] == names[:2]
    assert len(set(folders)) == len(names)
    assert all(Path(folder).name == folder and folder.strip(".") for folder in folders)


def test_an_ssh_configuration_may_lie_in_a_folder_with_spaces(loopback: Loopback, project: Path) -> None:
    """The configuration's path, the board's folder and its environment file may hold spaces and quotes."""
    folder = loopback.folder / "my 'own' files"
    folder.mkdir()
    for name in ("ssh_config", "environment.sh"):
        shutil.copy(loopback.folder / name, folder / name)
    places = {"ssh_config": folder / "ssh_config", "environment": folder / "environment.sh", "folder": folder / "a b"}
    loopback.write_hosts(**{name: str(path) for name, path in places.items()})
    done = loopback.dpuforge("board", "push", *SPEC, "--images", "2", cwd=project)
    assert done.returncode == 0, done.stderr
    assert (folder / "a b/small/KV260/app/current/app.py").is_file()


def test_a_board_behind_a_jump_host_is_reached(loopback: Loopback, project: Path) -> None:
    """ProxyJump of ssh's own configuration works: here the board is its own jump host."""
    path = loopback.folder / "ssh_config"
    own = path.read_text(encoding="utf-8")
    path.write_text(own + own.replace("Host loop", "Host inner\n  ProxyJump loop"), encoding="utf-8")
    loopback.write_hosts(host="inner")
    done = loopback.dpuforge("board", "check", *SPEC, "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fits"] is True


@pytest.mark.slow
def test_several_boards_at_once(loopback: Loopback, project: Path) -> None:
    """Two hosts with --jobs 2 leave a result each; one that fails does not hide the other."""
    path = loopback.folder / "config/dpuforge/boards.yaml"
    hosts = yaml.safe_load(path.read_text(encoding="utf-8"))
    other = {"board": "ZCU104", "folder": str(loopback.folder / "other"), "lock": str(loopback.folder / "lock2")}
    hosts["boards"]["second"] = {**hosts["boards"]["bench"], **other}
    path.write_text(yaml.safe_dump(hosts), encoding="utf-8")
    words = ("--host", "second", "--jobs", "2", "--no-bench")
    done = loopback.dpuforge("board", "test", *SPEC, *words, cwd=project)
    assert done.returncode == 0, done.stderr
    assert [read_result(project, name)["metrics"]["host"] for name in ("KV260", "ZCU104")] == ["bench", "second"]
    done = loopback.dpuforge("board", "check", *SPEC, "--host", "unreachable.invalid", "--jobs", "2", cwd=project)
    assert done.returncode == 4
    assert "unreachable.invalid" in done.stderr
