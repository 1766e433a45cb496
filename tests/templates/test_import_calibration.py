"""Calibration files from elsewhere become the calibrate stage's result, or are refused with a line per mismatch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shapes_project as shapes
import torch

from dpuforge.execute.results import read_result
from dpuforge.execute.staleness import Present, explain_changes
from dpuforge.paths import emulator_path
from dpuforge.records import project as records

EMULATOR = str(emulator_path())
CALIBRATED = "build/shapes/calibrate"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project that was trained and calibrated here, its files copied to elsewhere/."""
    root = tmp_path_factory.mktemp("calibrated")
    shapes.write_stripes(root)
    (root / "nets").mkdir()
    (root / "nets/tiny.py").write_text((shapes.HERE / "tiny_network.py").read_text(), encoding="utf-8")
    shapes.write_scripts(shapes.make_project(train=shapes.make_train(epochs=3)), root)
    for step in ("prepare.py", "train.py", "quantize.py --mode calib"):
        ran = run(root, *step.split())
        assert ran.status == 0, ran.output
    shutil.copytree(root / CALIBRATED / "quantize_result", root / "elsewhere")
    return root


@pytest.fixture
def project(calibrated: Path, tmp_path: Path) -> Path:
    """Return a copy of the calibrated project."""
    return Path(shutil.copytree(calibrated, tmp_path / "project"))


def run(root: Path, *words: str) -> shapes.Ran:
    """Run a generated script on the emulator."""
    return shapes.run_script(root, *words, PYTHONPATH=EMULATOR)


def take(root: Path, *words: str) -> shapes.Ran:
    """Import the calibration in elsewhere/."""
    return run(root, "import_calibration.py", str(root / "elsewhere"), *words)


def change_info(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change elsewhere/quant_info.json."""
    path = root / "elsewhere/quant_info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def test_a_calibration_from_elsewhere_is_used_without_calibrating_again(project: Path) -> None:
    """The result says where the files came from, with digests and what they declare; evaluation goes on from them."""
    change_info(project, lambda info: info.update(version="3.5.0+abc+torch1.13.1"))
    change_info(project, lambda info: next(iter(info["output"].values()))[0].__setitem__(1, 4))
    ran = take(project, "--made-by", "the container on the big machine")
    assert ran.status == 0, ran.output
    result = shapes.read_result(project, "calibrate")
    imported = result["metrics"]["imported"]
    assert imported["folder"] == str(project / "elsewhere")
    assert set(imported["files"]) == {"quant_info.json", "bias_corr.pth"}
    assert result["toolchain"]["name"] == "unknown"
    assert result["toolchain"]["versions"] == {"declared": "3.5.0+abc+torch1.13.1"}
    assert result["toolchain"]["declared"] == "the container on the big machine"
    compared = imported["compared"]
    assert [row["found"] for row in compared["positions_different"]] == [[[8, 4]]]
    assert compared["biases"] > 0
    assert compared["biases_different"] == compared["corrections_different"] == 0
    assert (project / CALIBRATED / "made_here/quantize_result/quant_info.json").is_file()
    evaluated = run(project, "evaluate.py")
    assert "the calibration was imported" in evaluated.output
    assert shapes.read_result(project, "evaluate")["metrics"]["imported_calibration"] == imported["files"]


def test_what_the_emulator_made_stays_emulated(project: Path) -> None:
    """Files that declare an emulator are never taken for AMD's."""
    assert take(project).status == 0
    assert shapes.read_result(project, "calibrate")["toolchain"]["name"] == "emulator"


def explain_age(root: Path) -> str:
    """Return why the calibrate stage's result no longer stands."""
    result = read_result(root / CALIBRATED)
    assert result is not None
    (stage,) = (stage for stage in shapes.plan_project(shapes.make_project()).stages if stage.name == "calibrate")
    return explain_changes(stage, result, Present(root, root / "build/shapes", {}))


def drop(table: str) -> Callable[[dict[str, Any]], Any]:
    """Return a change that takes the last row of a table away."""
    return lambda info: info[table].popitem()


def move_parameters(info: dict[str, Any]) -> None:
    """Give all parameters positions of other weights."""
    for row in info["param"].values():
        row[0][1] -= 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda info: info.update(graph_md5="0" * 32), "graph_md5 is 00000000000000000000000000000000, this network's"),
        (drop("param"), "has no row"),
        (drop("output"), "has no row"),
        (lambda info: info.pop("output"), "lacks the tables"),
        (lambda info: info.update(fast_finetuned=True), "param.pth, which is not read here"),
        (lambda info: next(iter(info["param"].values()))[0].__setitem__(0, 4), "4 bits, int8_config.json asks for 8"),
        (lambda info: info["param"].update({key: ["x"] for key in info["param"]}), "is no row of"),
        (move_parameters, "calibrated with other weights"),
    ],
)
def test_files_of_another_network_are_refused(
    project: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    """Each mismatch is a line, the reason names the first, and the calibration that was there stays."""
    before = (project / CALIBRATED / "result.json").read_bytes()
    change_info(project, change)
    ran = take(project)
    assert ran.status == 3, ran.output
    assert words in ran.output
    assert "mismatch: " in ran.output
    assert shapes.read_result(project, "import_calibration")["status"] == "failed"
    assert (project / CALIBRATED / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "bias_corr.pth is missing"),
        ({}, "has no correction"),
        ([1, 2], "holds a list"),
        ("short", "has 1 values"),
        ("nan", "holds NaN"),
        (b"not a file of torch", "cannot be read"),
    ],
)
def test_biases_of_another_network_are_refused(project: Path, content: Any, words: str) -> None:
    """bias_corr.pth has to be there, to be read, and to hold as many numbers as each layer has channels."""
    path = project / "elsewhere/bias_corr.pth"
    table = torch.load(path, weights_only=True)
    path.unlink()
    if content in ("short", "nan"):
        bad = {"short": [0.0], "nan": [float("nan")]}[content]
        name = next(key for key, value in table.items() if value is not None)
        torch.save({**table, name: bad if content == "short" else bad * len(table[name])}, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    ran = take(project)
    assert ran.status == 3, ran.output
    assert words in ran.output


@pytest.mark.parametrize("text", ["", "{", "[]", '{"param": {}}'])
def test_a_damaged_file_is_one_line(project: Path, text: str) -> None:
    """A quant_info.json that is none is refused without a traceback."""
    (project / "elsewhere/quant_info.json").write_text(text)
    ran = take(project)
    assert ran.status == 3, ran.output
    assert "Traceback" not in ran.output


def test_an_imported_calibration_stands_while_its_files_and_the_weights_do(project: Path) -> None:
    """Scripts and images do not make it stale; other weights and a changed file do, and evaluation says what to do."""
    assert take(project).status == 0
    assert explain_age(project) == ""
    shapes.write_scripts(
        shapes.make_project(
            quantization=shapes.make_quantization(calibration=records.Calibration(8, 4, "train")),
        ),
        project,
    )
    assert explain_age(project) == ""
    weights = project / "build/shapes/train/model.pth"
    state = torch.load(weights, weights_only=True)
    torch.save({name: value * 1.5 for name, value in state.items()}, weights)
    assert "train/model.pth changed, which the import was made for" in explain_age(project)
    ran = run(project, "evaluate.py")
    assert ran.status == 3
    assert "calibrated with another weights: import one that fits" in ran.output
