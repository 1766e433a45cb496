"""The operators that a prepared graph calls where torch's own would not do what the DPU does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import handle_torch_function, has_torch_function

from dpuforge.emulator.arithmetic.fake_quantise import Rounding, average_pool_coefficient, fake_quantise

HSIGMOID_FACTOR = 2731 / 16384  # the DPU's 1/6 (docs/quantizer.md, section 4)
LEAKY_SLOPE = 26 / 256
_HSWISH_FIX = 7


class OutOfPlace:
    """Calls an in-place torch function on a copy of its first argument."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__ = getattr(function, "__name__", "function")

    def __call__(self, first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.function(first.clone(), *args, **kwargs)


def quant_stub(values: torch.Tensor) -> torch.Tensor:
    """Return the values, as another tensor: quantisation begins here, and capture sees the call."""
    if has_torch_function((values,)):
        marked: torch.Tensor = handle_torch_function(quant_stub, (values,), values)
        return marked
    return values.view_as(values)


def dequant_stub(values: torch.Tensor) -> torch.Tensor:
    """Return the values, as another tensor: quantisation ends here, and capture sees the call."""
    if has_torch_function((values,)):
        marked: torch.Tensor = handle_torch_function(dequant_stub, (values,), values)
        return marked
    return values.view_as(values)


def narrow(values: torch.Tensor, dim: int, start: int, length: int) -> torch.Tensor:
    """Return a part of one dimension."""
    return values.narrow(dim, start, length)


def relu_limited(values: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Return values clipped to 0..limit, one limit per channel (dimension 1)."""
    return torch.minimum(values.clamp(min=0), limit.view(1, -1, *(1,) * (values.dim() - 2)))


def channel_scale(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return values * weight + bias per channel (dimension 1): a batch-norm that stands alone."""
    shape = (1, -1) + (1,) * (values.dim() - 2)
    return values * weight.view(shape) + bias.view(shape)


def average_pool(values: torch.Tensor, coefficient: float, **settings: Any) -> torch.Tensor:
    """Return the average pool times the DPU's coefficient."""
    return F.avg_pool2d(values, **settings) * coefficient


def adaptive_average_pool(values: torch.Tensor, output_size: tuple[int, int]) -> torch.Tensor:
    """Return the adaptive average pool times the coefficient of the kernel that it amounts to."""
    height, width = (int(size) // out for size, out in zip(values.shape[-2:], output_size, strict=True))
    return F.adaptive_avg_pool2d(values, output_size) * average_pool_coefficient(height, width)


def hard_sigmoid(values: torch.Tensor) -> torch.Tensor:
    """Return relu6(x + 3) * 2731 / 16384."""
    return F.relu6(values + 3.0) * HSIGMOID_FACTOR


def hard_swish(values: torch.Tensor) -> torch.Tensor:
    """Return x times the hard sigmoid rounded to fix position 7."""
    return values * fake_quantise(hard_sigmoid(values), 8, _HSWISH_FIX, Rounding.HALF_UP)
