"""pytorch_nndct.apis as a user's script sees it: files, log lines, both processes, and misuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dpuforge.emulator.graph.listing import graph_digest, list_nodes, number_names
from dpuforge.emulator.nndct.log import QuantizerError
from dpuforge.emulator.nndct.tool_options import set_option_value
from dpuforge.emulator.nndct.torch_quantizer import torch_quantizer
from dpuforge.errors import UsageError
from dpuforge.paths import emulator_path
from tests.emulator.recorded import DATA, arrays, small_recording

Make = Callable[..., torch_quantizer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A torch_quantizer for one of the small networks, writing into a fresh folder."""
    torch.set_num_threads(1)

    def build(mode: str, name: str = "tiny", **options: object) -> torch_quantizer:
        recording = small_recording(name)
        return torch_quantizer(
            mode,
            recording.module,
            (recording.images[:1],),
            output_dir=str(tmp_path),
            device=torch.device("cpu"),
            **options,
        )

    return build


def calibrate(quantizer: torch_quantizer, name: str = "tiny") -> None:
    """Feed five batches of two and export."""
    images = small_recording(name).images
    module = quantizer.quant_model
    for first in range(0, 10, 2):
        module(images[first : first + 2])
    quantizer.export_quant_config()


def test_calibration_writes_the_real_files(make: Make, tmp_path: Path) -> None:
    """quant_info.json has the recorded text but for version and digest; bias_corr.pth holds the corrections."""
    calibrate(make("calib"))
    recorded = (DATA / "nets" / "tiny" / "quant_info.json").read_text().splitlines()
    mine = (tmp_path / "quant_info.json").read_text().splitlines()
    skip = ('  "version"', '  "graph_md5"')
    assert [line for line in mine if not line.startswith(skip) and line.strip()] == [
        line for line in recorded if not line.startswith(skip) and line.strip()
    ]
    table = torch.load(tmp_path / "bias_corr.pth", weights_only=True)
    for key, value in arrays(DATA / "nets" / "tiny" / "bias_corr.npz").items():
        np.testing.assert_allclose(np.asarray(table[key], np.float32), value, rtol=1e-4, atol=1e-6)
    assert "emulator" in json.loads((tmp_path / "quant_info.json").read_text())["version"]


def test_test_mode_reads_them_and_is_exact(make: Make) -> None:
    """A second quantizer in mode test gives the recorded output, alone and within a batch."""
    calibrate(make("calib"))
    module = make("test").quant_model
    images = small_recording("tiny").images
    expected = arrays(DATA / "nets" / "tiny" / "quant_out.npz")["y"]
    assert np.array_equal(module(images[10:]).numpy(), expected)
    assert np.array_equal(module(images[7:])[3:].numpy(), expected)


def test_two_processes_with_only_the_drop_in_on_the_path(tmp_path: Path) -> None:
    """A script written for AMD's tool runs unchanged where dpuforge itself is not importable."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "sys.path[:] = [p for p in sys.path if not p.endswith('generator')]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "import torch\n"
        "from pytorch_nndct.apis import torch_quantizer\n"
        "torch.manual_seed(0)\n"
        "net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())\n"
        "x = torch.randn(2, 3, 8, 8)\n"
        "q = torch_quantizer(sys.argv[1], net, (x,), device=torch.device('cpu'))\n"
        "print('mean', float(q.quant_model(x).mean()))\n"
        "q.export_quant_config()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(emulator_path())}
    for mode in ("calib", "test"):
        run = subprocess.run(
            [sys.executable, str(script), mode], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        assert "emulator of dpuforge" in run.stdout
        assert "mean" in run.stdout
    assert (tmp_path / "quantize_result" / "quant_info.json").is_file()


def test_log_lines_of_a_good_run(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines that users and log scanners know appear in order, and one says that this is an emulation."""
    calibrate(make("calib"))
    text = capsys.readouterr().out
    wanted = [
        "[VAIQ_NOTE]: Quant config file is empty, use default quant configuration",
        "[VAIQ_NOTE]: Quantization calibration process start up...",
        "[VAIQ_NOTE]: =>Quant Module is in 'cpu'.",
        "[VAIQ_NOTE]: =>Parsing Tiny...",
        "[VAIQ_NOTE]: Finish tracing.",
        "[VAIQ_NOTE]: =>Doing weights equalization...",
        "[VAIQ_NOTE]: =>Quantizable module is generated.(",
        "[VAIQ_NOTE]: =>Get module with quantization.",
        "[VAIQ_NOTE]: =>Exporting quant config.(",
    ]
    places = [text.index(line) for line in wanted]
    assert places == sorted(places)
    assert "This is the emulator of dpuforge" in text


def misuse_export_without_forward(make: Make) -> None:
    """Export before any calibration image."""
    make("calib").export_quant_config()


def misuse_test_without_calibration(make: Make) -> None:
    """Mode test in an empty folder."""
    make("test")


def misuse_xmodel_without_forward(make: Make) -> None:
    """Export an xmodel before a forward."""
    calibrate(make("calib"))
    make("test").export_xmodel()


def misuse_batch_of_two(make: Make) -> None:
    """Export an xmodel after a batch of two."""
    calibrate(make("calib"))
    quantizer = make("test")
    quantizer.quant_model(small_recording("tiny").images[:2])
    quantizer.export_xmodel()


def misuse_other_network(make: Make) -> None:
    """Test another network than the calibrated one."""
    calibrate(make("calib"))
    _ = make("test", "ops_a").quant_model


def misuse_export_in_calibration(make: Make) -> None:
    """Export an xmodel in mode calib."""
    quantizer = make("calib")
    calibrate(quantizer)
    quantizer.export_xmodel()


@pytest.mark.parametrize(
    ("misuse", "code"),
    [
        (misuse_export_without_forward, "NO_CALIBRATION"),
        (misuse_test_without_calibration, "BIAS_CORRECTION"),
        (misuse_xmodel_without_forward, "NO_FORWARD"),
        (misuse_batch_of_two, "XMODEL_BATCHSIZE"),
        (misuse_other_network, "CALIB_RESULT_MISMATCH"),
        (misuse_export_in_calibration, "EXPORT_XMODEL"),
    ],
)
def test_misuse_prints_the_real_line_and_raises(
    misuse: Callable[[Make], None], code: str, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the real tool logs an error, often to go on, the emulator prints the same code and stops."""
    with pytest.raises(QuantizerError) as caught:
        misuse(make)
    assert caught.value.code == code
    assert f"[VAIQ_ERROR][QUANTIZER_TORCH_{code}]" in capsys.readouterr().out


def test_refused_config_names_the_place(make: Make, tmp_path: Path) -> None:
    """A config that the real parser refuses is refused, with file, key and remedy."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"target_device": "DPU", "overall_quantize_config": {"round_mode": "std_round"}}))
    with pytest.raises(QuantizerError, match=r"round_mode"):
        make("calib", quant_config_file=str(path))


def test_options_set_beforehand_count(make: Make, tmp_path: Path) -> None:
    """nndct_param_corr switched off leaves no bias correction; an unknown option is refused with a close match."""
    set_option_value("nndct_param_corr", False)
    calibrate(make("calib"))
    assert json.loads((tmp_path / "quant_info.json").read_text())["bias_corrected"] is False
    assert not (tmp_path / "bias_corr.pth").exists()
    with pytest.raises(UsageError, match="nndct_equalization"):
        set_option_value("nndct_equalisation", False)


def test_effective_config_is_written(make: Make, tmp_path: Path) -> None:
    """effective_config.json says what a config file amounts to, defaults included."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"target_device": "DPU", "tensor_quantize_config": {"weights": {"bit_width": 4}}}))
    make("calib", quant_config_file=str(path))
    effective = json.loads((tmp_path / "effective_config.json").read_text())
    assert {role: tensor["bit_width"] for role, tensor in effective["tensors"].items()} == {
        "input": 8,
        "weights": 4,
        "bias": 8,
        "activation": 8,
    }
    assert effective["tensors"]["activation"]["round_mode"] == "half_up"
    assert effective["flags"]["include_cle"] is True


def test_quant_model_is_an_ordinary_module(make: Make) -> None:
    """It has parameters and a state_dict, can be moved and copied from, and follows what is loaded."""
    quantizer = make("calib")
    calibrate(quantizer)
    module = make("test").quant_model.eval().to("cpu")
    images = small_recording("tiny").images
    before = module(images[10:])
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert len(list(module.parameters())) == len(state) == 6
    module.load_state_dict({name: value * 0 for name, value in state.items()})
    assert not torch.equal(module(images[10:]), before)
    module.load_state_dict(state)
    assert torch.equal(module(images[10:]), before)


def test_torch_script_equals_the_module(make: Make, tmp_path: Path) -> None:
    """The exported TorchScript computes what quant_model computes."""
    calibrate(make("calib"))
    quantizer = make("test")
    image = small_recording("tiny").images[10:]
    expected = quantizer.quant_model(image)
    quantizer.export_torch_script(str(tmp_path))
    with pytest.warns(FutureWarning):
        script = torch.jit.load(str(tmp_path / "Tiny_int.pt"))
    assert torch.equal(script(image), expected)


def test_fast_finetune_helps_and_survives_the_process(make: Make, tmp_path: Path) -> None:
    """After finetuning the output error is smaller, param.pth is read back, and test equals the finetuned network."""
    recording = small_recording("ops_b")
    images, target = recording.images, recording.module(recording.images).detach()

    def feed(module: nn.Module) -> None:
        for first in range(0, 10, 2):
            module(images[first : first + 2])

    calibrate(make("calib", "ops_b"), "ops_b")
    plain = (make("test", "ops_b").quant_model(images) - target).square().mean()
    quantizer = make("calib", "ops_b")
    module = quantizer.quant_model
    quantizer.fast_finetune(feed, (module,))
    feed(module)
    quantizer.export_quant_config()
    assert json.loads((tmp_path / "quant_info.json").read_text())["fast_finetuned"] is True
    tested = make("test", "ops_b")
    tested.load_ft_param()
    error = (tested.quant_model(images) - target).square().mean()
    assert error < plain
    check_integer_exact(tested.graph_object, images[:1])


def check_integer_exact(quantised: object, image: torch.Tensor) -> None:
    """Every quantised value is a multiple of its step, within its range."""
    seen: dict[str, torch.Tensor] = {}
    quantised.test((image,), lambda name, value: seen.__setitem__(name, value))
    for name, (bits, fix) in quantised.fix.output.items():
        integers = seen[name] * 2.0**fix
        assert torch.equal(integers, integers.round())
        assert -(2 ** (bits - 1)) <= integers.min()
        assert integers.max() <= 2 ** (bits - 1) - 1
    for key, (bits, fix) in quantised.fix.param.items():
        integers = quantised.quantised_parameter(key) * 2.0**fix
        assert torch.equal(integers, integers.round())
        assert integers.abs().max() <= 2 ** (bits - 1)


class Scaled(nn.Module):
    """Three scalar constants, of other values and readers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 4, H - 2, W - 2)."""
        result: torch.Tensor = (self.conv(x) - 0.5) * 3 + 20
        return result


def test_a_calibration_that_numbers_scalars_otherwise_is_read(tmp_path: Path) -> None:
    """Its rows stand in the order of execution: the second scalar there may be number 2, and outputs are the same."""
    torch.manual_seed(0)
    network, images = Scaled().eval(), torch.rand(2, 3, 8, 8)
    quantizer = torch_quantizer("calib", network, (images,), output_dir=str(tmp_path))
    quantizer.quant_model(images)
    quantizer.export_quant_config()
    expected = torch_quantizer("test", network, (images,), output_dir=str(tmp_path)).quant_model(images)

    graph = quantizer._quantised.graph
    first, second, third = (listed.name for listed in list_nodes(graph)[:3])
    theirs = replace(graph, constants=(third, first, second))
    info = json.loads((tmp_path / "quant_info.json").read_text())
    mine, renamed = number_names(graph), number_names(theirs)
    renames = {mine[name]: renamed[name] for name in mine}
    assert any(old != new for old, new in renames.items())
    info["output"] = {renames[name]: row for name, row in info["output"].items()}
    info["graph_md5"] = graph_digest(theirs)
    (tmp_path / "quant_info.json").write_text(json.dumps(info))
    found = torch_quantizer("test", network, (images,), output_dir=str(tmp_path)).quant_model(images)
    assert torch.equal(found, expected)
