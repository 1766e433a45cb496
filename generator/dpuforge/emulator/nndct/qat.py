"""Quantisation-aware training: QatProcessor turns a float module into one that trains with the DPU's rounding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpuforge.emulator.graph.capture import capture_graph
from dpuforge.emulator.graph.evaluate import Evaluator, Values
from dpuforge.emulator.graph.nodes import Node, leaves
from dpuforge.emulator.nndct import log
from dpuforge.emulator.nndct.arguments import choose_device
from dpuforge.emulator.nndct.calibration_files import read_info, write_info
from dpuforge.emulator.nndct.fast_finetune import save_parameters
from dpuforge.emulator.nndct.quant_module import QuantModule
from dpuforge.emulator.quantise.settings import ToolOptions, default_settings
from dpuforge.emulator.quantise.steps import TensorRule, combine_steps, search_step
from dpuforge.emulator.quantise.straight_through import quantise_through
from dpuforge.emulator.quantised_graph import QuantisedGraph

DEPLOYABLE_FILE = "deployable.pth"
_MEMORY = 64  # batches whose activation steps count


class QatModule(nn.Module):
    """The network to train: folded float parameters, weights and activations rounded as on the DPU.

    In training mode activation steps follow the batches seen; in evaluation mode they stand still. Batch-norm is
    folded and dropout gone, so training continues from the prepared network.
    """

    def __init__(self, quantised: QuantisedGraph) -> None:
        super().__init__()
        self.__dict__["quantised"] = quantised
        self._evaluator = Evaluator(quantised.graph)
        self._own: dict[str, tuple[str, TensorRule]] = {}
        for node in quantised.graph.nodes:
            for role, key in node.parameters.items() if node.traits.parametric else ():
                name = key.partition("::")[2].replace(".", "_")
                self._own[name] = (key, quantised.rule("weights" if role == "weight" else role, node))
                self.register_parameter(name, nn.Parameter(quantised.graph.tensors[key].clone()))

    @property
    def graph_object(self) -> QuantisedGraph:
        """The quantised graph; its steps are those in force."""
        found: QuantisedGraph = self.__dict__["quantised"]
        return found

    def parameters_by_key(self) -> dict[str, torch.Tensor]:
        """Return the trained float parameters by their keys in the graph."""
        return {key: self.get_parameter(name).detach() for name, (key, _) in self._own.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the rounded network's outputs; gradients pass through the rounding."""
        inputs = tuple(leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        tensors: dict[str, torch.Tensor] = dict(self.graph_object.graph.tensors)
        steps = self.graph_object.steps
        for name, (key, rule) in self._own.items():
            value = self.get_parameter(name)
            if self.training or key not in steps.param:
                steps.param[key] = search_step(value.detach(), rule)
            tensors[key] = quantise_through(value, steps.param[key], rule)
        return self._evaluator.run(inputs, tensors, self._round)

    def _round(self, node: Node, value: Any, _: Values) -> Any:
        quantised = self.graph_object
        if node.name not in quantised.points or not isinstance(value, torch.Tensor):
            return value
        rule = quantised.rule("activation", node)
        if self.training or node.name not in quantised.steps.output:
            history = quantised.history.setdefault(node.name, [])
            history.append(search_step(value.detach(), rule))
            del history[:-_MEMORY]
            quantised.steps.output[node.name] = combine_steps(history, rule)
        return quantise_through(value, quantised.steps.output[node.name], rule)


class QatProcessor:
    """Makes a float module trainable under quantisation and, once trained, deployable.

    inputs: example inputs as a tuple; bitwidth: of weights and activations. mix_bit is accepted and has no effect.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        bitwidth: int = 8,
        mix_bit: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        log.announce()
        self._model = model
        self._inputs = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        self._bits = bitwidth
        first = next((leaf.device for leaf in leaves(self._inputs) if isinstance(leaf, torch.Tensor)), None)
        self._device = choose_device(device if device is not None else first or "cpu")
        self._deployable: QuantModule | None = None

    def trainable_model(self, calib_dir: str = "", allow_reused_module: bool = False) -> QatModule:
        """Return the module to train; calib_dir may name a folder whose quant_info.json gives the first steps."""
        quantised = self._build()
        if calib_dir:
            read_info(quantised, Path(calib_dir))
        log.note(f"=>Get trainable module {quantised.graph.name}.")
        return QatModule(quantised).to(self._device)

    def to_deployable(self, trained_model: QatModule, output_dir: str = "qat_result") -> QuantModule:
        """Adjust fix positions, write quant_info.json and deployable.pth, and return the module that tests it."""
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        quantised = trained_model.graph_object
        quantised.replace_tensors({**quantised.graph.tensors, **trained_model.parameters_by_key()})
        quantised.finish_calibration()
        quantised.freeze_parameters()
        write_info(quantised, folder)
        save_parameters(quantised, folder / DEPLOYABLE_FILE)
        log.note(f"=>Exporting quant config.({folder / 'quant_info.json'})")
        self._deployable = QuantModule(quantised, calibrating=False)
        return self._deployable

    def deployable_model(self, src_dir: str = "qat_result", used_for_xmodel: bool = False) -> QuantModule:
        """Load what to_deployable wrote; used_for_xmodel puts it on the CPU."""
        folder = Path(src_dir)
        quantised = self._build()
        read_info(quantised, folder)
        path = folder / DEPLOYABLE_FILE
        if not path.is_file():
            raise log.fail("QAT", f"{path} does not exist.", "call to_deployable with the trained model first")
        table = torch.load(path, map_location="cpu", weights_only=True)
        quantised.replace_tensors({**quantised.graph.tensors, **table})
        device = torch.device("cpu") if used_for_xmodel else self._device
        self._deployable = QuantModule(quantised, calibrating=False).to(device)
        return self._deployable

    def export_xmodel(self, output_dir: str = "qat_result", deploy_check: bool = False) -> None:
        """Write the xmodel of the deployable model; it must have seen one forward with batch 1."""
        if self._deployable is None or self._deployable.forwards == 0:
            text = "The deployable model's FORWARD function must be called before exporting."
            raise log.fail("NO_FORWARD", text, "feed one image to deployable_model(...) first")
        inputs: Sequence[torch.Tensor] = self._deployable.last_inputs
        if int(inputs[0].shape[0]) != 1:
            text = "Batch size must be 1 when exporting xmodel."
            raise log.fail("XMODEL_BATCHSIZE", text, "run one image through the deployable model first")
        from dpuforge.emulator.export.xmodel_file import export_xmodel

        Path(output_dir).mkdir(parents=True, exist_ok=True)
        export_xmodel(self._deployable.graph_object, Path(output_dir), deploy_check, inputs, log.note)

    def _build(self) -> QuantisedGraph:
        settings = default_settings(self._bits, ToolOptions(bias_correction=False))
        graph = capture_graph(self._model.to(self._device), self._inputs)
        return QuantisedGraph(graph, settings, log.warn)
