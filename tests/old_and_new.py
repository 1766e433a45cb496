"""The generated scripts run for real under an interpreter of one's choice: python tests/old_and_new.py PYTHON...

Called by `nox -s old_and_new`. A small project is made, generated, and its scripts run by every PYTHON with one
epoch: all that needs no quantizer with nothing else, quantising and evaluating with the tests' stand-in for AMD's
quantizer (dpuforge's emulator needs a newer Python and torch, and the same scripts under it are the default tests).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

HERE = Path(__file__).resolve().parent
STAND_IN = HERE / "templates" / "fake_nndct"
# In their order, and whether the quantizer is needed; adjust.py and qat.py only where the spec has them.
SCRIPTS = (
    (("prepare.py",), False),
    (("check_model.py",), False),
    (("train.py",), False),
    (("inspect_model.py",), True),
    (("adjust.py",), False),
    (("quantize.py", "--mode", "calib"), True),
    (("qat.py",), True),
    (("quantize.py", "--mode", "test"), True),
    (("evaluate.py",), True),
    (("quantize.py", "--mode", "deploy"), True),
)
# A spec for each way through the templates that asks something of torch.
PLAIN = {
    "model": {"backbone": "resnet18", "weights": "none", "input": {"height": 64, "width": 64}},
    "data": {"preprocess": {"resize": 72, "crop": 64}},
    "transfer": {"method": "fine_tuning", "freeze": {"layers": "none"}},
    "train": {"epochs": 1, "batch_size": 8, "workers": 0},
}
SPECS = {
    "plain": PLAIN,
    "varied": {
        **PLAIN,
        "data": {
            "preprocess": {"resize": 72, "crop": 64},
            "augment": ["random_resized_crop", "horizontal_flip", "rotation", "color_jitter"],
        },
        "train": {
            "epochs": 1,
            "batch_size": 8,
            "workers": 1,
            "balance": "sampler",
            "optimizer": {"name": "sgd", "lr": 0.01},
            "scheduler": {"name": "step"},
        },
    },
    "head": {
        **PLAIN,
        "model": {**PLAIN["model"], "backbone": "mobilenet_v2"},
        "transfer": {"method": "feature_extraction", "freeze": {"layers": "all_but_head"}},
        "train": {"epochs": 1, "batch_size": 8, "balance": "weights"},
    },
    "adjusted": {**PLAIN, "quantization": {"adjust": {"enabled": True, "images": 20, "steps": 30, "batch_size": 8}}},
    "trained": {
        **PLAIN,
        "model": {**PLAIN["model"], "backbone": "mobilenet_v2"},
        "quantization": {"qat": {"enabled": True, "epochs": 2, "batch_size": 8, "freeze_epochs": 1}},
    },
}


def write_pictures(root: Path) -> None:
    """Write pictures of two kinds, PNG and JPEG, in three splits."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 8), ("test", 8)):
        for number in range(count):
            folder = root / "data" / split / str(number % 2)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 90, (12, 10, 3)).repeat(8, 0).repeat(8, 1) + 120 * (number % 2)
            path = folder / (f"{number}.png" if number % 3 else f"{number}.jpg")
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_project(root: Path, name: str) -> Path:
    """Write and generate one project; return the folder of its scripts."""
    document = {"project": name, "classes": 2, **SPECS[name]}
    document["data"] = {split: f"data/{split}" for split in ("train", "validation", "test")} | document["data"]
    calibration = {"calibration": {"images": 16, "batch_size": 8}, "max_accuracy_drop": 100.0}
    document["quantization"] = calibration | SPECS[name].get("quantization", {})
    document["target"] = {"boards": ["KV260"]}
    spec = root / "spec" / f"{name}.yaml"
    spec.parent.mkdir(exist_ok=True)
    spec.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    generate = [sys.executable, "-m", "dpuforge", "generate", str(spec)]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return root / "generated" / name


def list_scripts(name: str) -> list[tuple[tuple[str, ...], bool]]:
    """Return the scripts of a project, in order: qat.py stands in the place of calibration."""
    stages = SPECS[name].get("quantization", {})
    left_out = {("adjust.py",)} if "adjust" not in stages else set()
    left_out.add(("quantize.py", "--mode", "calib") if "qat" in stages else ("qat.py",))
    return [row for row in SCRIPTS if row[0] not in left_out]


def run_script(python: str, scripts: Path, words: tuple[str, ...], stand_in: bool) -> str:
    """Run one script; return what it printed where it failed, else "". Deprecations of the language fail too."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if stand_in:
        env["PYTHONPATH"] = str(STAND_IN)
    command = [python, "-W", "error::SyntaxWarning", str(scripts / words[0]), *words[1:]]
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False
    )
    return "" if done.returncode == 0 else f"exit status {done.returncode}\n{done.stdout[-3000:]}"


def try_python(python: str, root: Path) -> list[str]:
    """Run all scripts of all projects; return one text for each that failed, and print the versions."""
    failures = []
    for name in SPECS:
        shutil.rmtree(root / "build", ignore_errors=True)
        scripts = make_project(root, name)
        for words, stand_in in list_scripts(name):
            text = run_script(python, scripts, words, stand_in)
            if text:
                failures.append(f"{python}: {name}: {' '.join(words)}: {text}")
        result = json.loads((root / "build" / name / "train" / "result.json").read_text(encoding="utf-8"))
        print(f"{name}: {result['status']}, {result['metrics'].get('test_accuracy')} %, {result['toolchain']}")
    return failures


def main() -> None:
    """Run the scripts under every interpreter that is named; exit status 1 where one of them failed."""
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pictures(root)
        for python in sys.argv[1:]:
            failures += try_python(python, root)
    print("\n".join(failures) or f"{len(sys.argv) - 1} interpreters, {len(SPECS)} projects: every script ended well")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
