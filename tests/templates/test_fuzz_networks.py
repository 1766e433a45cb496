"""Checkpoints and factories at random, for a fixed time: none ends in a traceback of dpuforge's."""

from __future__ import annotations

import importlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import shapes_project as shapes
import torch
from torch import nn

pytestmark = pytest.mark.fuzz
SECONDS = float(os.environ.get("DPUFORGE_FUZZ_SECONDS", "60"))  # for each of the tests here
OWN_NAMES = ("results", "checkpoint")
NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
STATE = NETWORK.state_dict()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The rendered checkpoint.py, imported; what it needs leaves with it."""
    folder = shapes.write_scripts(shapes.make_project(), tmp_path_factory.mktemp("scripts"))
    kept = {name: sys.modules.pop(name) for name in OWN_NAMES if name in sys.modules}
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("checkpoint")
    finally:
        sys.path.remove(str(folder))
        for name in OWN_NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


def seeds() -> Iterator[random.Random]:
    """Yield a generator of random numbers for each attempt until the time is up; its seed is printed."""
    end, seed = time.monotonic() + SECONDS, int(os.environ.get("DPUFORGE_FUZZ_SEED", "0"))
    while time.monotonic() < end:
        print(f"seed {seed}")
        yield random.Random(seed)
        seed += 1


def any_value(rng: random.Random, depth: int = 3) -> object:
    """Return a value as training scripts put into checkpoints, nested at random."""
    leaves: tuple[Callable[[], object], ...] = (
        lambda: rng.randint(-9, 9),
        lambda: rng.random(),
        lambda: None,
        lambda: "text",
        lambda: torch.zeros(rng.choice([(), (0,), (3,), (4, 3, 3, 3)])),
        lambda: torch.zeros(4, 3, 3, 3, dtype=rng.choice([torch.int8, torch.bool, torch.float16, torch.complex64])),
        lambda: np.zeros(3),
        lambda: Path("a"),
        lambda: nn.Linear(2, 2),
        lambda: torch.float32,
        lambda: torch.device("cpu"),
        lambda: torch.zeros(2, 2).to_sparse(),
        lambda: dict(STATE),
        lambda: {rng.choice(["module.", "a.b.", "ema."]) + name: tensor for name, tensor in STATE.items()},
    )
    if depth and rng.random() < 0.5:
        names = ["state_dict", "model", "ema", "optimizer", "args", "0.weight", "", "x" * 99, 7]
        return {rng.choice(names): any_value(rng, depth - 1) for _ in range(rng.randint(0, 4))}
    if depth and rng.random() < 0.2:
        made = [any_value(rng, depth - 1) for _ in range(3)]
        return rng.choice([list, tuple])(made)
    return rng.choice(leaves)()


def damage(rng: random.Random, data: bytes) -> bytes:
    """Return bytes that were cut, changed, swapped or mixed at random."""
    changed = bytearray(data)
    for _ in range(rng.randint(0, 6)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    if rng.random() < 0.4:
        changed = changed[: rng.randrange(len(changed) + 1)]
    if rng.random() < 0.1:
        changed = bytearray(rng.randbytes(rng.randrange(200))) + changed
    return bytes(changed)


def test_no_checkpoint_ends_in_a_traceback(script: ModuleType, tmp_path: Path) -> None:
    """Whatever a file holds, it is read or refused in one line."""
    read = 0
    path = tmp_path / "w.pth"
    for rng in seeds():
        torch.save(any_value(rng), path, _use_new_zipfile_serialization=rng.random() < 0.5)
        if rng.random() < 0.7:
            path.write_bytes(damage(rng, path.read_bytes()))
        try:
            state, line = script.fit_weights(path, STATE, ("3",), "w.pth")
        except script.Failure as error:
            line = str(error)
        else:
            read += 1
            assert all(torch.isfinite(tensor).all() for tensor in state.values())
        assert "\n" not in line
        assert len(line) < 1000
    assert read


PIECES = (
    "nn.Conv2d(3, 8, 3)", "nn.Conv2d(8, 8, 3, padding=1)", "nn.Conv2d(1, 8, 3)", "nn.BatchNorm2d(8)", "nn.ReLU()",
    "nn.BatchNorm1d(8)", "nn.Flatten()", "nn.AdaptiveAvgPool2d(1)", "nn.Linear(8, 5)", "nn.Linear(5, 3)", "None",
    "nn.Softmax(1)", "nn.Dropout()", "nn.MaxPool2d(99)", "nn.Identity()", "nn.LSTM(8, 8)", "nn.LazyLinear(4)",
    "nn.Bilinear(2, 2, 2)",
)  # fmt: skip
SENSIBLE = ("nn.Conv2d(3, 8, 3)", "nn.ReLU()", "nn.AdaptiveAvgPool2d(1)", "nn.Flatten()", "nn.Linear(8, 5)")
ENDS = (
    "return nn.Sequential({})", "return [{}]", "return nn.ModuleList([{}])", "nn.Sequential({})", "raise OSError(5)",
    "return nn.Sequential({}).half()", "return nn.Sequential({}).double()", "return nn.Sequential({}).to('meta')",
    "return torch.jit.script(nn.Sequential({}))", "return nn.Sequential({}).requires_grad_(False)",
    "net = nn.Sequential({}); net.forward = lambda x: (x, x); return net", "import os; os._exit(3)", "return {}",
    "import torch.nn.utils as u; return nn.Sequential(u.spectral_norm(nn.Conv2d(3, 8, 3)), {})",
)  # fmt: skip
HEADS = (
    "def make():\n    ",
    "def make(n):\n    ",
    "make = None\ndef mak():\n    ",
    "async def make():\n    ",
    "@property\ndef make():\n    ",
)


def any_network(rng: random.Random) -> str:
    """Return a network file at random: most of them make no sense."""
    chosen = [rng.choice(PIECES) for _ in range(rng.randint(0, 6))]
    if rng.random() < 0.5:  # one that makes sense, with one piece more
        chosen = list(SENSIBLE)
        chosen.insert(rng.randrange(6), rng.choice(PIECES))
    layers = ", ".join(chosen)
    text = (
        "import torch\nfrom torch import nn\n" + rng.choice((HEADS[0],) * 8 + HEADS) + rng.choice(ENDS).format(layers)
    )
    if rng.random() < 0.2:
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice("(:\x00é\n ") + text[place + 1 :]
    return text + "\n"


def test_no_factory_ends_in_a_traceback_of_ours(tmp_path: Path) -> None:
    """Whatever a network file holds, check_model.py passes it or refuses it in one line with exit status 2."""
    (tmp_path / "nets").mkdir()
    shapes.write_scripts(shapes.make_project(), tmp_path)
    ended: list[int] = []
    for rng in seeds():
        text = any_network(rng)
        (tmp_path / "nets/tiny.py").write_text(text, encoding="utf-8")
        ran: Any = shapes.run_script(tmp_path, "check_model.py")
        lines = ran.output.splitlines()
        assert ran.status in (0, 2) or "os._exit" in text, text + ran.output
        if ran.status == 2:
            assert any(line.startswith("error: model.") for line in lines), text + ran.output
        ended.append(ran.status)
    assert ended
