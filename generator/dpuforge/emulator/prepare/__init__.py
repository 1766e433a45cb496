"""From the captured graph to the float graph that the DPU sees: folding, equalisation, coefficients."""
