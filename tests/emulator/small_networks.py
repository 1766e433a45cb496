"""The small networks that were run through the real quantizer; one operator family each."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class Tiny(nn.Module):
    """Convolution, batch-norm, pooling, an addition, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(x + self.conv2(x))
        return self.fc(torch.flatten(self.gap(x), 1))


class CBR(nn.Sequential):
    """Convolution, batch-norm, activation."""

    def __init__(
        self, inside: int, out: int, k: int = 3, st: int = 1, g: int = 1, act: Callable[[], nn.Module] | None = nn.ReLU
    ) -> None:
        parts = [nn.Conv2d(inside, out, k, st, k // 2, groups=g, bias=False), nn.BatchNorm2d(out)]
        super().__init__(*parts, *([act()] if act else []))


class OpsA(nn.Module):
    """Concatenations with and without other readers, average pools, depthwise, relu6 as module and as function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = CBR(3, 8)
        self.b1 = CBR(8, 8, 1)
        self.b2 = CBR(8, 8, 3)
        self.ap = nn.AvgPool2d(3, 1, 1)
        self.dw = CBR(24, 24, 3, 2, 24, nn.ReLU6)
        self.pw = CBR(24, 16, 1, act=None)
        self.ap2 = nn.AvgPool2d(2)
        self.mp = nn.MaxPool2d(3, 2, 1)
        self.c3 = nn.Conv2d(32, 16, 1)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.dw(torch.cat([self.b1(x), self.b2(x), self.ap(x)], 1))
        y = self.pw(x)
        x = torch.cat([y, F.relu6(y)], 1)
        x = self.ap2(self.c3(self.mp(x)))
        return self.fc(self.gap(x).flatten(1))


class OpsB(nn.Module):
    """A squeeze-and-excitation block, hard swish, hard sigmoid, sigmoid, subtraction, mean."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = CBR(3, 16, act=nn.Hardswish)
        self.c2 = CBR(16, 16, 3, 2, 16, act=nn.Hardswish)
        self.g = nn.AdaptiveAvgPool2d(1)
        self.f1 = nn.Conv2d(16, 8, 1)
        self.r = nn.ReLU()
        self.f2 = nn.Conv2d(8, 16, 1)
        self.hs = nn.Hardsigmoid()
        self.c3 = CBR(16, 16, 1, act=None)
        self.c4 = CBR(16, 16, 3, act=nn.Sigmoid)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c2(self.c1(x))
        weight = self.hs(self.f2(self.r(self.f1(self.g(x)))))
        x = self.c3(x * weight)
        x = x - self.c4(x)
        return self.fc(x.mean([2, 3]))


class OpsC(nn.Module):
    """Leaky relu, transposed convolution, both resizes, padding, tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = CBR(3, 8, act=lambda: nn.LeakyReLU(0.1))
        self.d = nn.ConvTranspose2d(8, 8, 2, 2)
        self.r = nn.ReLU()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.ub = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.p = nn.ZeroPad2d(1)
        self.c2 = nn.Conv2d(8, 8, 3, stride=2)
        self.c3 = nn.Conv2d(8, 4, 1)
        self.t = nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c2(self.p(self.r(self.d(self.c1(x)))))
        return self.t(self.c3(self.up(x) + self.ub(x)))


class OpsE(nn.Module):
    """Extreme scales: tiny weights, huge outputs, huge bias."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1)
        self.c2 = nn.Conv2d(8, 8, 3, padding=1)
        self.c3 = nn.Conv2d(8, 8, 1)
        self.c4 = nn.Conv2d(8, 8, 1)
        self.r = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c4(self.r(self.c3(self.r(self.c2(self.r(self.c1(x)))))))


# Network and input height and width in pixels.
SMALL_NETWORKS: dict[str, tuple[type[nn.Module], int]] = {
    "tiny": (Tiny, 32),
    "ops_a": (OpsA, 32),
    "ops_b": (OpsB, 32),
    "ops_c": (OpsC, 16),
    "ops_e": (OpsE, 16),
}
