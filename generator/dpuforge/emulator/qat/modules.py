"""The modules of a trainable network: convolutions and dense layers with quantised parameters, the DPU's arithmetic.

Each class takes the place of a float module by becoming its class: parameters, hooks and names stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dpuforge.emulator.arithmetic import operations
from dpuforge.emulator.arithmetic.fake_quantise import average_pool_coefficient, square_root
from dpuforge.emulator.qat.quantizer import TQTQuantizer


class QuantizedConv2d(nn.Conv2d):
    """A convolution with quantised weight and bias."""

    weight_quantizer: TQTQuantizer
    bias_quantizer: TQTQuantizer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of input with the quantised parameters."""
        bias = None if self.bias is None else self.bias_quantizer(self.bias)
        result: torch.Tensor = self._conv_forward(input, self.weight_quantizer(self.weight), bias)
        return result


class QuantizedLinear(nn.Linear):
    """A dense layer with quantised weight and bias."""

    weight_quantizer: TQTQuantizer
    bias_quantizer: TQTQuantizer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the product of input with the quantised parameters."""
        bias = None if self.bias is None else self.bias_quantizer(self.bias)
        return F.linear(input, self.weight_quantizer(self.weight), bias)


class QuantizedConvBatchNorm2d(nn.Conv2d):
    """A convolution that its batch norm is folded into before quantisation (arXiv 1806.08342, 3.2.2).

    While statistics are gathered the weight is folded with the running deviation, the result brought to the batch's;
    the bias is that of the batch. Else both are folded with the running statistics.
    """

    bn: nn.BatchNorm2d
    weight_quantizer: TQTQuantizer
    bias_quantizer: TQTQuantizer
    statistics_frozen: bool
    fused: bool

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the normalised convolution of input with quantised folded parameters."""
        if self.fused:
            weight, bias = self.weight, self.bias
        elif self.training and not self.statistics_frozen:
            return self._forward_batch(input)
        else:
            weight, bias = self._folded()
        assert bias is not None
        result: torch.Tensor = self._conv_forward(input, self.weight_quantizer(weight), self.bias_quantizer(bias))
        return result

    def _affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return gamma and beta."""
        if self.bn.weight is None:
            return torch.ones_like(self._variance), torch.zeros_like(self._variance)
        return self.bn.weight, self.bn.bias

    @property
    def _variance(self) -> torch.Tensor:
        assert self.bn.running_var is not None
        return self.bn.running_var

    def _folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight and bias folded with the running statistics, operation by operation as preparation does."""
        assert self.bn.running_mean is not None
        gamma, beta = self._affine()
        scale = gamma / square_root(self._variance + self.bn.eps)
        shift = beta - self.bn.running_mean * scale
        bias = shift if self.bias is None else self.bias * scale + shift
        return self.weight * scale.view(-1, 1, 1, 1), bias

    def _forward_batch(self, input: torch.Tensor) -> torch.Tensor:
        plain = self._conv_forward(input, self.weight, None)
        mean = plain.mean(dim=(0, 2, 3))
        variance = plain.var(dim=(0, 2, 3), unbiased=False)
        self._update_statistics(mean.detach(), variance.detach(), plain.numel() // plain.shape[1])
        gamma, beta = self._affine()
        running = torch.sqrt(self._variance + self.bn.eps)
        batch = torch.sqrt(variance + self.bn.eps)
        weight = self.weight_quantizer(self.weight * (gamma / running).view(-1, 1, 1, 1))
        result: torch.Tensor = self._conv_forward(input, weight, None) * (running / batch).view(1, -1, 1, 1)
        bias: torch.Tensor = self.bias_quantizer(beta - gamma * mean / batch)
        return result + bias.view(1, -1, 1, 1)

    @torch.no_grad()
    def _update_statistics(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        """Move the running statistics as torch's batch norm does; the convolution's bias is part of the mean."""
        assert self.bn.running_mean is not None
        assert self.bn.num_batches_tracked is not None
        self.bn.num_batches_tracked.add_(1)
        rate = self.bn.momentum if self.bn.momentum is not None else 1.0 / float(self.bn.num_batches_tracked)
        seen = mean if self.bias is None else mean + self.bias
        self.bn.running_mean.mul_(1 - rate).add_(seen, alpha=rate)
        self._variance.mul_(1 - rate).add_(variance * (count / max(count - 1, 1)), alpha=rate)

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the batch norm into weight and bias for good."""
        weight, bias = self._folded()
        self.weight.copy_(weight)
        if self.bias is None:
            self.bias = nn.Parameter(bias.clone())
        else:
            self.bias.copy_(bias)
        self.fused = True


class DPULeakyReLU(nn.LeakyReLU):
    """A leaky ReLU with the DPU's slope."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the activation."""
        return F.leaky_relu(input, operations.LEAKY_SLOPE, self.inplace)


class DPUAvgPool2d(nn.AvgPool2d):
    """An average pool times the DPU's coefficient."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the pooled values."""
        size = self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size, self.kernel_size)
        return super().forward(input) * average_pool_coefficient(*size)


class DPUAdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """An adaptive average pool times the DPU's coefficient of the kernel that it amounts to."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the pooled values."""
        wanted: Any = self.output_size if isinstance(self.output_size, tuple) else (self.output_size, self.output_size)
        height, width = (int(size) if out is None else out for size, out in zip(input.shape[-2:], wanted, strict=True))
        if input.shape[-2] % height or input.shape[-1] % width:
            return super().forward(input)
        return operations.adaptive_average_pool(input, (height, width))


REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: QuantizedConv2d,
    nn.Linear: QuantizedLinear,
    nn.LeakyReLU: DPULeakyReLU,
    nn.AvgPool2d: DPUAvgPool2d,
    nn.AdaptiveAvgPool2d: DPUAdaptiveAvgPool2d,
}
