"""dpuforge: one reviewed YAML spec in, a quantised network for an AMD/Xilinx DPU out."""

__version__ = "0.1.0"
