"""Options of the quantizer."""

from dpuforge.emulator.nndct.tool_options import get_option_value, set_option_value

from . import option_util

__all__ = ["get_option_value", "option_util", "set_option_value"]
