"""The history: a row a run whatever becomes of it, never lost, compared on the same images, and specs brought back."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpuforge import pipeline
from dpuforge.errors import DriftError, HandEditsError, Interrupted, StageError, UsageError
from dpuforge.history.bring_back import bring_back
from dpuforge.history.compare_rows import compare_rows, tell_changes
from dpuforge.history.draw_rows import draw_rows
from dpuforge.history.keep_rows import add_row, find_folder, find_row, keep, read_rows
from dpuforge.history.leave_row import describe_machine, entering
from dpuforge.records.job import Job
from dpuforge.records.variant import Override, Variant
from tests.squares_project import SPEC, write_project


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project that has run nothing yet."""
    write_project(tmp_path / "p")
    return tmp_path / "p"


def load(root: Path, *values: str) -> Job:
    """Load the project, or a variant of it."""
    variant = Variant(tuple(Override(*text.split("=", 1)) for text in values)) if values else None
    return pipeline.load(root / "spec/squares.yaml", variant)


def enter(job: Job, error: BaseException | None = None, right: list[int] | None = None) -> list[str]:
    """Leave the row of a run that ended so, with predictions where it recognised images; return what was said."""
    said: list[str] = []
    if right is not None:
        labels = [1] * len(right)
        made = {"label": labels, "int8": right, "float": labels, "files": [str(n) for n in range(len(right))]}
        (job.build / "evaluate").mkdir(parents=True, exist_ok=True)
        (job.build / "evaluate/predictions.json").write_text(json.dumps(made))
    with entering(job, pipeline.plan(job), said.append) as entry:
        if error is not None:
            raise error
        accuracy = None if right is None else 100.0 * sum(right) / len(right)
        metrics = {"float_accuracy": None if right is None else 100.0, "int8_accuracy": accuracy}
        interval = None if right is None else [accuracy, accuracy]
        entry.note((), {"metrics": {**metrics, "int8_interval": interval}, "boards": {}, "emulated": True}, "")
    return said


def call(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's root."""
    command = [sys.executable, "-m", "dpuforge", *args]
    return subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=False)


def test_every_end_of_a_run_leaves_a_row_and_a_refusal_none(root: Path) -> None:
    """Done, failed, interrupted and broken runs are told apart; what was refused before it began is no run."""
    job = load(root)
    enter(job)
    ends: list[BaseException] = [
        StageError("disk"),
        Interrupted(),
        KeyboardInterrupt(),
        DriftError("no"),
        ZeroDivisionError(),
    ]
    for error in [*ends, HandEditsError("edited")]:
        with pytest.raises(type(error)):
            enter(job, error)
    found = [row["outcome"] for row in read_rows(root).values()]
    assert found == ["done", "failed", "interrupted", "interrupted", "failed"]
    assert read_rows(root)[2]["reason"] == "disk"


def test_a_row_says_what_decided_the_run_and_names_no_person(root: Path) -> None:
    """Settings, digests, machine and version are there; the user's, the host's and the folder's names are not."""
    enter(load(root, "train.seed=3"), right=[1, 1, 0])
    row = read_rows(root)[1]
    assert row["settings"]["train.seed"] == 3
    assert row["variant"] == [["train.seed", "3"]]
    assert row["emulated"] is True
    assert row["machine"]["cores"] == os.cpu_count()
    text = json.dumps({**row, "texts": {}})
    assert str(root) not in text
    assert socket.gethostname() not in text
    assert getpass.getuser() not in json.dumps(describe_machine())


def test_many_processes_add_rows_and_none_is_lost(root: Path) -> None:
    """Four at once, fifty rows of ten thousand characters each: two hundred whole lines."""
    script = (
        "import sys; from pathlib import Path; from dpuforge.history.keep_rows import add_row\n"
        "for n in range(50): add_row(Path(sys.argv[1]), {'who': sys.argv[2], 'n': n, 'x': 'y' * 10000})"
    )
    children = [subprocess.Popen([sys.executable, "-c", script, str(root), str(n)]) for n in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    lines = (find_folder(root) / "runs.jsonl").read_text().splitlines()
    assert len({(row["who"], row["n"]) for row in map(json.loads, lines)}) == 200


@pytest.mark.parametrize(
    "harm",
    [
        b'{"time": "2026", "project": "squ',
        b"\x00\xff\xfe",
        b"[1, 2]",
        b"null",
        b'{"time": 3}',
        b"[" * 100_000,
        b'{"time":"t","project":"p","spec":"s","outcome":"done","settings":[],"texts":{},"metrics":{}}',
        b"",
    ],
)
def test_a_damaged_line_costs_itself_alone(root: Path, harm: bytes) -> None:
    """A line that a crash cut off, or that somebody wrote, keeps its number; the next row begins a line of its own."""
    job = load(root)
    enter(job)
    with (find_folder(root) / "runs.jsonl").open("ab") as stream:
        stream.write(harm)
    enter(job)
    rows = read_rows(root)
    assert len(rows) == 2
    assert sorted(rows) == ([1, 3] if harm else [1, 2])
    assert call(root, "history").returncode == 0


def test_a_history_that_cannot_be_written_does_not_undo_a_run(root: Path) -> None:
    """It is said, and the run has ended well."""
    (root / "build").mkdir()
    (root / "build/history").write_text("a file")
    assert enter(load(root))[0].startswith("warning: the history has no row of this run")


def test_what_changed_is_said_in_words(root: Path) -> None:
    """Against the run before of the same project; a variant's options count."""
    enter(load(root))
    enter(load(root, "train.epochs=5", "target.boards=[KV260, ZCU104]"))
    enter(load(root, "train.epochs=5", "target.boards=[KV260, ZCU104]"))
    rows = read_rows(root)
    assert tell_changes(rows, 1) == "the first run"
    assert tell_changes(rows, 2) == "train.epochs: 2 -> 5; target.boards: board ZCU104 added"
    assert tell_changes(rows, 3) == "the same settings"


def test_two_runs_are_compared_on_the_same_images(root: Path) -> None:
    """McNemar counts images that one of the two alone recognises; other images, and none, are said so."""
    job = load(root)
    enter(job, right=[1] * 20)
    enter(job, right=[0] * 12 + [1] * 8)
    enter(job, right=[1] * 19)
    enter(job)
    rows = read_rows(root)
    found = compare_rows(root, rows[1], rows[2])
    assert found["int8"] == {"lost": 12, "gained": 0, "p": pytest.approx(2 / 2**12, rel=1e-3)}
    assert found["float"]["p"] == 1.0
    assert "test splits differ" in compare_rows(root, rows[1], rows[3])["note"]
    assert "left no predictions" in compare_rows(root, rows[1], {**rows[4], "predictions": ""})["note"]
    for path in (find_folder(root) / "kept").glob("*.json"):
        path.write_text("{}")
    assert "left no predictions" in compare_rows(root, rows[1], rows[2])["note"]
    said = call(root, "history", "compare", "1", "2", "--json")
    assert json.loads(said.stdout)["rows"] == [1, 2]


def test_a_spec_is_brought_back_and_an_edited_one_is_not_lost(root: Path) -> None:
    """Over a text that a run has kept it goes; over one that no run has kept only with --overwrite."""
    spec = root / "spec/squares.yaml"
    enter(load(root))
    spec.write_text(SPEC.replace("epochs: 2", "epochs: 7"))
    enter(load(root))
    done = call(root, "history", "restore", "1")
    assert done.returncode == 0, done.stderr
    assert spec.read_text() == SPEC
    assert "is already so" in call(root, "history", "restore", "1").stdout
    spec.write_text(SPEC + "# a thought\n")
    refused = call(root, "history", "restore", "2")
    assert refused.returncode == 1
    assert spec.read_text() == SPEC + "# a thought\n"
    assert call(root, "history", "restore", "2", "--overwrite").returncode == 0
    assert "epochs: 7" in spec.read_text()
    assert call(root, "history", "restore", "9").returncode == 2
    assert call(root, "history", "restore", "1", "--out", "spec/squares.yaml").returncode == 2


def test_a_variant_is_brought_back_with_its_values_and_the_comments(root: Path) -> None:
    """The spec of a variant is the spec with the options written into it."""
    spec = root / "spec/squares.yaml"
    spec.write_text(SPEC.replace("transfer:", "# how\ntransfer:"))
    enter(load(root, "train.epochs=9"))
    bring_back(root, read_rows(root)[1], root / "spec/nine.yaml", False)
    text = (root / "spec/nine.yaml").read_text()
    assert "# how" in text
    assert pipeline.load(root / "spec/nine.yaml").project.train.epochs == 9
    assert "epochs: 2" in spec.read_text()


def test_bases_are_brought_back_with_the_spec(root: Path) -> None:
    """All files of one state, or none."""
    base = root / "spec/common.yaml"
    base.write_text("train: {seed: 5}\n")
    (root / "spec/squares.yaml").write_text("base: [common.yaml]\n" + SPEC)
    enter(load(root))
    base.write_text("train: {seed: 6}\n")
    with pytest.raises(HandEditsError, match="common"):
        bring_back(root, read_rows(root)[1], None, False)
    bring_back(root, read_rows(root)[1], None, True)
    assert base.read_text() == "train: {seed: 5}\n"


def test_a_row_leads_to_no_file_outside_the_project(root: Path) -> None:
    """A history that somebody wrote cannot overwrite anything elsewhere, nor bring back what was changed."""
    digest = keep(root, b"evil", ".yaml")
    row: dict[str, Any] = {"spec": "../evil.yaml", "texts": {"../evil.yaml": digest}}
    with pytest.raises(UsageError, match="outside"):
        bring_back(root, row, None, True)
    assert not (root.parent / "evil.yaml").exists()
    (find_folder(root) / f"kept/{digest}.yaml").write_text("other")
    with pytest.raises(UsageError, match="was changed"):
        bring_back(root, {"spec": "spec/a.yaml", "texts": {"spec/a.yaml": digest}}, None, True)
    with pytest.raises(UsageError, match="has not kept"):
        bring_back(root, {"spec": "spec/a.yaml", "texts": {}}, None, True)


def test_the_plot_shows_runs_with_figures(root: Path) -> None:
    """Runs without accuracies are left out; where none has any, that is said."""
    enter(load(root))
    with pytest.raises(UsageError, match="no run"):
        draw_rows(root / "x.png", read_rows(root))
    enter(load(root), right=[1, 0, 1])
    done = call(root, "history", "plot", "--project", "squares")
    assert done.returncode == 0, done.stderr
    assert (root / "build/history/history.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_history_is_no_error(root: Path) -> None:
    """Nothing has run: the list says what makes rows, in JSON it is empty."""
    assert call(root, "history").returncode == 0
    assert json.loads(call(root, "history", "--json").stdout) == []
    with pytest.raises(UsageError, match="no run has left a row"):
        find_row(read_rows(root), 1)
    add_row(root, {"time": "now"})
    assert read_rows(root) == {}


def test_the_history_is_read_without_torch(root: Path) -> None:
    """Neither list, compare nor restore imports torch, nor does the sweep's command before it runs."""
    modules = "dpuforge.cli, dpuforge.history.compare_rows, dpuforge.sweep.run_variants"
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
