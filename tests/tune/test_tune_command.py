"""`dpuforge tune` through the command line: what it refuses, and whole tunes of a tiny network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dpuforge import pipeline
from dpuforge.records.variant import Override, Variant
from dpuforge.tune.tune_page import explain, list_final, list_rows, write_tune_page
from dpuforge.tune.tune_record import Wish, read_record, read_seconds, save
from tests.squares_project import NET, SPEC, dpuforge, write_project

QAT = ("quantization: {", "quantization: {qat: {enabled: true}, ")
CPU = ("quantization: {", "quantization: {target_device: CPU, ")
VALIDATION = ("  augment: []", "  augment: []\n  evaluate: validation")


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (("", ""), ("--target-drop", "0"), "--target-drop 0"),
        (("", ""), ("--target-drop", "-1"), "--target-drop -1"),
        (("", ""), ("--target-drop", "nan"), "--target-drop nan"),
        (("", ""), ("--target-drop", "100"), "--target-drop 100"),
        (("", ""), ("--minutes", "0"), "--minutes 0"),
        (("", ""), ("--minutes", "nan"), "--minutes nan"),
        (("", ""), ("--toolchain", "native"), "pytorch_nndct"),
        (QAT, (), "quantization.qat is on"),
        (CPU, (), "quantization.target_device is CPU"),
        (VALIDATION, (), "data.evaluate is validation"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_runs(
    tmp_path: Path, change: tuple[str, str], words: tuple[str, ...], said: str
) -> None:
    """One message with a remedy, no traceback, and nothing is written below build/."""
    write_project(tmp_path / "p", SPEC.replace(*change) if change[0] else SPEC)
    done = dpuforge(tmp_path / "p", "tune", *words)
    assert done.returncode in (2, 4), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "p").glob("build/*/*/*/build"))


def make_document(**known: object) -> dict[str, object]:
    """Return the document of a tune that kept one remedy."""
    figures = {"float_accuracy": 90.0, "float_interval": [88.0, 92.0], "int8_accuracy": 50.0, "accuracy_drop": 40.0}
    figures |= {"int8_interval": [45.0, 55.0], "drop_interval": [35.0, 45.0], "test_images": 200, "split": "validation"}
    row = {**figures, "rung": "adjust", "verdict": "kept", "reason": "", "set": {"quantization.adjust.enabled": "true"}}
    row |= {"lost": 1, "gained": 80, "p": 0.04, "p_holm": 0.08, "seconds": 90.0, "folder": "f", "int8_accuracy": 89.0}
    skipped = {"rung": "method", "verdict": "does not apply", "reason": "a | b"}
    final = {"baseline": figures, "winner": {**figures, "int8_accuracy": 88.0, "accuracy_drop": 2.0}}
    final |= {"lost": 2, "gained": 300, "p": 1e-9}
    document = {"spec": "spec/a.yaml", "asked": {"target_drop": 1.0}, "emulated": True, "notes": ["a note"]}
    document |= {"baseline": {**figures, "folder": "b", "seconds": 30.0}, "rows": [row, skipped], "needed": True}
    return {**document, "finished": True, "reached": False, "best": row["set"], "final": final, **known}


def test_the_page_says_what_was_tried_and_what_it_comes_to(tmp_path: Path) -> None:
    """Every row with its reason, what may be luck, the emulator, the test split and the change that won."""
    document = make_document()
    write_tune_page(tmp_path / "tune.md", document)
    text = (tmp_path / "tune.md").read_text()
    for said in ("a note", "perhaps by luck: adjust", "emulated", "adjust.enabled=true", "a \\| b", "200 validation"):
        assert said in text, said
    assert "The target is not reached: on the test split int8 loses 2.00 points, 1 were asked for" in text
    assert [row[0] for row in list_rows(document)] == ["as calibrated", "adjust", "method"]
    assert [row[0] for row in list_final(document)] == ["float", "int8 as calibrated", "int8 of the winner"]


def test_the_page_of_a_tune_without_a_winner_or_need() -> None:
    """Nothing won: the drop of the spec as it is; nothing was needed: no word of the test split's figures."""
    none = explain(make_document(best={}))
    assert any("No remedy helped beyond luck" in line for line in none)
    assert len(list_final(make_document(best={}))) == 2
    base = {"accuracy_drop": 0.5, "float_accuracy": 99.0, "test_images": 200}
    lines = explain(make_document(needed=False, rows=[], final=None, baseline=base, emulated=False))
    assert lines[-1] == "Nothing is needed: int8 loses 0.50 points of 99.00 % on the validation images, 1 were allowed."
    assert "the same command goes on" in explain(make_document(finished=False))[-1]


def test_a_record_is_gone_on_with_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    """Seconds of trials that an earlier call ended are kept, also of rows that a later call has not come to yet."""
    document = make_document(seconds={"earlier": 12.0})
    save(tmp_path, document)
    assert read_seconds(read_record(tmp_path)) == {"earlier": 12.0, "b": 30.0, "f": 90.0}
    for text in ("", "[]", "{}", '{"rows": 1, "baseline": {}}', "{" * 2000):
        (tmp_path / "tune.json").write_text(text)
        assert read_record(tmp_path) == {}


def test_another_question_is_another_tune(tmp_path: Path) -> None:
    """Target, minutes, images, toolchain and the spec's settings name a tune; its comments and place do not."""
    write_project(tmp_path / "p")
    path = tmp_path / "p/spec/squares.yaml"
    names = {Wish(**asked).name(pipeline.load(path)) for asked in ({}, {"minutes": 5.0}, {"images": 0})}  # type: ignore[arg-type]
    path.write_text("# a comment\n" + SPEC)
    names.add(Wish().name(pipeline.load(path)))
    assert len(names) == 3
    names.add(Wish().name(pipeline.load(path, Variant((Override("quantization.include_cle", "false"),)))))
    assert len(names) == 4


# Channels that reach from 2^-7 to 2^7 and are put right by the next layer: the same function, and no int8 network.
UNEVEN = NET.replace(
    "nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), ",
    "nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), ",
)
HARD = (
    SPEC.replace("weights: none", "weights: uneven.pth")
    .replace(
        "transfer: {method: fine_tuning}", "transfer: {method: feature_extraction, freeze: {layers: all_but_head}}"
    )
    .replace("epochs: 2,", "epochs: 60,")
    .replace("lr: 0.01", "lr: 0.05")
    .replace("quantization: {", "# a comment that stays\nquantization: {include_cle: false, ")
)


def write_uneven(root: Path) -> None:
    """Write a project whose network loses nearly all in int8 until it is equalised."""
    write_project(root, HARD)
    (root / "net.py").write_text(UNEVEN)
    random = np.random.default_rng(1)
    for name, level in (("dark", 40), ("light", 200)):  # eight images could not tell a gain from luck
        for number in range(4, 12):
            pixels = np.clip(random.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"images/validation/{name}/{number}.png")
    scope: dict[str, object] = {}
    exec(UNEVEN, scope)  # the network above
    torch.manual_seed(0)
    network = scope["make_net"]()  # type: ignore[operator]
    scale = 2.0 ** torch.linspace(-7, 7, 8)
    with torch.no_grad():
        network[0].weight *= scale[:, None, None, None]
        network[0].bias *= scale
        network[2].weight /= scale[None, :, None, None]
    torch.save(network.state_dict(), root / "uneven.pth")


@pytest.mark.long
def test_a_whole_tune_finds_the_remedy_and_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    """Interrupted in a trial, gone on with, ended, applied: one training, no orphan, nothing runs twice."""
    root = tmp_path / "p"
    write_uneven(root)
    words = ["tune", "spec/squares.yaml", "--minutes", "20", "--images", "0", "--target-drop", "20"]
    command = [sys.executable, "-m", "dpuforge", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while first.poll() is None and not list(root.glob("build/squares/tunes/*/tune.json")):
        time.sleep(0.2)
    time.sleep(3)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130, said
    assert subprocess.run(["pgrep", "-g", str(first.pid)], capture_output=True, check=False).returncode == 1
    second = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert (said + second.stderr).count(":train            (never run)") == 1
    (path,) = root.glob("build/squares/tunes/*/tune.json")
    document = json.loads(path.read_text())
    assert document["best"]["quantization.include_cle"] == "true"
    assert document["final"]["winner"]["split"] == "test"
    assert document["baseline"]["split"] == "validation"
    assert "include_cle=true" in (path.parent / "tune.md").read_text()
    applied = subprocess.run(
        [*command, "--apply"], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert applied.returncode == 0, applied.stderr
    assert "run  " not in applied.stderr
    text = (root / "spec/squares.yaml").read_text()
    assert "# a comment that stays" in text
    assert "include_cle: true" in text
    after = dpuforge(root, "run", "--until", "evaluate")
    assert "run  " not in after.stderr, after.stderr


@pytest.mark.long
def test_a_tune_of_a_spec_that_needs_none_says_so_at_once(tmp_path: Path) -> None:
    """Within the target from the start: one trial, the test split unseen, exit code 0; --apply writes nothing."""
    write_project(tmp_path / "p")
    done = dpuforge(tmp_path / "p", "tune", "--apply", "--images", "4", "--target-drop", "60")
    assert done.returncode == 0, done.stderr
    assert "Nothing is needed" in done.stdout
    assert "measured on 4 validation images" in done.stdout
    (page,) = (tmp_path / "p").glob("build/squares/variants/*/build/squares/report.md")
    assert "VALIDATION_SPLIT" in page.read_text()
    assert "PART_OF_SPLIT" in page.read_text()
    assert done.stderr.count(":evaluate         (never run)") == 1
    assert (tmp_path / "p/spec/squares.yaml").read_text() == SPEC
    assert "no change won" in done.stderr
