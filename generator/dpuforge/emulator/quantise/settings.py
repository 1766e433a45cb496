"""What governs one quantisation run: the resolved JSON config, the tool's options, and the rule of every tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dpuforge.emulator.graph.kinds import Group
from dpuforge.emulator.graph.nodes import Graph, Node
from dpuforge.emulator.prepare.passes import PrepareOptions
from dpuforge.emulator.quantise.shift_limits import AdjustOptions
from dpuforge.emulator.quantise.steps import TensorRule
from dpuforge.quant_config import EffectiveConfig, LayerConfig, resolve_config


@dataclass(frozen=True)
class ToolOptions:
    """The tool's own options (nndct_*); the defaults are the tool's."""

    equalisation: bool = True
    bias_correction: bool = True
    largest_fix: int | None = None
    maxmin: bool = False
    average_pool_coefficient: bool = True
    relu6_to_reluk: bool = False
    change_add_input_fix: bool = False
    change_pool_input_fix: bool = False
    change_concat_input_fix: bool = False
    insert_concat_fix: bool = False


@dataclass(frozen=True)
class Settings:
    """Config and options of a run, as one value."""

    config: EffectiveConfig
    options: ToolOptions = ToolOptions()
    bits: int | None = None

    @property
    def dpu(self) -> bool:
        """Whether the target computes with fix positions (FLEXML does, too)."""
        return self.config.target_device in ("DPU", "FLEXML")

    @property
    def equalisation(self) -> bool:
        """Whether cross-layer equalisation runs."""
        return self.options.equalisation and self.config.flags["include_cle"]

    @property
    def bias_correction(self) -> bool:
        """Whether biases are corrected during calibration."""
        return self.options.bias_correction and self.config.flags["include_bias_corr"]

    @property
    def typed(self) -> bool:
        """Whether some tensor keeps a float type; then every operator's inputs and outputs are treated alone."""
        layers = (*self.config.layer_types.values(), *self.config.layer_names.values())
        tables = (self.config.tensors, *(layer.tensors for layer in layers))
        return any(tensor.datatype != "int" for table in tables for tensor in table.values())

    @property
    def replaces_relu6(self) -> bool:
        """Whether nn.ReLU6 becomes ReLU: always under equalisation."""
        return self.equalisation or self.config.flags["convert_relu6_to_relu"]

    def prepare_options(self) -> PrepareOptions:
        """Return the options of graph preparation."""
        return PrepareOptions(
            equalisation=self.equalisation,
            relu6_to_relu=self.config.flags["convert_relu6_to_relu"],
            silu_to_hswish=self.config.flags["convert_silu_to_hswish"],
            average_pool_coefficient=self.options.average_pool_coefficient,
            relu6_to_reluk=self.options.relu6_to_reluk,
        )

    def adjust_options(self) -> AdjustOptions:
        """Return the options of the adjustment."""
        flags = self.config.flags
        return AdjustOptions(
            pool_inputs=flags["change_pool_input_fix"] or self.options.change_pool_input_fix,
            concat_inputs=flags["change_concat_input_fix"] or self.options.change_concat_input_fix,
            add_inputs=self.options.change_add_input_fix,
        )

    def rule(self, role: str, node: Node) -> TensorRule:
        """Return the rule of one of a node's tensors; role is input, weights, bias or activation."""
        layer = self.layer(node)
        tensors = layer.tensors if layer and role in layer.tensors else self.config.tensors
        config = tensors[role]
        if self.bits is not None and self.bits != config.bit_width:
            config = replace(config, bit_width=self.bits)
        axis = 1 if node.traits.group is Group.TRANSPOSED and role == "weights" else 0
        forced = self.config.target_device == "DPU"
        return TensorRule(role, config, self.dpu, forced, self.options.largest_fix, self.options.maxmin, axis)

    def layer(self, node: Node) -> LayerConfig | None:
        """Return the layer override that applies to a node, by name before type."""
        by_name = self.config.layer_names.get(node.name)
        return by_name or self.config.layer_types.get(node.module_type)


def default_settings(bits: int | None = None, options: ToolOptions | None = None) -> Settings:
    """Return the settings of a run without a config file."""
    return Settings(resolve_config(None), options or ToolOptions(), bits)


def layer_nodes(graph: Graph, settings: Settings) -> tuple[Node, ...]:
    """Return the nodes with an override of their own."""
    return tuple(node for node in graph.nodes if settings.layer(node) is not None)
