"""A network small enough to be trained within a test."""

from torch import nn


class Tiny(nn.Module):
    """Two convolutions with batch-norm, dropout, and a head for 1000 classes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(16, 1000)

    def forward(self, x):
        return self.fc(self.drop(self.pool(self.body(self.stem(x))).flatten(1)))


def make():
    """Return the network."""
    return Tiny()
