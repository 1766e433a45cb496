"""dpuforge explain FILE:LINE: from any line of a generated file to the keys of the spec, held by changing the keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dpuforge import pipeline
from dpuforge.records.job import Job
from dpuforge.records.plan import Plan
from dpuforge.render.marked_lines import trace_lines
from dpuforge.trace.explain_line import explain_line, explain_traceback, find_keys
from tests.conftest import REPO
from tests.test_cli import dpuforge

SPECS = sorted((REPO / "spec").glob("*.yaml"))


def load(path: Path) -> tuple[Job, Plan]:
    job = pipeline.load(path)
    return job, pipeline.plan(job)


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_every_line_of_every_file_is_traced(spec: Path) -> None:
    """The markers leave each file as it is, and each line that holds text of a template names the template's line."""
    job, plan = load(spec)
    rendered = {file.path: file.text for file in pipeline.render(plan)}
    for planned in plan.files:
        file, lines = trace_lines(plan, planned)
        assert file.text == rendered[planned.path]
        texts = file.text.splitlines()
        assert len(lines) == len(texts)
        silent = [text for text, found in zip(texts, lines, strict=True) if text and planned.template and not found]
        assert silent == []
        assert job.root


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("lr: 1.0e-3", "lr: 2.0e-3", "train.optimizer.lr"),
        ("epochs: 4", "epochs: 5", "train.epochs"),
        ("batch_size: 64", "batch_size: 32", "train.batch_size"),
        ("seed: 0", "seed: 7", "train.seed"),
        ("name: adam,", "name: sgd,", "train.optimizer.name"),
        ("name: cosine", "name: none", "train.scheduler.name"),
        ("std: [0.5, 0.5, 0.5]", "std: [0.25, 0.5, 0.5]", "data.preprocess.std"),
        ("augment: []", "augment: [horizontal_flip]", "data.augment"),
        ("color: RGB", "color: BGR", "data.preprocess.color"),
        ("images: 200", "images: 100", "quantization.calibration.images"),
        ("max_accuracy_drop: 1.0", "max_accuracy_drop: 2.5", "quantization.max_accuracy_drop"),
        ("net_name: resnet18_digits", "net_name: digits", "target.net_name"),
        ("boards: [KV260, ZCU104]", "boards: [KV260, ZCU102]", "target.boards"),
        ("backbone: resnet18", "backbone: resnet34", "model.backbone"),
        ("max_accuracy_drop", "include_cle: false\n  max_accuracy_drop", "quantization.include_cle"),
    ],
    ids=lambda value: value if "." in value and ":" not in value else "",
)
def test_a_line_that_a_key_changes_names_the_key(tmp_path: Path, old: str, new: str, key: str) -> None:
    """Change one key: every changed file knows the key as its own, and of the new lines some name it."""
    text = (REPO / "spec/quickstart.yaml").read_text()
    assert text.count(old) == 1 or old == "max_accuracy_drop"
    (tmp_path / "spec").mkdir()
    spec = tmp_path / "spec/quickstart.yaml"
    spec.write_text(text)
    before = {file.path: set(file.text.splitlines()) for file in pipeline.render(load(spec)[1])}
    spec.write_text(text.replace(old, new, 1))
    job, plan = load(spec)
    named = 0
    for planned, file in ((it, file) for file in pipeline.render(plan) for it in plan.files if it.path == file.path):
        fresh = [
            number for number, line in enumerate(file.text.splitlines(), 1) if line not in before.get(file.path, set())
        ]
        if fresh:
            assert key in find_keys(job, planned), file.path
        for number in fresh:
            named += key in {found.key for found in explain_line(job, plan, file.path, number).keys}
    assert named, "no new line names the key"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A generated project of one's own."""
    (tmp_path / "spec").mkdir()
    shutil.copy(REPO / "spec/quickstart.yaml", tmp_path / "spec")
    assert dpuforge("generate", cwd=tmp_path).returncode == 0
    return tmp_path


def find_line(project: Path, file: str, start: str) -> str:
    lines = (project / f"generated/quickstart/{file}").read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.strip().startswith(start))
    return f"generated/quickstart/{file}:{number}"


def test_a_line_is_explained_on_the_command_line(project: Path) -> None:
    """Key, value and place of what a line prints, and the template's line, for scripts and for JSON."""
    done = dpuforge("explain", find_line(project, "train.py", "LEARNING_RATE"), cwd=project)
    assert done.returncode == 0, done.stderr
    assert "made by templates/_partials/train/settings.j2:" in done.stdout
    for word in ("prints", "train.optimizer.lr", "0.001", "spec/quickstart.yaml:29:31"):
        assert word in done.stdout
    where = find_line(project, "int8_config.json", '"include_cle"')
    document = json.loads(dpuforge("explain", where, "--json", cwd=project).stdout)
    assert [(row["how"], row["key"]) for row in document["keys"]] == [("prints", "quantization.include_cle")]


def test_a_line_edited_by_hand_is_said_to_be(project: Path) -> None:
    """What is explained is the line as dpuforge makes it; where the file says otherwise, the message says so."""
    where = find_line(project, "train.py", "LEARNING_RATE")
    path = project / "generated/quickstart/train.py"
    path.write_text(path.read_text().replace("LEARNING_RATE = 0.001", "LEARNING_RATE = 7"))
    done = dpuforge("explain", where, cwd=project)
    assert done.returncode == 0
    assert "not what the spec leads to now" in done.stderr


def test_a_traceback_names_the_keys_behind_its_lines(project: Path) -> None:
    """Of a failed stage's last traceback, the lines of generated scripts that a key decides are explained, no other."""
    job, plan = load(project / "spec/quickstart.yaml")
    file, _, line = find_line(project, "train.py", "LEARNING_RATE").rpartition(":")
    frame = f'Traceback (most recent call last):\n  File "{project / file}", line {line}, in <module>\n'
    other = f'  File "{project / file}", line 9999, in f\n  File "/usr/lib/python3/torch.py", line 3, in g\n'
    (found,) = explain_traceback(job, plan, f"{frame.replace(line, '1')}\n{frame}{other}ValueError: lr")
    assert f"train.py:{line} prints train.optimizer.lr: 0.001" in found
    assert "spec/quickstart.yaml:29:31" in found
    assert list(explain_traceback(job, plan, "no traceback here")) == []


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("generated/quickstart/train.py:99999", "lines, not 99999"),
        ("generated/quickstart/train.py:0", "lines, not 0"),
        ("generated/quickstart/none.py:1", "no file that the spec leads to"),
        ("generated/quickstart/manifest.json:3", "lists all files"),
        ("spec/other.yaml:3", "no generated file"),
        ("nowhere/train.py:1", "no generated file"),
    ],
)
def test_what_cannot_be_explained_is_one_line(project: Path, where: str, says: str) -> None:
    """A line, file or folder that is not there is named; exit code 2, no traceback."""
    done = dpuforge("explain", where, cwd=project)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
