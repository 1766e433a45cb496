"""What `xmodel show` says: counts, fix positions, parameters and MACs, and the subgraphs of compiled files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_xmodels import read_golden, small_graph

from dpuforge.errors import FormatError
from dpuforge.xmodel.nouns import Argument, Attribute, DataType, Graph, Kind, Op, SubGraph, Tensor
from dpuforge.xmodel.read import read_xmodel
from dpuforge.xmodel.show import CompiledSummary, read_compiled, show_xmodel
from dpuforge.xmodel.write import write_xmodel

FINGERPRINT = 0x101000016010407


def test_summary_of_a_small_network() -> None:
    """Counts, parameters and MACs of the tiny network, worked out by hand from its layers."""
    summary = show_xmodel(small_graph("tiny"))
    conv1, conv2, fc = 32 * 32 * 8 * 27, 16 * 16 * 8 * 72, 80
    assert summary["graph_name"] == "Tiny"
    assert summary["parameters"] == (8 * 27 + 8) + (8 * 72 + 8) + (80 + 10)
    assert summary["macs"] == conv1 + conv2 + fc
    assert summary["op_types"]["fix"] == 13
    assert summary["op_types"]["conv2d"] == 2
    assert summary["subgraphs"] == []


def test_summary_has_the_shape_of_the_contract() -> None:
    """The keys are those that docs/cli.md promises, and all of it is JSON."""
    summary = show_xmodel(_compiled())
    assert list(summary) == ["graph_name", "op_types", "parameters", "macs", "fix", "subgraphs"]
    assert list(summary["subgraphs"][0]) == ["name", "device", "dpu_name", "fingerprint"]
    assert json.loads(json.dumps(summary)) == summary


def test_fix_positions_are_those_of_quant_info(golden: Path) -> None:
    """Parameter and activation fix positions equal the ones that the quantiser exported."""
    for net in ("tiny", "ops_a", "ops_b", "ops_e"):
        info = json.loads((golden / "nets" / net / "quant_info.json").read_text())
        shown = show_xmodel(read_golden(golden / "nets" / net))["fix"]
        for name, ((_, fix_point),) in info["param"].items():
            assert shown[name.replace("::", "__").replace(".", "_")] == fix_point
        graph = json.loads((golden / "nets" / net / "graph.json").read_text())
        spelled = {node["normalized"]: node["name"] for node in graph["nodes"]}
        for name, ((_, fix_point),) in info["output"].items():
            letters = [c if c.isalnum() else "_" for c in spelled[name]]
            assert shown["".join(letters)] == fix_point, name


def test_resnet18_has_its_known_size(golden: Path) -> None:
    """resnet18 at 224x224: 1.814 G MACs; 11,684,712 values after batch norms went into biases."""
    summary = show_xmodel(read_golden(golden / "nets" / "resnet18"))
    assert summary["macs"] == 1_814_073_344
    assert summary["parameters"] == 11_684_712
    expected = {"fix": 74, "const": 45, "conv2d": 20, "relu": 17, "add": 8}
    expected |= dict.fromkeys(("data", "maxpool2d", "avgpool2d", "mul", "stack", "reshape", "matmul"), 1)
    assert summary["op_types"] == expected


def _compiled() -> Graph:
    """Make a graph with the marks of a compiled one: device subgraphs, int8 tensors with fix positions."""
    fixed = {"fix_point": Attribute(Kind.INT32, 5), "bit_width": Attribute(Kind.INT32, 8)}
    source = Op("input", "data-fix", tensor=Tensor("input", (1, 8, 8, 3), DataType.XINT, 8, fixed))
    weights = Op("weights", "const-fix", tensor=Tensor("weights", (4, 3, 3, 3), DataType.XINT, 8, fixed))
    args = (Argument("input", ("upload",)), Argument("weights", ("weights",)))
    upload = Op("upload", "upload", args=(Argument("input", ("input",)),))
    conv = Op("conv", "conv2d-fix", args=args, tensor=Tensor("conv", (1, 8, 8, 4), DataType.XINT, 8, fixed))
    result = Op("out", "fix2float", args=(Argument("input", ("conv",)),), tensor=Tensor("out", (1, 8, 8, 4)))
    dpu = {
        "device": Attribute(Kind.STRING, "DPU"),
        "dpu_name": Attribute(Kind.STRING, "DPUCZDX8G_ISA1_B4096"),
        "dpu_fingerprint": Attribute(Kind.UINT64, FINGERPRINT),
        "mc_code": Attribute(Kind.BYTES, b"\x01\x02"),
        "reg_id_to_size": Attribute(Kind.MAP_INT32, (("REG_0", 108), ("REG_1", 0))),
    }
    children = (
        SubGraph("subgraph_input", ("input",), {"device": Attribute(Kind.STRING, "USER")}),
        SubGraph("subgraph_conv", ("weights", "upload", "conv"), dpu),
        SubGraph("subgraph_out", ("out",), {"device": Attribute(Kind.STRING, "CPU")}),
    )
    names = ("input", "weights", "upload", "conv", "out")
    root = SubGraph("root", names, {"workload": Attribute(Kind.UINT64, 13824)}, children)
    return Graph("net", (source, weights, upload, conv, result), root)


def test_compiled_file_shows_subgraphs_target_and_fingerprint(tmp_path: Path) -> None:
    """Device, DPU name, fingerprint and the tensors' fix positions come back from a file with compiled marks."""
    path = write_xmodel(_compiled(), tmp_path / "compiled.xmodel")
    summary = show_xmodel(read_xmodel(path))
    assert [(row["device"], row["dpu_name"], row["fingerprint"]) for row in summary["subgraphs"]] == [
        ("USER", "", ""),
        ("DPU", "DPUCZDX8G_ISA1_B4096", "0x101000016010407"),
        ("CPU", "", ""),
    ]
    assert summary["fix"] == {"input": 5, "weights": 5, "conv": 5}
    assert summary["macs"] == 8 * 8 * 4 * 27
    assert summary["parameters"] == 108
    expected = CompiledSummary(1, ("DPUCZDX8G_ISA1_B4096",), ("0x101000016010407",))
    assert read_compiled(path) == expected


def test_uncompiled_file_has_no_dpu_subgraph(tmp_path: Path) -> None:
    """The summary of a file that was never compiled says zero."""
    path = write_xmodel(small_graph("tiny"), tmp_path / "tiny.xmodel")
    assert read_compiled(path) == CompiledSummary(0, (), ())


def test_several_targets_are_listed_once_each(tmp_path: Path) -> None:
    """Two DPU subgraphs of one target are counted as two and named as one."""
    graph = _compiled()
    assert graph.root is not None
    twice = replace(graph.root, children=(*graph.root.children, graph.root.children[1]))
    path = write_xmodel(replace(graph, root=twice), tmp_path / "net.xmodel")
    assert read_compiled(path) == CompiledSummary(2, ("DPUCZDX8G_ISA1_B4096",), ("0x101000016010407",))


def test_compiled_file_of_nonsense_is_refused(tmp_path: Path) -> None:
    """A text file in place of the compiler's output is a FormatError."""
    path = tmp_path / "net.xmodel"
    path.write_text("compiled\n")
    with pytest.raises(FormatError):
        read_compiled(path)
