"""Quantisation-aware training: thresholds, quantizers, quantised modules, and the network that is trained."""
