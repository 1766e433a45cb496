"""Reading and writing .xmodel files: nothing is lost, bytes are deterministic, and broken files are told as such."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_xmodels import LARGE, read_golden, small_bytes, small_graph

from dpuforge.errors import FormatError
from dpuforge.xmodel.definitions import assemble_graph, known_definitions
from dpuforge.xmodel.diff import diff_xmodels
from dpuforge.xmodel.nouns import (
    Argument,
    ArgumentDefinition,
    Attribute,
    AttributeDefinition,
    Graph,
    Kind,
    Op,
    OpDefinition,
    SubGraph,
    Tensor,
)
from dpuforge.xmodel.read import order_ops, parse_xmodel, read_xmodel
from dpuforge.xmodel.wire import message_class
from dpuforge.xmodel.write import serialise_xmodel, write_xmodel

INT32, UINT32 = st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1)
INT64, UINT64 = st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1)
FLOAT32, FLOAT64 = st.floats(width=32, allow_nan=False), st.floats(allow_nan=False)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)
SCALARS = {
    Kind.BOOL: st.booleans(),
    Kind.INT32: INT32,
    Kind.UINT32: UINT32,
    Kind.INT64: INT64,
    Kind.UINT64: UINT64,
    Kind.FLOAT: FLOAT32,
    Kind.DOUBLE: FLOAT64,
    Kind.STRING: NAMES,
    Kind.BYTES: st.binary(max_size=8),
}


def _values(kind: Kind) -> st.SearchStrategy[object]:
    if kind is Kind.EMPTY:
        return st.none()
    if kind.is_map:
        item = Kind(kind.value.removeprefix("map_string_2_"))
        items = st.dictionaries(NAMES, _values(item), max_size=3)
        return items.map(lambda pairs: tuple((key, pairs[key]) for key in sorted(pairs)))
    if kind.is_vector:
        return st.lists(SCALARS[Kind(kind.value.removesuffix("_vec"))], max_size=3).map(tuple)
    return SCALARS[kind]


ATTRIBUTE = st.sampled_from(list(Kind)).flatmap(lambda kind: _values(kind).map(lambda value: Attribute(kind, value)))
ATTRIBUTES = st.dictionaries(NAMES, ATTRIBUTE, max_size=3)
TENSOR = st.builds(Tensor, NAMES, st.lists(UINT32, max_size=4).map(tuple), st.integers(0, 6), INT32, ATTRIBUTES)
SUBGRAPH = st.recursive(
    st.builds(SubGraph, NAMES, st.lists(NAMES, max_size=3).map(tuple), ATTRIBUTES),
    lambda inner: st.builds(SubGraph, NAMES, st.just(()), ATTRIBUTES, st.lists(inner, max_size=2).map(tuple)),
    max_leaves=4,
)
DEFINITION = st.builds(
    OpDefinition,
    NAMES,
    st.lists(st.builds(ArgumentDefinition, NAMES, st.integers(0, 3), st.integers(0, 6), NAMES), max_size=2).map(tuple),
    st.lists(st.builds(AttributeDefinition, NAMES, st.integers(0, 1), ATTRIBUTE, INT32, NAMES), max_size=2).map(tuple),
    NAMES,
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw graphs in which each op reads earlier ones."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    ops = []
    for index, name in enumerate(names):
        sources = st.lists(st.sampled_from(names[:index]), max_size=3).map(tuple) if index else st.just(())
        args = draw(st.lists(st.builds(Argument, NAMES, sources), max_size=2).map(tuple))
        tensor = draw(st.none() | TENSOR)
        ops.append(Op(name, draw(NAMES), draw(ATTRIBUTES), args, tensor))
    definitions = draw(st.lists(DEFINITION, max_size=2).map(tuple))
    return Graph(draw(NAMES), tuple(ops), draw(st.none() | SUBGRAPH), draw(ATTRIBUTES), definitions)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_any_graph_survives_writing_and_reading(graph: Graph) -> None:
    """What is written is what is read, and writing it again gives the same bytes."""
    data = serialise_xmodel(graph)
    again = parse_xmodel(data)
    assert again == graph
    assert serialise_xmodel(again) == data


def test_recorded_files_survive_reading_and_writing(small_net: str) -> None:
    """A file of the real tool is written back at its size with nothing changed, op dictionary and prose included."""
    original = small_bytes(small_net)
    written = serialise_xmodel(parse_xmodel(original))
    assert parse_xmodel(written) == parse_xmodel(original)
    assert len(written) == len(original)
    assert _sorted_maps(original) == written


def _sorted_maps(data: bytes) -> bytes:
    """Bring maps into key order, the one freedom that the format leaves, with protobuf alone."""
    result: bytes = message_class("Graph").FromString(data).SerializeToString(deterministic=True)
    return result


@pytest.mark.parametrize("net", LARGE)
def test_recorded_large_files_survive_reading_and_writing(golden: Path, net: str) -> None:
    """The same for the large networks of the golden data."""
    graph = read_golden(golden / "nets" / net)
    assert parse_xmodel(serialise_xmodel(graph)) == graph


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    """Two processes with different hash seeds write the same bytes."""
    source = tmp_path / "tiny.xmodel"
    source.write_bytes(small_bytes("tiny"))
    code = (
        "import sys; from dpuforge.xmodel.read import read_xmodel; from dpuforge.xmodel.write import write_xmodel;"
        "write_xmodel(read_xmodel(sys.argv[1]), sys.argv[2])"
    )
    written = []
    for seed in ("1", "2"):
        target = tmp_path / f"{seed}.xmodel"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(source), str(target)], check=True, env=environment)
        written.append(target.read_bytes())
    assert written[0] == written[1]


def test_write_replaces_a_file_in_one_step(tmp_path: Path) -> None:
    """Writing leaves one file, readable by others, and no temporary one."""
    target = tmp_path / "deep" / "net.xmodel"
    for _ in range(2):
        assert write_xmodel(small_graph("tiny"), target) == target
    assert [path.name for path in target.parent.iterdir()] == ["net.xmodel"]
    assert target.stat().st_mode & 0o777 == 0o644
    assert read_xmodel(target) == small_graph("tiny")


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A graph that cannot be written changes nothing on disk."""
    target = write_xmodel(small_graph("tiny"), tmp_path / "net.xmodel")
    bad = replace(small_graph("tiny"), attrs={"a": Attribute(Kind.INT32, 2**40)})
    with pytest.raises(ValueError):
        write_xmodel(bad, target)
    assert read_xmodel(target) == small_graph("tiny")
    assert len(list(tmp_path.iterdir())) == 1


def test_assembled_graph_equals_the_recorded_one(small_net: str) -> None:
    """Root subgraph and op dictionary made from the ops alone are those of the real tool, custom ops included."""
    graph = small_graph(small_net)
    assembled = assemble_graph(graph.name, graph.ops)
    assert diff_xmodels(graph, assembled) == ()
    assert assembled.root == graph.root
    names = {definition.name for definition in graph.definitions}
    assert {definition.name for definition in assembled.definitions} == names
    assert len(known_definitions()) == 106


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 0.9999])
def test_truncated_file_is_told_as_such(tmp_path: Path, share: float) -> None:
    """A file cut anywhere gives a FormatError that names it."""
    data = small_bytes("tiny")
    path = tmp_path / "cut.xmodel"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FormatError, match=r"cut\.xmodel"):
        read_xmodel(path)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 7000), st.binary(min_size=1, max_size=8))
def test_damaged_file_gives_a_graph_or_a_format_error(place: int, noise: bytes) -> None:
    """Overwritten bytes never end in another exception."""
    data = bytearray(small_bytes("tiny"))
    data[place : place + len(noise)] = noise
    try:
        graph = parse_xmodel(bytes(data))
    except FormatError:
        return
    assert graph.ops


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200))
def test_noise_gives_a_format_error(noise: bytes) -> None:
    """Random bytes are refused (no op can hide in so few of them without a name clash or an op)."""
    try:
        graph = parse_xmodel(noise)
    except FormatError:
        return
    assert graph.ops


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((), "it has no ops"),
        ((Op("a", "data"), Op("a", "data")), "two ops are named 'a'"),
        ((Op("a", "fix", args=(Argument("input", ("b",)),)),), "op 'a' reads 'b', which does not exist"),
        ((Op("a", "fix", args=(Argument("input", ("a",)),)),), "op 'a' waits for itself"),
        (
            (Op("a", "fix", args=(Argument("i", ("b",)),)), Op("b", "fix", args=(Argument("i", ("a",)),))),
            "op 'a' waits for itself",
        ),
    ],
)
def test_broken_graph_is_refused(ops: tuple[Op, ...], message: str) -> None:
    """Names that clash, inputs that do not exist and cycles are errors, on reading and on assembling."""
    with pytest.raises(FormatError, match=message):
        parse_xmodel(serialise_xmodel(Graph("net", ops)))
    with pytest.raises(FormatError, match=message):
        assemble_graph("net", ops)


def test_ops_may_come_in_any_order() -> None:
    """A file with its ops reversed is read, and ordering brings inputs first."""
    graph = small_graph("tiny")
    backwards = parse_xmodel(serialise_xmodel(replace(graph, ops=graph.ops[::-1])))
    done: set[str] = set()
    for op in order_ops(backwards):
        assert set(op.all_inputs) <= done
        done.add(op.name)
    assert len(done) == len(graph.ops)


def test_long_chains_do_not_exhaust_the_stack() -> None:
    """Ten thousand ops in a row, last one first, are ordered without recursion."""
    chain = [Op("0", "data")]
    chain += [Op(str(i), "relu", args=(Argument("input", (str(i - 1),)),)) for i in range(1, 10_000)]
    assert order_ops(Graph("chain", tuple(chain[::-1]))) == tuple(chain)


@pytest.mark.parametrize("make", ["missing", "folder"])
def test_path_without_a_file_is_told(tmp_path: Path, make: str) -> None:
    """A missing path and a folder give a FormatError that names them."""
    path = tmp_path if make == "folder" else tmp_path / "missing.xmodel"
    with pytest.raises(FormatError, match=r"not a file|cannot be read"):
        read_xmodel(path)
