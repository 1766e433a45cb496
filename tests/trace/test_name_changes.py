"""dpuforge diff --semantic: causes in words, the files of each, and what no setting explains."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dpuforge import pipeline
from dpuforge.execute.results import hash_file
from tests.test_cli import dpuforge, project  # noqa: F401 (a fixture)


def change(root: Path, *pairs: tuple[str, str]) -> None:
    """Replace texts of the project's spec."""
    spec = root / "spec/quickstart.yaml"
    text = spec.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    spec.write_text(text)


def tell(root: Path, *options: str) -> list[dict[str, Any]]:
    done = dpuforge("diff", "--semantic", "--format", "json", *options, cwd=root)
    assert done.returncode in (0, 1), done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


THREE = (
    ("lr: 1.0e-3", "lr: 5.0e-4"),
    ("boards: [KV260, ZCU104]", "boards: [KV260]"),
    ('vitis_ai: "3.0"', 'vitis_ai: "2.5"'),
)


def test_three_causes_in_a_few_lines(project: Path) -> None:  # noqa: F811
    """A rate, a dropped board and another release: three causes with their places, in at most 25 lines."""
    change(project, *THREE)
    done = dpuforge("diff", "--semantic", cwd=project)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) <= 25
    for words in (
        "train.optimizer.lr  0.001 -> 0.0005 (spec/quickstart.yaml:29:",
        "board ZCU104 removed",
        "release 3.0 -> 2.5: another image, fingerprint of KV260",
        "boards/ZCU104/",
        "never run here: prepare, train, inspect",
    ):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("pairs", "key", "words", "files"),
    [
        ([("epochs: 4", "epochs: 6")], "train.epochs", "4 -> 6", ["train.py"]),
        ([("augment: []", "augment: [horizontal_flip]")], "data.augment", "horizontal_flip added", ["train.py"]),
        ([('"8", "9"', '"9", "8"')], "classes", "order:", []),
        ([('"8", "9"]', '"8", "nine"]')], "classes", "9 removed, nine added", []),
        ([("batch_size: 64", "early_stopping: null\n  batch_size: 64")], "train.early_stopping", "not set", []),
        ([("dpu_subgraphs: 1", "dpu_subgraphs: 2")], "target.dpu_subgraphs", "1 -> 2", []),
    ],
)
def test_one_cause_in_words(
    project: Path,  # noqa: F811
    pairs: Sequence[tuple[str, str]],
    key: str,
    words: str,
    files: list[str],
) -> None:
    """Numbers, lists, order, what was unset: each in the words of who changed it, with the files it touches."""
    change(project, *pairs)
    (document,) = tell(project)
    rows = {row["key"]: row for row in document["settings"]}
    assert words in " ".join(row["words"] for name, row in rows.items() if name.startswith(key))
    if files:
        assert rows[key]["files"] == files


def test_a_comment_is_no_setting(project: Path) -> None:  # noqa: F811
    """A comment changes the spec's digest, hence the manifest, and nothing else."""
    change(project, ("# The quickstart", "# My quickstart"))
    (document,) = tell(project)
    assert document["settings"] == []
    assert document["stages"] == []


def test_edits_by_hand_are_told_apart(project: Path) -> None:  # noqa: F811
    """A person's edit and a foreign file stand beside the settings, under their own cause."""
    change(project, ("epochs: 4", "epochs: 6"))
    folder = project / "generated/quickstart"
    (folder / "model.py").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    (document,) = tell(project)
    assert dict(map(tuple, document["others"])) == {
        "edited by hand": ["model.py"],
        "not made by dpuforge": ["notes.txt"],
    }
    assert document["settings"][0]["files"] == ["train.py"]


def test_nothing_changed_is_exit_code_0(project: Path) -> None:  # noqa: F811
    """In step: no cause, and exit code 0 in every form."""
    for form in ("text", "markdown", "json", "github"):
        done = dpuforge("diff", "--semantic", "--format", form, cwd=project)
        assert done.returncode == 0, done.stdout + done.stderr


def test_markdown_and_annotations_escape_what_they_hold(project: Path) -> None:  # noqa: F811
    """A pipe in a value does not break the table; a percent sign and a comma do not break a workflow command."""
    change(project, ("description: 5,000 real", 'description: "50 % | real, new'), ("for KV260 and ZCU104", 'for all"'))
    table = dpuforge("diff", "--semantic", "--format", "markdown", cwd=project).stdout
    row = next(line for line in table.splitlines() if "description" in line)
    assert row.replace("\\|", "").count("|") == 5
    notice = dpuforge("diff", "--semantic", "--format", "github", cwd=project).stdout.splitlines()[0]
    assert notice.startswith("::notice file=spec/quickstart.yaml,line=5,col=14::quickstart: description")
    assert "50 %25 | real, new" in notice


def git(root: Path, *arguments: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *names, *arguments], cwd=root, check=True, capture_output=True)


def test_against_a_revision(project: Path) -> None:  # noqa: F811
    """generated/ as it was in a commit is compared, whatever lies on disk now; the project may be a subfolder."""
    git(project.parent, "init", "-q")
    git(project.parent, "add", "--all", project.name)
    git(project.parent, "commit", "-qm", "first")
    change(project, *THREE)
    assert dpuforge("generate", cwd=project).returncode == 0
    assert tell(project)[0]["settings"] == []
    (document,) = tell(project, "--against", "HEAD")
    assert document["judged_by"] == "scripts"
    assert document["stages"][:2] == ["train", "inspect"]
    assert "prepare" not in document["stages"]
    said = dpuforge("diff", "--semantic", "--against", "HEAD", cwd=project).stdout
    assert "scripts differ, here or before them, of: train, inspect" in said
    assert [row["key"] for row in document["settings"]] == ["train.optimizer.lr", "target.vitis_ai", "target.boards"]
    done = dpuforge("diff", "--against", "HEAD", cwd=project)
    assert done.returncode == 1
    assert "+LEARNING_RATE = 0.0005" in done.stdout


@pytest.mark.parametrize("revision", ["none", "--upload-pack=x", "HEAD:spec", ""])
def test_a_revision_that_is_none_is_one_line(project: Path, revision: str) -> None:  # noqa: F811
    """An unknown revision, an option in its place, no repository: exit code 2 with the reason."""
    git(project, "init", "-q")
    done = dpuforge("diff", f"--against={revision or 'HEAD'}", cwd=project)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_project_that_was_never_generated_is_new(project: Path) -> None:  # noqa: F811
    """Nothing is said to have changed: its files are not generated yet."""
    shutil.rmtree(project / "generated/quickstart")
    done = dpuforge("diff", "--semantic", cwd=project)
    assert "not generated yet: " in done.stdout
    assert "changed, " not in done.stdout
    assert "dpuforge changed" not in done.stdout
    assert "lists no settings" not in done.stdout


def test_a_manifest_without_settings_says_so(project: Path) -> None:  # noqa: F811
    """An earlier dpuforge kept no settings: the files are named, and that what changed is not known."""
    path = project / "generated/quickstart/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]
    path.write_text(json.dumps(manifest))
    change(project, *THREE)
    done = dpuforge("diff", "--semantic", cwd=project)
    assert "the manifest of before lists no settings" in done.stdout
    assert "train.py" in done.stdout


def fake_results(root: Path, *stages: str) -> None:
    """Leave results of stages that were made with the scripts as they are."""
    job = pipeline.load(root / "spec/quickstart.yaml")
    for stage in pipeline.plan(job).stages:
        if stage.key in stages:
            scripts = {name: hash_file(job.generated() / name) for name in stage.scripts}
            result = {"stage": stage.name, "status": "done", "seconds": 60.0, "scripts": scripts, "inputs": {}}
            result |= {"outputs": {}, "metrics": {}, "settings": dict(stage.settings), "toolchain": {}, "reason": ""}
            (job.build / stage.key).mkdir(parents=True)
            (job.build / stage.key / "result.json").write_text(json.dumps(result))


def test_the_stages_of_a_diff_are_those_of_plan(project: Path) -> None:  # noqa: F811
    """One judge: diff --semantic names as "run again" what plan calls stale or dependent, and tells what never ran."""
    fake_results(project, "train", "inspect")
    for pairs in ((), (("epochs: 4", "epochs: 6"),)):
        change(project, *pairs)
        (document,) = tell(project)
        rows = json.loads(dpuforge("plan", "spec/quickstart.yaml", "--json", cwd=project).stdout)["stages"]
        never = [row["stage"] for row in rows if row["why"] == "never run"]
        assert "train" not in never
        assert "evaluate" in never
        pending = [row["stage"] for row in rows if row["state"] in ("stale", "depends") and row["stage"] not in never]
        assert document["judged_by"] == "results"
        assert document["never_run"] == never
        assert document["stages"] == pending
        assert set(document["unavailable"]) == {row["stage"] for row in rows if row["state"] == "unavailable"}
    assert next(row for row in rows if row["stage"] == "train")["why"] == "train.py changed: EPOCHS = 4 -> EPOCHS = 6"
