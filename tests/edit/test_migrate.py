"""dpuforge migrate: another release or other boards, comments kept, with what a person has to do."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from dpuforge import pipeline
from dpuforge.edit.edit_spec import load_text
from dpuforge.edit.migrate import Migration, migrate
from dpuforge.errors import UsageError
from dpuforge.load.boards.catalogue import shipped_catalogue
from tests.conftest import REPO
from tests.test_cli import dpuforge

SPECS = sorted((REPO / "spec").glob("*.yaml"))
RELEASES = [name for name, release in shipped_catalogue().releases.items() if release.supported]


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A copy of the quickstart's spec."""
    (tmp_path / "spec").mkdir()
    return Path(shutil.copy(REPO / "spec/quickstart.yaml", tmp_path / "spec"))


def read_comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


CASES = list(itertools.product(SPECS, RELEASES))


def migrate_if_served(path: Path, release: str) -> Migration | None:
    """Return the migration, or None where the release does not serve all boards."""
    try:
        return migrate(path, release)
    except UsageError as error:
        if "does not serve every board" not in error.message:
            raise
        return None


@pytest.mark.parametrize(("path", "release"), CASES, ids=lambda it: getattr(it, "stem", it))
def test_shipped_specs_reach_every_release_that_serves_them(path: Path, release: str, tmp_path: Path) -> None:
    """Comments are kept, the result is a good spec of that release, and its files are as if it were written new."""
    found = migrate_if_served(path, release)
    if found is None:
        return
    text = path.read_text(encoding="utf-8")
    assert read_comments(found.text) == read_comments(text)
    (tmp_path / "spec").mkdir()
    copy = tmp_path / "spec" / path.name
    copy.write_text(found.text, encoding="utf-8")
    before = load_text(copy, text).project.target.vitis_ai
    by_hand = text.replace(f'vitis_ai: "{before}"', f'vitis_ai: "{release}"')
    assert found.text == by_hand
    assert pipeline.render(pipeline.plan(pipeline.load(copy)))


def test_what_changes_for_a_board_is_shown(spec: Path) -> None:
    """From 3.0 to 2.5: the image, torch, each board's fingerprint and SD image; what a person has to do."""
    done = dpuforge("migrate", "spec/quickstart.yaml", "--vitis-ai", "2.5", "--json", cwd=spec.parent.parent)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows = {subject: (before, after) for subject, before, after in document["rows"]}
    assert rows["release"] == ("3.0", "2.5")
    assert rows["KV260 fingerprint"] == ("0x101000056010407", "0x101000016010407")
    assert rows["torch"] == ("1.12.1", "1.10.1")
    assert any("SD card" in task and task.startswith("KV260") for task in document["tasks"])
    assert document["written"]
    assert 'vitis_ai: "2.5"' in spec.read_text()


def test_a_dry_run_writes_nothing(spec: Path) -> None:
    """--dry-run shows all of it; a second look at the same release says that nothing changes."""
    before = spec.read_bytes()
    root = spec.parent.parent
    done = dpuforge("migrate", "spec/quickstart.yaml", "--vitis-ai", "3.5", "--dry-run", cwd=root)
    assert done.returncode == 0
    assert "Vitis AI 3.5 has no image of its own for it; it stays on" in done.stdout
    assert "spec/quickstart.yaml:39" in done.stderr
    assert ".edited" not in done.stderr
    assert spec.read_bytes() == before
    assert "nothing changes" in dpuforge("migrate", "spec/quickstart.yaml", "--vitis-ai", "3.0", cwd=root).stdout
    assert [path.name for path in spec.parent.iterdir()] == ["quickstart.yaml"]


def test_a_board_that_is_not_served_is_named_with_the_way_out(tmp_path: Path) -> None:
    """The boards that the release lacks stop the migration; the options that keep the others are given and work."""
    (tmp_path / "spec").mkdir()
    path = Path(shutil.copy(REPO / "spec/boards_matrix.yaml", tmp_path / "spec"))
    done = dpuforge("migrate", path, "--vitis-ai", "3.0", cwd=tmp_path)
    assert done.returncode == 2
    assert "ZU4EV: Vitis AI 3.0 has no default DPU" in done.stderr
    assert path.read_bytes() == (REPO / "spec/boards_matrix.yaml").read_bytes()
    options = done.stderr.partition("keep those that it serves: ")[2].split()
    assert dpuforge("migrate", path, "--vitis-ai", "3.0", *options, cwd=tmp_path).returncode == 0
    assert "- {board: CUSTOM_ZYNQMP, dpu: B512}" in path.read_text()
    assert "ZU4EV" not in path.read_text()


@pytest.mark.parametrize(
    ("release", "says"),
    [
        ("4.0", "no compiler of its own"),
        ("5.0", "no Vitis AI Library"),
        ("5.1", "NPU IP"),
        ("6.2", "Quark"),
        ("3.6", "did you mean"),
        ("latest", "choose one of"),
        ("1.2", "choose one of"),
    ],
)
def test_a_release_that_cannot_be_built_with_says_what_can(spec: Path, release: str, says: str) -> None:
    """Releases without a compiler, those of the DPU's successor, and slips of the pen each have their answer."""
    done = dpuforge("migrate", spec, "--vitis-ai", release, cwd=spec.parent.parent)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_boards_of_a_base_are_written_into_the_spec(spec: Path) -> None:
    """What a base gives is overridden in the spec itself; the base stays as it is."""
    base = spec.with_name("base.yaml")
    text = spec.read_text()
    start = text.index("target:")
    end = text.index("run:")
    base.write_text(text[start:end])
    spec.write_text(text[:start] + text[end:] + "base: [base.yaml]\n")
    done = dpuforge("migrate", spec, "--vitis-ai", "2.5", "--board", "ZCU104", cwd=spec.parent.parent)
    assert done.returncode == 0, done.stderr
    assert base.read_text() == text[start:end]
    job = pipeline.load(spec)
    assert [target.board for target in job.targets] == ["ZCU104"]
    assert job.release.name == "2.5"
