"""Reading and setting options of the quantizer."""

from dpuforge.emulator.nndct.tool_options import get_option_value, set_option_value

__all__ = ["get_option_value", "set_option_value"]
