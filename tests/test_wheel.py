"""The wheel carries all that the command needs: it works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO


def test_an_installed_wheel_generates_outside_the_checkout(tmp_path: Path) -> None:
    """Templates, schemas and boards ship inside, and what they generate is what the checkout generates."""
    checkout = tmp_path / "checkout"
    skipped = shutil.ignore_patterns(".git", "build", "data", ".venv", "*_cache", ".hypothesis", "tests")
    shutil.copytree(REPO, checkout, ignore=skipped)
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(checkout)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True)
    shutil.rmtree(checkout)
    (tmp_path / "spec").mkdir()
    shutil.copy(REPO / "spec/quickstart.yaml", tmp_path / "spec")
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import dpuforge; print(dpuforge.__file__)"], env=env, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(site))
    done = subprocess.run(
        [sys.executable, "-m", "dpuforge", "generate"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for path in (REPO / "generated/quickstart").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            twin = tmp_path / "generated/quickstart" / path.relative_to(REPO / "generated/quickstart")
            assert twin.read_bytes() == path.read_bytes()
