"""The published networks of the model zoo as torch architectures: which zoo row is which network, for fitting latency.

Only architectures that are known exactly enough are listed: the operators counted here must agree with the published
operation count within 6 %. Pruned and searched variants (a ratio in their name) have no public architecture here
and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn


@dataclass(frozen=True)
class Zoo:
    """Rows whose zoo_name matches pattern are the network that build makes; family groups them for cross-validation."""

    pattern: str
    family: str
    build: Callable[[], nn.Module]


def _conv(inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )


class Bottleneck(nn.Module):
    """A residual block whose stride is in the first 1x1 (He's v1), the 3x3 (v1.5), with pre-activation as v2."""

    def __init__(self, inside: int, width: int, stride: int, first: bool, preact: bool) -> None:
        super().__init__()
        self.preact = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU()) if preact else None
        self.body = nn.Sequential(
            _conv(inside, width, 1, stride if first else 1),
            _conv(width, width, 3, 1 if first else stride),
            nn.Conv2d(width, 4 * width, 1, bias=preact),
            nn.Identity() if preact else nn.BatchNorm2d(4 * width),
        )
        self.down: nn.Module | None = None
        if inside != 4 * width:
            self.down = nn.Sequential(nn.Conv2d(inside, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))
        elif stride > 1:
            self.down = nn.MaxPool2d(1, stride)
        self.last = nn.ReLU()

    def forward(self, x):  # type: ignore[no-untyped-def]
        """Add the body to the shortcut."""
        y = self.preact(x) if self.preact is not None else x
        shortcut = x if self.down is None else self.down(y if isinstance(self.down, nn.Sequential) else x)
        total = self.body(y) + shortcut
        return total if self.preact is not None else self.last(total)


class ResNet(nn.Module):
    """ResNet v1 (stride first), or TensorFlow-slim's v1/v2, which strides at the end of a stage (late)."""

    def __init__(self, depths: tuple[int, ...], late: bool = False, preact: bool = False, first: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
        inside = 64
        for stage, depth in enumerate(depths):
            width = 64 << stage
            for block in range(depth):
                at_end = 2 if block == depth - 1 and stage < 3 else 1
                at_start = 2 if block == 0 and stage else 1
                stride = at_end if late else at_start
                layers.append(Bottleneck(inside, width, stride, first and not late, preact))
                inside = 4 * width
        if preact:
            layers += [nn.BatchNorm2d(inside), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(inside, 1000)

    def forward(self, x):  # type: ignore[no-untyped-def]
        """Classify."""
        return self.fc(self.features(x))


def _mobilenet_v1(alpha: float) -> nn.Module:
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    inside = int(32 * alpha)
    layers: list[nn.Module] = [_conv(3, inside, 3, 2)]
    for width, stride in plan:
        layers += [_conv(inside, inside, 3, stride, inside), _conv(inside, int(width * alpha), 1)]
        inside = int(width * alpha)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 1000))


def _torchvision(name: str, **keywords: object) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(name, weights=None, **keywords)
    return network


def _timm(name: str, **keywords: object) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, **keywords)
    return network


def _efficientnet_edge(name: str) -> nn.Module:
    """TensorFlow's blocks without depthwise stride in their 1x1 projection; timm's stride in the 3x3 expansion."""
    network = _timm(name)
    for block in network.modules():
        if hasattr(block, "conv_exp") and block.conv_exp.stride == (2, 2):
            block.conv_exp.stride, block.conv_pwl.stride = (1, 1), (2, 2)
    return network


# A ratio between the size and the operations ("_224_224_0.5_4.1G") marks a pruned network.
_TAIL = r"(_imagenet_\d+_\d+_{0}(G|M)(_2\.0|_1\.3)?|_3\.5)"


def _zoo(stem: str, ops: str, family: str, build: Callable[[], nn.Module]) -> Zoo:
    return Zoo(stem + _TAIL.format(ops), family, build)


_R50, _R101, _R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
ZOO: tuple[Zoo, ...] = (
    _zoo("(pt|tf_mlperf)_resnet50", r"(8\.2|4\.1|8\.19)", "resnet", partial(_torchvision, "resnet50")),
    Zoo("(torchvision_)?resnet50", "resnet", partial(_torchvision, "resnet50")),
    _zoo("(cf|tf2)_resnet50", r"(7\.7|7\.76)", "resnet", partial(ResNet, _R50)),
    _zoo("tf_resnetv1[_-]50", r"6\.97", "resnet", partial(ResNet, _R50, late=True)),
    _zoo("tf_resnet50", r"6\.97", "resnet", partial(ResNet, _R50, late=True)),
    _zoo("tf_resnetv1[_-]101", r"14\.4", "resnet", partial(ResNet, _R101, late=True)),
    _zoo("tf_resnetv1[_-]152", r"21\.83", "resnet", partial(ResNet, _R152, late=True)),
    _zoo("tf_resnetv2[_-]50", r"13\.1", "resnet_v2", partial(ResNet, _R50, late=True, preact=True)),
    _zoo("tf_resnetv2[_-]101", r"26\.78", "resnet_v2", partial(ResNet, _R101, late=True, preact=True)),
    _zoo("tf_resnetv2[_-]152", r"40\.47", "resnet_v2", partial(ResNet, _R152, late=True, preact=True)),
    _zoo("(cf|tf)_inceptionv1", r"(3\.16|3\.0|3)", "inception", partial(_torchvision, "googlenet", init_weights=False)),
    _zoo(
        "(pt|tf|tf2|cf)_inceptionv3",
        r"(11\.4|11\.45|11\.5|5\.7)",
        "inception",
        partial(_torchvision, "inception_v3", init_weights=False),
    ),
    Zoo("(torchvision_)?inception_v3", "inception", partial(_torchvision, "inception_v3", init_weights=False)),
    _zoo("(cf|tf)_inceptionv4", r"(24\.5|24\.55)", "inception", partial(_timm, "inception_v4")),
    _zoo("tf_inceptionresnetv2", r"26\.35", "inception_resnet", partial(_timm, "inception_resnet_v2")),
    _zoo(r"tf_mobilenetv1[_-]0\.25", r"(27|27\.15)", "mobilenet_v1", partial(_mobilenet_v1, 0.25)),
    _zoo(r"tf_mobilenetv1[_-]0\.5", r"(150|150\.07)", "mobilenet_v1", partial(_mobilenet_v1, 0.5)),
    _zoo(r"tf_mobilenetv1([_-]1\.0)?", r"1\.14", "mobilenet_v1", partial(_mobilenet_v1, 1.0)),
    _zoo(r"(cf_mobilenetv2|tf_mobilenetv2-1\.0)", r"0\.59", "mobilenet_v2", partial(_torchvision, "mobilenet_v2")),
    _zoo(r"tf_mobilenetv2[_-]1\.4", r"1\.16", "mobilenet_v2", partial(_torchvision, "mobilenet_v2", width_mult=1.4)),
    _zoo("tf_mobilenetEdge1.0", "990", "mobilenet_edge", partial(_timm, "mobilenet_edgetpu_100")),
    _zoo("tf_efficientnet-edgetpu-S", r"4\.72", "efficientnet_edge", partial(_efficientnet_edge, "efficientnet_es")),
    _zoo("tf_efficientnet-edgetpu-M", r"7\.34", "efficientnet_edge", partial(_efficientnet_edge, "efficientnet_em")),
    _zoo("tf_efficientnet-edgetpu-L", r"19\.36", "efficientnet_edge", partial(_efficientnet_edge, "efficientnet_el")),
    _zoo("tf2_Efficientnet-lite", r"0\.77", "efficientnet_lite", partial(_timm, "efficientnet_lite0")),
    _zoo("tf_vgg16", r"30\.96", "vgg", partial(_torchvision, "vgg16")),
    _zoo("tf_vgg19", r"39\.28", "vgg", partial(_torchvision, "vgg19")),
)


def find_network(zoo_name: str) -> Zoo | None:
    """Return the network of a zoo row, or None where its architecture is not known."""
    return next((zoo for zoo in ZOO if re.fullmatch(zoo.pattern, zoo_name)), None)
