"""checkpoint.py: any file that holds one state_dict is read, and whatever else people bring is named in one line."""

from __future__ import annotations

import argparse
import functools
import gzip
import importlib
import io
import json
import pickle
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import shapes_project as shapes
import torch
from torch import nn

OWN_NAMES = ("results", "checkpoint")


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


class Small(nn.Module):
    """A network with a convolution, batch-norm and a head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, classes)


def make_state(classes: int = 3, seed: int = 0) -> OrderedDict[str, torch.Tensor]:
    """Return a state_dict of the small network."""
    torch.manual_seed(seed)
    state: OrderedDict[str, torch.Tensor] = Small(classes).state_dict()
    return state


STATE = make_state()
OTHER = make_state(seed=1)


def rename(prefix: str, state: dict[str, torch.Tensor] = STATE) -> OrderedDict[str, torch.Tensor]:
    """Return a state_dict with a prefix before every name."""
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def without_head() -> dict[str, torch.Tensor]:
    """Return the state_dict of a network whose head was cut off."""
    return {name: tensor for name, tensor in STATE.items() if not name.startswith("fc.")}


def convert(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return a state_dict with floating tensors of another type."""
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in STATE.items()}


TRAINING = {"epoch": 3, "args": argparse.Namespace(lr=0.1, out=Path("runs")), "best": np.float64(91.2)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(4, 3, 3, 3)}}, "param_groups": [{"lr": 0.1}]}
# What is saved -> words of the line that says what was done.
READABLE: dict[str, tuple[object, str]] = {
    "plain": (STATE, "fits"),
    "state_dict": ({"state_dict": STATE, **TRAINING}, "taken from state_dict"),
    "model": ({"model": STATE, "optimizer": OPTIMIZER}, "taken from model"),
    "model_state_dict": ({"model_state_dict": STATE, "optimizer_state_dict": OPTIMIZER}, "taken from model_state_dict"),
    "net": ({"net": STATE, "acc": 91.0}, "taken from net"),
    "an unusual name": ({"weights_of_epoch_7": STATE}, "taken from weights_of_epoch_7"),
    "two dicts deep": ({"checkpoint": {"model": STATE}}, "taken from checkpoint.model"),
    "model_ema": ({"model": OTHER, "model_ema": STATE}, "taken from model_ema; the averaged weights"),
    "state_dict_ema": ({"state_dict": OTHER, "state_dict_ema": STATE}, "taken from state_dict_ema; the averaged"),
    "ema deep": ({"state_dict": OTHER, "ema": {"module": STATE}}, "taken from ema.module; the averaged weights"),
    "ema prefix": ({**rename("net.", OTHER), **rename("ema.")}, "prefix ema. taken off; the averaged weights"),
    "swa": ({"n_averaged": torch.tensor(4), **rename("module.")}, "prefix module. taken off"),
    "module": (rename("module."), "prefix module. taken off"),
    "model prefix": (rename("model."), "prefix model. taken off"),
    "backbone": (rename("backbone."), "prefix backbone. taken off"),
    "encoder": (rename("encoder."), "prefix encoder. taken off"),
    "compiled": (rename("_orig_mod."), "prefix _orig_mod. taken off"),
    "stacked": ({"state_dict": rename("module._orig_mod.net.")}, "prefix module._orig_mod.net. taken off"),
    "lightning": (
        {"state_dict": rename("model."), "pytorch-lightning_version": "2.1", "callbacks": {}, "hyper_parameters": {}},
        "taken from state_dict; prefix model. taken off",
    ),
    "same twice": ({"model": STATE, "copy": STATE}, "taken from model"),
    "main and best": ({"state_dict": STATE, "best_state_dict": OTHER}, "taken from state_dict"),
    "half": (convert(torch.float16), "converted from float16"),
    "bfloat16": (convert(torch.bfloat16), "converted from bfloat16"),
    "double": (convert(torch.float64), "converted from float64"),
    "parameters": ({n: nn.Parameter(t) if t.is_floating_point() else t for n, t in STATE.items()}, "fits"),
    "old batch-norm": ({n: t for n, t in STATE.items() if "num_batches" not in n}, "fits"),
    "another branch": ({**STATE, "aux.weight": torch.zeros(2, 2)}, "1 tensors of other layers are left out"),
    "views": ({n: torch.stack([t, t])[1] for n, t in STATE.items()}, "fits"),
    "transposed": ({**STATE, "fc.weight": STATE["fc.weight"].t().contiguous().t()}, "fits"),
}


def save(value: object, path: Path, **options: Any) -> Path:
    """Write a file with torch.save."""
    torch.save(value, path, **options)
    return path


def fit(script: ModuleType, path: Path, **options: Any) -> tuple[dict[str, torch.Tensor], str]:
    """Read a file for the small network, whose head is fc."""
    found: tuple[dict[str, torch.Tensor], str] = script.fit_weights(path, STATE, ("fc",), path.name, **options)
    return found


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", READABLE)
def test_any_file_that_holds_one_state_dict_is_read(
    script: ModuleType, tmp_path: Path, name: str, legacy: bool
) -> None:
    """Wrapped, renamed, averaged and converted weights arrive as they were, and one line says what was done."""
    value, done = READABLE[name]
    state, line = fit(script, save(value, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy))
    assert done in line
    assert "\n" not in line
    for key, tensor in state.items():
        assert tensor.dtype == STATE[key].dtype
        assert torch.allclose(tensor, STATE[key], atol=1e-2), key
    assert {key for key in STATE if "num_batches" not in key} <= set(state)


def test_safetensors_are_read(script: ModuleType, tmp_path: Path) -> None:
    """The safetensors format is read without its package, half precision and prefixes included."""
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    for number, state in enumerate((STATE, convert(torch.bfloat16), rename("model."))):
        path = tmp_path / f"{number}.safetensors"
        safetensors.save_file(
            {name: tensor.contiguous() for name, tensor in state.items()}, str(path), {"format": "pt"}
        )
        found, _ = fit(script, path)
        assert all(torch.allclose(found[name], STATE[name], atol=1e-2) for name in STATE)


def test_a_network_inside_another_takes_the_weights_of_its_part(script: ModuleType, tmp_path: Path) -> None:
    """A file of the inner network fits a wrapper around it: the prefix is put on."""
    own = rename("backbone.")
    state, line = script.fit_weights(save(STATE, tmp_path / "w.pth"), own, ("backbone.fc",), "w.pth")
    assert set(state) == set(own)
    assert "prefix backbone. put on" in line


def test_a_head_that_is_missing_or_of_another_size_is_left_out(script: ModuleType, tmp_path: Path) -> None:
    """Only the head may differ, and the line says what became of it."""
    state, line = fit(script, save(without_head(), tmp_path / "a.pth"))
    assert "no head fc, which starts from random values" in line
    assert "fc.weight" not in state
    state, line = fit(script, save(make_state(10), tmp_path / "b.pth"))
    assert "the head fc has another size (10 outputs) and is left out" in line
    assert "fc.weight" not in state


def test_a_teacher_of_other_classes_is_refused(script: ModuleType, tmp_path: Path) -> None:
    """Where no head may be left out, one of another size is refused with both sizes."""
    with pytest.raises(Exception, match=r"does not fit.*fc\.bias \(10 in the file, 3 in the network\)"):
        script.fit_weights(save(make_state(10), tmp_path / "b.pth"), STATE, (), "b.pth")


def write_zip(path: Path, names: dict[str, bytes]) -> None:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)


def write_npz(path: Path) -> None:
    """Write a NumPy archive under a name of our own."""
    with path.open("wb") as stream:
        np.savez(stream, **{name.replace(".", "_"): tensor.numpy() for name, tensor in STATE.items()})


def write_torchscript(path: Path) -> None:
    """Write a TorchScript archive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch retires TorchScript; people still have such files
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))


def write_cut(path: Path, share: float, **options: Any) -> None:
    """Write the first part of a good file."""
    save(STATE, path, **options)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def write_cut_safetensors(path: Path) -> None:
    """Write a safetensors file whose last tensor is missing."""
    header = json.dumps({"fc.weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(20))


def write_tar(path: Path) -> None:
    """Write a tar archive."""
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("w"), io.BytesIO())


def dump(value: object, path: Path) -> None:
    """Write a file with torch.save."""
    torch.save(value, path)


def with_nan(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state_dict with one NaN."""
    broken = {name: tensor.clone() for name, tensor in state.items()}
    broken["body.0.weight"][0, 0, 0, 0] = float("nan")
    return broken


Write = Callable[[Path], object]
# How a file is made -> words of the one line that says what it is.
REFUSED: dict[str, tuple[str, Write, str]] = {
    "missing": ("w.pth", lambda p: None, "the file w.pth does not exist"),
    "near": ("w.pth", lambda p: dump(STATE, p.with_name("w2.pth")), "did you mean w2.pth?"),
    "folder": ("w.pth", lambda p: p.mkdir(), "is a folder"),
    "link": ("w.pth", lambda p: p.symlink_to("nowhere"), "is a link to a file that does not exist"),
    "empty": ("w.pth", lambda p: p.touch(), "is empty"),
    "lfs": (
        "w.pth", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid 1\n"), "git-lfs pointer",
    ),
    "html": ("w.pth", lambda p: p.write_text("<!DOCTYPE html>\n<html><head>"), "is an HTML page"),
    "html comment": ("w.pth", lambda p: p.write_text("\n <!-- a -->\n<HTML lang='en'>"), "is an HTML page"),
    "json": ("w.pth", lambda p: p.write_text('{"message": "Not Found"}'), "is a text file"),
    "text": ("w.pth", lambda p: p.write_text("Zu groß für die Vorschau: " * 99), "is a text file"),
    "index": ("m.json", lambda p: p.write_text('{"weight_map": {}}'), "index of a checkpoint in several files"),
    "npz": ("w.npz", write_npz, "is a NumPy archive"),
    "npy": ("w.npy", lambda p: np.save(p, np.zeros(3)), "is a NumPy array"),
    "torchscript": ("w.pt", write_torchscript, "is a TorchScript archive"),
    "zip": ("w.pth", lambda p: write_zip(p, {"a.txt": b"a"}), "zip archive without weights (a.txt)"),
    "keras": ("w.keras", lambda p: write_zip(p, {"config.json": b"{}", "model.weights.h5": b""}), "is a Keras archive"),
    "hdf5": ("w.h5", lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), "is an HDF5 file (Keras"),
    "onnx": ("w.onnx", lambda p: p.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x032.1" + bytes(64)), "is an ONNX file"),
    "tflite": ("w.tflite", lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(64)), "is a TensorFlow Lite file"),
    "tar": ("w.pth.tar", write_tar, "is a tar archive"),
    "gzip": ("w.pth", lambda p: p.write_bytes(gzip.compress(b"a" * 99)), "is a gzip archive"),
    "image": ("w.pth", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64)), "is a PNG image"),
    "cut zip": ("w.pth", lambda p: write_cut(p, 0.6), "is truncated or damaged"),
    "cut legacy": (
        "w.pth", lambda p: write_cut(p, 0.8, _use_new_zipfile_serialization=False), "is truncated or damaged",
    ),
    "cut pickle": (
        "w.pth", lambda p: write_cut(p, 0.2, _use_new_zipfile_serialization=False), "is truncated or damaged",
    ),
    "cut safetensors": ("w.safetensors", write_cut_safetensors, "is truncated or damaged"),
    "noise": ("w.pth", lambda p: p.write_bytes(bytes(range(128, 256)) * 9), "not a file of weights in any format"),
    "pickle": ("w.pkl", lambda p: p.write_bytes(pickle.dumps({"a": 1})), "pickle that torch.save did not write"),
    "network": ("w.pth", lambda p: dump(Small(), p), "is a whole pickled network (class "),
    "network inside": ("w.pth", lambda p: dump({"model": Small(), "epoch": 1}, p), "is a whole pickled network"),
    "tensor": ("w.pth", lambda p: dump(torch.zeros(3), p), "holds one tensor"),
    "list": ("w.pth", lambda p: dump([torch.zeros(3)], p), "holds a list"),
    "settings": ("w.pth", lambda p: dump({"lr": 0.1, "epochs": 3}, p), "no tensors, but a dict of lr, epochs"),
    "nan": ("w.pth", lambda p: dump(with_nan(STATE), p), "w.pth: body.0.weight holds NaN"),
    "quantised": ("w.pth", lambda p: dump({n: t.to(torch.int8) for n, t in STATE.items()}, p), "int8, quantised"),
    "another network": ("w.pth", lambda p: dump({"conv.weight": torch.zeros(4)}, p), "does not fit the network: 6 of "),
    "optimizer alone": ("w.pth", lambda p: dump({"optimizer": OPTIMIZER}, p), "does not fit the network"),
    "other sizes": (
        "w.pth", lambda p: dump({**STATE, "body.0.weight": torch.zeros(8, 3, 3, 3)}, p),
        "body.0.weight (8 x 3 x 3 x 3 in the file, 4 x 3 x 3 x 3 in the network)",
    ),
    "two networks": (
        "w.pth", lambda p: dump({**rename("encoder_q."), **rename("encoder_k.", OTHER)}, p), "holds several networks",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_is_instead_is_said_in_one_line(script: ModuleType, tmp_path: Path, name: str) -> None:
    """Each kind of wrong file is refused in one line that says what it is; none advises to load it unsafely."""
    file, write, said = REFUSED[name]
    path = tmp_path / file
    write(path)
    with pytest.raises(script.Failure) as caught:
        fit(script, path)
    text = str(caught.value)
    assert said in text
    assert file in text
    assert "\n" not in text
    assert len(text) < 400
    assert "weights_only" not in text


class Trap:
    """Runs code of its own when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (functools.partial(Path.touch), (Path("sprung"),))


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_file_is_run(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    """Code that a checkpoint would run when it is unpickled does not run, and its weights are read."""
    monkeypatch.chdir(tmp_path)
    path = save({"state_dict": STATE, "trap": Trap()}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    state, _ = fit(script, path)
    assert torch.equal(state["fc.weight"], STATE["fc.weight"])
    assert not (tmp_path / "sprung").exists()
