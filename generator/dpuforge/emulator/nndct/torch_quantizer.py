"""torch_quantizer: the class that user scripts call, with the real tool's arguments, files and log lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.diagnosis.diagnose import diagnose
from dpuforge.emulator.diagnosis.histograms import find_features, histogram_layers
from dpuforge.emulator.graph.listing import count_scalars
from dpuforge.emulator.nndct import log
from dpuforge.emulator.nndct.arguments import (
    as_arguments,
    choose_device,
    choose_mode,
    load_settings,
    make_folder,
    note_target,
    unwrap,
    warn_ignored,
)
from dpuforge.emulator.nndct.building import build_quantised, write_listing
from dpuforge.emulator.nndct.calibration_files import (
    INFO_FILE,
    read_bias,
    read_info,
    write_bias,
    write_effective_config,
    write_info,
)
from dpuforge.emulator.nndct.exchange import compare_calibrations, find_mismatches
from dpuforge.emulator.nndct.fast_finetune import finetune_layers, load_finetuned
from dpuforge.emulator.nndct.quant_module import QuantModule, export_torch_script
from dpuforge.emulator.quantise.settings import Settings, ToolOptions
from dpuforge.emulator.quantised_graph import QuantisedGraph

_OWN_FINETUNING = (
    "fast_finetune of this emulator is an algorithm of its own: the weights and the accuracy that it leads to are not "
    "those of AMD's tool. Plain calibration is repeated exactly."
)
_SCALARS_IN_ORDER = 2  # scalar constants whose numbers are known: no recording with more explains theirs
_EXAMPLE = (
    "https://github.com/Xilinx/Vitis-AI/blob/master/src/Vitis-AI-Quantizer/vai_q_pytorch/example/resnet18_quant.py."
)


class torch_quantizer:
    """Quantises a float module: calibrate with mode "calib", evaluate and export with mode "test".

    Arguments are the real tool's; lstm, mix_bit, custom_quant_ops, dynamo and qat_proc have no effect, and a warning
    says so where they are set; app_deploy is accepted. Raises QuantizerError where the real tool logs an error and
    goes on.
    """

    def __init__(
        self,
        quant_mode: str | int,
        module: nn.Module,
        input_args: Any = None,
        state_dict_file: str | None = None,
        output_dir: str = "quantize_result",
        bitwidth: int | None = None,
        mix_bit: bool = False,
        device: torch.device | str = "cuda",
        lstm: bool = False,
        app_deploy: str = "CV",
        qat_proc: bool = False,
        custom_quant_ops: Any = None,
        quant_config_file: str | None = None,
        target: str | None = None,
        dynamo: bool = False,
        input_kwargs: Mapping[str, Any] | None = None,
        options: ToolOptions | None = None,
    ) -> None:
        log.announce()
        ignored = {"mix_bit": mix_bit, "lstm": lstm, "custom_quant_ops": custom_quant_ops, "dynamo": dynamo}
        warn_ignored({**ignored, "qat_proc": qat_proc})
        self.output_dir = Path(output_dir)
        self.device = choose_device(device)
        module = unwrap(module)
        settings = load_settings(quant_config_file, bitwidth, options)
        if target is not None:
            note_target(target, quant_config_file)
        self.mode = choose_mode(quant_mode)
        if state_dict_file:
            module.load_state_dict(torch.load(state_dict_file, map_location="cpu", weights_only=True))
        if self.mode == "test" and settings.bias_correction and not (self.output_dir / "bias_corr.pth").is_file():
            raise log.fail(
                "BIAS_CORRECTION",
                "Bias correction result file does not exist. "
                "Please check calibration with bias correction is done or not.",
                "run mode calib and export_quant_config first, with the same output_dir",
            )
        self.name = type(module).__name__
        self._quantised = self._build(module, as_arguments(input_args), input_kwargs, settings)
        self._module = QuantModule(self._quantised, calibrating=self.mode == "calib")
        self._fast_finetuned = False
        self._loaded = False
        _LAST[:] = [self]

    def _build(
        self, module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any] | None, settings: Settings
    ) -> QuantisedGraph:
        quantised = build_quantised(module, arguments, keywords, settings, self.device)
        write_listing(quantised, self.output_dir)
        write_effective_config(quantised, self.output_dir)
        return quantised

    @property
    def quant_model(self) -> QuantModule:
        """The module to feed: calibration images in mode calib, test images in mode test."""
        log.note("=>Get module with quantization.")
        if self.mode == "test" and not self._loaded:
            self._load()
        return self._module

    @property
    def graph_object(self) -> QuantisedGraph:
        """The quantised graph with fix positions and parameters."""
        if self.mode == "test" and not self._loaded:
            self._load()
        return self._quantised

    def _load(self) -> None:
        info = read_info(self._quantised, self.output_dir)
        if self._quantised.settings.bias_correction:
            read_bias(self._quantised, self.output_dir)
        if info.get("fast_finetuned") and not self._fast_finetuned:
            log.warn("", "The network was calibrated after fast_finetune: call load_ft_param before quant_model.")
        self._loaded = True

    def export_quant_config(self) -> None:
        """Write quant_info.json and bias_corr.pth; raises QuantizerError before the first calibration batch."""
        if self.mode != "calib":
            return
        if self._quantised.batches == 0:
            text = (
                "Quantization is not performed completely, check if module FORWARD function is called!\n"
                "    FORWARD function of torch_quantizer.quant_model needs to be called in user code explicitly.\n"
                f"    Please refer to the example code at {_EXAMPLE}"
            )
            raise log.fail("NO_CALIBRATION", text, "feed quant_model calibration images first")
        log.note(f"=>Exporting quant config.({self.output_dir / INFO_FILE})")
        self._quantised.finish_calibration()
        if self._quantised.settings.bias_correction:
            write_bias(self._quantised, self.output_dir)
        write_info(self._quantised, self.output_dir, self._fast_finetuned)
        if count_scalars(self._quantised.graph) > _SCALARS_IN_ORDER:
            log.note(
                "dpuforge's emulator numbers scalar constants in the order of execution. AMD's tool may number this "
                "many in another order and refuse this calibration; one that was made there is read here."
            )

    def export_xmodel(
        self, output_dir: str = "quantize_result", deploy_check: bool = False, dynamic_batch: bool = False
    ) -> None:
        """Write <Network>_int.xmodel; needs mode test and one forward with batch 1."""
        self._check_export("export_xmodel")
        if self._quantised.settings.config.target_device != "DPU":
            log.warn("XMODEL_DEVICE", "Not support to dump xmodel when target device is not DPU.")
            return
        if int(self._module.last_inputs[0].shape[0]) != 1 and not dynamic_batch:
            log.note("=>Converting to xmodel ...")
            text = "Batch size must be 1 when exporting xmodel."
            raise log.fail("XMODEL_BATCHSIZE", text, "run one image through quant_model before export_xmodel")
        from dpuforge.emulator.export.xmodel_file import export_xmodel

        self._warn_of_limits("xmodel")
        export_xmodel(self._quantised, make_folder(output_dir), deploy_check, self._module.last_inputs, log.note)

    def export_onnx_model(
        self,
        output_dir: str = "quantize_result",
        verbose: bool = False,
        dynamic_batch: bool = False,
        opset_version: int | None = None,
        native_onnx: bool = True,
        dump_layers: bool = False,
        check_model: bool = False,
        opt_graph: bool = False,
    ) -> None:
        """Write <Network>_int.onnx with QuantizeLinear and DequantizeLinear; needs mode test and one forward."""
        self._check_export("export_onnx_model")
        from dpuforge.emulator.export.to_onnx.onnx_file import choose_opset, export_onnx

        self._warn_of_limits("onnx")
        path = make_folder(output_dir) / f"{self.name}_int.onnx"
        opset = choose_opset(opset_version, self._quantised.settings.config.onnx_opset_version)
        inputs = self._module.last_inputs
        export_onnx(self._quantised, path, opset_version=opset, dynamic_batch=dynamic_batch, inputs=inputs)
        log.note(f"{self.name}_int.onnx is generated.({path})")
        print(f"{self.name}_int.onnx: ONNX opset {opset}")

    def export_torch_script(self, output_dir: str = "quantize_result", verbose: bool = False) -> None:
        """Write <Network>_int.pt, traced with the inputs of the last forward; needs mode test."""
        self._check_export("export_torch_script")
        path = make_folder(output_dir) / f"{self.name}_int.pt"
        traced = export_torch_script(self._quantised, path, self._module.last_inputs)
        if verbose:
            print(traced.graph)
        log.note(f"{self.name}_int.pt is generated.({path})")

    export_traced_torch_script = export_torch_script

    def _warn_of_limits(self, exporter: str) -> None:
        """Say what the real tool does wrong in this export."""
        from dpuforge.emulator.export.tool_limits import describe_limits

        for text in describe_limits(self._quantised.graph, exporter):
            log.warn("", text)

    def _check_export(self, function: str) -> None:
        if self.mode != "test":
            raise log.fail(
                "EXPORT_XMODEL",
                f"{function} does nothing in quant_mode 'calib'.",
                "make another torch_quantizer with quant_mode 'test' after export_quant_config",
            )
        if self._module.forwards == 0:
            text = (
                "torch_quantizer.quant_model FORWARD function must be called before exporting quantization result.\n"
                f"    Please refer to example code at {_EXAMPLE}"
            )
            raise log.fail("NO_FORWARD", text, "run one image through quant_model first")

    def fast_finetune(self, run_fn: Callable[..., Any], run_args: Sequence[Any]) -> None:
        """Adjust weights layer by layer so that quantisation costs less; run_fn(*run_args) runs the network."""
        if self.mode != "calib":
            log.warn("FINETUNE_IGNORED", "Finetune function will be ignored in test mode!")
            return
        log.warn("", _OWN_FINETUNING)
        finetune_layers(self._module, self.output_dir, run_fn, tuple(run_args))
        self._fast_finetuned = True

    def diagnose(
        self,
        images: torch.Tensor | Sequence[torch.Tensor],
        labels: torch.Tensor | Sequence[int] | None = None,
        layers: Iterable[str] | int | None = None,
        budget: float | None = None,
        float_model: nn.Module | None = None,
        trial_budget: float | None = None,
    ) -> dict[str, Any]:
        """Return what quantisation does to every layer, what each layer costs, and suggestions, ready for JSON.

        The real tool has nothing like it: scripts ask for it with getattr. Arguments as for diagnosis.diagnose. In mode
        calib it ends calibration, as export_quant_config does.
        """
        if self.mode == "calib":
            self._quantised.finish_calibration()
        return diagnose(self.graph_object, images, labels, layers, budget, float_model, trial_budget)

    def histograms(self, images: torch.Tensor) -> list[dict[str, Any]]:
        """Return histograms of every layer's weights and results on images against its grid, ready for JSON.

        The real tool has nothing like it: scripts ask for it with getattr.
        """
        return histogram_layers(self.graph_object, (images,))

    def features(self, images: torch.Tensor, modules: Sequence[str]) -> tuple[str, torch.Tensor | None]:
        """Return the quantised result of the first of these modules that the network has, with the module's path.

        The real tool has nothing like it: scripts ask for it with getattr.
        """
        return find_features(self.graph_object, (images,), modules)

    def count_unsure_biases(self) -> tuple[int, int]:
        """Return (biases that another torch version could move by one, corrected biases); not in the real tool."""
        return self.graph_object.count_unsure_biases()

    def check_calibration(self, folder: str | Path) -> tuple[list[str], list[str]]:
        """Return why the calibration files of a folder are not this network's, one line each, and notes.

        The real tool has nothing like it: scripts ask for it with getattr.
        """
        return find_mismatches(self._quantised, Path(folder))

    def compare_calibrations(self, folder: str | Path, other: str | Path) -> dict[str, Any]:
        """Return in which positions and biases two calibrations of this network differ; not in the real tool."""
        return compare_calibrations(self._quantised, Path(folder), Path(other))

    def load_ft_param(self) -> None:
        """Load the parameters that fast_finetune wrote."""
        self._fast_finetuned = True
        load_finetuned(self.graph_object, self._module, self.output_dir)


def dump_xmodel(output_dir: str = "quantize_result", deploy_check: bool = False, app_deploy: str = "CV") -> None:
    """Export the xmodel of the torch_quantizer made last: the API of releases up to 2.0."""
    if not _LAST:
        raise log.fail("NO_FORWARD", "dump_xmodel found no torch_quantizer.", "make one with quant_mode 'test' first")
    _LAST[-1].export_xmodel(output_dir, deploy_check)


_LAST: list[torch_quantizer] = []
