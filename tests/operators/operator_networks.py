"""Small networks as people write them: one operator or idiom each, behind a convolution; NETWORKS: name -> network."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Tail = Callable[[torch.Tensor], torch.Tensor]


class Sign(torch.autograd.Function):
    """A function with a gradient of its own."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        """Return the sign."""
        return torch.sign(x)


class Behind(nn.Module):
    """A convolution to 8 channels, then a function."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.stem, self.tail = nn.Conv2d(3, 8, 3, padding=1), tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the function makes of the convolution's 8 channels."""
        return self.tail(self.stem(x))


def layers(*parts: nn.Module) -> nn.Module:
    """Return a convolution to 8 channels, then modules."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *parts)


def mix() -> nn.Module:
    """Return a convolution that reads what the operator gives."""
    return nn.Conv2d(8, 8, 1)


def pooled(x: torch.Tensor) -> torch.Tensor:
    """Return the means over height and width."""
    return x.mean((2, 3))


class Rows(nn.Module):
    """1-d convolutions over (N, 3, 32), which the network takes as they are."""

    def __init__(self) -> None:
        super().__init__()
        first = (nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2))
        self.net = nn.Sequential(*first, nn.Conv1d(8, 4, 3), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 4)."""
        return self.net(x).mean(2)


class Tokens(nn.Module):
    """Positions as tokens: (N, 64, 8) through `body`, then a linear layer over their mean."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
        for name, part in parts.items():
            setattr(self, name, part)

    def body(self, t: torch.Tensor) -> torch.Tensor:
        """Return tokens."""
        return t

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 4)."""
        return self.head(self.body(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


class Attention(Tokens):
    """nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__(attention=nn.MultiheadAttention(8, 2, batch_first=True))

    def body(self, t: torch.Tensor) -> torch.Tensor:
        """Attend."""
        return self.attention(t, t, t, need_weights=False)[0]


class Heads(Tokens):
    """Attention as timm writes it: one linear layer, unbind, one call."""

    def __init__(self) -> None:
        super().__init__(qkv=nn.Linear(8, 24))

    def body(self, t: torch.Tensor) -> torch.Tensor:
        """Attend."""
        b, n, d = t.shape
        q, k, v = self.qkv(t).reshape(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)


class RootMean(Tokens):
    """RMS norm."""

    def __init__(self) -> None:
        super().__init__(norm=nn.RMSNorm(8))

    def body(self, t: torch.Tensor) -> torch.Tensor:
        """Normalise."""
        return self.norm(t)


class Squeeze(nn.Module):
    """Squeeze and excitation with views and the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 8, H, W)."""
        x = self.stem(x)
        b, c, _, _ = x.size()
        gate = torch.sigmoid(self.fc(F.adaptive_avg_pool2d(x, 1).view(b, c))).view(b, c, 1, 1)
        return self.head(x * gate)


class Pairs(nn.Module):
    """nn.Bilinear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pairs = nn.Conv2d(3, 8, 1), nn.Bilinear(8, 8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 4)."""
        y = pooled(self.stem(x))
        return self.pairs(y, y)


class GeneralisedMean(nn.Module):
    """Pooling with a learned exponent."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.p, self.head = nn.Conv2d(3, 8, 1), nn.Parameter(torch.ones(1) * 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 4)."""
        powers = self.stem(x).clamp(min=1e-6).pow(self.p)
        return self.head(F.avg_pool2d(powers, (8, 8)).pow(1 / self.p).flatten(1))


def _assigned(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 0] = 0
    return y


def _average(kernel: int, stride: int, pad: int, ceil: bool, include: bool) -> nn.Module:
    return layers(nn.AvgPool2d(kernel, stride, pad, ceil_mode=ceil, count_include_pad=include), mix())


NETWORKS: dict[str, nn.Module] = {
    # what users report
    "chunk": Behind(lambda x: torch.cat([a * 2 if i else a for i, a in enumerate(x.chunk(2, 1))], 1)),
    "permute and view": Behind(lambda x: x.permute(0, 2, 3, 1).contiguous().view(x.size(0), -1)),
    "view of the same rank": Behind(lambda x: x.view(x.size(0), x.size(1) // 2, x.size(2) * 2, x.size(3))),
    "computed pad": Behind(lambda x: F.pad(x, [1, x.size(3) % 3, 1, 0])),
    "add a tiny number": Behind(lambda x: x + 1e-12),
    "log_softmax": Behind(lambda x: F.log_softmax(pooled(x), 1)),
    "softmax": Behind(lambda x: F.softmax(pooled(x), 1)),
    "sigmoid": Behind(lambda x: torch.sigmoid(pooled(x))),
    "argmax": Behind(lambda x: pooled(x).argmax(1)),
    "clamp": Behind(lambda x: x.clamp(-1, 1)),
    "autograd.Function": Behind(lambda x: Sign.apply(x)),
    "adaptive max pool": Behind(lambda x: F.adaptive_max_pool2d(x, 1).flatten(1)),
    "layer norm": Behind(lambda x: F.layer_norm(x.flatten(2), (64,))),
    "PReLU": layers(nn.PReLU()),
    "PReLU per channel": layers(nn.PReLU(8), mix()),
    "Mish": layers(nn.Mish()),
    "LeakyReLU .1": layers(nn.LeakyReLU(0.1)),
    "GroupNorm": layers(nn.GroupNorm(2, 8)),
    "dilated max pool": layers(nn.MaxPool2d(3, 1, dilation=2)),
    "channel shuffle": Behind(
        lambda x: x.view(x.size(0), 2, 4, 8, 8).transpose(1, 2).reshape(x.size(0), 8, 8, 8)
    ),
    "einsum": Behind(lambda x: torch.einsum("bchw,bdhw->bcd", x, x)),
    "Conv1d": Rows(),
    "embedding": Behind(lambda x: 8.0 * F.normalize(pooled(x), dim=1)),
    **{
        f"average pool k{k} s{s} p{p} ceil {ceil} pad {include}": _average(k, s, p, ceil, include)
        for k, s, p, ceil, include in (
            (3, 2, 0, True, True), (3, 2, 0, True, False), (3, 2, 1, False, False), (3, 2, 1, True, True),
            (3, 2, 1, True, False),
        )
    },
    "max pool ceil": layers(nn.MaxPool2d(3, 2, ceil_mode=True)),
    "max pool ceil and pad": layers(nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    # their neighbours
    "LocalResponseNorm": layers(nn.LocalResponseNorm(3), mix()),
    "InstanceNorm": layers(nn.InstanceNorm2d(8, affine=True), mix()),
    "RMSNorm": RootMean(),
    "layer norm over channels": Behind(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)),
    "Softplus": layers(nn.Softplus(), mix()),
    "Softsign": layers(nn.Softsign(), mix()),
    "Hardswish on 3 x 3": layers(nn.Conv2d(8, 8, 3, 2), nn.Hardswish()),
    "Hardtanh": layers(nn.Hardtanh(-2, 2), mix()),
    "GELU": layers(nn.GELU(), mix()),
    "GELU by tanh": layers(nn.GELU(approximate="tanh"), mix()),
    "ELU": layers(nn.ELU(0.5), mix()),
    "SELU": layers(nn.SELU(), mix()),
    "CELU": layers(nn.CELU(2.0), mix()),
    "SiLU": layers(nn.SiLU(), mix()),
    "Threshold": layers(nn.Threshold(0.1, 0.0), mix()),
    "GLU": layers(nn.GLU(1), nn.Conv2d(4, 8, 1)),
    "Softmax2d": layers(nn.Softmax2d(), mix()),
    "PixelUnshuffle": layers(nn.PixelUnshuffle(2)),
    "ChannelShuffle": layers(nn.ChannelShuffle(2), mix()),
    "shuffle through the batch": Behind(
        lambda x: x.reshape(x.size(0) * 2, 4, 8, 8).transpose(1, 2).reshape(x.size(0), 8, 8, 8)
    ),
    "adaptive max pool to 4": layers(nn.AdaptiveMaxPool2d(4), mix()),
    "adaptive average pool to 3": layers(nn.AdaptiveAvgPool2d(3), mix()),
    "LPPool": layers(nn.LPPool2d(2, 2)),
    "max pool with indices": Behind(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "average pool with a divisor": Behind(lambda x: F.avg_pool2d(x, 2, divisor_override=3)),
    "reflection": layers(nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3)),
    "replication": layers(nn.ReplicationPad2d(1), nn.Conv2d(8, 8, 3)),
    "bilinear, corners aligned": layers(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
    "bilinear to 13 x 11": Behind(lambda x: F.interpolate(x, size=(13, 11), mode="bilinear")),
    "nearest to 13 x 11": Behind(lambda x: F.interpolate(x, size=(13, 11))),
    "bicubic": Behind(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
    "grouped depthwise transposed": layers(nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8)),
    "squeeze and excitation": Squeeze(),
    "nn.Bilinear": Pairs(),
    "MultiheadAttention": Attention(),
    "attention heads": Heads(),
    "generalised mean": GeneralisedMean(),
    "where": Behind(lambda x: torch.where(x > 0.5, x, x * 0.1)),
    "maximum": Behind(lambda x: torch.max(x, -x)),
    "minimum over channels": Behind(lambda x: x.min(1, keepdim=True)[0]),
    "both results of max": Behind(lambda x: sum(x.max(1, keepdim=True))),
    "cumsum": Behind(lambda x: x.cumsum(1)),
    "square": Behind(lambda x: x**2),
    "sqrt of abs": Behind(lambda x: torch.sqrt(x.abs() + 1e-3)),
    "exp of minus": Behind(lambda x: torch.exp(-x)),
    "number minus": Behind(lambda x: 1 - x),
    "number by": Behind(lambda x: 2 / (x.abs() + 1)),
    "by three": Behind(lambda x: x / 3),
    "logsumexp": Behind(lambda x: torch.logsumexp(x, (2, 3))),
    "std": Behind(lambda x: x.std((2, 3))),
    "standardised": Behind(
        lambda x: (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()
    ),
    "topk": Behind(lambda x: pooled(x).topk(3, 1)[0]),
    "roll": Behind(lambda x: x.roll(1, 2)),
    "repeat": Behind(lambda x: x.repeat(1, 2, 1, 1)),
    "expand_as": Behind(lambda x: x + F.adaptive_avg_pool2d(x, 1).expand_as(x)),
    "stack and sum": Behind(lambda x: torch.stack([x, x * 2], 1).sum(1)),
    "matmul of two": Behind(lambda x: x @ x.transpose(2, 3)),
    "masked_fill": Behind(lambda x: x.masked_fill(x > 0, 0.0)),
    "assigned part": Behind(_assigned),
    "unfold": Behind(lambda x: F.unfold(x, 3)),
    "cosine similarity": Behind(lambda x: F.cosine_similarity(x, x * 2 + 1, 1)),
}  # fmt: skip


def image_for(name: str) -> torch.Tensor:
    """Return one random input."""
    shape = (1, 3, 32) if name == "Conv1d" else (1, 3, 8, 8)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))
