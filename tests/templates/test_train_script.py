"""train.py: what learns and what stays frozen, the three methods, and runs that are killed."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import shapes_project as shapes
import torch

from dpuforge.records import project as records

METHOD = records.Method


def train(root: Path, **changes: Any) -> shapes.Ran:
    """Prepare and train the small project; keyword arguments replace sections of its spec."""
    shapes.write_scripts(shapes.make_project(**changes), root)
    assert shapes.run_script(root, "prepare.py").status == 0
    return shapes.run_script(root, "train.py")


def read_weights(root: Path, name: str = "model.pth") -> dict[str, torch.Tensor]:
    """Return the state_dict that a training left."""
    weights: dict[str, torch.Tensor] = torch.load(root / "build/shapes/train" / name, weights_only=True)
    return weights


def write_pretrained(root: Path) -> dict[str, torch.Tensor]:
    """Write weights/tiny.pth, a file with a head for 1000 classes, and return it."""
    scope: dict[str, Any] = {}
    exec((root / "nets/tiny.py").read_text(), scope)
    torch.manual_seed(11)
    network = scope["make"]()
    network.train()(torch.randn(8, 3, 32, 32))
    state: dict[str, torch.Tensor] = network.state_dict()
    (root / "weights").mkdir()
    torch.save(state, root / "weights/tiny.pth")
    return state


PRETRAINED = records.Model("nets/tiny.py:make", "weights/tiny.pth", records.InputSize(32, 32))


def test_training_learns_and_leaves_a_card(root: Path) -> None:
    """Fine tuning tells the stripes apart and leaves weights, a card and measured accuracies."""
    ran = train(root, train=shapes.make_train(epochs=12, optimizer=records.Optimizer("adam", 1e-2, 0.0, 0.9)))
    assert ran.status == 0, ran.output
    result = shapes.read_result(root, "train")
    card = json.loads((root / "build/shapes/train/model.json").read_text())
    assert result["metrics"]["test_accuracy"] > 60.0
    assert card["classes"] == ["across", "diagonal", "upright"]
    assert card["preprocess"]["mean"] == [123.675, 116.28, 103.53]
    assert card["sha256"] == result["outputs"]["build/shapes/train/model.pth"]
    assert read_weights(root)["fc.weight"].shape == (3, 16)
    assert sorted(path.name for path in (root / "build/shapes/train").iterdir()) == [
        "model.json",
        "model.pth",
        "result.json",
    ]


def test_frozen_layers_and_batch_norm_stay_as_they_were(root: Path) -> None:
    """Feature extraction changes the head alone: no weight and no batch-norm statistic of the backbone moves."""
    before = write_pretrained(root)
    transfer = shapes.make_transfer(METHOD.FEATURE_EXTRACTION, records.FrozenLayers("all_but_head"), "frozen")
    ran = train(root, model=PRETRAINED, transfer=transfer)
    assert ran.status == 0, ran.output
    assert "of which 51 learn" in ran.output
    after = read_weights(root)
    moved = {name for name in after if name not in before or not torch.equal(after[name], before[name])}
    assert moved == {"fc.weight", "fc.bias"}


def test_batch_norm_can_be_frozen_alone(root: Path) -> None:
    """With layers: none and batchnorm: frozen every convolution learns and no batch-norm value moves."""
    before = write_pretrained(root)
    assert train(root, model=PRETRAINED, transfer=shapes.make_transfer(batchnorm="frozen")).status == 0
    after = read_weights(root)
    moved = {name for name in after if not name.startswith("fc.") and not torch.equal(after[name], before[name])}
    assert moved == {"stem.0.weight", "stem.0.bias", "body.0.weight", "body.0.bias"}


@pytest.mark.parametrize(
    "layers", [records.FrozenLayers("until", until="stem"), records.FrozenLayers("match", match=("ste*",))]
)
def test_layers_are_frozen_by_place_or_by_pattern(root: Path, layers: records.FrozenLayers) -> None:
    """until freezes up to and including a module, match what its patterns name; the rest learns."""
    before = write_pretrained(root)
    assert train(root, model=PRETRAINED, transfer=shapes.make_transfer(layers=layers, batchnorm="frozen")).status == 0
    after = read_weights(root)
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("stem."))
    assert not torch.equal(after["body.0.weight"], before["body.0.weight"])


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (records.FrozenLayers("until", until="layer9"), "no module layer9"),
        (records.FrozenLayers("match", match=("stem", "nothing*")), "no module matches nothing*"),
        (records.FrozenLayers("match", match=("*",)), "leaves nothing to train"),
    ],
)
def test_freezing_that_cannot_be_is_refused(root: Path, layers: records.FrozenLayers, words: str) -> None:
    """A freeze rule that names nothing, or leaves nothing to learn, fails with the reason."""
    ran = train(root, transfer=shapes.make_transfer(layers=layers, batchnorm="frozen"))
    assert ran.status == 3
    assert words in shapes.read_result(root, "train")["reason"]


def test_distillation_uses_the_teacher(root: Path) -> None:
    """A teacher from a file guides the student: the result differs from training without its opinion."""
    assert train(root, train=shapes.make_train(epochs=4)).status == 0
    (root / "weights").mkdir()
    (root / "build/shapes/train/model.pth").rename(root / "weights/teacher.pth")
    weights = []
    for alpha in (0.0, 0.9):
        teacher = records.Teacher("nets/tiny.py:make", "weights/teacher.pth", 4.0, alpha)
        ran = train(root, transfer=shapes.make_transfer(METHOD.DISTILLATION, teacher=teacher))
        assert ran.status == 0, ran.output
        weights.append(read_weights(root)["fc.weight"])
    assert not torch.equal(*weights)


def test_teacher_without_a_head_for_the_classes_learns_it_first(root: Path) -> None:
    """A teacher without weights of its own is trained first, and its accuracy is printed."""
    teacher = records.Teacher("nets/tiny.py:make", "none", 4.0, 0.5)
    ran = train(root, transfer=shapes.make_transfer(METHOD.DISTILLATION, teacher=teacher))
    assert ran.status == 0, ran.output
    assert "teacher epoch 2/2" in ran.output
    assert "teacher: validation" in ran.output


def break_network(root: Path, when: str, what: str) -> None:
    """Make the small network do what once its count of training passes says when."""
    path = root / "nets/tiny.py"
    text = path.read_text(encoding="utf-8").replace("from torch import nn", "import torch\nfrom torch import nn")
    text = text.replace("        super().__init__()\n", "        super().__init__()\n        self.passes = 0\n")
    text = text.replace(
        "        return self.fc(",
        f"        self.passes += self.training\n        if {when}:\n            {what}\n        return self.fc(",
    )
    path.write_text(text, encoding="utf-8")


def test_a_rate_too_high_stops_at_once(root: Path) -> None:
    """The first NaN or infinity ends training with the batch, the epoch and the rate, and no weights are left."""
    ran = train(root, train=shapes.make_train(epochs=3, optimizer=records.Optimizer("sgd", 1e30, 0.0, 0.0)))
    assert ran.status == 3
    reason = shapes.read_result(root, "train")["reason"]
    assert re.search(r"in batch \d+ of \d+ of epoch 1, at learning rate 1e\+30: training stopped", reason)
    assert "no epoch had ended well" in reason
    assert "Traceback" not in ran.output
    assert not list((root / "build/shapes/train").glob("*.pth"))


def test_nan_in_a_later_epoch_keeps_the_last_good_one(root: Path) -> None:
    """The weights of the best whole epoch stay, and a second run goes on after the last whole epoch."""
    batches = 5  # of 8 images in 36
    break_network(root, f"self.training and self.passes > {2 * batches + 1}", "x = x * float('nan')")
    settings = shapes.make_train(epochs=6, early_stopping=None)
    assert settings.batch_size == 8
    ran = train(root, train=settings)
    assert ran.status == 3
    reason = shapes.read_result(root, "train")["reason"]
    assert "the loss holds NaN" in reason
    assert "in batch 2 of 5 of epoch 3, at learning rate " in reason
    assert re.search(r"epoch [12], validation \d+\.\d\d %, is kept in train/model\.best\.pth", reason)
    assert all(bool(torch.isfinite(value).all()) for value in read_weights(root, "model.best.pth").values())
    assert "going on after epoch 2" in shapes.run_script(root, "train.py").output


@pytest.mark.parametrize(
    ("when", "what", "words"),
    [
        ("self.training", "x = x + torch.sqrt(self.stem[0].weight.sum() * 0.0)", "the gradient of stem.0.weight holds"),
        ("self.passes == 3", "self.stem[1].running_var.fill_(float('inf'))", "stem.1.running_var holds infinity after"),
        ("not self.training", "x = x * float('nan')", "a score holds NaN in evaluation"),
        ("self.training", "x = x + float('inf')", "holds NaN in batch 1 of 5"),
    ],
)
def test_nan_is_found_wherever_it_first_shows(root: Path, when: str, what: str, words: str) -> None:
    """A gradient with a finite loss, batch-norm statistics, the evaluation alone: each is named and stops training."""
    break_network(root, when, what)
    ran = train(root, train=shapes.make_train(epochs=2))
    assert ran.status == 3, ran.output
    assert words in shapes.read_result(root, "train")["reason"]
    assert not (root / "build/shapes/train/model.pth").exists()


def test_start_weights_with_nan_are_refused_by_name(root: Path) -> None:
    """A weights file with NaN is told from a rate that is too high."""
    state = write_pretrained(root)
    state["body.0.weight"][0] = float("nan")
    torch.save(state, root / "weights/tiny.pth")
    ran = train(root, model=PRETRAINED)
    assert ran.status == 3
    assert "tiny.pth: body.0.weight holds NaN" in ran.output
    assert "learning rate" not in ran.output


def test_training_says_what_its_accuracy_hides(root: Path) -> None:
    """A network that has not learnt names the classes that it never recognises before anything is quantised."""
    still = records.Optimizer("sgd", 1e-12, 0.0, 0.0)
    ran = train(root, train=shapes.make_train(epochs=1, optimizer=still))
    assert ran.status == 0, ran.output
    metrics = shapes.read_result(root, "train")["metrics"]
    assert metrics["accuracy_warnings"]
    assert "warning: " + metrics["accuracy_warnings"][0]["text"] in ran.output
    assert metrics["test_balanced_accuracy"] == pytest.approx(metrics["test_accuracy"])  # classes of one size
    assert metrics["history"][0]["val_balanced_accuracy"] == metrics["val_balanced_accuracy"]


def test_early_stopping_ends_a_training_that_stands_still(root: Path) -> None:
    """Without improvement for `patience` epochs the training stops."""
    stopping = records.EarlyStopping("val_accuracy", 2)
    still = records.Optimizer("sgd", 1e-12, 0.0, 0.0)
    ran = train(root, train=shapes.make_train(epochs=9, early_stopping=stopping, optimizer=still))
    assert ran.status == 0, ran.output
    assert "no better val_accuracy for 2 epochs: stopped" in ran.output
    assert shapes.read_result(root, "train")["metrics"]["epochs"] < 9


def test_weights_that_do_not_fit_are_refused(root: Path) -> None:
    """A weights file of another network fails with its name, not with a traceback."""
    (root / "weights").mkdir()
    torch.save({"other.weight": torch.zeros(1)}, root / "weights/tiny.pth")
    ran = train(root, model=PRETRAINED)
    assert ran.status == 3
    assert "tiny.pth does not fit nets/tiny.py:make" in ran.output
    assert "Traceback" not in ran.output


def test_the_network_is_printed_without_torchinfo_too(root: Path, tmp_path: Path) -> None:
    """Where torchinfo is missing, a small table shows every layer with its parameters."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/torchinfo.py").write_text("raise ImportError\n", encoding="utf-8")
    shapes.write_scripts(shapes.make_project(), root)
    assert shapes.run_script(root, "prepare.py").status == 0
    ran = shapes.run_script(root, "train.py", PYTHONPATH=str(tmp_path / "hidden"))
    assert ran.status == 0, ran.output
    assert re.search(r"^body\.0 +Conv2d +1,168$", ran.output, re.MULTILINE)
    assert "parameters: 1,875, of which 1,875 learn" in ran.output


def test_folders_can_be_elsewhere(root: Path, tmp_path: Path) -> None:
    """--root and --build move the data and the results; the scripts may lie anywhere."""
    (tmp_path / "away/generated").mkdir(parents=True)
    shapes.write_scripts(shapes.make_project(), tmp_path / "away")
    folders = ("--root", str(root), "--build", str(tmp_path / "results"))
    for name in ("prepare.py", "train.py"):
        ran = shapes.run_script(tmp_path / "away", name, *folders)
        assert ran.status == 0, ran.output
    assert (tmp_path / "results/train/model.pth").is_file()
    assert not (tmp_path / "away/build").exists()


@pytest.mark.parametrize(
    "names",
    [
        ("random_resized_crop", "horizontal_flip", "color_jitter"),
        ("random_crop", "vertical_flip", "rotation"),
        (),
    ],
)
def test_every_augmentation_runs_and_repeats(root: Path, names: tuple[str, ...]) -> None:
    """Training with random changes of the images gives the same weights twice, with and without workers."""
    weights = []
    for workers in (0, 2):
        ran = train(root, data=shapes.make_data(names), train=shapes.make_train(epochs=2, workers=workers))
        assert ran.status == 0, ran.output
        weights.append(read_weights(root)["fc.weight"])
    assert torch.equal(*weights)


def test_a_changed_start_does_not_resume(root: Path) -> None:
    """The files that training starts from are inputs of its result, and a missing one is named."""
    write_pretrained(root)
    assert train(root, model=PRETRAINED).status == 0
    assert set(shapes.read_result(root, "train")["inputs"]) == {
        "build/shapes/prepare/data.json",
        "nets/tiny.py",
        "weights/tiny.pth",
    }
    (root / "weights/tiny.pth").unlink()
    ran = shapes.run_script(root, "train.py")
    assert ran.status == 3
    assert "the file weights/tiny.pth does not exist" in ran.output


def test_training_needs_the_prepare_stage(root: Path) -> None:
    """Without prepare's result the training says which stage to run."""
    shapes.write_scripts(shapes.make_project(), root)
    ran = shapes.run_script(root, "train.py")
    assert ran.status == 3
    assert "data.json does not exist: run the prepare stage first" in ran.output


def test_killed_training_goes_on_and_ends_the_same(root: Path) -> None:
    """kill -9 leaves no half file; the next run resumes and its weights equal those of an unbroken run."""
    settings = shapes.make_train(epochs=12, workers=0, early_stopping=None)
    assert train(root, train=settings).status == 0
    unbroken = read_weights(root)
    (root / "build/shapes/train/model.pth").unlink()
    running = shapes.start_script(root, "train.py")
    running.wait_for("model epoch 3/")
    os.kill(running.pid, signal.SIGKILL)
    assert running.finish().status == -signal.SIGKILL
    folder = root / "build/shapes/train"
    assert not (folder / "model.pth").exists()
    assert not (folder / "result.json").exists()
    assert read_weights(root, "model.best.pth")
    assert read_weights(root, "model.last.pth")
    resumed = shapes.run_script(root, "train.py")
    assert resumed.status == 0, resumed.output
    assert "going on after epoch" in resumed.output
    weights = read_weights(root)
    assert all(torch.equal(weights[name], unbroken[name]) for name in unbroken)


def test_resume_is_refused_after_a_change(root: Path) -> None:
    """A checkpoint made by another train.py is not continued."""
    assert train(root).status == 0
    folder = root / "build/shapes/train"
    torch.save({"config": "of another run"}, folder / "model.last.pth")
    ran = shapes.run_script(root, "train.py")
    assert ran.status == 0, ran.output
    assert "made with other scripts or data, starting anew" in ran.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_says_so(root: Path, number: signal.Signals) -> None:
    """SIGINT and SIGTERM end with exit status 130 and a result that says interrupted."""
    shapes.write_scripts(shapes.make_project(train=shapes.make_train(epochs=2000, early_stopping=None)), root)
    assert shapes.run_script(root, "prepare.py").status == 0
    running = shapes.start_script(root, "train.py")
    running.wait_for("model epoch 2/")
    os.kill(running.pid, number)
    ran = running.finish()
    assert ran.status == 130
    assert "Traceback" not in ran.output
    assert shapes.read_result(root, "train")["reason"] == "interrupted"
