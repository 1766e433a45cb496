"""Scripts for quantisation-aware training and partial quantisation, with the drop-in pytorch_nndct on the path."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from dpuforge.emulator.export.xmodel_builder import ExportError
from dpuforge.emulator.nndct.log import QuantizerError
from dpuforge.emulator.nndct.qat import QatProcessor
from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer
from dpuforge.emulator.qat.thresholds import distribution_threshold
from dpuforge.paths import emulator_path
from dpuforge.xmodel.read import read_xmodel
from tests.conftest import REPO
from tests.emulator.recorded import small_recording
from tests.emulator.test_torch_quantizer import check_integer_exact
from tests.fidelity.training import compare_training

SCRIPT = Path(__file__).parent / "training_script.py"
CASES = REPO.parent / "shared" / "cases"


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QatProcessor writes into the working directory."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.fixture
def networks() -> Any:
    """The networks with stubs."""
    return importlib.import_module("tests.emulator.stubbed_networks")


def run_script(path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a user's script with PYTHONPATH changed alone (and this checkout's package behind it)."""
    paths = os.pathsep.join((str(emulator_path()), str(REPO / "generator")))
    settings = {**os.environ, "PYTHONPATH": paths, **environment}
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["block", "block_freeze_after_step_1", "plain", "partial_two"])
def test_a_recording_is_repeated(name: str, networks: Any) -> None:
    """Thresholds, losses, gradients, files, outputs and log lines are those of the real tool."""
    images, labels = networks.data()
    figures = compare_training(networks.DATA / name, lambda: networks.build(name), images, labels)
    assert figures.marks
    assert figures.differences == []


def test_a_script_trains_and_deploys() -> None:
    """In two processes, with the files that the real tool writes and equal outputs."""
    trained = run_script(SCRIPT, "train")
    assert trained.returncode == 0, trained.stderr
    assert "difference 0.0" in trained.stdout
    deployed = run_script(SCRIPT, "deploy")
    assert deployed.returncode == 0, deployed.stderr
    assert "difference 0.0" in deployed.stdout
    expected = ["Net.py", "Net_0_int.xmodel", "Net_int.onnx", "Net_int.pt", "deployable.pth", "quant_info.json", "test"]
    assert str(expected) in deployed.stdout


def test_a_script_that_cannot_be_trained_ends() -> None:
    """An addition without a module ends the process with a status other than 0 and the tool's code."""
    done = run_script(SCRIPT, "train", FUNCTIONAL="1")
    assert done.returncode != 0
    assert "QUANTIZER_TORCH_NOT_A_MODULE" in done.stdout
    assert "replace torch.add with <class 'pytorch_nndct.nn.modules.functional.Add'>" in done.stdout


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")
@pytest.mark.slow
def test_the_cases_run_unchanged() -> None:
    """The import lines that the real tool takes, both processes of the training script, and the partial network."""
    lines = run_script(CASES / "01-qat-script" / "imports.py").stdout.splitlines()
    assert [line.partition("->")[2].strip() for line in lines if line.startswith("FAIL")] == [
        "ModuleNotFoundError No module named 'pytorch_nndct.quantization'"
    ]
    for imported in ("apis", "top"):
        for step in ("train", "deploy"):
            done = run_script(CASES / "01-qat-script" / "qat.py", step, IMPORT=imported)
            assert done.returncode == 0, done.stderr
    done = run_script(CASES / "01-qat-script" / "qat.py", "train", METHOD="convert_to_deployable")
    assert done.returncode == 0, done.stderr
    done = run_script(CASES / "02-partial-quantisation" / "partial.py")
    assert done.returncode == 0, done.stderr
    names = {"Net::body.0.weight", "Net::body.0.bias", "Net::body.2.weight", "Net::body.2.bias"}
    assert set(json.loads(Path("quantize_result/quant_info.json").read_text())["param"]) == names


def test_training_lowers_the_error(networks: Any) -> None:
    """QAT lowers the error of a 4 bit network, and the deployable network repeats the trained one bit by bit."""
    torch.manual_seed(0)
    recording = small_recording("tiny")
    images, target = recording.images, recording.module(recording.images).detach()
    processor = QatProcessor(networks.Stubbed(recording.module), (images[:2],), bitwidth=4)
    model = processor.trainable_model().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    first = float((model(images) - target).square().mean().detach())
    for _ in range(40):
        optimiser.zero_grad()
        (model(images) - target).square().mean().backward()
        optimiser.step()
    model.eval()
    deployable = processor.to_deployable(model, "deployed")
    assert torch.equal(deployable(images), model(images))
    assert float((deployable(images) - target).square().mean()) < 0.7 * first
    check_integer_exact(deployable.graph_object, images[:1])
    again = QatProcessor(networks.Stubbed(recording.module), (images[:2],), bitwidth=4).deployable_model("deployed")
    assert torch.equal(again(images), deployable(images))


def test_arithmetic_that_differs_when_deployed_is_told(networks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A hard swish trains with torch's arithmetic and is deployed with the DPU's: a warning names it."""
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Hardswish())
    QatProcessor(networks.Stubbed(inner), torch.zeros(1, 3, 4, 4)).trainable_model()
    assert "inner.1 trains with torch's arithmetic" in capsys.readouterr().out


def test_what_is_not_emulated_says_so(networks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Other layers in training, dump_blob and pruning stop with the code NOT_EMULATED; a custom operator warns."""
    inner = nn.Sequential(nn.ConvTranspose2d(3, 3, 2), nn.ReLU())
    processor = QatProcessor(networks.Stubbed(inner), torch.zeros(1, 3, 4, 4))
    with pytest.raises(QuantizerError, match=r"inner.0 \(ConvTranspose2d\)") as refused:
        processor.trainable_model()
    assert refused.value.code == "NOT_EMULATED"
    with pytest.raises(QuantizerError, match="dump_blob"):
        processor.dump_blob(inner)
    nndct = importlib.import_module("pytorch_nndct")
    for name in ("IterativePruningRunner", "OneStepPruningRunner", "SparsePruner", "OFAPruner"):
        with pytest.raises(QuantizerError, match=f"{name}.*does not prune"):
            getattr(nndct, name)(inner, torch.zeros(1, 3, 4, 4))
    with pytest.raises(QuantizerError, match="does not prune"):
        nndct.get_pruning_runner(inner, torch.zeros(1, 3, 4, 4), "iterative")
    capsys.readouterr()
    decorate = importlib.import_module("pytorch_nndct.utils").register_custom_op("my_op")
    assert decorate(torch.relu) is torch.relu
    assert "QUANTIZER_TORCH_NOT_EMULATED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("Add", "(self, input, other, alpha=1, out=None)"),
        ("Sub", "(self, input, other, alpha, out=None)"),
        ("AddScalar", "(self, x, y)"),
        ("Cat", "(self, x, dim=0)"),
        ("Mul", "(self, x, y)"),
        ("Matmul", "(self, input, other, out=None)"),
        ("Mean", "(self, x, dim, keepdim=False, out=None)"),
        ("Softmax", "(self, input, dim=None, dtype=None)"),
        ("Clamp", "(self, input, min=None, max=None)"),
        ("Pad", "(self, input, pad, mode='constant', value=0)"),
        ("Transpose", "(self, input, dim0, dim1)"),
        ("Sqrt", "(self, input, out=None)"),
    ],
)
def test_functional_modules_are_called_like_the_tools(name: str, signature: str) -> None:
    """The arguments, their order and their defaults are the real tool's."""
    found = inspect.signature(getattr(importlib.import_module("pytorch_nndct.nn.modules.functional"), name).forward)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    assert str(inspect.Signature(plain)) == signature


def test_functional_modules_compute(networks: Any) -> None:
    """Each module gives what torch's function of its name gives."""
    functional = importlib.import_module("pytorch_nndct.nn.modules.functional")
    x, y = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert torch.equal(functional.Add()(x, y, 2), x + 2 * y)
    assert torch.equal(functional.Sub()(x, y, 3), torch.sub(x, y, alpha=3))
    assert torch.equal(functional.AddScalar()(x, 0.5), x + 0.5)
    assert torch.equal(functional.Cat()([x, y], 1), torch.cat([x, y], 1))
    assert torch.equal(functional.Clamp()(x, -0.5, 0.5), x.clamp(-0.5, 0.5))
    assert torch.equal(functional.Max()(x, 1)[1], x.max(1)[1])
    assert torch.equal(functional.Mean()(x, (2, 3), True), x.mean((2, 3), keepdim=True))
    assert torch.equal(functional.Sum()(x, 1), x.sum(1))
    assert torch.equal(functional.Matmul()(x, y), x @ y)
    assert torch.equal(functional.Pad()(x, (1, 1)), nn.functional.pad(x, (1, 1)))
    assert torch.equal(functional.Sqrt()(y), y.sqrt())
    assert torch.equal(functional.Transpose()(x, 1, 2), x.transpose(1, 2))
    assert torch.equal(functional.Interpolate()(x, scale_factor=2), nn.functional.interpolate(x, scale_factor=2))
    assert torch.equal(functional.Functional(torch.exp)(x), x.exp())


def test_a_part_is_an_xmodel_of_its_own(networks: Any) -> None:
    """Two parts give two files whose input is the QuantStub; ONNX holds the whole network, float parts included."""
    images, _ = networks.data()
    for mode in ("calib", "test"):
        quantizer = torch_quantizer(mode, networks.build("partial_two").eval(), (images[:1],), device="cpu")
        output = quantizer.quant_model(images[:1])
        quantizer.export_quant_config()
    quantizer.export_xmodel(deploy_check=True)
    quantizer.export_onnx_model()
    for number, channels in ((0, 3), (1, 8)):
        graph = read_xmodel(f"quantize_result/PartialTwo_{number}_int.xmodel")
        (entry,) = [op for op in graph.ops if op.type == "data"]
        assert (graph.name, entry.dims[-1]) == (f"PartialTwo_{number}", channels)
        assert f"QuantStub_quant{number + 1}" in entry.name
        assert sum(op.type == "conv2d" for op in graph.ops) == 1
        assert Path(f"quantize_result/deploy_check_data_int/PartialTwo_{number}/{entry.name}.bin").is_file()
    session = onnxruntime.InferenceSession("quantize_result/PartialTwo_int.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images[:1].numpy()})
    assert float((torch.from_numpy(found) - output).abs().max()) <= 2**-4  # a tie, and what follows from it


def test_a_float_value_past_the_stubs_is_refused(networks: Any) -> None:
    """A quantised part that reads a value which no QuantStub quantised has no xmodel; the error names it."""

    class Leak(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stubbed = networks.Stubbed(nn.Conv2d(3, 3, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.stubbed.dequant(self.stubbed.inner(self.stubbed.quant(x)) + x)
            return found

    image = torch.randn(1, 3, 4, 4)
    for mode in ("calib", "test"):
        quantizer = torch_quantizer(mode, Leak().eval(), (image,), device="cpu")
        quantizer.quant_model(image)
        quantizer.export_quant_config()
    with pytest.raises(ExportError, match="input_0, which is not quantised"):
        quantizer.export_xmodel()


def test_few_values_start_at_their_largest() -> None:
    """With no more bins than steps the threshold is the largest magnitude; a tail of outliers is cut off."""
    assert distribution_threshold(torch.tensor([0.5, -2.0, 1.0]), 8) == 2.0
    tail = torch.cat([torch.linspace(-1, 1, 60000), torch.full((3,), 40.0)])
    assert distribution_threshold(tail, 8) < 40.0
