"""app.cpp, built with its CMakeLists against stand-ins of VART's headers: the xmodel's integers, app.py's words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpuforge.board.compare_outputs import run_on_integers
from dpuforge.paths import emulator_path
from dpuforge.xmodel.read import read_xmodel
from tests.conftest import REPO

HERE = Path(__file__).resolve().parent


@pytest.fixture
def built(project: Path) -> Path:
    """Return the program that CMake builds of a project's deploy/."""
    cmake = shutil.which("cmake")
    if cmake is None or not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no cmake or no C++ compiler here")
    source, build = project / "generated/small/deploy", project / "cpp"
    flags = f"-I{HERE / 'vart_headers'} -Werror"
    configure = [cmake, "-S", str(source), "-B", str(build), "-DVART_LIBRARIES=", f"-DCMAKE_CXX_FLAGS={flags}"]
    for command in ([*configure, "-DCMAKE_DISABLE_FIND_PACKAGE_OpenCV=ON"], [cmake, "--build", str(build)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "small_net"


def run(program: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the program with the worker that computes for the stand-in runner."""
    path = f"{emulator_path()}{os.pathsep}{REPO / 'generator'}"
    worker = f"{sys.executable} {HERE / 'vart_worker.py'}"
    environment = {**os.environ, "VART_WORKER": worker, "PYTHONPATH": path, **changes}
    return subprocess.run([str(program), *arguments], env=environment, capture_output=True, text=True, check=False)


def write_ppm(project: Path) -> list[Path]:
    """Write the project's images as PPM files, one of them as PGM."""
    paths = []
    for number, path in enumerate(sorted((project / "data/test").glob("*.png"))):
        image = Image.open(path).convert("L" if number == 3 else "RGB")
        paths.append(path.with_suffix(".pgm" if number == 3 else ".ppm"))
        image.save(paths[-1])
    return paths


@pytest.mark.slow
def test_the_twin_gives_the_integers_and_the_words_of_app_py(built: Path, project: Path) -> None:
    """Eight images in batches of three on two threads: raw int8 outputs of the integer run, app.py's classes."""
    files, xmodel = write_ppm(project), project / "build/small/deploy/small_net_int.xmodel"
    raw = project / "raw.bin"
    words = ["--xmodel", str(xmodel), "--threads", "2", "--top", "3", "--raw", str(raw), *map(str, files)]
    done = run(built, *words, DPUFORGE_VART_BATCH="3")
    assert done.returncode == 0, done.stderr
    deploy = project / "generated/small/deploy"
    app = [sys.executable, str(deploy / "app.py"), "--board", str(deploy.parent / "boards/KV260/board.env")]
    app += ["--xmodel", str(xmodel), "--top", "3", "--lines", "-", "--raw", str(project / "raw.npz"), *map(str, files)]
    path = f"{emulator_path()}{os.pathsep}{REPO / 'generator'}"
    told = subprocess.run(app, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    with np.load(project / "raw.npz") as kept:
        rows, fix = kept["rows"], int(kept["input_fix"])
    expected = run_on_integers(read_xmodel(xmodel), deploy / "preprocess.py", files, fix).rows
    assert np.array_equal(np.fromfile(raw, np.int8).reshape(len(files), -1), expected)
    assert np.array_equal(rows, expected)
    for mine, theirs in zip(done.stdout.splitlines(), told.stdout.splitlines(), strict=True):
        twin, python = json.loads(mine), json.loads(theirs)
        assert twin["name"] == python["name"]
        for one, other in zip(twin["top"], python["top"], strict=True):
            assert (one["class"], one["index"]) == (other["class"], other["index"])
            assert one["probability"] == pytest.approx(other["probability"], rel=1e-6)


def test_the_twin_says_what_is_wrong(built: Path, project: Path) -> None:
    """No images, an unknown option, no xmodel, a file that is no image, a camera without OpenCV: one line each."""
    xmodel = str(project / "build/small/deploy/small_net_int.xmodel")
    cases = {
        (): (2, "no images given"),
        ("--quick", "x"): (2, "there is no option --quick"),
        ("--top",): (2, "--top lacks its value"),
        ("--xmodel", "absent.xmodel", "x.ppm"): (3, "absent.xmodel does not exist"),
        ("--xmodel", xmodel, str(project / "spec/small.yaml")): (3, "no binary PPM or PGM"),
        ("--xmodel", xmodel, "--camera", "0"): (3, "cameras need OpenCV"),
    }
    for words, (status, text) in cases.items():
        done = run(built, *words)
        last = done.stderr.splitlines()[-1]
        assert (done.returncode, last.startswith("error: ")) == (status, True), (words, done.stderr)
        assert text in last
