"""train.py: what learns and what stays frozen, the three methods, and runs that are killed."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
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
        "history.csv",
        "model.best.pth",
        "model.json",
        "model.last.pth",
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
        ("rand_augment", "random_erasing", "mixup", "cutmix"),
        ("random_resized_crop", "trivial_augment"),
        (),
    ],
)
def test_every_augmentation_runs_and_repeats(root: Path, names: tuple[str, ...]) -> None:
    """Training with random changes of the images gives the same weights twice, with and without workers."""
    weights = []
    for workers in (0, 2):
        shutil.rmtree(root / "build", ignore_errors=True)  # a finished training would only be looked at again
        ran = train(root, data=shapes.make_data(names), train=shapes.make_train(epochs=2, workers=workers))
        assert ran.status == 0, ran.output
        weights.append(read_weights(root, "model.last.pth")["model"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


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
    shutil.rmtree(root / "build/shapes/train")
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


HEAD_ONLY = shapes.make_transfer(METHOD.FEATURE_EXTRACTION, records.FrozenLayers("all_but_head"), "frozen")
PLAIN = shapes.make_data(())


def extract_features(root: Path, **changes: Any) -> shapes.Ran:
    """Train the head alone on pretrained weights without augmentation, with other sections where they are given."""
    if not (root / "weights").is_dir():
        write_pretrained(root)
    return train(root, **{"model": PRETRAINED, "transfer": HEAD_ONLY, "data": PLAIN, **changes})


def read_curve(root: Path) -> list[dict[str, float]]:
    """Return the figures of every epoch."""
    curve: list[dict[str, float]] = shapes.read_result(root, "train")["metrics"]["history"]
    return curve


@pytest.mark.parametrize("augment", [(), ("random_resized_crop", "horizontal_flip")])
def test_training_on_kept_features_is_the_training_of_the_network(root: Path, augment: tuple[str, ...]) -> None:
    """Head, curve and chosen epoch are those of a training without a cache, to 1e-4; dropout included."""
    data, settings = shapes.make_data(augment), shapes.make_train(epochs=4, cached_views=4 if augment else 0)
    ran = extract_features(root, data=data, train=settings)
    assert ran.status == 0, ran.output
    assert "cache: features of" in ran.output
    kept, curve = read_weights(root), read_curve(root)
    shutil.rmtree(root / "build")
    plain = shapes.make_train(epochs=4, cached_views=4 if augment else 0, cache_mb=0)
    ran = extract_features(root, data=data, train=plain)
    assert "is too small: nothing is kept" in ran.output
    network = read_weights(root)
    assert all(torch.allclose(kept[name], network[name], atol=1e-4) for name in network)
    for mine, theirs in zip(curve, read_curve(root), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize(
    "network", ["squeezenet1_1()", "mobilenet_v3_small()", "googlenet(init_weights=False, aux_logits=False)"]
)
def test_heads_of_several_layers_and_dropout_learn_alike(root: Path, network: str) -> None:
    """A head with layers after it, or with dropout before it, learns from kept features what it learns without."""
    make = f"import torchvision\n\n\ndef make():\n    return torchvision.models.{network}\n"
    (root / "nets/other.py").write_text(make, encoding="utf-8")
    changes = {"model": records.Model("nets/other.py:make", "none", records.InputSize(32, 32)), "data": PLAIN}
    weights = []
    for cache_mb in (100, 0):
        shutil.rmtree(root / "build", ignore_errors=True)
        ran = train(root, transfer=HEAD_ONLY, train=shapes.make_train(cache_mb=cache_mb), **changes)
        assert ran.status == 0, ran.output
        assert ("cache: features of" in ran.output) == (cache_mb > 0)
        weights.append(read_weights(root))
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])


def test_kept_features_serve_other_settings_of_the_head(root: Path) -> None:
    """Another rate or seed computes no feature again; other weights of the backbone or other images do."""
    assert extract_features(root).status == 0
    cache = root / "build/shapes/cache"
    files = {path: path.stat().st_mtime_ns for path in cache.glob("*/*.pth")}
    assert len(files) == 2  # training and validation images
    settings = shapes.make_train(
        optimizer=records.Optimizer("sgd", 0.1, 0.0, 0.9, True), batch_size=6, label_smoothing=0.1, seed=7
    )
    assert extract_features(root, train=settings).status == 0
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*/*.pth")} == files
    state = torch.load(root / "weights/tiny.pth", weights_only=True)
    torch.save({**state, "stem.0.bias": state["stem.0.bias"] + 1.0}, root / "weights/tiny.pth")
    assert extract_features(root).status == 0
    assert len(list(cache.glob("*/*.pth"))) == 4
    (root / "data/shapes/train/across/00.png").unlink()
    assert extract_features(root).status == 0
    assert len(list(cache.glob("*/*.pth"))) == 5  # the validation images are the same


def test_the_cache_is_bounded_and_removes_only_its_own(root: Path) -> None:
    """What was used longest ago makes room; a file that is not of the cache stays."""
    small = shapes.make_train(cache_mb=1)
    assert extract_features(root, train=small).status == 0
    cache = root / "build/shapes/cache"
    old = cache / ("0" * 64)
    old.mkdir()
    (old / "00000000-00000063.pth").write_bytes(bytes(2_000_000))
    (old / "notes.txt").write_text("mine", encoding="utf-8")
    shutil.rmtree(root / "build/shapes/train")
    assert extract_features(root, train=small).status == 0
    assert [path.name for path in old.iterdir()] == ["notes.txt"]


def test_bf16_features_are_near(root: Path) -> None:
    """precision: bf16 computes the training features in bf16, and the head learns as well."""
    ran = extract_features(root, train=shapes.make_train(epochs=3, precision="bf16"))
    assert ran.status == 0, ran.output
    assert "bf16, folded" in ran.output


def test_what_is_random_before_the_head_is_not_kept(root: Path) -> None:
    """A network with randomness of its own, which no layer shows, is trained as a whole."""
    write_pretrained(root)
    path = root / "nets/tiny.py"
    text = path.read_text(encoding="utf-8").replace("from torch import nn", "import torch\nfrom torch import nn")
    text = text.replace("self.stem(x)", "self.stem(x) + torch.rand(1) * self.training")
    path.write_text(text, encoding="utf-8")
    ran = extract_features(root)
    assert ran.status == 0, ran.output
    assert "not the same in every epoch: nothing is kept" in ran.output


def test_equal_training_gives_equal_bytes(root: Path) -> None:
    """model.pth and model.json of two processes are the same files."""
    digests = []
    for _ in range(2):
        shutil.rmtree(root / "build", ignore_errors=True)
        assert train(root).status == 0
        digests.append(shapes.read_result(root, "train")["outputs"])
    assert digests[0] == digests[1]


NO_SCHEDULE = records.Scheduler("none", 10, 0.1)


def test_a_finished_training_goes_on_with_more_epochs(root: Path) -> None:
    """Two epochs and then four are four epochs, bit for bit; the first two are not trained again."""
    longer = shapes.make_train(epochs=4, scheduler=NO_SCHEDULE, early_stopping=None)
    assert train(root, train=longer).status == 0
    whole = (root / "build/shapes/train/model.pth").read_bytes()
    shutil.rmtree(root / "build")
    assert train(root, train=shapes.make_train(epochs=2, scheduler=NO_SCHEDULE, early_stopping=None)).status == 0
    ran = train(root, train=longer)
    assert "going on after epoch 2" in ran.output
    assert "epoch 2/4" not in ran.output
    assert (root / "build/shapes/train/model.pth").read_bytes() == whole


def test_what_makes_a_training_start_anew_is_said(root: Path) -> None:
    """Patience goes on; a rate, and with a cosine the number of epochs, begin again with the reason."""
    assert train(root).status == 0
    ran = train(root, train=shapes.make_train(early_stopping=records.EarlyStopping("val_loss", 9)))
    assert "going on after epoch 2" in ran.output
    assert "model epoch" not in ran.output
    ran = train(root, train=shapes.make_train(epochs=3))
    assert "starting anew: EPOCHS was 2, is 3" in ran.output
    ran = train(root, train=shapes.make_train(epochs=3, optimizer=records.Optimizer("adam", 0.01, 0.0, 0.9)))
    assert "starting anew: LEARNING_RATE was 0.001, is 0.01" in ran.output


SCHEDULES = [("cosine", 2), ("step", 0), ("exponential", 1), ("one_cycle", 0), ("none", 2)]


@pytest.mark.parametrize(("schedule", "warmup"), SCHEDULES)
def test_every_schedule_goes_on_exactly(root: Path, schedule: str, warmup: int) -> None:
    """A training killed after two of four epochs has the rates and the weights of an unbroken one."""
    settings = shapes.make_train(
        epochs=5,
        scheduler=records.Scheduler(schedule, 2, 0.5, warmup),
        optimizer=records.Optimizer("adamw", 1e-3, 0.01, 0.9),
        early_stopping=None,
        ema=0.9,
        accumulate=2,
        clip_norm=1.0,
        label_smoothing=0.1,
    )
    assert train(root, train=settings).status == 0
    whole = (root / "build/shapes/train/model.pth").read_bytes()
    shutil.rmtree(root / "build/shapes/train")
    running = shapes.start_script(root, "train.py")
    running.wait_for("model epoch 2/5: train")
    os.kill(running.pid, signal.SIGKILL)
    running.finish()
    ran = shapes.run_script(root, "train.py")
    assert ran.status == 0, ran.output
    assert "going on after epoch" in ran.output
    assert (root / "build/shapes/train/model.pth").read_bytes() == whole


@pytest.mark.parametrize("name", ["adam", "adamw", "nadam", "radam", "rmsprop", "sgd"])
def test_every_optimizer_trains_with_rates_by_layer(root: Path, name: str) -> None:
    """Backbone and head have rates of their own, and blocks begin to learn one after the other."""
    optimizer = records.Optimizer(name, 1e-2, 0.0, 0.9, name == "sgd", (0.9, 0.99), 1e-4, 0.5)
    ran = train(root, train=shapes.make_train(epochs=2, optimizer=optimizer, unfreeze_epochs=1))
    assert ran.status == 0, ran.output


def test_blocks_learn_from_the_head_backwards(root: Path) -> None:
    """With unfreeze_epochs: 1 and two epochs the head and the last block move, the first block does not."""
    before = write_pretrained(root)
    assert train(root, model=PRETRAINED, train=shapes.make_train(epochs=2, unfreeze_epochs=1)).status == 0
    after = read_weights(root, "model.last.pth")["model"]
    moved = {name.split(".")[0] for name in after if name not in before or not torch.equal(after[name], before[name])}
    assert moved == {"fc", "body"}


def test_kept_scores_of_the_teacher_teach_the_same(root: Path) -> None:
    """A distillation without augmentation asks the teacher once for each image, and ends with the same weights."""
    assert train(root, train=shapes.make_train(epochs=2)).status == 0
    (root / "weights").mkdir()
    shutil.copy(root / "build/shapes/train/model.pth", root / "weights/teacher.pth")
    teacher = records.Teacher("nets/tiny.py:make", "weights/teacher.pth", 4.0, 0.9)
    weights = []
    for cache_mb in (100, 0):
        shutil.rmtree(root / "build", ignore_errors=True)
        changes = {"data": PLAIN, "transfer": shapes.make_transfer(METHOD.DISTILLATION, teacher=teacher)}
        ran = train(root, train=shapes.make_train(cache_mb=cache_mb), **changes)
        assert ran.status == 0, ran.output
        assert ("the teacher's scores of 36 images" in ran.output) == (cache_mb > 0)
        weights.append(read_weights(root))
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])


@pytest.mark.parametrize("kept", [True, False])
def test_two_processes_train_as_one(root: Path, kept: bool) -> None:
    """torchrun with two processes on gloo gives the weights of one process to 1e-4; batch-norm is frozen."""
    settings = shapes.make_train(epochs=2, cache_mb=100 if kept else 0, batch_size=7)
    changes = {"transfer": HEAD_ONLY if kept else shapes.make_transfer(batchnorm="frozen"), "train": settings}
    path = root / "nets/tiny.py"
    path.write_text(path.read_text(encoding="utf-8").replace("nn.Dropout(0.2)", "nn.Identity()"), encoding="utf-8")
    assert extract_features(root, **changes).status == 0
    alone = read_weights(root)
    shutil.rmtree(root / "build/shapes/train")
    shutil.rmtree(root / "build/shapes/cache", ignore_errors=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(root / "generated/shapes/train.py")
    done = subprocess.run([*command, script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("best epoch") == 1
    together = read_weights(root)
    assert all(torch.allclose(alone[name], together[name], atol=1e-4) for name in alone)


def test_history_is_a_table_and_the_log_tells_speed_and_time(root: Path) -> None:
    """history.csv has a row for every epoch, and each line of the log images a second and the time left."""
    ran = train(root, train=shapes.make_train(epochs=3))
    with (root / "build/shapes/train/history.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[2]["val_accuracy"]) == pytest.approx(read_curve(root)[2]["val_accuracy"], abs=1e-3)
    assert len(re.findall(r"model epoch \d/3: train .* images/s, \d+ s left", ran.output)) == 3


def test_batch_norm_with_one_image_is_one_line(root: Path) -> None:
    """A batch of one image ends with exit status 2 where batch-norm learns from a single value."""
    path = root / "nets/tiny.py"
    text = path.read_text(encoding="utf-8").replace(
        "nn.AdaptiveAvgPool2d(1)", "nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(16))"
    )
    path.write_text(text, encoding="utf-8")
    ran = train(root, train=shapes.make_train(batch_size=1))
    assert ran.status == 2
    assert "error: train.batch_size: batch-norm cannot learn from a batch of one image" in ran.output
    assert "Traceback" not in ran.output


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"device": "cuda"}, "train.device is cuda"), ({"precision": "fp16"}, "train.precision is fp16")],
)
def test_a_gpu_that_is_not_there_is_one_line(root: Path, settings: dict[str, Any], words: str) -> None:
    """A GPU demanded where none is ends with exit status 3 and the key of the spec."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    ran = train(root, train=shapes.make_train(**settings))
    assert ran.status == 3
    assert words in ran.output
    assert "Traceback" not in ran.output
