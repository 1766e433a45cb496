"""Operators as modules, as networks for quantisation-aware training use them: functional.Add()(x, y)."""

import torch
from torch import nn


class Add(nn.Module):
    """Addition of two tensors."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.add(x, y)


class Sub(nn.Module):
    """Subtraction."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sub(x, y)


class Mul(nn.Module):
    """Product of two tensors."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.mul(x, y)


class Cat(nn.Module):
    """Concatenation along a dimension."""

    def forward(self, tensors: list[torch.Tensor], dim: int) -> torch.Tensor:
        return torch.cat(tensors, dim)


class Interpolate(nn.Module):
    """Resize."""

    def forward(self, x, size=None, scale_factor=None, mode="nearest", align_corners=None):  # type: ignore[no-untyped-def]
        return torch.nn.functional.interpolate(x, size, scale_factor, mode, align_corners)


class Matmul(nn.Module):
    """Matrix product."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.matmul(x, y)
