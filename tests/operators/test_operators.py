"""One judge: what the check before training accepts is what is written, what runs, and what the two agree on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dpuforge.emulator.export.network_operators import list_operators
from dpuforge.emulator.graph.capture import capture_shapes
from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer
from dpuforge.emulator.prepare.passes import PrepareOptions
from dpuforge.errors import FormatError
from dpuforge.hardware.limits import Target
from dpuforge.hardware.partition import partition_operators
from dpuforge.records.hardware import Catalogue
from dpuforge.records.operator import Operator
from dpuforge.xmodel.dump import compare_with_dump
from dpuforge.xmodel.integers.fixed_point import Value
from dpuforge.xmodel.integers.run import run_outputs, run_xmodel
from dpuforge.xmodel.neutral import neutral_operators
from dpuforge.xmodel.nouns import Graph, Op
from dpuforge.xmodel.read import read_xmodel
from tests.operators.operator_networks import NETWORKS, Behind, image_for
from tests.operators.recorded_micro import read_test_image

TARGETS = ("DPUCZDX8G_ISA1_B4096", "DPUCVDX8H_ISA1_F2W4_4PE")


def export(network: nn.Module, image: torch.Tensor, folder: Path) -> tuple[Graph, Path, torch.Tensor]:
    """Quantise, test and export as a user does; return the xmodel, the dumped tensors and the quantised output."""
    torch.manual_seed(0)
    network.eval()
    calibration = torch_quantizer("calib", network, (image,), output_dir=str(folder), device="cpu")
    calibration.quant_model(torch.cat([image, image * 0.5]))
    calibration.export_quant_config()
    test = torch_quantizer("test", network, (image,), output_dir=str(folder), device="cpu")
    output = test.quant_model(image)
    test.export_xmodel(str(folder), deploy_check=True)
    (dump,) = (path for path in (folder / "deploy_check_data_int").iterdir() if path.is_dir())
    return read_xmodel(next(folder.glob("*.xmodel"))), dump, output


def foresee(network: nn.Module, image: torch.Tensor) -> tuple[Operator, ...]:
    """Return what the check before training sees, with the quantizer's default rewrites."""
    return list_operators(capture_shapes(network.eval(), tuple(image.shape)), PrepareOptions())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_foreseen_is_written_and_runs(catalogue: Catalogue, tmp_path: Path, name: str) -> None:
    """No operator stops; the file divides as foreseen on two DPUs and runs to the quantised network's own tensors."""
    network, image = NETWORKS[name], image_for(name)
    foreseen = foresee(network, image)
    assert [operator.stop for operator in foreseen if operator.stop] == []
    graph, dump, _ = export(network, image, tmp_path)
    found = compare_with_dump(graph, dump)
    assert (found.different, found.tensors > 0) == ((), True)
    for target_name in TARGETS:
        dpu = catalogue.dpus[target_name]
        target = Target(dpu, catalogue.families[dpu.family])
        before, after = (partition_operators(ops, target) for ops in (foreseen, neutral_operators(graph)))
        assert before.dpu_subgraphs == after.dpu_subgraphs
        assert [place.operator.kind for place in before.cpu] == [place.operator.kind for place in after.cpu]


def test_what_reads_floats_of_the_cpu_is_the_cpu_s(catalogue: Catalogue) -> None:
    """A factor behind a normalisation reads its rounded result, as recorded: the DPU has a part behind the CPU's."""
    dpu = catalogue.dpus[TARGETS[0]]
    foreseen = foresee(NETWORKS["embedding"], image_for("embedding"))
    partition = partition_operators(foreseen, Target(dpu, catalogue.families[dpu.family]))
    assert partition.dpu_subgraphs == 2
    assert partition.cpu


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["layer norm", "PReLU per channel", "MultiheadAttention", "shuffle through the batch"])
def test_a_batch_gives_what_single_images_give(tmp_path: Path, name: str) -> None:
    """Operators that mix axes see each image alone, whatever the batch."""
    graph, _, _ = export(NETWORKS[name], image_for(name), tmp_path)
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
    singles = [run_xmodel(graph, images[i : i + 1]) for i in range(3)]
    assert np.array_equal(run_xmodel(graph, images), np.concatenate(singles))


@pytest.mark.filterwarnings("ignore")
def test_the_comparison_sees_a_wrong_float_operator(tmp_path: Path) -> None:
    """A CPU operator computed otherwise than the network computed it is different, and not a matter of rounding."""
    graph, dump, _ = export(Behind(lambda x: torch.log_softmax(x.mean((2, 3)), 1)), image_for(""), tmp_path)
    (path,) = (path for path in dump.glob("*.bin") if path.stem == graph.outputs[0].name)
    values = np.fromfile(path, np.float32)
    (values * 1.01).tofile(path)
    assert compare_with_dump(graph, dump).different == (path.stem,)


def test_an_operator_that_nothing_runs_is_refused_with_its_place(catalogue: Catalogue) -> None:
    """A Fourier transform has no counterpart anywhere: foreseen with its name, its line and what to do."""
    operators = foresee(Behind(lambda x: torch.fft.fft2(x).real), image_for(""))
    stops = [operator for operator in operators if operator.stop]
    assert "fft_fft2: neither a DPU nor XIR's CPU operators know it" in stops[0].stop
    assert "test_operators.py" in stops[0].source
    dpu = catalogue.dpus[TARGETS[0]]
    partition = partition_operators(operators, Target(dpu, catalogue.families[dpu.family]))
    assert any(place.reason.startswith("cannot be run: fft_fft2") for place in partition.cpu)


def test_a_file_of_amds_tool_that_leaves_arguments_out_is_refused_by_name(golden: Path) -> None:
    """The exponent of aten::pow is in no file of the tool: a run says so and guesses nothing."""
    graph = read_xmodel(next((golden / "micro/square").glob("*.xmodel")))
    with pytest.raises(FormatError, match="the file does not say its arguments"):
        run_xmodel(graph, np.zeros((1, 32, 32, 3), np.float32))


RECORDED = (
    "prelu", "prelu_one", "layernorm", "groupnorm", "mish", "silu", "gelu", "elu", "conv1d", "tconv_depthwise",
    "pad_reflect", "min_max", "abs_sqrt", "neg_exp", "adaptive_max", "rsub", "sub_div", "avgpool_pad", "nearest_size",
    "where", "expand", "softmax",
)  # fmt: skip
# Recorded, but without an argument that the run needs.
SILENT = {"elu", "where"}


@pytest.mark.parametrize("net", RECORDED)
def test_recorded_cpu_operators_run_to_the_recorded_tensors(golden: Path, net: str) -> None:
    """A file of the real tool, run here, gives every integer that the tool recorded for the test image."""
    folder = golden / "micro" / net
    graph = read_xmodel(next(folder.glob("*.xmodel")))
    image = read_test_image(golden)
    recorded = np.load(folder / "acts_int8.npz")
    if net in SILENT:
        with pytest.raises(FormatError, match="the file does not say its arguments"):
            run_xmodel(graph, image)
        return
    different: dict[str, int] = {}

    def compare(op: Op, value: Value) -> None:
        name = op.inputs()[0] if op.type == "fix" else ""
        if name in recorded:
            distance = np.abs(value.data.ravel().astype(int) - recorded[name].ravel())
            different[name] = int(distance.max())

    run_outputs(graph, image, watch=compare)
    assert len(different) > 3
    assert {name: size for name, size in different.items() if size} == {}
