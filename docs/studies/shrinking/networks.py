"""The study's networks: four kinds of 100 to 200 thousand parameters for images (1, 28, 28), 14x14 after the stem.

They need torch alone, so that a peer's environment can load them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
STEPS = 200  # of the scale of a uniform network


def convolution(channels: int, filters: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without a bias, since a norm follows, and with as much padding as keeps the size at stride 1."""
    return nn.Conv2d(channels, filters, size, stride, size // 2, groups=groups, bias=False)


def stem(filters: int) -> nn.Sequential:
    """From 28x28 to 14x14."""
    return nn.Sequential(convolution(1, filters, 3, 2), nn.BatchNorm2d(filters), nn.ReLU())


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = convolution(channels, filters, 3, stride), nn.BatchNorm2d(filters)
        self.conv2, self.norm2 = convolution(filters, filters, 3), nn.BatchNorm2d(filters)
        same = channels == filters and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(convolution(channels, filters, 1, stride), nn.BatchNorm2d(filters))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to (N, filters, h, w), halved by a stride of 2."""
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of two basic blocks."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        widths = scaled((16, 32, 64), scale)
        self.stem = stem(widths[0])
        blocks, channels = [], widths[0]
        for stage, width in enumerate(widths):
            blocks += [BasicBlock(channels, width, 2 if stage else 1), BasicBlock(width, width, 1)]
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) to logits (N, 10)."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


class VGG(nn.Module):
    """Plain convolutions and pooling, flattened into two linear layers."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        first, second, third, hidden = scaled((32, 64, 96, 32), scale)
        self.features = nn.Sequential(
            stem(first),
            *self._layer(first, first),
            nn.MaxPool2d(2),
            *self._layer(first, second),
            *self._layer(second, second),
            nn.MaxPool2d(2),
            *self._layer(second, third),
        )
        self.hidden = nn.Linear(9 * third, hidden)
        self.classifier = nn.Linear(hidden, CLASSES)

    @staticmethod
    def _layer(channels: int, filters: int) -> tuple[nn.Module, ...]:
        return convolution(channels, filters, 3), nn.BatchNorm2d(filters), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) to logits (N, 10)."""
        return self.classifier(functional.relu(self.hidden(self.features(x).flatten(1))))


class DenseLayer(nn.Module):
    """Adds `growth` channels to those that it reads, by way of a bottleneck; norms come before convolutions."""

    def __init__(self, channels: int, bottleneck: int, growth: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), convolution(channels, bottleneck, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(bottleneck), convolution(bottleneck, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to (N, channels + growth, h, w)."""
        inner = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(inner)))], 1)


class DenseNet(nn.Module):
    """Stages of two, four and four dense layers, with 1x1 convolutions and average pooling between."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        channels, bottleneck, growth = scaled((24, 48, 16), scale)
        self.stem = stem(channels)
        blocks: list[nn.Module] = []
        for stage, layers in enumerate((2, 4, 4)):
            if stage:
                half = channels // 2
                blocks += [nn.BatchNorm2d(channels), nn.ReLU(), convolution(channels, half, 1), nn.AvgPool2d(2)]
                channels = half
            for _ in range(layers):
                blocks.append(DenseLayer(channels, bottleneck, growth))
                channels += growth
        self.blocks = nn.Sequential(*blocks, nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) to logits (N, 10)."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


class InvertedBlock(nn.Module):
    """Widened by a 1x1 convolution, filtered depthwise, narrowed by a 1x1 convolution."""

    def __init__(self, channels: int, inner: int, filters: int, stride: int):
        super().__init__()
        self.widen = nn.Sequential(convolution(channels, inner, 1), nn.BatchNorm2d(inner), nn.ReLU())
        self.depthwise = nn.Sequential(convolution(inner, inner, 3, stride, inner), nn.BatchNorm2d(inner), nn.ReLU())
        self.narrow = nn.Sequential(convolution(inner, filters, 1), nn.BatchNorm2d(filters))
        self.residual = channels == filters and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) to (N, filters, h, w), halved by a stride of 2."""
        y = self.narrow(self.depthwise(self.widen(x)))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Three stages of two inverted residual blocks."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        widths = scaled((16, 40, 72), scale)
        self.stem = stem(widths[0])
        blocks, channels = [], widths[0]
        for stage, width in enumerate(widths):
            blocks += [
                InvertedBlock(channels, 4 * channels, width, 2 if stage else 1),
                InvertedBlock(width, 4 * width, width, 1),
            ]
            channels = width
        self.blocks = nn.Sequential(*blocks)
        (head,) = scaled((128,), scale)
        self.head = nn.Sequential(convolution(channels, head, 1), nn.BatchNorm2d(head), nn.ReLU())
        self.classifier = nn.Linear(head, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 28, 28) to logits (N, 10)."""
        return self.classifier(self.head(self.blocks(self.stem(x))).mean((2, 3)))


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "ResNet": ResNet,
    "VGG": VGG,
    "DenseNet": DenseNet,
    "MobileNet": MobileNet,
}


def scaled(widths: Sequence[int], scale: float) -> list[int]:
    """Each width times the scale, rounded, at least 2."""
    return [max(round(scale * width), 2) for width in widths]


def uniform(architecture: str, size: int, size_of: Callable[[nn.Module], int]) -> nn.Module:
    """The architecture with all its widths scaled alike, of the size nearest to `size`; untrained.

    size_of: of a network on the meta device, which grows with the scale
    """
    build = ARCHITECTURES[architecture]

    def size_at(step: int) -> int:
        with torch.device("meta"):
            return size_of(build(step / STEPS))

    above = bisect_left(range(STEPS), size, key=size_at)
    nearest = min((max(above - 1, 1), max(above, 1)), key=lambda step: abs(size_at(step) - size))
    return build(nearest / STEPS)
