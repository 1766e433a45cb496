"""The whole chain of generated scripts on dpuforge's emulator, for one small network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import shapes_project as shapes
from test_board_files import write as write_board_files

from dpuforge.paths import emulator_path
from dpuforge.records import project as records


def test_every_script_runs_on_the_emulator(root: Path) -> None:
    """Calibration, evaluation and deployment end well, marked as emulated, with an xmodel and a small int8 loss."""
    if not (emulator_path() / "pytorch_nndct" / "apis.py").is_file():
        pytest.skip("this checkout has no emulator")
    settings = shapes.make_train(epochs=25, optimizer=records.Optimizer("adam", 1e-2, 0.0, 0.9), early_stopping=None)
    shapes.write_stripes(root, {"train": 16, "val": 6, "test": 20})
    quantization = shapes.make_quantization(max_accuracy_drop=15.0)
    project = shapes.make_project(train=settings, quantization=quantization)
    shapes.write_scripts(project, root)
    steps = ("prepare.py", "train.py", "quantize.py --mode calib", "evaluate.py", "quantize.py --mode deploy")
    for step in steps:
        name, *arguments = step.split()
        ran = shapes.run_script(root, name, *arguments, PYTHONPATH=str(emulator_path()))
        assert ran.status == 0, ran.output
    evaluated, deployed = shapes.read_result(root, "evaluate"), shapes.read_result(root, "deploy")
    assert evaluated["toolchain"]["name"] == deployed["toolchain"]["name"] == "emulator"
    assert evaluated["metrics"]["float_accuracy"] > 85.0
    assert evaluated["metrics"]["agreement"] > 85.0
    assert evaluated["metrics"]["diagnosis"]["images"] > 0
    assert all({"spec", "helps", "text"} <= set(row) for row in evaluated["metrics"]["diagnosis"]["tried"])
    assert {row["kind"] for row in evaluated["metrics"]["diagnosis"]["layers"]} >= {"conv2d", "dense"}
    assert "shapes_net_int.xmodel" in deployed["metrics"]["exports"]
    info = json.loads((root / "build/shapes/calibrate/quantize_result/quant_info.json").read_text())
    assert set(info) >= {"param", "output", "input"}
    assert predict_on_board(root, project) == predictions_of_evaluation(root)
    check_pictures(root)


def check_pictures(root: Path) -> None:
    """What the report shows beside the figures: what the network sees, histograms of each layer, class maps."""
    seen = json.loads((root / "build/shapes/prepare/pictures.json").read_text())
    assert {row["class"] for row in seen["seen"]} == {"across", "diagonal", "upright"}
    assert sum(count for _, _, count in seen["sizes"]) == 3 * (16 + 6 + 20)
    judged = json.loads((root / "build/shapes/evaluate/pictures.json").read_text())
    predictions = json.loads((root / "build/shapes/evaluate/predictions.json").read_text())
    pairs = list(zip(predictions["label"], predictions["float"], predictions["int8"], strict=True))
    assert judged["changed_images"] == sum(exact != rounded for _, exact, rounded in pairs)
    assert judged["wrong_images"] == sum(label != rounded for label, _, rounded in pairs)
    confidences = [row["int8_confidence"] for row in judged["wrong"]]
    assert confidences == sorted(confidences, reverse=True)
    assert len(judged["maps"]) == 6
    for row in judged["maps"]:
        assert len(row["float_map"]) == len(row["int8_map"]) > 1
        assert all(0.0 <= value <= 1.0 for line in (*row["float_map"], *row["int8_map"]) for value in line)
    layers = json.loads((root / "build/shapes/evaluate/histograms.json").read_text())
    assert {layer["kind"] for layer in layers} >= {"conv2d", "dense"}
    assert all(sum(layer["weights"]["counts"]) for layer in layers if "weights" in layer)


def predict_on_board(root: Path, project: records.Project) -> dict[str, int]:
    """Return {file: class index} that the board's app.py gives for the test images, on the emulated runtime."""
    write_board_files(project, root / "generated/shapes")
    xmodel = root / "build/shapes/deploy/shapes_net_int.xmodel"
    arguments = ("--json", "--top", "1", "--xmodel", str(xmodel), str(root / "data/shapes/test"))
    ran = shapes.run_script(root, "app.py", *arguments, PYTHONPATH=str(emulator_path()))
    assert ran.status == 0, ran.output
    report = json.loads(ran.output[ran.output.index("{\n") :])
    assert report["emulated"] is True
    return {str(Path(image["name"]).relative_to(root)): image["top"][0]["index"] for image in report["images"]}


def predictions_of_evaluation(root: Path) -> dict[str, int]:
    """Return {file: class index} that evaluate.py recorded for the int8 network."""
    predictions = json.loads((root / "build/shapes/evaluate/predictions.json").read_text())
    return dict(zip(predictions["files"], predictions["int8"], strict=True))
