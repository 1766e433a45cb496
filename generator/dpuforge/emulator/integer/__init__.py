"""The test run on integers: planned, built from exact kernels, judged by the float run."""
