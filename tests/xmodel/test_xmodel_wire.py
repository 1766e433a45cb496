"""The wire format: our .proto, its compiled form, and the limits that keep hostile files small."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from dpuforge.errors import FormatError
from dpuforge.xmodel import wire

FOLDER = Path(str(resources.files("dpuforge.xmodel")))


def test_compiled_schema_matches_the_proto(tmp_path: Path) -> None:
    """xir.desc is what protoc makes of xir.proto today."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools (protoc) is not installed")
    out = tmp_path / "xir.desc"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(FOLDER), f"--descriptor_set_out={out}", "xir.proto"]
    subprocess.run(command, check=True)
    fresh, shipped = (
        descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()) for path in (out, FOLDER / "xir.desc")
    )
    assert fresh == shipped


def test_schema_holds_every_field_number_of_the_format() -> None:
    """Field numbers of the messages are those of XIR serialisation v2."""
    numbers = {
        name: sorted(wire.message_class(name).DESCRIPTOR.fields_by_number)
        for name in ("Graph", "OPNode", "OpArg", "Tensor", "SubGraph", "AttrValue", "OpDef", "OpArgDef", "AttrDef")
    }
    assert numbers == {
        "Graph": [1, 5, 10, 11, 101],
        "OPNode": [1, 2, 3, 4, 5],
        "OpArg": [1, 2],
        "Tensor": [1, 2, 5, 6, 10],
        "SubGraph": [1, 3, 5, 10],
        "AttrValue": list(range(4, 33)),
        "OpDef": [1, 2, 3, 4],
        "OpArgDef": [1, 2, 3, 4],
        "AttrDef": [1, 3, 4, 6, 7],
    }


def test_scan_refuses_more_fields_than_a_real_file_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of tiny messages, each hundreds of bytes once parsed, is refused before parsing."""
    monkeypatch.setattr(wire, "MAX_FIELDS", 1000)
    wire.check_wire(b"\x2a\x00" * 1000)
    with pytest.raises(FormatError, match="more than 1000 fields"):
        wire.check_wire(b"\x2a\x00" * 1001)


def test_scan_refuses_large_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed numbers grow thirtyfold as Python integers, so their bytes are bounded."""
    monkeypatch.setattr(wire, "MAX_VECTOR_BYTES", 8)
    graph = wire.message_class("Graph")()
    graph.op_node.add(op_name="a").output_tensor.tensor_dim.extend(range(8))
    wire.check_wire(graph.SerializeToString())
    graph.op_node[0].output_tensor.tensor_dim.append(1)
    with pytest.raises(FormatError, match="9 bytes of packed vectors"):
        wire.check_wire(graph.SerializeToString())


def test_scan_refuses_deep_nesting() -> None:
    """Subgraphs inside subgraphs without end are refused."""
    payload = b""
    for _ in range(80):
        size = len(payload)
        length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
        payload = b"\x52" + length + payload
    with pytest.raises(FormatError, match="nested deeper"):
        wire.check_wire(payload)
