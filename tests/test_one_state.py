"""Whoever ran a stage (Snakemake, a person, another machine), its result is the same: plan, run, verify, pack."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from dpuforge.paths import emulator_path
from tests.conftest import REPO
from tests.squares_project import SPEC, dpuforge, plan_stages, started, write_project

pytest.importorskip("snakemake", reason="snakemake comes with the extras all and dev")
BY_SNAKEMAKE = {"prepare", "train", "inspect", "calibrate", "evaluate", "deploy"}


def snakemake(root: Path, project: str) -> subprocess.CompletedProcess[str]:
    """Run the generated Snakefile as its head says."""
    path = os.pathsep.join([str(emulator_path()), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "DPUFORGE_TOOLCHAIN": "emulator", "OMP_NUM_THREADS": "1"}
    words = ["-s", f"generated/{project}/Snakefile", "--cores", "1", "--config", f"python={sys.executable}"]
    command = [sys.executable, "-m", "snakemake", *words]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=1200)


pytestmark = pytest.mark.slow  # whole runs of Snakemake and of dpuforge


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages Snakemake ran; dpuforge only generated the scripts."""
    root = tmp_path_factory.mktemp("state") / "first"
    write_project(root)
    assert dpuforge(root, "generate").returncode == 0
    done = snakemake(root, "squares")
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the project elsewhere, as on another machine: the times of change are others."""
    return Path(shutil.copytree(made, tmp_path / "elsewhere", copy_function=shutil.copy))


@pytest.fixture(scope="module")
def finished(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The project after `dpuforge run`, and how that ended."""
    root = Path(shutil.copytree(made, tmp_path_factory.mktemp("state") / "finished", copy_function=shutil.copy))
    return root, dpuforge(root, "run")


def test_what_snakemake_ran_is_fresh_and_not_repeated(
    made: Path, finished: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    """plan says fresh for every stage of the Snakefile, run does the rest alone, and then nothing is pending."""
    before = plan_stages(made)
    assert {name for name, row in before.items() if row["state"] == "fresh"} == BY_SNAKEMAKE
    assert before["preflight"]["why"] == "never run"
    root, done = finished
    assert done.returncode == 0, done.stderr
    assert started(done) == {"preflight"}
    after = dpuforge(root, "plan")
    assert after.returncode == 0, after.stdout
    assert "vai_c_xir is not on this machine" in after.stdout


def test_a_stale_stage_says_what_changed_from_what_to_what(root: Path) -> None:
    """A setting is told by its line, an image and a network's file by their names and digests; the rest is fresh."""
    spec = root / "spec/squares.yaml"
    spec.write_text(
        SPEC.replace("max_accuracy_drop: 60.0", "max_accuracy_drop: 70.0").replace("spec_version", "# x\nspec_version")
    )
    rows = plan_stages(root)
    assert (
        "MAX_ACCURACY_DROP = 60.0  # percentage points, float minus int8 -> MAX_ACCURACY_DROP = 70.0"
        in rows["evaluate"]["why"]
    )
    assert {name for name, row in rows.items() if row["state"] == "stale"} == {"evaluate", "preflight"}
    spec.write_text(SPEC)
    (root / "images/train/dark/3.png").write_bytes((root / "images/train/dark/3.png").read_bytes() + b"\n")
    (root / "net.py").write_text((root / "net.py").read_text() + "# a comment\n")
    rows = plan_stages(root)
    assert rows["prepare"]["why"].startswith("images/train/dark/3.png changed (")
    assert rows["train"]["why"].startswith("net.py changed (")
    assert rows["deploy"]["state"] == "stale"  # it reads net.py, too


def test_a_calibration_setting_leaves_the_inspection_fresh(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """inspect reads the float network and the boards: another batch size of calibration is none of its business."""
    root = Path(shutil.copytree(finished[0], tmp_path / "fewer"))
    (root / "spec/squares.yaml").write_text(SPEC.replace("images: 16, batch_size: 8", "images: 16, batch_size: 4"))
    rows = plan_stages(root)
    assert {name: rows[name]["state"] for name in ("train", "inspect", "calibrate")} == {
        "train": "fresh",
        "inspect": "fresh",
        "calibrate": "stale",
    }


def test_a_board_more_makes_stale_exactly_what_run_repeats(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """plan judges the files that would be generated, not those on disk."""
    root = Path(shutil.copytree(finished[0], tmp_path / "more"))
    (root / "spec/squares.yaml").write_text(SPEC.replace("[KV260]", "[KV260, ZCU102]"))
    rows = plan_stages(root)
    stale = {name for name, row in rows.items() if row["state"] == "stale"}
    assert stale == {"inspect", "preflight"}
    assert rows["compile/ZCU102"]["state"] == "unavailable"
    assert "board ZCU102 changed: nothing -> DPUCZDX8G_ISA1_B4096" in rows["preflight"]["why"]
    assert all(rows[name]["minutes"] is not None for name in stale)
    done = dpuforge(root, "run")
    assert done.returncode == 0, done.stderr
    assert started(done) == stale


@pytest.fixture
def no_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which torch cannot be imported."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked/sitecustomize.py").write_text(
        "import sys\n\n\nclass Block:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'torchvision', 'timm'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n\n\nsys.meta_path.insert(0, Block())\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "blocked"), os.environ.get("PYTHONPATH", "")])}


def test_plan_needs_no_torch(root: Path, no_torch: dict[str, str]) -> None:
    """Where torch cannot be imported the plan is the same, and says what is missing for a run."""
    rows = plan_stages(root, environment=no_torch)
    assert {name for name, row in rows.items() if row["state"] == "fresh"} == BY_SNAKEMAKE
    done = dpuforge(root, "plan", environment=no_torch)
    assert done.returncode == 1
    assert "toolchain emulator is not complete on this machine" in done.stderr


def test_what_was_approved_is_what_runs(root: Path) -> None:
    """A saved plan runs; once a setting has changed it is refused with what changed, and nothing runs."""
    assert dpuforge(root, "plan", "--out", "approved.json").returncode == 1
    spec = root / "spec/squares.yaml"
    spec.write_text(SPEC.replace("epochs: 2", "epochs: 3"))
    refused = dpuforge(root, "run", "--plan", "approved.json")
    assert refused.returncode == 1
    assert "stages: train: fresh: " in refused.stderr
    assert "EPOCHS = 2 -> EPOCHS = 3" in refused.stderr
    assert "EPOCHS = 2" in (root / "generated/squares/train.py").read_text()
    spec.write_text(SPEC)
    done = dpuforge(root, "run", "--plan", "approved.json")
    assert done.returncode == 0, done.stderr
    assert started(done) == {"preflight"}
    assert dpuforge(root, "run", "--plan", "approved.json", "--from", "train").returncode == 2
    assert dpuforge(root, "run", "--plan", "net.py").returncode == 2


def test_verify_names_what_no_longer_matches(root: Path) -> None:
    """Everything matches after a run; a file changed by hand is named with both digests, exit code 1."""
    good = dpuforge(root, "verify")
    assert good.returncode == 0, good.stdout + good.stderr
    (root / "build/squares/train/model.pth").write_bytes(b"other")
    (root / "images/test/dark/0.png").write_bytes((root / "images/test/light/0.png").read_bytes())
    bad = dpuforge(root, "verify", "--json")
    assert bad.returncode == 1
    differs = json.loads(bad.stdout)["differs"]
    assert any(text.startswith("train: build/squares/train/model.pth is ") for text in differs)
    assert any(text.startswith("calibrate: build/squares/train/model.pth is ") for text in differs)
    assert any("images/test/dark/0.png" in text for text in differs)
    assert dpuforge(root, "pack").returncode == 1


def test_a_packed_result_is_checked_elsewhere(root: Path, tmp_path: Path) -> None:
    """Equal files give equal bytes, there is no image in it, and a changed byte is found without unpacking."""
    for name in ("one.zip", "two.zip"):
        done = dpuforge(root, "pack", "--out", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    archive = tmp_path / "one.zip"
    assert archive.read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(archive) as packed:
        names = set(packed.namelist())
    assert {"spec/squares.yaml", "net.py", "generated/squares/train.py"} <= names
    assert "build/squares/deploy/squares_int.xmodel" in names
    assert not [name for name in names if name.endswith(".png")]
    verify = [sys.executable, "-m", "dpuforge", "verify", str(archive)]
    done = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    content = archive.read_bytes()
    at = content.index(b"EPOCHS = 2")
    archive.write_bytes(content[:at] + b"EPOCHS = 9" + content[at + 10 :])
    done = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)


def test_real_stages_killed_at_random_moments_end_the_same(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Ten kills of `dpuforge run`, and the network, its xmodel and every accuracy are those of a run left in peace."""
    write_project(tmp_path / "killed")
    root, moments = tmp_path / "killed", random.Random(3)
    command = [sys.executable, "-m", "dpuforge", "run", "spec/squares.yaml"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(10):
        run = subprocess.Popen(command, cwd=root, env=env, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(2, 20))
        run.kill()
        run.wait()
    assert dpuforge(root, "run").returncode == 0
    assert dpuforge(root, "verify").returncode == 0
    for name, keys in (("evaluate", ("float_accuracy", "int8_accuracy", "confusion")), ("train", ("history",))):
        one, two = (json.loads((at / f"build/squares/{name}/result.json").read_text()) for at in (root, finished[0]))
        assert [one["metrics"].get(key) for key in keys] == [two["metrics"].get(key) for key in keys]
    xmodel = "build/squares/deploy/squares_int.xmodel"
    assert (root / xmodel).read_bytes() == (finished[0] / xmodel).read_bytes()


@pytest.mark.long
def test_snakemake_on_the_shipped_quickstart(tmp_path: Path) -> None:
    """On a fresh clone: Snakemake runs everything but preflight, plan says fresh for it, and run repeats none."""
    for folder in ("spec", "generated/quickstart"):
        shutil.copytree(REPO / folder, tmp_path / folder)
    done = snakemake(tmp_path, "quickstart")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "dpuforge", "run", "spec/quickstart.yaml"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1200)
    assert ran.returncode == 0, ran.stderr
    assert started(ran) == {"preflight"}
