"""A compiled xmodel is held against the board: its fingerprint and its number of DPU subgraphs."""

from pathlib import Path

import pytest

from dpuforge.load.boards.resolve_board import resolve_board
from dpuforge.records.hardware import Catalogue
from dpuforge.xmodel.check_compiled import check_compiled
from dpuforge.xmodel.nouns import Attribute, Graph, Kind, Op, SubGraph, Tensor
from dpuforge.xmodel.show import read_compiled
from dpuforge.xmodel.write import write_xmodel


def text(value: str) -> Attribute:
    """Return a string attribute."""
    return Attribute(Kind.STRING, value)


def write_compiled(path: Path, fingerprint: int, dpu_subgraphs: int = 1) -> Path:
    """Write a graph with the subgraph attributes that vai_c_xir leaves: a USER part, then DPU parts."""
    ops = tuple(Op(f"op{i}", "data-fix", tensor=Tensor(f"op{i}", (1, 8, 8, 3))) for i in range(dpu_subgraphs + 1))
    dpu = {
        "device": text("DPU"),
        "dpu_name": text("DPUCZDX8G_ISA1_B4096"),
        "dpu_fingerprint": Attribute(Kind.UINT64, fingerprint),
    }
    user = SubGraph("subgraph_input", ("op0",), {"device": text("USER")})
    parts = tuple(SubGraph(f"subgraph_op{i}", (f"op{i}",), dpu) for i in range(1, dpu_subgraphs + 1))
    root = SubGraph("root", tuple(op.name for op in ops), {}, (user, *parts))
    return write_xmodel(Graph("net", ops, root), path)


def test_an_xmodel_for_this_board_passes(catalogue: Catalogue, tmp_path: Path) -> None:
    """Equal fingerprints and the demanded number of subgraphs raise no objection."""
    path = write_compiled(tmp_path / "net.xmodel", 0x101000056010407)
    assert check_compiled(read_compiled(path), resolve_board(catalogue, "KV260", "3.0"), 1) == ()


@pytest.mark.parametrize(
    ("fingerprint", "name"),
    [(0x101000016010407, "DPUCZDX8G ISA1 B4096"), (0x1000020F6014406, "DPUCZDX8G ISA0 B3136")],
)
def test_an_xmodel_for_another_dpu_is_refused(
    catalogue: Catalogue, tmp_path: Path, fingerprint: int, name: str
) -> None:
    """The objection names both fingerprints and where the right one comes from."""
    path = write_compiled(tmp_path / "net.xmodel", fingerprint)
    (problem,) = check_compiled(read_compiled(path), resolve_board(catalogue, "KV260", "3.0"), 1)
    assert f"{fingerprint:#x} ({name})" in problem
    assert "0x101000056010407 (DPUCZDX8G_ISA1_B4096)" in problem
    assert "xdputil query" in problem


def test_another_number_of_subgraphs_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    """Four DPU subgraphs where the spec demands one are an objection of their own."""
    path = write_compiled(tmp_path / "net.xmodel", 0x101000056010407, 4)
    (problem,) = check_compiled(read_compiled(path), resolve_board(catalogue, "KV260", "3.0"), 1)
    assert "made 4 DPU subgraphs, the spec demands 1" in problem


def test_an_xmodel_that_is_not_compiled_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    """Without a DPU subgraph the objection says that compiling is still to be done."""
    op = Op("op", "data", tensor=Tensor("op", (1, 8, 8, 3)))
    path = write_xmodel(Graph("net", (op,), SubGraph("root", ("op",))), tmp_path / "net.xmodel")
    (problem,) = check_compiled(read_compiled(path), resolve_board(catalogue, "KV260", "3.0"), 1)
    assert "not compiled" in problem
