"""Runs one recorded network as a user's script would and says, figure by figure, what equals the recording.

A recording is a folder with quant_info.json; its family (a folder with models.py above it) says how the network is
built and which images were fed. Adding a recorded network is adding a folder.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpuforge.emulator.export.xmodel_builder import ExportError
from dpuforge.emulator.nndct.calibration_files import BIAS_FILE, INFO_FILE
from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer
from dpuforge.emulator.quantised_graph import QuantisedGraph
from dpuforge.errors import UserError
from dpuforge.xmodel.diff import diff_xmodels
from dpuforge.xmodel.integers.run import run_outputs
from dpuforge.xmodel.nouns import Graph
from dpuforge.xmodel.read import read_xmodel
from tests.conftest import REPO
from tests.emulator.recorded import arrays

FAMILIES = ("micro", "dense")
PAGE = REPO / "docs" / "fidelity.md"
_BEGIN, _END = "<!-- table -->", "<!-- end of table -->"
BIAS_TOLERANCE = 2e-6  # between torch versions the sums of bias correction differ in their last bit


@dataclass(frozen=True)
class Recorded:
    """One recording: its family, its network's name in the family's models.py, its folder."""

    family: str
    name: str
    folder: Path
    models: Path

    @property
    def label(self) -> str:
        """The recording's name in the table."""
        return f"{self.family}/{self.folder.name}"

    @property
    def config(self) -> Path | None:
        """The quantizer's config file, where the recording has one."""
        path = self.folder / "config.json"
        return path if path.is_file() else None


@dataclass
class Figures:
    """What equals the recording; None where the real tool made nothing to compare with."""

    recorded: Recorded
    positions: tuple[int, int] = (0, 0)
    names: bool = False
    order: bool = False
    digest: bool = False
    bias: bool = False
    outputs: bool = False
    loaded_outputs: bool | None = None
    xmodel: bool | None = None
    xmodel_run: bool | None = None
    onnx: bool | None = None
    differences: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether everything that was recorded is equal."""
        marks = (self.names, self.order, self.digest, self.bias, self.outputs)
        optional = (self.loaded_outputs, self.xmodel, self.onnx)
        return self.positions[0] == self.positions[1] and all(marks) and all(mark is not False for mark in optional)


def find_recordings(golden: Path) -> tuple[Recorded, ...]:
    """Return every recording of the families, variants of a network included, in order of their names."""
    return tuple(found for family in FAMILIES for found in _of_family(family, golden / family))


def _of_family(family: str, folder: Path) -> Iterator[Recorded]:
    for path in sorted([*folder.glob("*/quant_info.json"), *folder.glob("variants/*/quant_info.json")]):
        name = path.parent.name
        if path.parent.parent.name == "variants":
            name = max((known.name for known in folder.iterdir() if name.startswith(known.name)), key=len)
        yield Recorded(family, name, path.parent, folder / "models.py")


@cache
def load_models(path: Path) -> Any:
    """Return a family's models.py as a module: build(name) and images()."""
    spec = importlib.util.spec_from_file_location(f"recorded_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_network(recorded: Recorded) -> nn.Module:
    """Return the float network of a recording, as its family builds it."""
    found = load_models(recorded.models).build(recorded.name)
    module: nn.Module = found[0] if isinstance(found, tuple) else found
    return module.eval()


def compare_recording(recorded: Recorded) -> Figures:
    """Calibrate, test and export the network of a recording in a new folder; return what is equal."""
    torch.set_num_threads(1)
    images = torch.as_tensor(load_models(recorded.models).images())
    figures = Figures(recorded)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        _calibrate(recorded, images, folder)
        _compare_files(figures, folder)
        quantizer, outputs = _test(recorded, images, folder)
        figures.outputs = _equal_outputs(figures, outputs)
        _compare_exports(figures, quantizer, folder)
        figures.loaded_outputs = _run_recorded_calibration(recorded, images)
    return figures


def _make(recorded: Recorded, mode: str, sample: torch.Tensor, folder: Path) -> torch_quantizer:
    config = str(recorded.config) if recorded.config else None
    return torch_quantizer(
        mode, build_network(recorded), (sample,), output_dir=str(folder), device="cpu", quant_config_file=config
    )


def _calibrate(recorded: Recorded, images: torch.Tensor, folder: Path) -> None:
    quantizer = _make(recorded, "calib", images[:2], folder)
    for first in range(0, 6, 2):
        quantizer.quant_model(images[first : first + 2])
    quantizer.export_quant_config()


def _test(recorded: Recorded, images: torch.Tensor, folder: Path) -> tuple[torch_quantizer, list[np.ndarray]]:
    quantizer = _make(recorded, "test", images[6:7], folder)
    with torch.no_grad():
        found = quantizer.quant_model(images[6:7])
    return quantizer, [value.numpy() for value in (found if isinstance(found, (tuple, list)) else (found,))]


def recorded_outputs(folder: Path) -> list[np.ndarray]:
    """Return the recorded outputs of the test image, in forward's order: y, y1, y2, ..."""
    found = arrays(folder / "quant_out.npz")
    return [found[name] for name in sorted(found, key=lambda name: (len(name), name))]


def _equal_outputs(figures: Figures, outputs: Sequence[np.ndarray]) -> bool:
    theirs = recorded_outputs(figures.recorded.folder)
    for index, (mine, expected) in enumerate(zip(outputs, theirs, strict=True)):
        if not np.array_equal(mine, expected):
            count, most = int((mine != expected).sum()), float(np.abs(mine - expected).max())
            figures.differences.append(f"output {index}: {count} of {mine.size} differ, by at most {most:g}")
    return not any(text.startswith("output ") for text in figures.differences)


def _compare_files(figures: Figures, folder: Path) -> None:
    mine = json.loads((folder / INFO_FILE).read_text())
    theirs = json.loads((figures.recorded.folder / INFO_FILE).read_text())
    equal = total = 0
    for table in ("param", "output", "input"):
        rows, expected = mine.get(table, {}), theirs.get(table, {})
        total += len(expected)
        equal += sum(rows.get(name) == row for name, row in expected.items())
        figures.differences += [f"missing: {name}" for name in expected if name not in rows]
        figures.differences += [f"extra: {name}" for name in rows if name not in expected]
        figures.differences += [
            f"{name}: {rows[name]}, recorded {row}" for name, row in expected.items() if rows.get(name, row) != row
        ]
    figures.positions = equal, total
    tables = ("param", "output", "input")
    figures.names = all(set(mine.get(t, {})) == set(theirs.get(t, {})) for t in tables)
    figures.order = all(list(mine.get(t, {})) == list(theirs.get(t, {})) for t in tables)
    figures.digest = mine.get("graph_md5") == theirs.get("graph_md5")
    figures.bias = _equal_bias(figures, folder)


def _equal_bias(figures: Figures, folder: Path) -> bool:
    theirs = json.loads((figures.recorded.folder / "bias_corr.json").read_text())
    mine = torch.load(folder / BIAS_FILE, weights_only=True)
    if list(mine) != list(theirs):
        figures.differences.append("bias_corr.pth: other keys or another order")
        return False
    for name, expected in theirs.items():
        if (mine[name] is None) != (expected is None):
            figures.differences.append(f"bias correction of {name}: one side has none")
            return False
        if expected is not None:
            distance = float(np.abs(np.asarray(mine[name], np.float64) - np.asarray(expected, np.float64)).max())
            if distance > BIAS_TOLERANCE:
                figures.differences.append(f"bias correction of {name}: off by {distance:.2g}")
                return False
    return True


def _compare_exports(figures: Figures, quantizer: torch_quantizer, folder: Path) -> None:
    theirs = _recorded_xmodel(figures.recorded.folder)
    try:
        quantizer.export_xmodel(str(folder))
        mine = next(folder.glob("*_int.xmodel"))
        _run_xmodels(figures, read_xmodel(mine), theirs)
        if theirs is None:
            figures.differences.append("xmodel written where the real tool writes none")
        else:
            found = diff_xmodels(read_xmodel(mine), theirs)
            figures.xmodel = not found
            figures.differences += [f"xmodel: {difference}" for difference in found[:3]]
    except ExportError as error:
        figures.xmodel = None if theirs is None else False
        figures.differences.append(f"xmodel: {error.message}")
    if any(figures.recorded.folder.glob("*_int.onnx*")):
        figures.onnx = _exports_onnx(figures, quantizer, folder)


def _exports_onnx(figures: Figures, quantizer: torch_quantizer, folder: Path) -> bool:
    try:
        quantizer.export_onnx_model(str(folder))
        found = [
            _run_onnx(read_packed(path), figures.recorded) for path in (_one(folder), _one(figures.recorded.folder))
        ]
    except Exception as error:  # whatever stops an export that the real tool makes is a difference
        figures.differences.append(f"onnx: {type(error).__name__}: {str(error)[:120]}")
        return False
    equal = all(np.array_equal(mine, theirs) for mine, theirs in zip(*found, strict=True))
    figures.differences += [] if equal else ["onnx: onnxruntime gives another output for the recorded file"]
    return equal


def _one(folder: Path) -> Path:
    return next(iter(sorted(folder.glob("*_int.onnx*"))))


def read_packed(path: Path) -> bytes:
    """Return the bytes of a file, unpacked where it is packed."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _run_onnx(model: bytes, recorded: Recorded) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    image = np.asarray(load_models(recorded.models).images(), np.float32)[6:7]
    outputs: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: image})
    return outputs


def _run_xmodels(figures: Figures, mine: Graph, theirs: Graph | None) -> None:
    """Run both files on the integers, against the recorded outputs; the tool's leaves out what a power is raised to."""
    image = np.asarray(load_models(figures.recorded.models).images(), np.float32)[6:7].transpose(0, 2, 3, 1)
    expected = recorded_outputs(figures.recorded.folder)
    equal = []
    for name, graph in (("ours", mine), ("the tool's", theirs)):
        if graph is None:
            continue
        try:
            found = run_outputs(graph, image, exponent=2.0 if graph is theirs else None)
            values = list(found.values()) if graph is mine else _in_order(found, figures.recorded.folder)
            equal.append(all(_same(one, two) for one, two in zip(values, expected, strict=True) if one is not None))
        except UserError as error:
            equal.append(False)
            figures.differences.append(f"integers, {name}: {error.message[:120]}")
            continue
        figures.differences += [] if equal[-1] else [f"integers, {name}: another output"]
    figures.xmodel_run = all(equal)


def _in_order(found: Mapping[str, np.ndarray], folder: Path) -> list[np.ndarray | None]:
    """Return the outputs of the tool's file in forward's order; None for one that is read inside and is no leaf."""
    if len(found) == 1:
        return list(found.values())
    names = json.loads((folder / "graph.json").read_text())["nodes"][-1]["in"]
    spelled = [re.sub(r"[^0-9A-Za-z]", "_", name) for name in names]
    return [found.get(f"{name}_fix", found.get(name)) for name in spelled]


def _same(value: np.ndarray, expected: np.ndarray) -> bool:
    turned = value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
    return any(one.shape == expected.shape and np.array_equal(one, expected) for one in (value, turned))


def _recorded_xmodel(folder: Path) -> Any:
    plain, packed = sorted(folder.glob("*_int.xmodel")), sorted(folder.glob("*_int.xmodel.gz"))
    if plain:
        return read_xmodel(plain[0])
    if not packed:
        return None
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / packed[0].stem
        path.write_bytes(gzip.decompress(packed[0].read_bytes()))
        return read_xmodel(path)


def _run_recorded_calibration(recorded: Recorded, images: torch.Tensor) -> bool:
    """Return whether the emulator, given the real tool's own calibration files, gives the recorded outputs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in (INFO_FILE, BIAS_FILE):
            (folder / file).write_bytes((recorded.folder / file).read_bytes())
        try:
            _, outputs = _test(recorded, images, folder)
        except Exception:  # what stops the test run is counted as not equal; the table's other columns say why
            return False
    theirs = recorded_outputs(recorded.folder)
    return all(np.array_equal(mine, expected) for mine, expected in zip(outputs, theirs, strict=True))


def quantised_of(quantizer: torch_quantizer) -> QuantisedGraph:
    """Return the quantised graph behind a quantizer."""
    return quantizer.graph_object


def format_table(rows: Sequence[Figures]) -> str:
    """Return the Markdown table of docs/fidelity.md, one row a recording, totals last."""
    columns = ("positions", "names", "key order", "digest", "bias", "outputs", "loaded", "xmodel", "integers", "ONNX")
    lines = ["| network | " + " | ".join(columns) + " | what differs |", "|---" * (len(columns) + 2) + "|"]
    lines += [format_row(row) for row in rows]
    whole = sum(row.whole for row in rows)
    equal, total = (sum(row.positions[index] for row in rows) for index in (0, 1))
    lines += ["", f"{whole} of {len(rows)} networks equal in everything; {equal} of {total} positions equal."]
    return "\n".join(lines)


def format_row(row: Figures) -> str:
    """Return one recording's row of the table."""
    marks = [row.names, row.order, row.digest, row.bias, row.outputs, row.loaded_outputs]
    marks += [row.xmodel, row.xmodel_run, row.onnx]
    cells = ["-" if mark is None else "yes" if mark else "**no**" for mark in marks]
    more = f" (+{len(row.differences) - 4})" if len(row.differences) > 4 else ""
    text = " ".join(("; ".join(row.differences[:4]) + more).replace("|", "\\|").split())
    return f"| {row.recorded.label} | {row.positions[0]}/{row.positions[1]} | " + " | ".join(cells) + f" | {text} |"


def replace_table(page: str, table: str) -> str:
    """Return the page with the table between its two marks replaced."""
    head, _, rest = page.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    return f"{head}{_BEGIN}\n{table}\n{_END}{tail}"


def read_rows(page: str) -> dict[str, str]:
    """Return the page's rows by recording."""
    rows = [line for line in page.splitlines() if line.startswith("| ") and "/" in line.split("|")[1]]
    return {line.split("|")[1].strip(): line for line in rows}
