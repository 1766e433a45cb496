"""The stage of quantisation-aware training: networks rewritten for AMD's trainer, a kill, what is deployed."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shapes_project as shapes
import torch
import torchvision
from torch import nn

from dpuforge.paths import emulator_path
from dpuforge.records import project as records
from tests.emulator import diagnosis_networks

EMULATOR = str(emulator_path())
QAT = records.Qat(True, epochs=3, lr=1e-3, threshold_lr=1e-2, batch_size=8, freeze_epochs=1)


def run(root: Path, *words: str) -> shapes.Ran:
    """Run a generated script on the emulator."""
    return shapes.run_script(root, *words, PYTHONPATH=EMULATOR)


def write(root: Path, **changes: Any) -> None:
    """Write the scripts of a project that is quantised by training."""
    quantization = shapes.make_quantization(qat=QAT)
    shapes.write_scripts(shapes.make_project(train=shapes.make_train(), quantization=quantization, **changes), root)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project whose float network was trained."""
    root = tmp_path_factory.mktemp("trained")
    shapes.write_stripes(root)
    (root / "nets").mkdir()
    (root / "nets/tiny.py").write_text((shapes.HERE / "tiny_network.py").read_text(), encoding="utf-8")
    write(root)
    for step in ("prepare.py", "train.py"):
        ran = run(root, step)
        assert ran.status == 0, ran.output
    return root


@pytest.fixture(scope="module")
def quantised(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of it that QAT trained to the end."""
    root = Path(shutil.copytree(trained, tmp_path_factory.mktemp("quantised") / "project"))
    ran = run(root, "qat.py")
    assert ran.status == 0, ran.output
    return root


@pytest.fixture(scope="module")
def quantizable(trained: Path) -> Any:
    """Return the generated module that rewrites networks, with the emulator in the place of AMD's tool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EMULATOR)
        patch.syspath_prepend(str(trained / "generated/shapes"))
        yield importlib.import_module("quantizable")


def load(root: Path, name: str) -> dict[str, torch.Tensor]:
    """Return a state_dict that a stage left."""
    state: dict[str, torch.Tensor] = torch.load(root / "build/shapes" / name, weights_only=True)
    return state


def test_what_is_deployed_loads_in_the_plain_network(trained: Path, quantised: Path) -> None:
    """model.pth has the trained network's names, shapes and types, and is what QatProcessor deploys."""
    mine, before = load(quantised, "qat/model.pth"), load(trained, "train/model.pth")
    assert list(mine) == list(before)
    assert all(mine[name].shape == before[name].shape and mine[name].dtype == before[name].dtype for name in mine)
    deployable = load(quantised, "qat/quantize_result/deployable.pth")
    assert all(torch.equal(mine[name], deployable[name]) for name in mine)
    assert any(not torch.equal(mine[name], before[name]) for name in mine)
    assert all(torch.equal(value, load(quantised, "train/model.pth")[name]) for name, value in before.items())
    result = shapes.read_result(quantised, "qat")
    assert result["toolchain"]["name"] == "emulator"
    metrics = result["metrics"]
    assert metrics["deployed_differs_by"] == 0.0
    assert len(metrics["history"]) == metrics["epochs"] == 3
    assert metrics["val_accuracy"] == max(row["val_accuracy"] for row in metrics["history"])


def test_a_killed_training_ends_with_the_same_weights(trained: Path, quantised: Path, tmp_path: Path) -> None:
    """Killed after its first epoch, it goes on there, and every file equals that of the run without a kill."""
    root = Path(shutil.copytree(trained, tmp_path / "project"))
    running = shapes.start_script(root, "qat.py", PYTHONPATH=EMULATOR)
    running.wait_for("qat epoch 1/3: loss")
    os.kill(running.pid, signal.SIGKILL)
    running.finish()
    assert not (root / "build/shapes/qat/result.json").exists()
    ran = run(root, "qat.py")
    assert ran.status == 0, ran.output
    assert "model.last.pth: going on after epoch" in ran.output
    for name in ("qat/model.pth", "qat/model.best.pth"):
        other = load(quantised, name)
        assert all(torch.equal(value, other[key]) for key, value in load(root, name).items()), name
    info = "build/shapes/qat/quantize_result/quant_info.json"
    assert (root / info).read_bytes() == (quantised / info).read_bytes()


def test_evaluation_and_export_take_what_was_trained(quantised: Path) -> None:
    """No calibration is needed: the same quantised network is measured and exported, and other weights are refused."""
    for words in (("evaluate.py",), ("quantize.py", "--mode", "test"), ("quantize.py", "--mode", "deploy")):
        ran = run(quantised, *words)
        assert ran.status == 0, ran.output
    results = {name: shapes.read_result(quantised, name) for name in ("qat", "evaluate", "deploy", "test")}
    assert len({result["metrics"]["quantisation_context"] for result in results.values()}) == 1
    assert "shapes_net_int.xmodel" in results["deploy"]["metrics"]["exports"]
    assert results["deploy"]["metrics"]["not_exported"] == []
    assert results["evaluate"]["metrics"]["int8_accuracy"] == results["test"]["metrics"]["int8_accuracy"]
    assert not (quantised / "build/shapes/calibrate").exists()
    path = quantised / "build/shapes/qat/model.pth"
    kept = path.read_bytes()
    torch.save({name: value * 2 for name, value in load(quantised, "qat/model.pth").items()}, path)
    ran = run(quantised, "evaluate.py")
    path.write_bytes(kept)
    assert ran.status == 3
    assert "qat trained with another weights: run qat.py again" in ran.output


def test_it_stands_in_the_place_of_calibration() -> None:
    """With the stage no calibration and no import of one is planned; without it nothing of it is there."""
    made = shapes.plan_project(shapes.make_project(quantization=shapes.make_quantization(qat=QAT)))
    names = [stage.name for stage in made.stages]
    assert names == ["prepare", "train", "inspect", "qat", "evaluate", "deploy", "preflight", "compile"]
    assert {stage.name for stage in made.stages if "qat" in stage.needs} == {"evaluate", "deploy", "preflight"}
    rewriting = {stage.name for stage in made.stages if "quantizable.py" in stage.scripts}
    assert rewriting == {"qat", "evaluate", "deploy"}
    assert "import_calibration.py" not in {file.path for file in made.files}
    plain = shapes.plan_project(shapes.make_project())
    assert not {"qat.py", "quantizable.py"} & {file.path for file in plain.files}
    assert not any("qat" in (stage.name, *stage.needs) for stage in plain.stages)


def build_torchvision(name: str) -> nn.Module:
    """Return a torchvision network for ten classes."""
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    network: nn.Module = getattr(torchvision.models, name)(num_classes=10, **options)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "googlenet"])
def test_networks_of_torchvision_can_be_trained(
    quantizable: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rewritten, a network has its names and values, bit for bit, and QatProcessor refuses nothing of it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network, images = build_torchvision(name), torch.randn(2, 3, 32, 32)
    made, reused = quantizable.make_quantizable(network, images)
    assert not reused
    assert type(made).__name__ == type(network).__name__
    assert list(made.state_dict()) == list(network.state_dict())
    assert torch.equal(made(images), network.eval()(images))
    assert network.training is False
    processor = importlib.import_module("pytorch_nndct").QatProcessor(made, images)
    processor.trainable_model()
    assert "REUSED" not in capsys.readouterr().out


class Calling(nn.Module):
    """A network whose forward is given."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)
        self.how = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.how(self, x)


def scaled(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Sizes as numbers, a number added, a mean, a clamp, methods."""
    x = self.act(self.norm(self.conv(x)))
    y = nn.functional.avg_pool2d(x, x.size(2) // 2) + 1
    y = nn.functional.interpolate(y, size=x.shape[-2:], mode="nearest")
    return (x * y).add(x).clamp(0, 6).mean((2, 3)).view(x.size(0), -1)


def twice(self: Any, x: torch.Tensor) -> torch.Tensor:
    """One activation for two places, in place."""
    return self.act(self.act(self.conv(x)) - x).flatten(1)


def checked(self: Any, x: torch.Tensor) -> torch.Tensor:
    """A check of shapes, dropout as a function, stochastic depth."""
    torch._assert(x.dim() == 4, "images are wanted")
    x = torchvision.ops.stochastic_depth(self.conv(x), 0.5, "row", self.training) + x
    return nn.functional.dropout(x, 0.3, self.training).flatten(1)


@pytest.mark.parametrize(("forward", "shared"), [(scaled, 1), (twice, 0), (checked, 0)])
def test_functions_become_modules(
    quantizable: Any, forward: Any, shared: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rewritten network computes the same, and the trainer takes it; a number that is added is named."""
    monkeypatch.chdir(tmp_path)
    network, images = Calling(forward).eval(), torch.randn(2, 3, 8, 8)
    made, reused = quantizable.make_quantizable(network, images)
    assert len(reused) == shared
    assert torch.allclose(made(images), network(images), atol=1e-6)
    processor = importlib.import_module("pytorch_nndct").QatProcessor(made, images)
    processor.trainable_model(allow_reused_module=bool(reused))


def test_dropout_called_as_a_function_drops_in_training(quantizable: Any) -> None:
    """The network is followed in evaluation; what drops values there in training still does."""
    made, _ = quantizable.make_quantizable(Calling(checked), torch.randn(2, 3, 8, 8))
    made.train()
    assert (made(torch.ones(1, 3, 8, 8)) == 0).any()


@pytest.mark.parametrize("name", ["Mobile", "Chain", "Branches"])
def test_small_networks_are_the_same_function(quantizable: Any, name: str) -> None:
    """Rewriting changes no value of the networks that the diagnosis is tested with."""
    network = diagnosis_networks.enliven(getattr(diagnosis_networks, name)()).eval()
    images = diagnosis_networks.images(4)
    made, _ = quantizable.make_quantizable(network, images)
    assert torch.equal(made(images), network(images))


def test_a_module_with_weights_that_runs_twice_is_named(quantizable: Any) -> None:
    """Its runs share one set of thresholds; the stage says so."""
    images = torch.randn(2, 3, 8, 8)
    _, reused = quantizable.make_quantizable(Calling(lambda self, x: self.conv(self.conv(x)).flatten(1)), images)
    assert reused == ["conv"]


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda self, x: self.conv(x).flatten(1) if x.sum() > 0 else x.flatten(1), "torch.fx can follow"),
        (
            lambda self, x: nn.functional.conv2d(x, self.conv.weight).flatten(1),
            "conv2d with weights of its own",
        ),
    ],
)
def test_what_cannot_be_rewritten_is_refused(quantizable: Any, forward: Any, reason: str) -> None:
    """A forward that looks at values, and layers that are no modules, are named with what else there is."""
    with pytest.raises(importlib.import_module("results").Failure, match=reason):
        quantizable.make_quantizable(Calling(forward), torch.randn(2, 3, 8, 8))


def test_one_of_several_outputs_can_be_followed(quantizable: Any) -> None:
    """A network that returns a mapping is trained on the output that model.output names."""
    network, images = Calling(lambda self, x: {"wide": x, "scores": [self.conv(x).flatten(1)]}), torch.randn(2, 3, 8, 8)
    importlib.import_module("model").choose_output(network, "scores.0")
    made, _ = quantizable.make_quantizable(network, images)
    assert torch.equal(made(images), network.eval()(images))
