"""The stubs at the ends of what is quantised."""

from torch import nn


class QuantStub(nn.Identity):
    """Where quantisation begins."""


class DeQuantStub(nn.Identity):
    """Where it ends."""
