"""The ONNX and TorchScript exports: sound files that compute what the quantised network computes, ties apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantised_networks import Tiny, random_network, recorded_network, recorded_tiny
from recorded_xmodels import DATA, SMALL
from torch import nn

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from dpuforge.emulator.export.to_onnx.onnx_file import export_onnx  # noqa: E402
from dpuforge.emulator.export.xmodel_builder import ExportError  # noqa: E402
from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer  # noqa: E402
from dpuforge.emulator.quantise.steps import CastStep, FixStep, ScaleStep  # noqa: E402
from dpuforge.emulator.quantised_graph import QuantisedGraph  # noqa: E402


def _run(path: Path, images: torch.Tensor) -> np.ndarray[Any, Any]:
    """Run a file as it is written: optimisations may fuse Q/DQ pairs into integer operators."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    result: np.ndarray[Any, Any] = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    return result


def _pairs(path: Path) -> list[tuple[float, int]]:
    """Return scale and zero point of every QuantizeLinear of a file, sorted."""
    graph = onnx.load(path).graph
    known = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    rows = [node.input for node in graph.node if node.op_type == "QuantizeLinear"]
    return sorted((float(known[row[1]]), int(known[row[2]])) for row in rows)


def _image(seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_tiny_file_has_the_real_tools_pairs(tmp_path: Path) -> None:
    """As many Q/DQ pairs, with the same power-of-two scales and zero points, around the same operators."""
    path = export_onnx(recorded_tiny(DATA / "tiny"), tmp_path / "tiny.onnx")
    recorded = DATA / "tiny" / "Tiny_int.onnx"
    assert _pairs(path) == _pairs(recorded)
    counts = [Counter(node.op_type for node in onnx.load(file).graph.node) for file in (path, recorded)]
    moves = {"Constant", "Reshape", "Flatten"}  # a flatten is a Reshape here; constants are initialisers
    assert {k: v for k, v in counts[0].items() if k not in moves} == {
        k: v for k, v in counts[1].items() if k not in moves
    }


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_tiny_file_computes_what_the_real_tools_file_computes(tmp_path: Path, opset: int) -> None:
    """onnxruntime gives the same numbers for both files, for every opset."""
    path = export_onnx(recorded_tiny(DATA / "tiny"), tmp_path / "tiny.onnx", opset)
    assert onnx.load(path).opset_import[0].version == opset
    for seed in range(5):
        expected = _run(DATA / "tiny" / "Tiny_int.onnx", _image(seed))
        np.testing.assert_array_equal(_run(path, _image(seed)), expected)


@pytest.mark.parametrize("net", SMALL)
def test_golden_files_are_matched(golden: Path, tmp_path: Path, net: str) -> None:
    """The same for every golden network: pairs and results are those of the recorded ONNX file."""
    quantised, image = recorded_network(golden, net)
    path = export_onnx(quantised, tmp_path / "net.onnx", 17)
    recorded = next((golden / "nets" / net).glob("*_int.onnx"))
    assert _pairs(path) == _pairs(recorded)
    np.testing.assert_array_equal(_run(path, image), _run(recorded, image))


def test_only_ties_part_the_file_from_the_network(tmp_path: Path) -> None:
    """A convolution's outputs differ where the exact value lies halfway between two integers, and by one step."""
    module = nn.Sequential(nn.Conv2d(3, 6, 3))
    quantised, image = random_network(module, (3, 32, 32))
    path = export_onnx(quantised, tmp_path / "net.onnx")
    found, expected = _run(path, image), quantised.test((image,)).numpy()
    (node,) = (node for node in quantised.graph.nodes if node.kind == "nndct_conv2d")
    step = 2.0 ** -quantised.fix.output[node.name][1]
    exact = _exact_outputs(quantised, image)
    ties = np.abs(exact / step - np.floor(exact / step) - 0.5) == 0
    assert ties.any()
    assert not np.array_equal(found, expected)
    np.testing.assert_array_equal(found[~ties], expected[~ties])
    assert np.abs(found - expected).max() == step


def _exact_outputs(quantised: QuantisedGraph, image: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the convolution of quantised input and parameters before its own rounding."""
    seen: dict[str, torch.Tensor] = {}
    quantised.test((image,), seen.__setitem__)
    (node,) = (node for node in quantised.graph.nodes if node.kind == "nndct_conv2d")
    weight, bias = (quantised.quantised_parameter(node.parameters[role]).double() for role in ("weight", "bias"))
    source = seen[node.inputs[0].node].double()
    result: np.ndarray[Any, Any] = nn.functional.conv2d(source, weight, bias).numpy()
    return result


def test_file_takes_as_many_images_as_the_last_run(tmp_path: Path) -> None:
    """A network captured with eight images is written for the two it was last run with, and computes the same."""
    images = _image(batch=2)
    path = export_onnx(recorded_tiny(DATA / "tiny", batch=8), tmp_path / "two.onnx", inputs=(images,))
    assert [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim] == [2, 3, 32, 32]
    expected = [_run(DATA / "tiny" / "Tiny_int.onnx", image[None]) for image in images]
    np.testing.assert_array_equal(_run(path, images), np.concatenate(expected))


def test_dynamic_batch_runs_any_number_of_images(tmp_path: Path) -> None:
    """With dynamic_batch a file made from one image takes five."""
    path = export_onnx(recorded_tiny(DATA / "tiny"), tmp_path / "tiny.onnx", dynamic_batch=True)
    images = _image(batch=5)
    together = _run(path, images)
    alone = np.concatenate([_run(path, image[None]) for image in images])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("bits", [4, 6])
def test_narrow_widths_saturate(tmp_path: Path, bits: int) -> None:
    """Fewer than eight bits are kept by a Clip before the pair: outputs stay on the narrow grid."""
    quantised = recorded_tiny(DATA / "tiny")
    name, step = next((n, s) for n, s in reversed(quantised.steps.output.items()) if "Linear" in n)
    assert isinstance(step, FixStep)
    quantised.steps.output[name] = FixStep(bits, step.fix)
    output = _run(export_onnx(quantised, tmp_path / "net.onnx"), _image(3) * 4) * 2.0**step.fix
    assert output.min() >= -(2 ** (bits - 1))
    assert output.max() <= 2 ** (bits - 1) - 1
    assert (output == np.rint(output)).all()


def test_sixteen_bits_need_opset_21(tmp_path: Path) -> None:
    """int16 has no QuantizeLinear before opset 21: refused there, written and run from there on."""
    quantised = recorded_tiny(DATA / "tiny")
    quantised.steps.output = {name: FixStep(16, 10) for name in quantised.steps.output}
    with pytest.raises(ExportError, match="16 bits"):
        export_onnx(quantised, tmp_path / "net.onnx", 17)
    onnx.checker.check_model(str(export_onnx(quantised, tmp_path / "net.onnx", 21)))


def test_float_scales_and_casts_are_written(tmp_path: Path) -> None:
    """CPU-target steps: an asymmetric scale with its zero point, a per-channel weight, and a bfloat16 tensor."""
    quantised = recorded_tiny(DATA / "tiny")
    last = next(name for name in quantised.steps.output if "Linear" in name)
    quantised.steps.param["Tiny::conv2.weight"] = ScaleStep(8, (0.01,) * 8, (0,) * 8, (1.27,) * 8)
    quantised.steps.output[last] = CastStep("bfloat16", 16)
    path = export_onnx(quantised, tmp_path / "net.onnx")
    counts = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert counts["Cast"] == 2
    assert counts["QuantizeLinear"] == 12
    onnx.checker.check_model(str(path), full_check=True)


def test_old_opset_and_unknown_operators_are_refused(tmp_path: Path) -> None:
    """Below opset 13, and for an operator without an ONNX form here, the error says what to do."""
    with pytest.raises(ExportError, match="opset_version 11"):
        export_onnx(recorded_tiny(DATA / "tiny"), tmp_path / "net.onnx", 11)

    class Sorting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x, dim=1)

    quantised, _ = random_network(Sorting(), (3, 8, 8))
    with pytest.raises(ExportError, match="aten::cumsum cannot be written to ONNX"):
        export_onnx(quantised, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:FutureWarning")
def test_torch_quantizer_exports_onnx_and_torch_script(tmp_path: Path) -> None:
    """Both calls of the real tool write files that give the quantised model's output; ONNX within what ties cost."""
    torch.manual_seed(0)
    module, images = Tiny().eval(), _image(batch=4)
    calibration = torch_quantizer("calib", module, (images,), output_dir=str(tmp_path), device="cpu")
    calibration.quant_model(images)
    calibration.export_quant_config()
    test = torch_quantizer("test", module, (images[:1],), output_dir=str(tmp_path), device="cpu")
    output = test.quant_model(images[:1])
    test.export_onnx_model(output_dir=str(tmp_path))
    test.export_torch_script(output_dir=str(tmp_path))
    script = torch.jit.load(str(tmp_path / "Tiny_int.pt"))
    torch.testing.assert_close(script(images[:1]), output, rtol=0, atol=0)
    torch.testing.assert_close(script(images[1:2]), test.quant_model(images[1:2]), rtol=0, atol=0)
    step = 2.0 ** -max(fix for name, (_, fix) in test.graph_object.fix.output.items() if "Linear" in name)
    np.testing.assert_allclose(_run(tmp_path / "Tiny_int.onnx", images[:1]), output.numpy(), rtol=0, atol=2 * step)
