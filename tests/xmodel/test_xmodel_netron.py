"""An independent reader, the package netron, opens what we write."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from recorded_xmodels import SMALL, small_graph

from dpuforge.xmodel.definitions import assemble_graph
from dpuforge.xmodel.show import show_xmodel
from dpuforge.xmodel.write import write_xmodel

READER = Path(__file__).with_name("netron_reader.mjs")
PARTS = ("xmodel.js", "xmodel-proto.js", "protobuf.js", "text.js")


@pytest.fixture(scope="module")
def netron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with netron's reader as ES modules, or skip where node or netron is missing."""
    found = importlib.util.find_spec("netron")
    if found is None or found.origin is None:
        pytest.skip("the package netron is not installed")
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    folder = tmp_path_factory.mktemp("netron")
    for part in PARTS:
        shutil.copy(Path(found.origin).with_name(part), folder / part)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def _open(netron: Path, path: Path) -> dict[str, Any]:
    command = ["node", str(READER), str(netron), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    opened: dict[str, Any] = json.loads(result.stdout)
    return opened


@pytest.mark.parametrize("net", SMALL)
def test_netron_opens_what_we_write(netron: Path, tmp_path: Path, net: str) -> None:
    """netron recognises the file and shows every op with its type, arguments, attributes and shape."""
    recorded = small_graph(net)
    graph = assemble_graph(recorded.name, recorded.ops)
    seen = _open(netron, write_xmodel(graph, tmp_path / f"{net}.xmodel"))
    assert (seen["type"], seen["name"], seen["format"]) == ("xmodel.pb", graph.name, "xmodel")
    (source,) = (op for op in graph.ops if op.type == "data")
    assert seen["inputs"] == [[source.name, f"float32[{','.join(map(str, source.dims))}]"]]
    shown = {node["name"]: node for node in seen["nodes"]}
    constants = show_xmodel(graph)["op_types"]["const"]
    assert len(shown) == len(graph.ops) - 1 - constants
    for op in graph.ops:
        if op.type in ("data", "const"):
            continue
        node = shown[op.name]
        assert node["type"] == op.type
        assert node["output"] == f"float32[{','.join(map(str, op.dims))}]"
        assert node["inputs"] == [[arg.name, len(arg.ops)] for arg in op.args]
        assert sorted(name for name, _ in node["attributes"]) == sorted(op.attrs)


def test_netron_refuses_what_is_no_xmodel(netron: Path, tmp_path: Path) -> None:
    """The reader under test can fail: a cut file is not opened."""
    path = write_xmodel(small_graph("tiny"), tmp_path / "tiny.xmodel")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(AssertionError, match="not serial_v2"):
        _open(netron, path)
