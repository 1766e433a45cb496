"""The stage that adjusts the float weights: an ordinary state_dict that plain calibration takes, and nothing else."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import shapes_project as shapes
import torch

from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer
from dpuforge.paths import emulator_path
from dpuforge.records import project as records
from tests.emulator import diagnosis_networks as networks

EMULATOR = str(emulator_path())
ADJUST = records.Adjust(True, 36, 6, 4, 1e-4)


def run(root: Path, *words: str) -> shapes.Ran:
    """Run a generated script on the emulator."""
    return shapes.run_script(root, *words, PYTHONPATH=EMULATOR)


def write(root: Path, adjust: records.Adjust = ADJUST, **quantization: Any) -> None:
    """Write the scripts of a project with the stage."""
    settings = shapes.make_quantization(adjust=adjust, **quantization)
    shapes.write_scripts(shapes.make_project(train=shapes.make_train(epochs=3), quantization=settings), root)


@pytest.fixture(scope="module")
def adjusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project that was trained and adjusted."""
    root = tmp_path_factory.mktemp("adjusted")
    shapes.write_stripes(root)
    (root / "nets").mkdir()
    (root / "nets/tiny.py").write_text((shapes.HERE / "tiny_network.py").read_text(), encoding="utf-8")
    write(root)
    for step in ("prepare.py", "train.py", "adjust.py"):
        ran = run(root, step)
        assert ran.status == 0, ran.output
    return root


def load(root: Path, stage: str) -> dict[str, torch.Tensor]:
    """Return the weights that a stage left."""
    state: dict[str, torch.Tensor] = torch.load(root / f"build/shapes/{stage}/model.pth", weights_only=True)
    return state


def test_the_weights_are_an_ordinary_state_dict_of_their_own(adjusted: Path) -> None:
    """Names, shapes and types are those of the trained weights, which stay; agreement is on record."""
    mine, trained = load(adjusted, "adjust"), load(adjusted, "train")
    assert list(mine) == list(trained)
    assert all(mine[name].shape == trained[name].shape and mine[name].dtype == trained[name].dtype for name in mine)
    result = shapes.read_result(adjusted, "adjust")
    assert set(result["outputs"]) == {"build/shapes/adjust/model.pth"}
    assert "build/shapes/train/model.pth" in result["inputs"]
    metrics = result["metrics"]
    assert metrics["adjusted"] == (metrics["agreement_after"] > metrics["agreement_before"])
    assert any(not torch.equal(mine[name], trained[name]) for name in mine) == metrics["adjusted"]
    again = run(adjusted, "adjust.py")
    assert again.status == 0, again.output
    assert all(torch.equal(mine[name], value) for name, value in load(adjusted, "adjust").items())


def test_a_state_dict_is_all_that_the_container_needs(adjusted: Path, tmp_path: Path) -> None:
    """Plain calibration of a fresh network with these weights is the calibrate stage's, file for file."""
    assert run(adjusted, "quantize.py", "--mode", "calib").status == 0
    build = adjusted / "build/shapes"
    result = shapes.read_result(adjusted, "calibrate")
    assert "build/shapes/adjust/model.pth" in result["inputs"]
    script = (
        "import sys, torch, quantize, model; from types import SimpleNamespace as N; from pathlib import Path as P;"
        "from torch.utils.data import DataLoader; from pytorch_nndct.apis import torch_quantizer;"
        "a = N(root=P(sys.argv[1]), build=P(sys.argv[2]), device='cpu'); torch.set_num_threads(1);"
        "net = model.build_model(a.root, weights=None, kind='none').eval();"
        "net.load_state_dict(torch.load(str(a.build / 'adjust/model.pth')));"
        "data = [b for b, _ in DataLoader(quantize.choose_images(a, 12), batch_size=4)];"
        "q = torch_quantizer('calib', net, (data[0],), output_dir=sys.argv[3], device='cpu',"
        " quant_config_file=str(quantize.CONFIG));"
        "[q.quant_model(b) for b in data]; q.export_quant_config()"
    )
    (adjusted / "generated/shapes/by_hand.py").write_text(script.replace("; ", "\n").replace(";", "\n"))
    ran = run(adjusted, "by_hand.py", str(adjusted), str(build), str(tmp_path))
    assert ran.status == 0, ran.output
    mine = json.loads((build / "calibrate/quantize_result/quant_info.json").read_text())
    assert json.loads((tmp_path / "quant_info.json").read_text()) == mine


def test_evaluation_measures_the_trained_network_in_float(adjusted: Path) -> None:
    """float is the trained network, int8 the adjusted one; a change of the weights asks for calibration again."""
    assert run(adjusted, "quantize.py", "--mode", "calib").status == 0
    ran = run(adjusted, "evaluate.py")
    assert ran.status == 0, ran.output
    inputs = shapes.read_result(adjusted, "evaluate")["inputs"]
    assert {"build/shapes/train/model.pth", "build/shapes/adjust/model.pth"} <= set(inputs)
    path = adjusted / "build/shapes/adjust/model.pth"
    kept = path.read_bytes()
    torch.save({name: value * 1.01 for name, value in load(adjusted, "adjust").items()}, path)
    ran = run(adjusted, "evaluate.py")
    path.write_bytes(kept)
    assert ran.status == 3
    assert "calibrated with another weights" in ran.output


def test_without_the_stage_nothing_of_it_is_there() -> None:
    """Off by default: no script, no stage, and nothing needs it; with it every later stage does."""
    plain = shapes.plan_project(shapes.make_project())
    assert not any("adjust" in (file.path, *stage.needs) for file in plain.files for stage in plain.stages)
    assert not any(file.path in ("adjust.py", "fake_quantize.py") for file in plain.files)
    stages = shapes.plan_project(shapes.make_project(quantization=shapes.make_quantization(adjust=ADJUST))).stages
    assert [stage.name for stage in stages][:5] == ["prepare", "train", "inspect", "adjust", "calibrate"]
    needing = {stage.name for stage in stages if "adjust" in stage.needs}
    assert needing == {"calibrate", "evaluate", "deploy", "preflight"}


def test_another_target_is_refused(adjusted: Path) -> None:
    """The imitation is that of a DPU."""
    write(adjusted, int8_config={"target_device": "CPU"})
    ran = run(adjusted, "adjust.py")
    write(adjusted)
    assert ran.status == 2
    assert "quantization.target_device has to be DPU" in ran.output


@pytest.mark.parametrize("name", ["Mobile", "Chain", "Branches"])
def test_the_imitation_finds_the_emulators_positions(
    adjusted: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions of weights are those of plain calibration: folded and equalised alike."""
    monkeypatch.syspath_prepend(str(adjusted / "generated/shapes"))
    fake_quantize = importlib.import_module("fake_quantize")
    module = networks.enliven(getattr(networks, name)()).eval()
    images = networks.images(8)
    quantizer = torch_quantizer("calib", module, (images,), output_dir=str(tmp_path), device="cpu")
    quantizer.quant_model(images)
    quantizer.export_quant_config()
    rows = json.loads((tmp_path / "quant_info.json").read_text())["param"]
    network = fake_quantize.Network(module, images, True, True)
    network.calibrate([images])
    names = {id(parameter): key for key, parameter in module.named_parameters()}
    for layer in network.layers.values():
        key = f"{name}::{names[id(layer.weight)]}"
        assert rows[key] == [[8, layer.fix_weight]], key
