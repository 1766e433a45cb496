"""The tool's process-wide options (nndct_*): what scripts set before they make a torch_quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from dpuforge.emulator.quantise.settings import ToolOptions
from dpuforge.errors import UsageError

# Option name -> field of ToolOptions. equalization, param_corr, change_pool_input_fix and change_concat_input_fix are
# the tool's names, the others follow their pattern (docs/quantizer.md, section 14).
NAMES: Mapping[str, str] = {
    "nndct_equalization": "equalisation",
    "nndct_param_corr": "bias_correction",
    "nndct_max_fix_position": "largest_fix",
    "nndct_maxmin": "maxmin",
    "nndct_avg_pool_approximate": "average_pool_coefficient",
    "nndct_relu6_to_reluk": "relu6_to_reluk",
    "nndct_change_add_input_fix": "change_add_input_fix",
    "nndct_change_pool_input_fix": "change_pool_input_fix",
    "nndct_change_concat_input_fix": "change_concat_input_fix",
    "nndct_insert_concat_input_fix": "insert_concat_fix",
}
_CURRENT: list[ToolOptions] = [ToolOptions()]


def current_options() -> ToolOptions:
    """Return the options in force."""
    return _CURRENT[0]


def set_option_value(name: str, value: Any) -> None:
    """Set an option for the quantizers made from now on; raises UsageError for one the emulator does not know."""
    wanted = bool if isinstance(getattr(ToolOptions(), _field(name)), bool) else int
    if not isinstance(value, (bool, int)):
        raise UsageError(f"option {name}: got {value!r}", f"give a {wanted.__name__}")
    changes: dict[str, Any] = {_field(name): wanted(value)}
    _CURRENT[0] = replace(_CURRENT[0], **changes)


def get_option_value(name: str) -> Any:
    """Return an option's value."""
    return getattr(_CURRENT[0], _field(name))


def reset_options() -> None:
    """Give every option the tool's default again."""
    _CURRENT[0] = ToolOptions()


def _field(name: str) -> str:
    if name not in NAMES:
        close = get_close_matches(name, NAMES, 1)
        raise UsageError(
            f"option {name} is unknown to the emulator",
            f"did you mean {close[0]}?" if close else f"known: {', '.join(NAMES)}",
        )
    assert NAMES[name] in {field.name for field in fields(ToolOptions)}
    return NAMES[name]
