"""Operators as modules, as networks for quantisation-aware training use them: functional.Add()(x, y).

The classes and their call signatures are the real tool's; each call is the torch function of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given, so that what is recorded is the plain call."""
    return {name: value for name, value in options.items() if value is not None}


def _scaled(alpha: Any) -> dict[str, Any]:
    return {} if alpha == 1 else {"alpha": alpha}


class Functional(nn.Module):
    """Calls any torch function: Functional(torch.exp)(x)."""

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.function is None:
            raise NotImplementedError(f"{type(self).__name__} was made without a function")
        return self.function(*args, **kwargs)


class Add(nn.Module):
    """Sum of two tensors."""

    def forward(self, input: Any, other: Any, alpha: Any = 1, out: torch.Tensor | None = None) -> torch.Tensor:
        return torch.add(input, other, **_scaled(alpha), **_given(out=out))


class AddScalar(nn.Module):
    """Sum of a tensor and a number."""

    def forward(self, x: torch.Tensor, y: float) -> torch.Tensor:
        return torch.add(x, y)


class Cat(nn.Module):
    """Concatenation along a dimension."""

    def forward(self, x: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
        return torch.cat(list(x), dim)


class Clamp(nn.Module):
    """Values limited to a range."""

    def forward(self, input: torch.Tensor, min: Any = None, max: Any = None) -> torch.Tensor:
        return torch.clamp(input, min, max)


class Const(nn.Module):
    """A constant tensor: Const()(data, dtype, device)."""

    def forward(self, data: Any, dtype: Any = None, device: Any = None) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype, device=device)


class Interpolate(nn.Module):
    """Resize, like torch.nn.functional.interpolate."""

    def forward(
        self,
        input: torch.Tensor,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> torch.Tensor:
        return F.interpolate(
            input, size, scale_factor, mode, align_corners, **_given(recompute_scale_factor=recompute_scale_factor)
        )


class Matmul(nn.Module):
    """Matrix product."""

    def forward(self, input: torch.Tensor, other: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return torch.matmul(input, other, **_given(out=out))


class Max(nn.Module):
    """Largest value along a dimension, and where it is."""

    def forward(self, input: torch.Tensor, dim: int, keepdim: bool = False, out: Any = None) -> Any:
        return torch.max(input, dim, keepdim, **_given(out=out))


class Mean(nn.Module):
    """Mean along one or several dimensions."""

    def forward(
        self, x: torch.Tensor, dim: Any, keepdim: bool = False, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.mean(x, dim, keepdim, **_given(out=out))


class Mul(nn.Module):
    """Product of two tensors."""

    def forward(self, x: Any, y: Any) -> torch.Tensor:
        return torch.mul(x, y)


class Pad(nn.Module):
    """Padding, like torch.nn.functional.pad."""

    def forward(
        self, input: torch.Tensor, pad: Sequence[int], mode: str = "constant", value: float = 0
    ) -> torch.Tensor:
        return F.pad(input, tuple(pad), mode, value)


class Softmax(nn.Module):
    """Softmax along a dimension."""

    def forward(self, input: torch.Tensor, dim: int | None = None, dtype: Any = None) -> torch.Tensor:
        return F.softmax(input, dim, **_given(dtype=dtype))


class Sqrt(nn.Module):
    """Square root."""

    def forward(self, input: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return torch.sqrt(input, **_given(out=out))


class Sub(nn.Module):
    """Difference of two tensors; alpha has no default, as in the real tool."""

    def forward(self, input: Any, other: Any, alpha: Any, out: torch.Tensor | None = None) -> torch.Tensor:
        return torch.sub(input, other, **_scaled(alpha), **_given(out=out))


class Sum(nn.Module):
    """Sum along one or several dimensions."""

    def forward(self, input: torch.Tensor, dim: Any, keepdim: bool = False, dtype: Any = None) -> torch.Tensor:
        return torch.sum(input, dim, keepdim, **_given(dtype=dtype))


class Transpose(nn.Module):
    """Two dimensions swapped."""

    def forward(self, input: torch.Tensor, dim0: int, dim1: int) -> torch.Tensor:
        return torch.transpose(input, dim0, dim1)


class Upsample(Interpolate):
    """Resize, like torch.nn.functional.upsample."""
