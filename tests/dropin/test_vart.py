"""The drop-in vart: the recorded outputs bit for bit, through the calls of a board application."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_images import DATA, find_dpu, normalise, run, to_int8, to_nchw

from dpuforge.paths import emulator_path

Find = Callable[[str], Path]
LARGE = ("vgg_small", "mobilenet_v2", "resnet18")


def load_images(path: Path) -> Any:
    """Return the recorded test image that fits an xmodel, float32 (1, H, W, 3)."""
    (source,) = find_dpu(path).get_input_tensors()
    return normalise(np.load(DATA / "images.npz")[f"hw{source.dims[1]}"])


def make_noise(count: int, seed: int = 0) -> Any:
    """Return float32 images for the network tiny."""
    return np.random.RandomState(seed).standard_normal((count, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("net", ["tiny", "ops_a", "ops_b", "ops_e"])
def test_outputs_equal_the_recorded_ones(find_xmodel: Find, net: str) -> None:
    """The int8 output times 2^-fix_point is the quantised model's recorded output, bit for bit."""
    import vart

    path = find_xmodel(net)
    output = run(vart.Runner.create_runner(find_dpu(path), "run"), load_images(path))
    np.testing.assert_array_equal(to_nchw(output), np.load(DATA / "quant_out.npz")[net])


def test_the_dpu_part_ends_before_the_cpu_s(find_xmodel: Find, golden: Path) -> None:
    """A network that ends in a tanh gives the int8 tensor before it, as recorded inside the quantised model."""
    import vart

    path = find_xmodel("ops_c")
    runner = vart.Runner.create_runner(find_dpu(path), "run")
    recorded = np.load(golden / "nets/ops_c/acts_int8.npz")["OpsC::nndct_conv2d_10"]
    integers = np.ldexp(run(runner, load_images(path)), runner.get_output_tensors()[0].get_attr("fix_point"))
    np.testing.assert_array_equal(to_nchw(integers), recorded)


@pytest.mark.slow
@pytest.mark.parametrize("net", LARGE)
def test_large_networks_equal_the_recorded_outputs(golden: Path, tmp_path: Path, net: str) -> None:
    """ResNet-18, MobileNetV2 and VGG give the recorded outputs of the quantised model, bit for bit."""
    import vart

    (packed,) = (golden / "nets" / net).glob("*.xmodel.gz")
    path = tmp_path / "large.xmodel"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    runner = vart.Runner.create_runner(find_dpu(path), "run")
    size = runner.get_input_tensors()[0].dims[1]
    images = normalise(np.load(golden / "inputs" / f"images_u8_hw{size}_seed0_n11.npz")["u8"][10:])
    np.testing.assert_array_equal(run(runner, images), np.load(golden / "nets" / net / "quant_out.npz")["y"])


def test_a_larger_batch_gives_the_same_rows(find_xmodel: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    """With DPUFORGE_VART_BATCH=3 the tensors take three images and seven images come out as they do one by one."""
    import vart

    dpu, images = find_dpu(find_xmodel("tiny")), make_noise(7)
    single = vart.Runner.create_runner(dpu, "run")
    monkeypatch.setenv("DPUFORGE_VART_BATCH", "3")
    triple = vart.Runner.create_runner(dpu, "run")
    assert single.get_input_tensors()[0].dims == [1, 32, 32, 3]
    assert triple.get_input_tensors()[0].dims == [3, 32, 32, 3]
    assert triple.get_output_tensors()[0].dims == [3, 10]
    expected = run(single, images)
    np.testing.assert_array_equal(run(triple, images), expected)
    assert len(np.unique(expected, axis=0)) == 7


def test_threads_may_share_a_runner_and_have_their_own(find_xmodel: Find) -> None:
    """Eight threads on one runner, and eight on eight, get what one thread gets."""
    import vart

    dpu = find_dpu(find_xmodel("ops_b"))
    images = make_noise(24).reshape(8, 3, 32, 32, 3)
    shared = vart.Runner.create_runner(dpu, "run")
    expected = [run(shared, part) for part in images]
    own = [vart.Runner.create_runner(dpu, "run") for _ in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda part: run(shared, part), images))
        apart = list(pool.map(run, own, images))
    np.testing.assert_array_equal(together, expected)
    np.testing.assert_array_equal(apart, expected)


def test_jobs_can_be_waited_for_in_any_order_and_once(find_xmodel: Find) -> None:
    """execute_async returns (id, 0) with ids of their own; a job waited for twice, or never started, is refused."""
    import vart

    runner = vart.Runner.create_runner(find_dpu(find_xmodel("tiny")))
    integers = to_int8(make_noise(4), 5)
    scores = [np.zeros((1, 10), np.int8) for _ in integers]
    jobs = [runner.execute_async([row[None].copy()], [out]) for row, out in zip(integers, scores, strict=True)]
    assert len({number for number, _ in jobs}) == 4
    assert [runner.wait(job) for job in reversed(jobs)] == [0] * 4
    expected = run(runner, np.ldexp(integers.astype(np.float32), -5))
    np.testing.assert_array_equal(np.ldexp(np.concatenate(scores).astype(np.float32), -6), expected)
    for job in (jobs[0], (99, 0)):
        with pytest.raises(RuntimeError, match="not under way"):
            runner.wait(job)


def test_floats_are_cut_towards_zero_as_vart_does(find_xmodel: Find) -> None:
    """float32 buffers work: inputs times 2^fix_point lose their fraction, outputs are exact; beyond int8 is refused."""
    import vart

    runner = vart.Runner.create_runner(find_dpu(find_xmodel("tiny")), "run")
    values = make_noise(1).clip(-3.9, 3.9)
    real, integers = np.zeros((1, 10), np.float32), np.zeros((1, 10), np.int8)
    runner.wait(runner.execute_async([values], [real]))
    runner.wait(runner.execute_async([np.trunc(values * 32).astype(np.int8)], [integers]))
    np.testing.assert_array_equal(real, np.ldexp(integers.astype(np.float32), -6))
    assert real.any()
    job = runner.execute_async([values * 100], [real])
    with pytest.raises(ValueError, match="outside the integers at fix position 5"):
        runner.wait(job)


def read_only() -> Any:
    """Return an input that may not be written."""
    array = np.zeros((1, 32, 32, 3), np.int8)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("buffer", "error", "words"),
    [
        (np.zeros((1, 3, 32, 32), np.int8).transpose(0, 2, 3, 1), ValueError, "has strides"),
        (read_only(), ValueError, "read-only"),
        (np.zeros((2, 32, 32, 3), np.int8), ValueError, r"shape \[1, 32, 32, 3\], got \[2, 32, 32, 3\]"),
        (np.zeros((1, 32, 32, 3), np.uint8), TypeError, "must be int8 or float32, got uint8"),
        ([[1, 2], [3, 4]], TypeError, "memoryview"),
    ],
)
def test_buffers_that_vart_would_misread_are_refused(find_xmodel: Find, buffer: Any, error: Any, words: str) -> None:
    """Strides, read-only memory, another size or type and lists are refused with what is wrong."""
    import vart

    runner = vart.Runner.create_runner(find_dpu(find_xmodel("tiny")), "run")
    with pytest.raises(error, match=words):
        runner.execute_async([buffer], [np.zeros((1, 10), np.int8)])
    with pytest.raises(ValueError, match="there are 1 tensors, got 0 buffers"):
        runner.execute_async([], [np.zeros((1, 10), np.int8)])


def test_dynamic_arrays_may_hold_fewer_images(find_xmodel: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    """With enable_dynamic_array two images run on a DPU of three; without it they are refused."""
    import vart

    monkeypatch.setenv("DPUFORGE_VART_BATCH", "3")
    runner = vart.Runner.create_runner(find_dpu(find_xmodel("tiny")), "run")
    images = make_noise(2)
    integers, scores = to_int8(images, 5), np.zeros((2, 10), np.int8)
    with pytest.raises(ValueError, match="shape"):
        runner.execute_async([integers], [scores])
    assert runner.wait(runner.execute_async([integers], [scores], True)) == 0
    np.testing.assert_array_equal(np.ldexp(scores.astype(np.float32), -6), run(runner, images))


def test_runner_ext_hands_out_buffers(find_xmodel: Find) -> None:
    """Buffers of RunnerExt share their memory with numpy views, and know their tensor."""
    import vart

    path = find_xmodel("tiny")
    runner = vart.RunnerExt.create_runner(find_dpu(path), "run")
    (source,), (target,) = runner.get_inputs(), runner.get_outputs()
    assert source.get_tensor().name == "Tiny__input_0_fix"
    np.asarray(source)[...] = to_int8(load_images(path), 5)
    assert runner.wait(runner.execute_async([source], [target])) == 0
    output = np.ldexp(np.asarray(target, np.float32), -target.get_tensor().get_attr("fix_point"))
    np.testing.assert_array_equal(output, np.load(DATA / "quant_out.npz")["tiny"])


def test_what_it_cannot_run_is_refused(find_xmodel: Find, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled xmodel, a subgraph of another device, an unknown mode and a bad batch are refused with the remedy."""
    import vart
    import xir

    with pytest.raises(RuntimeError, match=r"compiled for a DPU.*run it on the board"):
        vart.Runner.create_runner(find_dpu(compiled), "run")
    graph = xir.Graph.deserialize(str(find_xmodel("ops_c")))
    user, dpu, cpu = graph.get_root_subgraph().toposort_child_subgraph()
    for part in (user, cpu, graph.get_root_subgraph()):
        with pytest.raises(RuntimeError, match="not a DPU subgraph"):
            vart.Runner.create_runner(part, "run")
    with pytest.raises(RuntimeError, match="mode 'simulate'"):
        vart.Runner.create_runner(dpu, "simulate")
    monkeypatch.setenv("DPUFORGE_VART_BATCH", "none")
    with pytest.raises(RuntimeError, match="DPUFORGE_VART_BATCH must be a whole number from 1, got 'none'"):
        vart.Runner.create_runner(dpu, "run")


ALONE = """
import json, sys
sys.path.append(sys.argv[2])  # numpy and protobuf; no .pth file is read, so dpuforge is not found there
import vart, xir
names = []
for _ in range(2):
    root = xir.Graph.deserialize(sys.argv[1]).get_root_subgraph()
    dpu = root.toposort_child_subgraph()[1]
    names += [tensor.name for tensor in vart.Runner.create_runner(dpu, "run").get_input_tensors()]
print(json.dumps({"names": names, "emulated": [vart.__emulator__, xir.__emulator__]}))
"""


def test_the_folder_alone_is_enough_and_says_once_that_it_emulates(find_xmodel: Find) -> None:
    """With only the drop-in folder on PYTHONPATH the packages find dpuforge, and print one line on stderr."""
    libraries = str(Path(np.__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, "-S", "-c", ALONE, str(find_xmodel("tiny")), libraries],
        env={**os.environ, "PYTHONPATH": str(emulator_path())},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"names": ["Tiny__input_0_fix"] * 2, "emulated": [True, True]}
    assert done.stderr.count("EMULATION") == 1
    assert "no DPU is used" in done.stderr


@pytest.mark.parametrize(
    "net", ["prelu", "layernorm", "groupnorm", "mish", "adaptive_max", "conv1d", "min_max", "gelu"]
)
def test_operators_of_the_cpu_run_between_those_of_the_dpu(golden: Path, net: str) -> None:
    """What no DPU takes runs in float on the way: the recorded output of the quantised model, bit for bit."""
    import vart

    from tests.operators.recorded_micro import read_test_image

    folder = golden / "micro" / net
    runner = vart.Runner.create_runner(find_dpu(next(folder.glob("*.xmodel"))), "run")
    output = run(runner, read_test_image(golden))
    np.testing.assert_array_equal(to_nchw(output), np.load(folder / "quant_out.npz")["y"])
