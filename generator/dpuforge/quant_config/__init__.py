"""The quantizer's JSON config as its real parser reads it: a leaf that knows nothing of specs, for load and emulator.

`check_config` gives the parser's verdict, `resolve_config` the settings it arrives at, `find_pitfalls` what it accepts
although the run will not do what the config says.
"""

from dpuforge.quant_config.check import Violation, check_config
from dpuforge.quant_config.effective import EffectiveConfig, LayerConfig, TensorConfig
from dpuforge.quant_config.pitfalls import PITFALLS, Finding, Pitfall, find_pitfalls, name_newer_keys
from dpuforge.quant_config.resolve import resolve_config
from dpuforge.quant_config.tables import PARAM_KEYS, TENSOR_TYPES, TOP_KEYS

__all__ = [
    "PARAM_KEYS",
    "PITFALLS",
    "TENSOR_TYPES",
    "TOP_KEYS",
    "EffectiveConfig",
    "Finding",
    "LayerConfig",
    "Pitfall",
    "TensorConfig",
    "Violation",
    "check_config",
    "find_pitfalls",
    "name_newer_keys",
    "resolve_config",
]
