"""Keys that were renamed: old specs are read and told what to write; migrate rewrites them, comments kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpuforge.edit.edit_spec import rename_keys
from dpuforge.edit.migrate import migrate
from dpuforge.errors import SpecError
from dpuforge.load.load_spec import load_project, validate_file
from dpuforge.load.sections import renames
from dpuforge.load.sections.renames import Rename
from dpuforge.load.spec_schema import find_rules, read_schema
from tests.conftest import REPO

ROWS = (
    Rename("train.learning_rate", "train.optimizer.lr", 1),
    Rename("quantization.calib", "quantization.calibration", 1),
    Rename("net", "model", 1),
)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with keys that had other names once; the shipped one is empty so far."""
    monkeypatch.setattr(renames, "read_renames", lambda: ROWS)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The quickstart as it would have been written before the keys of ROWS were renamed."""
    text = (REPO / "spec/quickstart.yaml").read_text().replace("spec_version: 1\n", "")
    text = text.replace("\nmodel:", "\nnet:").replace("  calibration:", "  calib:")
    text = text.replace(", lr: 1.0e-3", "").replace(
        "  epochs: 4", "  learning_rate: 2.0e-3   # the old name\n  epochs: 4"
    )
    (tmp_path / "spec").mkdir()
    path = tmp_path / "spec/quickstart.yaml"
    path.write_text(text)
    return path


def test_the_shipped_table_names_keys_that_are_there() -> None:
    """Each row leads from a key that is no more to one that is, in a version that the schema knows."""
    versions = read_schema()["spec_version"]["allowed"]
    for row in renames.read_renames():
        assert not find_rules(tuple(row.old.split(".")))
        assert find_rules(tuple(row.new.split(".")))
        assert row.version in versions


@pytest.mark.usefixtures("table")
def test_an_old_spec_is_read_with_warnings_at_its_lines(old: Path) -> None:
    """Values reach the new keys, their places stay, and each old key says what to write instead."""
    loaded = load_project(old)
    assert loaded.project.train.optimizer.lr == 2.0e-3
    assert loaded.project.quantization.calibration.images == 200
    line = next(n for n, row in enumerate(old.read_text().splitlines(), 1) if "learning_rate" in row)
    assert loaded.origins["train.optimizer.lr"].where.startswith(f"{old}:{line}:")
    said = {problem.field: problem for problem in loaded.warnings}
    assert {row.old for row in ROWS} <= set(said)
    assert "train.optimizer.lr since version 1" in said["train.learning_rate"].message
    assert said["train.learning_rate"].line == line


@pytest.mark.usefixtures("table")
def test_a_spec_of_the_version_that_renamed_must_use_the_new_name(old: Path) -> None:
    """spec_version says which names hold: with the version that renamed them, the old ones are mistakes."""
    old.write_text("spec_version: 1\n" + old.read_text())
    with pytest.raises(SpecError) as caught:
        load_project(old)
    wrong = [problem for problem in caught.value.problems if problem.severity == "error"]
    assert [problem.field for problem in wrong] == ["net", "train.learning_rate", "quantization.calib"]
    assert all("dpuforge migrate" in problem.help for problem in wrong)


@pytest.mark.usefixtures("table")
def test_both_names_are_one_mistake(old: Path) -> None:
    """The old and the new name side by side: which one holds is for a person to say."""
    old.write_text(old.read_text().replace("optimizer: {name", "optimizer: {lr: 1.0e-4, name"))
    (wrong,) = [problem for problem in validate_file(old) if problem.severity == "error"]
    assert wrong.field == "train.learning_rate"
    assert "that is there too" in wrong.message
    with pytest.raises(SpecError):
        migrate(old)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("version", ["", "spec_version: 1   # of old\n"])
def test_migrate_brings_an_old_spec_over(old: Path, version: str) -> None:
    """Every line that had no old key stays, comments stay, and the result has neither mistake nor warning of a name."""
    old.write_text(version + old.read_text())
    before = old.read_text()
    found = migrate(old)
    assert ("key", "net", "model") in found.rows
    old.write_text(found.text)
    assert [problem for problem in validate_file(old) if "since version" in problem.message] == []
    assert load_project(old).project.train.optimizer.lr == 2.0e-3
    assert "# the old name" in found.text
    gone = [line for line in before.splitlines() if line not in found.text.splitlines()]
    gone_keys = {line.strip().partition(":")[0] for line in gone} - {"spec_version"}
    assert gone_keys == {"net", "learning_rate", "optimizer", "calib"}
    assert migrate(old).text == found.text


def test_a_later_version_asks_for_a_newer_dpuforge(old: Path) -> None:
    """spec_version of the future: not "choose from 1", but who could read it."""
    old.write_text("spec_version: 2\n" + (REPO / "spec/quickstart.yaml").read_text().replace("spec_version: 1\n", ""))
    (problem,) = validate_file(old)
    assert "update dpuforge" in problem.help


@pytest.mark.parametrize(
    ("text", "names", "wanted"),
    [
        ("a: 1  # one\nb: 2\n", {"a": "c"}, "c: 1  # one\nb: 2\n"),
        ("# top\na:\n  x: 1  # one\n  y: 2\n", {"a.x": "a.z"}, "# top\na:\n  z: 1  # one\n  y: 2\n"),
        ("a:\n  x: 1\n  y: 2\n", {"a.x": "b.x"}, "a:\n  y: 2\nb:\n  x: 1\n"),
        ("a: {x: 1, y: 2}\n", {"a.x": "a.z"}, "a: {z: 1, y: 2}\n"),
        ("a:\n- 1  # one\n- 2\nb: 3\n", {"a": "c"}, "c:\n- 1  # one\n- 2\nb: 3\n"),
    ],
)
def test_keys_are_renamed_in_place(text: str, names: dict[str, str], wanted: str) -> None:
    """A key keeps its place, value and comment; one that moves to another mapping takes them along."""
    assert rename_keys(text, names) == wanted
