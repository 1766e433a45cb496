"""Puts the drop-in folder on the path, as `dpuforge emulator-path` is used, and hands out recorded xmodels as files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from dpuforge.paths import emulator_path
from dpuforge.xmodel.nouns import Argument, Attribute, DataType, Graph, Kind, Op, SubGraph, Tensor
from dpuforge.xmodel.write import write_xmodel

DATA = Path(__file__).resolve().parent.parent / "golden_data" / "xmodel"
Find = Callable[[str], Path]


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make xir and vart importable."""
    monkeypatch.syspath_prepend(str(emulator_path()))


@pytest.fixture
def find_xmodel(tmp_path: Path) -> Find:
    """Return a function that writes a recorded network's xmodel to a file and returns its path."""

    def find(net: str) -> Path:
        path = tmp_path / f"{net}_int.xmodel"
        path.write_bytes(gzip.decompress((DATA / f"{net}.xmodel.gz").read_bytes()))
        return path

    return find


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """Return an xmodel of the shape that vai_c_xir writes: ops named -fix in subgraphs with devices."""

    def tensor(name: str) -> Tensor:
        return Tensor(name, (1, 2, 2, 3), DataType.XINT, 8, {"fix_point": Attribute(Kind.INT32, 5)})

    dpu = {
        "device": Attribute(Kind.STRING, "DPU"),
        "dpu_name": Attribute(Kind.STRING, "DPUCZDX8G_ISA1_B4096"),
        "dpu_fingerprint": Attribute(Kind.UINT64, 0x101000056010407),
    }
    source = Op("in", "data-fix", {}, (), tensor("in"))
    upload = Op("up", "upload", {}, (Argument("input", ("in",)),), tensor("up"))
    children = (
        SubGraph("subgraph_up", ("up",), dpu),
        SubGraph("subgraph_in", ("in",), {"device": Attribute(Kind.STRING, "USER")}),
    )
    path = tmp_path / "compiled.xmodel"
    write_xmodel(Graph("net", (source, upload), SubGraph("root", ("in", "up"), {}, children)), path)
    return path
