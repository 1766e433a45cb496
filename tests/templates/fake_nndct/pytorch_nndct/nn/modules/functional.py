"""A module for each function: what the small networks of the tests call, and no more."""

import torch
from torch import nn


class Add(nn.Module):
    """A sum of two tensors."""

    def forward(self, first, second, alpha=1):
        """Add."""
        return torch.add(first, second, alpha=alpha)


class AddScalar(nn.Module):
    """A tensor and a number."""

    def forward(self, first, number):
        """Add."""
        return first + number


class Mean(nn.Module):
    """A mean over dimensions."""

    def forward(self, values, dim, keepdim=False):
        """Take the mean."""
        return values.mean(dim, keepdim)
