"""The drop-in xir: an uncompiled xmodel read as its users know it, with the one DPU part that compiling would make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dpuforge.xmodel.read import read_xmodel
from dpuforge.xmodel.write import write_xmodel

Find = Callable[[str], Path]


def test_the_uncompiled_graph_has_one_dpu_part_between_user_and_cpu(find_xmodel: Find) -> None:
    """USER feeds integers into DPU, and what follows the last fix (a tanh) is left to the CPU."""
    import xir

    children = xir.Graph.deserialize(str(find_xmodel("ops_c"))).get_root_subgraph().toposort_child_subgraph()
    assert [child.get_attr("device") for child in children] == ["USER", "DPU", "CPU"]
    assert {op.get_type() for op in children[0].get_ops()} == {"data", "fix"}
    assert [op.get_type() for op in children[2].toposort()] == ["tanh"]
    assert {tensor.name for tensor in children[1].get_input_tensors()} == {"OpsC__input_0_fix"}
    assert {t.name for t in children[1].get_output_tensors()} == {t.name for t in children[2].get_input_tensors()}
    assert sum(child.get_op_num() for child in children) == children[0].get_graph().get_op_num()
    assert all(child.get_parent() is children[0].root and child.is_leaf and child.depth == 1 for child in children)


def test_tensors_between_the_parts_are_integers_with_a_fix_position(find_xmodel: Find) -> None:
    """The DPU's tensors are xint8 and carry the attributes of their fix op; the file's own say float32."""
    import xir

    graph = xir.Graph.deserialize(str(find_xmodel("tiny")))
    _, dpu = graph.get_root_subgraph().toposort_child_subgraph()
    (source,) = dpu.get_input_tensors()
    assert (source.dtype, source.dims, source.ndim) == ("xint8", [1, 32, 32, 3], 4)
    assert source.get_attrs() == {"fix_point": 5, "bit_width": 8, "if_signed": True, "round_mode": "DPU_ROUND"}
    assert (source.get_element_num(), source.get_data_size()) == (3072, 3072)
    declared = graph.get_op(source.producer.get_name()).get_output_tensor()
    assert (declared.dtype, declared.get_data_size(), declared.get_attrs()) == ("float32", 4 * 3072, {})


def test_ops_have_the_names_and_values_that_scripts_use(find_xmodel: Find) -> None:
    """Attributes come as Python lists and scalars, and ops can be walked in both directions."""
    import xir

    graph = xir.Graph.deserialize(str(find_xmodel("tiny")))
    conv = next(op for op in graph.toposort() if op.get_type() == "conv2d")
    assert conv.get_attr("kernel") == [3, 3]
    assert conv.get_attr("pad_mode") == "FLOOR"
    assert set(conv.get_input_ops()) == {"input", "weights", "bias"}
    assert conv.get_input_op("weights").get_type() == "fix"
    assert conv.get_input_num() == 3
    assert conv.get_input_num("bias") == 1
    assert conv in conv.get_input_op().get_fanout_ops()
    assert conv.get_input_tensor("weights").dims == [8, 3, 3, 3]
    assert graph.get_tensor_producer(conv.get_output_tensor()) is conv
    assert graph.get_leaf_subgraph(conv).get_attr("device") == "DPU"
    assert {op.get_type() for op in graph.get_head_ops()} == {"data", "const"}
    assert [op.get_type() for op in graph.get_tail_ops()] == ["fix"]
    with pytest.raises(RuntimeError, match=r"no attribute 'padding'; it has: .*pad_mode"):
        conv.get_attr("padding")


def test_every_op_comes_after_its_inputs(find_xmodel: Find) -> None:
    """toposort of graph and subgraph list producers before readers."""
    import xir

    graph = xir.Graph.deserialize(str(find_xmodel("ops_b")))
    dpu = graph.get_root_subgraph().toposort_child_subgraph()[1]
    for ops in (graph.toposort(), dpu.toposort()):
        place = {op: index for index, op in enumerate(ops)}
        reads = [(op, source) for op in ops for sources in op.get_input_ops().values() for source in sources]
        assert all(place[source] < place[op] for op, source in reads if source in place)
    assert set(dpu.toposort()) == dpu.get_ops()


def test_a_compiled_graph_keeps_its_own_subgraphs(compiled: Path) -> None:
    """Subgraphs, devices and fingerprint of a compiled file are the file's, those that feed others first."""
    import xir

    graph = xir.Graph.deserialize(compiled)
    user, dpu = graph.get_root_subgraph().toposort_child_subgraph()
    assert graph.compiled
    assert (user.get_attr("device"), dpu.get_attr("device")) == ("USER", "DPU")
    assert dpu.get_attr("dpu_fingerprint") == 0x101000056010407
    assert [tensor.dtype for tensor in dpu.get_input_tensors()] == ["xint8"]


def test_a_graph_that_is_not_quantised_has_no_dpu_part(find_xmodel: Find, tmp_path: Path) -> None:
    """Without fix ops nothing could run on a DPU, so the root has no children."""
    import xir

    graph = read_xmodel(find_xmodel("tiny"))
    source = next(op for op in graph.ops if op.type == "data")
    write_xmodel(replace(graph, ops=(source,), root=None), tmp_path / "float.xmodel")
    root = xir.Graph.deserialize(str(tmp_path / "float.xmodel")).get_root_subgraph()
    assert root.is_leaf
    assert root.toposort_child_subgraph() == []


def test_what_is_no_xmodel_is_refused(tmp_path: Path) -> None:
    """A missing file, other bytes and an attempt to build a graph raise RuntimeError with the reason."""
    import xir

    (tmp_path / "text.xmodel").write_text("hello, world, this is not an xmodel")
    with pytest.raises(RuntimeError, match=r"text\.xmodel: not an \.xmodel"):
        xir.Graph.deserialize(str(tmp_path / "text.xmodel"))
    with pytest.raises(RuntimeError, match="cannot be read"):
        xir.Graph.deserialize(str(tmp_path / "absent.xmodel"))
    with pytest.raises(RuntimeError, match="does not build them"):
        xir.Graph("mine")
