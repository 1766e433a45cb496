"""quantize.py, evaluate.py and inspect_model.py against a stand-in quantizer that shows the real one's bad manners."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import shapes_project as shapes
import torch
from PIL import Image

from dpuforge.records import project as records

FAKE = str(shapes.HERE / "fake_nndct")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project root whose network is trained."""
    root = tmp_path_factory.mktemp("trained")
    shapes.write_stripes(root)
    (root / "nets").mkdir()
    (root / "nets/tiny.py").write_text((shapes.HERE / "tiny_network.py").read_text(), encoding="utf-8")
    settings = shapes.make_train(epochs=12, optimizer=records.Optimizer("adam", 1e-2, 0.0, 0.9))
    shapes.write_scripts(shapes.make_project(train=settings), root)
    assert shapes.run_script(root, "prepare.py").status == 0
    assert shapes.run_script(root, "train.py").status == 0
    return root


def set_up(root: Path, **quantization: Any) -> None:
    """Write the scripts anew with other quantisation settings."""
    shapes.write_scripts(shapes.make_project(quantization=shapes.make_quantization(**quantization)), root)


def quantize(root: Path, mode: str, manner: str = "") -> shapes.Ran:
    """Run one mode of quantize.py with the stand-in, which shows one bad manner."""
    return shapes.run_script(root, "quantize.py", "--mode", mode, PYTHONPATH=FAKE, FAKE_NNDCT=manner)


def evaluate(root: Path, manner: str = "") -> shapes.Ran:
    """Run evaluate.py with the stand-in."""
    return shapes.run_script(root, "evaluate.py", PYTHONPATH=FAKE, FAKE_NNDCT=manner)


def test_calibration_forwards_the_images_and_exports(trained: Path) -> None:
    """calib runs ceil(12 / 4) batches, writes quant_info.json and the context, and prints no accuracy."""
    set_up(trained)
    ran = quantize(trained, "calib")
    assert ran.status == 0, ran.output
    folder = trained / "build/shapes/calibrate"
    assert json.loads((folder / "quantize_result/quant_info.json").read_text())["forwards"] == 3
    result = shapes.read_result(trained, "calibrate")
    assert result["metrics"]["calibration_images"] == 12
    assert result["metrics"]["warnings"] == ["QUANTIZER_TORCH_SHIFT_CHECK: weight is too small"]
    assert "build/shapes/calibrate/quantize_result/quant_info.json" in result["outputs"]
    assert "generated/shapes/int8_config.json" in result["inputs"]
    assert "%" not in ran.output


def test_deploy_forwards_once_with_one_image_and_exports(trained: Path) -> None:
    """deploy copies the exports to NET_NAME_int.* and names what the installed quantizer lacks."""
    set_up(trained)
    assert quantize(trained, "calib").status == 0
    ran = quantize(trained, "deploy")
    assert ran.status == 0, ran.output
    result = shapes.read_result(trained, "deploy")
    assert result["metrics"]["exports"] == ["shapes_net_int.onnx", "shapes_net_int.xmodel"]
    assert result["metrics"]["not_exported"] == ["pt: the installed quantizer has no export_torch_script"]
    assert "not exported: pt" in ran.output
    assert (trained / "build/shapes/deploy/shapes_net_int.xmodel").read_text() == "xmodel"


def test_evaluation_measures_both_networks(trained: Path) -> None:
    """evaluate reports both accuracies with intervals, a table and every prediction."""
    set_up(trained)
    assert quantize(trained, "calib").status == 0
    ran = evaluate(trained)
    assert ran.status == 0, ran.output
    metrics = shapes.read_result(trained, "evaluate")["metrics"]
    trained_accuracy = shapes.read_result(trained, "train")["metrics"]["test_accuracy"]
    assert metrics["float_accuracy"] == metrics["int8_accuracy"] == trained_accuracy
    assert metrics["accuracy_drop"] == 0.0
    assert metrics["test_images"] == 18
    assert "diagnosis" not in metrics
    predictions = json.loads((trained / "build/shapes/evaluate/predictions.json").read_text())
    right = sum(a == b for a, b in zip(predictions["label"], predictions["int8"], strict=True))
    assert round(100.0 * right / 18, 4) == metrics["int8_accuracy"]
    assert predictions["files"][0] == "data/shapes/test/across/00.png"
    judged = json.loads((trained / "build/shapes/evaluate/pictures.json").read_text())
    assert judged["changed_images"] == 0
    assert all(row["float_map"] and row["int8_map"] is None for row in judged["maps"])
    assert not (trained / "build/shapes/evaluate/histograms.json").exists()
    assert quantize(trained, "test").status == 0
    assert shapes.read_result(trained, "test")["metrics"]["int8_accuracy"] == metrics["int8_accuracy"]


def test_a_missed_gate_fails_with_the_figures(trained: Path) -> None:
    """An int8 network that loses more than allowed fails with exit status 3, its metrics kept."""
    set_up(trained, max_accuracy_drop=1.0)
    assert quantize(trained, "calib").status == 0
    ran = evaluate(trained, "degrade")
    result = shapes.read_result(trained, "evaluate")
    assert ran.status == 3
    assert result["status"] == "failed"
    assert "max_accuracy_drop allows 1.0" in result["reason"]
    assert result["metrics"]["int8_accuracy"] == pytest.approx(100 / 3, abs=0.01)


def test_no_accuracy_stands_alone(trained: Path) -> None:
    """Beside both accuracies stand the balanced ones, intervals, that of the drop, every class and its confusions."""
    set_up(trained, max_accuracy_drop=100.0)
    assert quantize(trained, "calib").status == 0
    ran = evaluate(trained, "degrade")
    assert ran.status == 0, ran.output
    metrics = shapes.read_result(trained, "evaluate")["metrics"]
    assert metrics["int8_balanced_accuracy"] == pytest.approx(100 / 3, abs=0.01)
    assert metrics["float_top5_accuracy"] is metrics["int8_top5_accuracy"] is None
    low, high = metrics["drop_interval"]
    assert low < metrics["accuracy_drop"] < high
    assert [row["int8_recall"] for row in metrics["per_class"]] == [100.0, 0.0, 0.0]
    warnings = {warning["code"]: warning for warning in metrics["accuracy_warnings"]}
    assert set(warnings["CLASS_NEVER_RECOGNISED"]["classes"]) <= {"diagonal", "upright"}
    assert "the int8 network gives the same answer, across, for all 18 test images" in ran.output
    assert all("warning: " + warning["text"] in ran.output for warning in warnings.values())
    assert "balanced 33.33 %, top-5 not applicable below 10 classes" in ran.output
    confusion = json.loads((trained / "build/shapes/evaluate/confusion.json").read_text())
    assert sum(row["int8"] for row in confusion if row["predicted"] == "across") == 18
    result = shapes.read_result(trained, "evaluate")
    assert "build/shapes/evaluate/confusion.json" in result["outputs"]


def test_top_five_is_measured_from_ten_classes_on(root: Path) -> None:
    """With ten classes both networks have a top-5 accuracy, at least as high as top-1."""
    splits = {"train": ("train", 4), "validation": ("val", 2), "test": ("test", 2)}
    for blue, (folder, count) in enumerate(splits.values()):
        for level in range(10):
            (root / f"data/grey/{folder}/grey{level}").mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (40, 40), (25 * level + number, 25 * level, 20 * blue))
                image.save(root / f"data/grey/{folder}/grey{level}/{number}.png")
    names = {name: f"data/grey/{folder}" for name, (folder, _) in splits.items()}
    data = dataclasses.replace(shapes.make_data(()), **names)
    classes = records.Classes(10, ())
    quantization = shapes.make_quantization(max_accuracy_drop=100.0)
    shapes.write_scripts(shapes.make_project(data=data, classes=classes, quantization=quantization), root)
    for script in ("prepare.py", "train.py", "quantize.py --mode calib", "evaluate.py"):
        ran = shapes.run_script(root, *script.split(), PYTHONPATH=FAKE)
        assert ran.status == 0, ran.output
    metrics = shapes.read_result(root, "evaluate")["metrics"]
    assert 0.0 <= metrics["float_accuracy"] <= metrics["float_top5_accuracy"] <= 100.0
    assert metrics["int8_top5_accuracy"] == metrics["float_top5_accuracy"]
    assert f"top-5 {metrics['int8_top5_accuracy']:.2f} %" in ran.output


@pytest.mark.parametrize("script", ["evaluate.py", "quantize.py --mode test"])
def test_an_int8_network_that_yields_nan_is_refused(trained: Path, script: str) -> None:
    """NaN among the scores would be an answer to argmax; the network and the image are named instead."""
    set_up(trained)
    assert quantize(trained, "calib").status == 0
    ran = shapes.run_script(trained, *script.split(), PYTHONPATH=FAKE, FAKE_NNDCT="nan")
    assert ran.status == 3
    assert "the int8 network yields NaN or infinity, for " in ran.output
    assert "across/00.png first" in ran.output
    assert "Traceback" not in ran.output


def test_an_emulated_fast_finetune_says_that_it_is_not_amds(trained: Path, tmp_path: Path) -> None:
    """Its results, its log and the gate's line say so; with AMD's tool nothing of the kind is said."""
    set_up(trained, fast_finetune=records.FastFinetune(True, 8), max_accuracy_drop=100.0)
    (tmp_path / "pytorch_nndct").mkdir()
    for file in (shapes.HERE / "fake_nndct/pytorch_nndct").glob("*.py"):
        (tmp_path / "pytorch_nndct" / file.name).write_text(file.read_text() + "\n__emulator__ = True\n")
    for path, expected in ((str(tmp_path), ["fast_finetune"]), (FAKE, None)):
        for script, stage in (("quantize.py --mode calib", "calibrate"), ("evaluate.py", "evaluate")):
            ran = shapes.run_script(trained, *script.split(), PYTHONPATH=path)
            assert ran.status == 0, ran.output
            assert shapes.read_result(trained, stage)["metrics"].get("not_amd") == expected
            assert ("AMD's tool will not give this result" in ran.output) == bool(expected)
        gate = "allows 100.0 (after dpuforge's own fast_finetune, not AMD's: no promise for a board)"
        assert (gate in ran.output) == bool(expected)
    set_up(trained, fast_finetune=records.FastFinetune(True, 8), max_accuracy_drop=1.0)
    assert shapes.run_script(trained, "quantize.py", "--mode", "calib", PYTHONPATH=str(tmp_path)).status == 0
    ran = shapes.run_script(trained, "evaluate.py", PYTHONPATH=str(tmp_path), FAKE_NNDCT="degrade")
    assert ran.status == 3
    assert "no promise for a board" in shapes.read_result(trained, "evaluate")["reason"]


@pytest.mark.parametrize(
    ("mode", "manner", "words"),
    [
        ("calib", "no_calibration", "QUANTIZER_TORCH_NO_CALIBRATION: Quantization is not performed"),
        ("calib", "exit", "the quantizer ended the script with status 0"),
        ("deploy", "batchsize", "QUANTIZER_TORCH_BATCHSIZE: Batch size must be 1"),
        ("deploy", "silent_export", "export_xmodel wrote 0 files *_int.xmodel, expected one"),
        (
            "deploy",
            "not_broadcast",
            "xmodel: operands could not be broadcast together with shapes (1,32,32,8) (1,8,1,1)",
        ),
        ("deploy", "calib_result_mismatch", "QUANTIZER_TORCH_CALIB_RESULT_MISMATCH: Node name mismatch is found"),
        ("deploy", "bias_correction", "QUANTIZER_TORCH_BIAS_CORRECTION: Bias correction file in quantization result"),
        ("calib", "leaves", "the quantizer ended the script with exit status 0 and without a result"),
    ],
)
def test_silent_failures_of_the_quantizer_fail_the_stage(trained: Path, mode: str, manner: str, words: str) -> None:
    """What the quantizer only logs, or leaves with exit status 0, ends with exit status 3 and the reason."""
    set_up(trained)
    assert quantize(trained, "calib").status == 0
    ran = quantize(trained, mode, manner)
    result = shapes.read_result(trained, {"calib": "calibrate"}.get(mode, mode))
    assert ran.status == 3, ran.output
    assert result["status"] == "failed"
    assert words in result["reason"]


def test_an_abort_in_the_tools_cpp_part_leaves_a_result(trained: Path) -> None:
    """The result names the signal, a remedy and the last lines; the exports made before are there."""
    set_up(trained)
    assert quantize(trained, "calib").status == 0
    ran = quantize(trained, "deploy", "aborts")
    result = shapes.read_result(trained, "deploy")
    assert ran.status == 3, ran.output
    assert (result["status"], result["exit_code"]) == ("failed", 128 + 6)
    assert result["reason"].startswith("ended by SIGABRT: the tool's C++ part gave up on this network")
    assert "XIR_INVALID_ARG_OCCUR" in result["reason"].partition("last lines: ")[2]
    assert (trained / "build/shapes/deploy/shapes_net_int.onnx").read_text() == "onnx"


def test_what_a_killed_run_printed_is_not_taken_for_the_last_words(trained: Path) -> None:
    """Its files in the stage's folder go before the quantizer starts; a stage that ends well leaves none."""
    set_up(trained)
    folder = trained / "build/shapes/calibrate"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".printed9").write_text("words of a run that was killed\n")
    assert quantize(trained, "calib").status == 0
    assert not list(folder.glob(".printed*"))


def test_a_network_that_calibrates_and_cannot_be_tested_fails_evaluation(trained: Path) -> None:
    """The calibrate stage is done, evaluation fails with the tool's own words, whatever its exit status is."""
    set_up(trained)
    assert quantize(trained, "calib").status == 0
    for manner in ("bias_correction", "calib_result_mismatch"):
        ran = evaluate(trained, manner)
        assert ran.status == 3, ran.output
        assert f"QUANTIZER_TORCH_{manner.upper()}" in shapes.read_result(trained, "evaluate")["reason"]


def test_an_export_that_is_not_there_yet_is_named(trained: Path) -> None:
    """A quantizer that cannot write an xmodel yet exports the rest and says so."""
    set_up(trained)
    assert quantize(trained, "calib").status == 0
    ran = quantize(trained, "deploy", "not_implemented")
    assert ran.status == 0, ran.output
    assert "not exported: xmodel: this quantizer writes no xmodel yet" in ran.output
    assert not (trained / "build/shapes/deploy/shapes_net_int.xmodel").exists()


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        (
            "onnx_opset",
            "got 13 help: pass opset_version=17 or more (the spec's key is quantization.onnx_opset_version)",
        ),
        ("export_onnx", "onnx: the quantizer says QUANTIZER_TORCH_EXPORT_ONNX: onnx export failed"),
    ],
)
def test_one_export_that_fails_takes_no_other_down(trained: Path, manner: str, words: str) -> None:
    """The xmodel is written where ONNX cannot be, whether the quantizer raises or only logs; the reason is kept."""
    set_up(trained)
    assert quantize(trained, "calib").status == 0
    ran = quantize(trained, "deploy", manner)
    result = shapes.read_result(trained, "deploy")
    assert (ran.status, result["status"]) == (0, "done"), ran.output
    assert result["metrics"]["exports"] == ["shapes_net_int.xmodel"]
    assert any(words in text for text in result["metrics"]["not_exported"])


def test_a_failed_xmodel_fails_the_stage_with_the_others_written(trained: Path) -> None:
    """Without the xmodel nothing can be compiled: the stage fails, and the ONNX file is there."""
    set_up(trained)
    assert quantize(trained, "calib").status == 0
    ran = quantize(trained, "deploy", "silent_export")
    assert ran.status == 3
    assert (trained / "build/shapes/deploy/shapes_net_int.onnx").read_text() == "onnx"


@pytest.mark.parametrize("mode", ["test", "deploy"])
def test_a_change_between_the_modes_is_refused(trained: Path, mode: str) -> None:
    """test and deploy refuse a calibration made with another int8_config.json."""
    set_up(trained)
    assert quantize(trained, "calib").status == 0
    set_up(trained, int8_config={"target_device": "DPU", "include_cle": False})
    ran = quantize(trained, mode)
    assert ran.status == 3
    assert "calibrated with another int8_config: run quantize.py --mode calib again" in ran.output


def test_all_modes_carry_one_hash_of_what_they_quantised_with(trained: Path) -> None:
    """calib, test and deploy of one calibration record the same hash; other settings give another one."""
    set_up(trained)
    contexts = []
    for mode, stage in (("calib", "calibrate"), ("test", "test"), ("deploy", "deploy")):
        assert quantize(trained, mode).status == 0
        contexts.append(shapes.read_result(trained, stage)["metrics"]["quantisation_context"])
    assert len(set(contexts)) == 1
    script = trained / "generated/shapes/quantize.py"
    text = script.read_text()
    script.write_text(text.replace("SEED = ", "SEED = 1 + ", 1))
    ran = quantize(trained, "deploy")
    assert ran.status == 3
    assert "calibrated with another calibration settings and quantize.py" in ran.output
    assert quantize(trained, "calib").status == 0
    assert shapes.read_result(trained, "calibrate")["metrics"]["quantisation_context"] != contexts[0]
    script.write_text(text)


def test_modes_ask_for_calibration_first(trained: Path, tmp_path: Path) -> None:
    """deploy without calibration says which stage to run."""
    set_up(trained)
    build = tmp_path / "build"
    for name in ("prepare/data.json", "train/model.pth"):
        (build / name).parent.mkdir(parents=True)
        (build / name).write_bytes((trained / "build/shapes" / name).read_bytes())
    ran = shapes.run_script(trained, "quantize.py", "--mode", "deploy", "--build", str(build), PYTHONPATH=FAKE)
    assert ran.status == 3
    assert "calibrate/context.json does not exist: run the calibrate stage first" in ran.output


def test_fast_finetuning_runs_and_its_silent_skip_fails(trained: Path) -> None:
    """With fast_finetune enabled the quantizer adjusts the weights; a skip for lack of memory is a failure."""
    set_up(trained, fast_finetune=records.FastFinetune(True, 8))
    assert quantize(trained, "calib").status == 0
    assert quantize(trained, "deploy").status == 0
    ran = quantize(trained, "calib", "no_finetune")
    assert ran.status == 3
    assert "fast_finetune was skipped" in ran.output


def test_a_network_that_yields_nan_is_refused(trained: Path, tmp_path: Path) -> None:
    """The quantizer would leave such a network unquantised with mere warnings; calibration refuses it."""
    set_up(trained)
    weights = trained / "build/shapes/train/model.pth"
    sound = weights.read_bytes()
    state = torch.load(weights, weights_only=True)
    torch.save({**state, "fc.bias": state["fc.bias"] * float("nan")}, weights)
    ran = quantize(trained, "calib")
    weights.write_bytes(sound)
    assert ran.status == 3
    assert "yields NaN or infinity" in ran.output
    assert "train/model.pth: fc.bias holds NaN" in ran.output
    assert "Traceback" not in ran.output


RECORDED = {
    "err_bias_corr_missing": "BIAS_CORRECTION",
    "err_export_cfg_no_forward": "NO_CALIBRATION",
    "err_mismatch_model": "CALIB_RESULT_MISMATCH",
    "err_onnx_no_forward": "NO_FORWARD",
    "err_target_bad": "UNREGISTERED_TARGET",
    "err_test_without_calib": "BIAS_CORRECTION",
    "err_xmodel_batch2": "XMODEL_BATCHSIZE",
    "err_xmodel_no_forward": "NO_FORWARD",
}


def test_error_lines_of_the_real_tool_are_found(golden: Path) -> None:
    """In the recorded logs every error code is found, its text without colour codes, and none in good runs."""
    source = shapes.render_scripts(shapes.make_project())["quantizer.py"]
    line = next(line for line in source.splitlines() if line.startswith("ERROR_LINE"))
    pattern = re.compile(ast.literal_eval(line[line.index("(") + 1 : -1]))
    logs = [path for path in sorted((golden / "logs").iterdir()) if path.suffix in (".log", ".txt")]
    found = {path.stem: pattern.findall(path.read_text(encoding="utf-8", errors="replace")) for path in logs}
    codes = {name: errors[0][0].replace("QUANTIZER_TORCH_", "") for name, errors in found.items() if errors}
    assert codes == RECORDED
    assert found["err_xmodel_batch2"][0][1] == "Batch size must be 1 when exporting xmodel."


def test_a_missing_quantizer_is_named(trained: Path) -> None:
    """Without pytorch_nndct the script says where it is to be had and ends with exit status 4."""
    set_up(trained)
    ran = shapes.run_script(trained, "quantize.py", "--mode", "calib")
    assert ran.status == 4
    assert "pytorch_nndct is not installed" in ran.output
    assert "Traceback" not in ran.output


def test_inspection_is_skipped_where_the_tool_has_no_inspector(trained: Path) -> None:
    """A quantizer without Inspector gives a skipped stage with the reason, and exit status 0."""
    set_up(trained)
    ran = shapes.run_script(trained, "inspect_model.py", PYTHONPATH=FAKE)
    result = shapes.read_result(trained, "inspect")
    assert ran.status == 0, ran.output
    assert result["status"] == "skipped"
    assert "no Inspector" in result["reason"]


def test_an_emulator_is_never_taken_for_the_real_tool(trained: Path, tmp_path: Path) -> None:
    """A quantizer that marks itself as an emulator is recorded as one, whatever the environment says."""
    set_up(trained)
    package = tmp_path / "pytorch_nndct"
    package.mkdir()
    for file in (shapes.HERE / "fake_nndct/pytorch_nndct").glob("*.py"):
        (package / file.name).write_text(file.read_text() + "\n__emulator__ = True\n")
    options = {"PYTHONPATH": str(tmp_path), "DPUFORGE_TOOLCHAIN": "native"}
    assert shapes.run_script(trained, "quantize.py", "--mode", "calib", **options).status == 0
    assert shapes.read_result(trained, "calibrate")["toolchain"]["name"] == "emulator"
    assert quantize(trained, "calib").status == 0
    assert shapes.read_result(trained, "calibrate")["toolchain"]["name"] == "native"
