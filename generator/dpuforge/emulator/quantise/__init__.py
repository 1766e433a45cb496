"""Where tensors are quantised and how: points, settings, steps, limits of shifts, bias correction."""
