"""The integer interpreter: equal to the recorded networks, exact in its arithmetic, closed to hostile files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_xmodels import DATA, LARGE, SMALL, normalise, read_golden, small_bytes, small_graph, small_images, to_nchw

from dpuforge.errors import FormatError, UsageError
from dpuforge.xmodel.integers import kernels
from dpuforge.xmodel.integers.fixed_point import Value, add, divide, exact_constant, multiply, quantise
from dpuforge.xmodel.integers.run import run_outputs, run_xmodel
from dpuforge.xmodel.nouns import Attribute, Graph, Kind, Op
from dpuforge.xmodel.read import parse_xmodel

INT8, FIX_POINT = st.integers(-128, 127), st.integers(-4, 12)
BACKENDS = pytest.mark.parametrize("use_torch", [True, False], ids=["torch", "numpy"])


@BACKENDS
@pytest.mark.parametrize("net", SMALL)
def test_small_networks_equal_the_recorded_outputs(net: str, use_torch: bool) -> None:
    """Running the recorded file gives the recorded output of the quantised model, bit for bit."""
    graph = small_graph(net)
    output = run_xmodel(graph, small_images(graph), use_torch=use_torch)
    assert output.dtype == np.float32
    np.testing.assert_array_equal(to_nchw(output), np.load(DATA / "quant_out.npz")[net])


@BACKENDS
@pytest.mark.parametrize("net", [*SMALL, *LARGE])
def test_every_activation_equals_the_recorded_one(golden: Path, net: str, use_torch: bool) -> None:
    """Every int8 tensor inside, not only the output, is the recorded one, for all eight golden networks."""
    folder = golden / "nets" / net
    graph, seen = read_golden(folder), dict[str, Any]()
    size = next(op for op in graph.ops if op.type == "data").dims[1]
    images = normalise(np.load(golden / "inputs" / f"images_u8_hw{size}_seed0_n11.npz")["u8"][10:])

    def watch(op: Op, value: Value) -> None:
        if op.type == "fix":
            seen[op.inputs()[0]] = value.data

    (output,) = run_outputs(graph, images, use_torch=use_torch, watch=watch).values()
    np.testing.assert_array_equal(to_nchw(output), np.load(folder / "quant_out.npz")["y"])
    nodes = json.loads((folder / "graph.json").read_text())["nodes"]
    spelled = {node["normalized"]: "".join(c if c.isalnum() else "_" for c in node["name"]) for node in nodes}
    recorded = np.load(folder / "acts_int8.npz")
    names = {key: spelled[key.replace("|", "/")] for key in recorded.files}
    absorbed = {"OpsC__OpsC_ZeroPad2d_p__ret_13"} if net == "ops_c" else set()  # a pad goes into the convolution behind
    assert set(names.values()) - set(seen) == absorbed
    for key, name in names.items():
        if name in absorbed:
            continue
        assert seen[name].dtype == np.int8
        np.testing.assert_array_equal(to_nchw(seen[name]), recorded[key], err_msg=name)


def test_batches_give_what_single_images_give() -> None:
    """Seven images in batches of three equal seven runs of one, and progress counts up to seven."""
    graph, calls = small_graph("ops_b"), list[tuple[int, int]]()
    noise = np.random.RandomState(0).standard_normal((7, 32, 32, 3)).astype(np.float32)
    together = run_xmodel(graph, noise, batch_size=3, progress=lambda done, total: calls.append((done, total)))
    alone = np.concatenate([run_xmodel(graph, image[None], batch_size=1) for image in noise])
    np.testing.assert_array_equal(together, alone)
    assert calls == [(3, 7), (6, 7), (7, 7)]
    assert len(np.unique(together, axis=0)) > 1


def test_both_backends_give_the_same_integers() -> None:
    """numpy and torch agree on inputs far outside the calibrated range too."""
    for net in SMALL:
        graph = small_graph(net)
        noise = np.random.RandomState(1).standard_normal((4, *small_images(graph).shape[1:])) * 8
        results = [run_xmodel(graph, noise.astype(np.float32), use_torch=flag) for flag in (True, False)]
        np.testing.assert_array_equal(*results)


def test_interpreter_needs_neither_torch_nor_the_emulator() -> None:
    """Running without torch imports neither torch nor the emulator: the file is checked by code of its own."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import recorded_xmodels as r;"
        "from dpuforge.xmodel.integers.run import run_xmodel;"
        "g = r.small_graph('ops_a'); run_xmodel(g, r.small_images(g), use_torch=False);"
        "print([name for name in sys.modules if name == 'torch' or name.startswith('dpuforge.emulator')])"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_resnet18_runs_a_hundred_images_in_seconds(golden: Path) -> None:
    """At this pace a thousand images of 224x224 take minutes; the figure is printed."""
    graph = read_golden(golden / "nets" / "resnet18")
    images = normalise(np.load(golden / "inputs" / "images_u8_hw224_seed0_n11.npz")["u8"])
    start = time.perf_counter()
    output = run_xmodel(graph, np.concatenate([images] * 9))
    seconds = time.perf_counter() - start
    print(f"{seconds / 99 * 1000:.0f} ms an image")
    np.testing.assert_array_equal(output[:11], output[88:])
    assert seconds < 60


def _rounded(value: Fraction, fix_point: int, bits: int) -> int:
    exact = floor(value * Fraction(2) ** fix_point + Fraction(1, 2))
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, exact))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=8),
    st.integers(-8, 20),
    st.sampled_from([1, 3, 9, 49, 6, 2731]),
    st.integers(-8, 20),
    st.sampled_from([4, 8, 16]),
)
def test_quantise_rounds_half_up_exactly(integers: list[int], fix: int, divisor: int, target: int, bits: int) -> None:
    """Rounding equals floor(x + 1/2) in exact fractions, clamped, for every shift and divisor."""
    value = Value(np.array(integers, np.int32), fix, divisor, 2**30)
    result = quantise(value, target, bits, signed=True).data
    expected = [_rounded(Fraction(n) / divisor / Fraction(2) ** fix, target, bits) for n in integers]
    assert result.tolist() == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=8), st.integers(-3, 12))
def test_quantise_rounds_reals_half_up(numbers: list[float], target: int) -> None:
    """The network's float input is rounded like exact fractions, 0.49999997 to zero."""
    value = Value(np.array(numbers, np.float64), exact=False)
    expected = [_rounded(Fraction(number), target, 8) for number in numbers]
    assert quantise(value, target, 8, signed=True).data.tolist() == expected


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-128, 127),
    st.integers(-4, 12),
    st.integers(-128, 127),
    st.integers(-4, 12),
    st.sampled_from([1, 9, 49]),
)
def test_sums_and_products_are_exact(one: int, fix_one: int, two: int, fix_two: int, divisor: int) -> None:
    """Adding, multiplying and dividing lose nothing before the rounding."""
    left = divide(Value(np.array([one], np.int8), fix_one, bound=128), divisor)
    right = divide(Value(np.array([two, 1], np.int8), fix_two, bound=128), divisor)
    fractions = Fraction(one) / Fraction(2) ** fix_one / divisor, Fraction(two) / Fraction(2) ** fix_two / divisor
    for result, expected in (
        (add(left, right), fractions[0] + fractions[1]),
        (add(left, right, -1), fractions[0] - fractions[1]),
        (multiply(left, right), fractions[0] * fractions[1]),
    ):
        found = Fraction(int(result.data[0])) / Fraction(2) ** result.fix_point / result.divisor
        assert result.exact
        assert found == expected


def test_pool_coefficient_cancels_the_divisor() -> None:
    """sum / 49 * (49 * 21 / 1024) is sum * 21 shifted by ten bits, as the DPU computes it."""
    mean = divide(Value(np.array([1000, -7], np.int32), 4, bound=49 * 128), 49)
    result = multiply(mean, exact_constant(np.array([49 * 21 / 1024], np.float32)))
    assert (result.divisor, result.fix_point, result.data.tolist()) == (1, 14, [21000, -147])


@pytest.mark.parametrize("bound", [2**24 - 1, 2**24, 2**52])
def test_sums_are_computed_in_a_type_that_holds_them(bound: int) -> None:
    """float32 serves below 2**24, float64 from there."""
    assert kernels.exact_float(bound) is (np.float32 if bound < 2**24 else np.float64)


@BACKENDS
def test_convolution_is_exact_where_float32_would_round(use_torch: bool) -> None:
    """A sum beyond 2**24 with an odd last digit comes out whole."""
    x = np.full((1, 1, 1, 2048), 127, np.int8)
    weights = np.full((1, 1, 1, 2048), 127, np.int8)
    weights[..., 0] = 126
    bound = int(np.abs(weights.astype(np.int64)).sum()) * 128
    window = kernels.Window((1, 1), (1, 1))
    sums = kernels.convolve(x, weights, window, 1, bound, use_torch)
    assert int(sums.item()) == 2048 * 127 * 127 - 127


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 3, 32, 32), np.float32), r"float32 \(N, 32, 32, 3\)"),
        (np.zeros((0, 32, 32, 3), np.float32), "N > 0"),
        (np.full((1, 32, 32, 3), np.nan, np.float32), "NaN"),
        (np.zeros((1, 32, 32, 3), dtype="U1"), "got <U1"),
    ],
)
def test_wrong_images_are_a_usage_error(images: np.ndarray[Any, Any], message: str) -> None:
    """Shapes, kinds and values that do not fit are told with what is wanted."""
    with pytest.raises(UsageError, match=message):
        run_xmodel(small_graph("tiny"), images)


def _edit(graph: Graph, kind: str, **attrs: Attribute) -> Graph:
    index = next(index for index, op in enumerate(graph.ops) if op.type == kind)
    ops = list(graph.ops)
    ops[index] = replace(ops[index], attrs={**ops[index].attrs, **attrs})
    return replace(graph, ops=tuple(ops))


@pytest.mark.parametrize(
    ("kind", "attrs"),
    [
        ("conv2d", {"pad": Attribute(Kind.INT32_VEC, (2**30, 2**30, 2**30, 2**30))}),
        ("conv2d", {"pad": Attribute(Kind.INT32_VEC, (-(2**30),) * 4)}),
        ("conv2d", {"pad": Attribute(Kind.INT32_VEC, (2**20, -(2**20), 1, 1))}),
        ("maxpool2d", {"pad": Attribute(Kind.INT32_VEC, (0, 0, 2**20, -(2**20)))}),
        ("conv2d", {"stride": Attribute(Kind.INT32_VEC, (0, 0))}),
        ("conv2d", {"stride": Attribute(Kind.INT32_VEC, (2, 2))}),
        ("conv2d", {"kernel": Attribute(Kind.INT32_VEC, (5, 5))}),
        ("conv2d", {"kernel": Attribute(Kind.STRING, "3x3")}),
        ("conv2d", {"group": Attribute(Kind.INT32, 0)}),
        ("conv2d", {"dilation": Attribute(Kind.INT32_VEC, (2**31 - 1, 1))}),
        ("conv2d", {"pad_mode": Attribute(Kind.STRING, "SAME")}),
        ("maxpool2d", {"kernel": Attribute(Kind.INT32_VEC, (2**31 - 1, 2**31 - 1))}),
        ("maxpool2d", {"pad": Attribute(Kind.INT32_VEC, (2**30, 0, 2**30, 0))}),
        ("fix", {"fix_point": Attribute(Kind.INT32, 10**9)}),
        ("fix", {"bit_width": Attribute(Kind.INT32, 0)}),
        ("fix", {"round_mode": Attribute(Kind.STRING, "PY3_ROUND")}),
        ("const", {"shape": Attribute(Kind.INT32_VEC, (2**31 - 1, 2**31 - 1))}),
        ("const", {"shape": Attribute(Kind.INT32_VEC, (-1,))}),
        ("const", {"data_type": Attribute(Kind.STRING, "object")}),
        ("const", {"data": Attribute(Kind.BYTES, b"")}),
        ("matmul", {"transpose_b": Attribute(Kind.BOOL, False)}),
        ("stack", {"axis": Attribute(Kind.INT32, 7)}),
    ],
)
def test_hostile_attributes_are_format_errors(kind: str, attrs: dict[str, Attribute]) -> None:
    """Sizes and positions that no DPU has end in a FormatError and not in an allocation or a traceback."""
    graph = _edit(small_graph("tiny"), kind, **attrs)
    for use_torch in (True, False):
        with pytest.raises(FormatError):
            run_xmodel(graph, small_images(graph), use_torch=use_torch)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9000), st.binary(min_size=1, max_size=6), st.booleans())
def test_damaged_files_run_or_are_refused(place: int, noise: bytes, use_torch: bool) -> None:
    """Overwritten bytes in the ops end in a result or in one of our errors, never in another exception."""
    data = bytearray(small_bytes("tiny"))
    data[place : place + len(noise)] = noise
    try:
        output = run_xmodel(parse_xmodel(bytes(data)), small_images(small_graph("tiny")), use_torch=use_torch)
    except (FormatError, UsageError):
        return
    assert output.dtype == np.float32


def test_unknown_op_is_named() -> None:
    """An op type that the interpreter does not know is told with its name."""
    graph = small_graph("tiny")
    ops = tuple(replace(op, type="gru") if op.type == "maxpool2d" else op for op in graph.ops)
    with pytest.raises(FormatError, match="MaxPool2d_pool__458' of type 'gru'"):
        run_xmodel(replace(graph, ops=ops), small_images(graph))


def test_compiled_file_is_sent_to_the_dpu() -> None:
    """A compiled file is refused with the reason."""
    graph = small_graph("tiny")
    ops = tuple(replace(op, type="data-fix") if op.type == "data" else op for op in graph.ops)
    with pytest.raises(FormatError, match="a compiled xmodel runs on a DPU"):
        run_xmodel(replace(graph, ops=ops), small_images(graph))


def test_wrong_weight_is_seen_in_the_output() -> None:
    """The comparison with the recorded output can fail: one weight changed changes the result."""
    graph = small_graph("tiny")
    index = next(index for index, op in enumerate(graph.ops) if op.name == "Tiny__fc_weight")
    data = np.frombuffer(graph.ops[index].attrs["data"].value, "<f4").copy()
    data[:8] += 0.25
    ops = list(graph.ops)
    ops[index] = replace(ops[index], attrs={**ops[index].attrs, "data": Attribute(Kind.BYTES, data.tobytes())})
    output = run_xmodel(replace(graph, ops=tuple(ops)), small_images(graph))
    assert not np.array_equal(output, np.load(DATA / "quant_out.npz")["tiny"])
