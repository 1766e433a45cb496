"""Runs an xmodel on integers as the DPU computes, and in float what the CPU takes: numpy alone."""
