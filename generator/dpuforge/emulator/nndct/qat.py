"""QatProcessor: quantisation-aware training with the real tool's arguments, files and log lines."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.arithmetic.operations import LEAKY_SLOPE
from dpuforge.emulator.graph.nodes import leaves
from dpuforge.emulator.nndct import log
from dpuforge.emulator.nndct.arguments import (
    as_arguments,
    choose_device,
    choose_mode,
    load_settings,
    make_folder,
    unwrap,
)
from dpuforge.emulator.nndct.building import build_quantised, capture_noted, write_listing
from dpuforge.emulator.nndct.calibration_files import INFO_FILE, read_info, write_info
from dpuforge.emulator.nndct.quant_module import QuantModule, export_torch_script
from dpuforge.emulator.nndct.tool_options import set_option_value
from dpuforge.emulator.qat.switches import say
from dpuforge.emulator.qat.trainable import (
    RefusedError,
    TrainingPlan,
    check_reuse,
    differing_arithmetic,
    float_state,
    load_steps,
    make_trainable,
    plan_training,
    trained_steps,
)
from dpuforge.emulator.quantise.settings import Settings
from dpuforge.emulator.quantise.steps import FixStep
from dpuforge.emulator.quantised_graph import QuantisedGraph, Steps

DEPLOYABLE_FILE = "deployable.pth"
_OWN_FOLDER = Path(".vai_qat")
_TRAIN_FIRST = "call to_deployable with the trained model first"


class RecoveryModel(QuantModule):
    """The quantised network that to_deployable and deployable_model return, in test mode."""


class QatProcessor:
    """Makes a float module trainable under quantisation and, once trained, deployable.

    inputs: example inputs, a tensor or a tuple; bitwidth: of parameters and activations. mix_bit changes nothing, in
    the real tool either; device is ignored, as there. For the rest of the process equalisation and bias correction are
    off, as in the real tool. Raises QuantizerError where the real tool ends the process.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        bitwidth: int = 8,
        mix_bit: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        if device is not None:
            log.warn("DEPRECATED_ARGUMENT", 'The argument "device" is no longer used and will be ignored.')
        log.announce()
        self._model = unwrap(model)
        self.name = type(self._model).__name__
        self._inputs = as_arguments(inputs)
        self._bits = bitwidth
        self._trainable: nn.Module | None = None
        self._plan: TrainingPlan | None = None
        self._deployable: RecoveryModel | None = None
        set_option_value("nndct_equalization", False)
        set_option_value("nndct_param_corr", False)
        self._quantised = self._build("calib", self._model, _OWN_FOLDER)
        unset = copy.copy(self._quantised)
        unset.steps = _unset_steps(self._quantised)
        log.note(f"=>Exporting quant config.({_OWN_FOLDER / INFO_FILE})")
        write_info(unset, _OWN_FOLDER)

    # -- training ----------------------------------------------------------------------------------------------

    def trainable_model(self, calib_dir: str = "", allow_reused_module: bool = False) -> nn.Module:
        """Return the network to train; calib_dir names a folder whose quant_info.json gives the first thresholds."""
        with _ending_the_process():
            plan = self._plan = self._make_plan()
            check_reuse(plan, allow_reused_module, log.warn)
        for path in differing_arithmetic(plan):
            text = f"{path} trains with torch's arithmetic; the deployed network has the DPU's and may differ."
            log.warn("NOT_EMULATED", text)
        self._trainable = make_trainable(self._model, plan)
        if calib_dir:
            read_info(self._quantised, Path(calib_dir))
            load_steps(self._trainable, plan, self._quantised.steps)
        return self._trainable

    def _make_plan(self) -> TrainingPlan:
        captured = capture_noted(self._model, self._inputs, None, self._device)
        return plan_training(self._model, captured, self._quantised)

    def _known_plan(self) -> TrainingPlan:
        """Return the plan; in another process than the one that trained it is made anew."""
        if self._plan is None:
            with _ending_the_process():
                self._plan = self._make_plan()
        return self._plan

    def quant_model(self) -> nn.Module:
        """Return the trainable network, made once."""
        return self._trainable if self._trainable is not None else self.trainable_model()

    def to_deployable(self, trained_model: nn.Module, output_dir: str) -> RecoveryModel:
        """Write deployable.pth, quant_info.json and test/quant_info.json; return the quantised network."""
        folder = make_folder(output_dir)
        with _ending_the_process():
            state = float_state(unwrap(trained_model), self._known_plan(), self._model.state_dict())
        quantised = self._convert(trained_model, state, folder)
        path = folder / DEPLOYABLE_FILE
        torch.save(state, path)
        say(f'Saving deployable model to {path}, and you can get it by calling "deployable_model()"')
        self._deployable = RecoveryModel(quantised, calibrating=False)
        return self._deployable

    def convert_to_deployable(self, trained_model: nn.Module, output_dir: str) -> nn.Module:
        """Write the two quant_info.json alone and return the trained network in float: deprecated, as it says."""
        log.warn(
            "DEPRECATED_ARGUMENT",
            '"convert_to_deployable" is deprecated and will be removed in the future. Use "to_deployable" instead.',
        )
        with _ending_the_process():
            state = float_state(unwrap(trained_model), self._known_plan(), self._model.state_dict())
        self._convert(trained_model, state, make_folder(output_dir))
        return self._float_model(state)

    def dump_blob(self, model: nn.Module, trainable: bool = True) -> None:
        """Stop: this debugging aid of the real tool is not emulated."""
        raise log.fail("NOT_EMULATED", "dump_blob is not emulated.", "read model.state_dict() instead")

    def _convert(self, trained_model: nn.Module, state: dict[str, torch.Tensor], folder: Path) -> QuantisedGraph:
        """Return the quantised test network of the trained values, and write its fix positions."""
        quantised = self._build("test", self._float_model(state), _OWN_FOLDER)
        quantised.steps, untrained = trained_steps(unwrap(trained_model), self._known_plan())
        for name in untrained:
            log.warn("SCALE_VALUE", f"Exported scale values are not trained: {name}.")
        first = make_folder(str(folder / "test"))
        for place in (first, folder):
            log.note(f"=>Exporting quant config.({place / INFO_FILE})")
            write_info(quantised, place)
            quantised.finish_calibration()
        return quantised

    # -- deployment --------------------------------------------------------------------------------------------

    def deployable_model(self, src_dir: str, used_for_xmodel: bool = False) -> RecoveryModel:
        """Return the quantised network that to_deployable wrote; used_for_xmodel puts it on the CPU."""
        folder = Path(src_dir)
        path = folder / DEPLOYABLE_FILE
        if not path.is_file():
            raise log.fail("QAT_DEPLOYABLE_MODEL_ERROR", f"{path} does not exist.", _TRAIN_FIRST)
        self._known_plan()
        say(f"Loading deployable model from {path}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        device = torch.device("cpu") if used_for_xmodel else self._device
        quantised = self._build("test", self._float_model(state), folder, device)
        read_info(quantised, folder)
        if used_for_xmodel:
            say("Forward the deployable model with data of batch_size=1 in cpu mode to dump xmodel.")
        self._deployable = RecoveryModel(quantised, calibrating=False)
        return self._deployable

    def export_xmodel(self, output_dir: str, deploy_check: bool = False, dynamic_batch: bool = False) -> None:
        """Write <Network>_0_int.xmodel of the deployable model; it must have seen one forward of batch 1."""
        module = self._exported()
        if int(module.last_inputs[0].shape[0]) != 1 and not dynamic_batch:
            text = "Batch size must be 1 when exporting xmodel."
            raise log.fail("XMODEL_BATCHSIZE", text, "run one image through the deployable model first")
        from dpuforge.emulator.export.xmodel_file import export_xmodel

        export_xmodel(module.graph_object, make_folder(output_dir), deploy_check, module.last_inputs, log.note)

    def export_onnx_model(
        self,
        output_dir: str,
        verbose: bool = False,
        dynamic_batch: bool = False,
        opset_version: int | None = None,
        native_onnx: bool = True,
        dump_layers: bool = False,
        check_model: bool = False,
        opt_graph: bool = False,
    ) -> None:
        """Write <Network>_int.onnx of the deployable model, float parts included."""
        module = self._exported()
        from dpuforge.emulator.export.to_onnx.onnx_file import choose_opset, export_onnx

        path = make_folder(output_dir) / f"{self.name}_int.onnx"
        opset = choose_opset(opset_version, module.graph_object.settings.config.onnx_opset_version)
        export_onnx(module.graph_object, path, opset, dynamic_batch, module.last_inputs)
        log.note(f"{self.name}_int.onnx is generated.({path})")

    def export_torch_script(self, output_dir: str, verbose: bool = False) -> None:
        """Write <Network>_int.pt of the deployable model, float parts included."""
        module = self._exported()
        path = make_folder(output_dir) / f"{self.name}_int.pt"
        traced = export_torch_script(module.graph_object, path, module.last_inputs)
        if verbose:
            print(traced.graph)
        log.note(f"{self.name}_int.pt is generated.({path})")

    def _exported(self) -> RecoveryModel:
        if self._deployable is None or self._deployable.forwards == 0:
            text = "The deployable model's FORWARD function must be called before exporting."
            raise log.fail("NO_FORWARD", text, "feed one image to deployable_model(...) first")
        return self._deployable

    # -- building ----------------------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        """The device of the network, else of its inputs."""
        tensors = (*self._model.parameters(), *leaves(self._inputs))
        found = next((tensor.device for tensor in tensors if isinstance(tensor, torch.Tensor)), torch.device("cpu"))
        return choose_device(found)

    def _build(self, mode: str, model: nn.Module, folder: Path, device: torch.device | None = None) -> QuantisedGraph:
        settings: Settings = load_settings(None, self._bits, None)
        choose_mode(mode)
        quantised = build_quantised(model, self._inputs, None, settings, device or self._device)
        slopes = {module.negative_slope for module in model.modules() if isinstance(module, nn.LeakyReLU)}
        for slope in sorted(slopes - {LEAKY_SLOPE}):
            _warn_slope(slope)
        write_listing(quantised, folder)
        return quantised

    def _float_model(self, state: dict[str, torch.Tensor]) -> nn.Module:
        """Return the float network with these values, in evaluation mode."""
        model = copy.deepcopy(self._model)
        model.load_state_dict(state)
        return model.eval()


@cache
def _warn_slope(slope: float) -> None:
    """Say once in a process that the DPU has another slope."""
    log.warn(
        "LEAKYRELU",
        f"Force to change negative_slope of LeakyReLU from {slope} to {LEAKY_SLOPE} because DPU only supports this "
        f"value. It is recommended to change all negative_slope of LeakyReLU to {LEAKY_SLOPE} and re-train the float "
        "model for better deployed model accuracy.",
    )


def _unset_steps(quantised: QuantisedGraph) -> Steps:
    """Return steps that have a bit width and no fix position yet, as the constructor writes them."""

    def unset(role: str, node: Any) -> FixStep:
        return FixStep(quantised.rule(role, node).config.bit_width, None)  # type: ignore[arg-type]

    graph = quantised.graph
    layers = (node for node in graph.nodes if node.parametric)
    return Steps(
        {
            key: unset("weights" if role == "weight" else role, node)
            for node in layers
            for role, key in node.parameters.items()
        },
        {name: unset("activation", graph[name]) for name in quantised.points.outputs},
    )


@contextmanager
def _ending_the_process() -> Iterator[None]:
    """Turn a refusal into the error that ends the script, with the tool's line."""
    try:
        yield
    except RefusedError as error:
        raise log.fail(error.code, error.text, error.remedy) from error
