"""Fake quantisation, the searches for scales, and the DPU's own operators: arithmetic on tensors, without networks."""
