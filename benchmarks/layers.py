"""The layers that are timed: shapes of ResNet50 and of a few others, with weights of a trained network's size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layer:
    """A convolution's shape: filters, slices of a filter, and the side of its square kernel."""

    filters: int
    slices: int
    side: int

    def __str__(self) -> str:
        return f"{self.filters}x{self.slices}x{self.side}x{self.side}"

    def weight(self, seed: int = 0) -> Tensor:
        """Normal weights, so small that about half of the pairs are redundant at eps = 1e-4."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.filters, self.slices, self.side, self.side, generator=generator) * 0.0085

    @property
    def slice_pairs(self) -> int:
        """The psi that Omega is made of."""
        return self.filters * (self.filters - 1) // 2 * self.slices


def layer(shape: str) -> Layer:
    """The layer of a shape such as 64x3x7x7."""
    filters, slices, side, _ = (int(size) for size in shape.split("x"))
    return Layer(filters, slices, side)


RESNET50 = [layer("64x3x7x7")] + [
    Layer(width, width, 3) for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)) for _ in range(blocks)
]
SQUARE = [Layer(width, width, 3) for width in (64, 128, 256, 512)]
OTHERS = [layer("64x3x7x7"), layer("64x1x7x7"), layer("512x1x3x3"), layer("128x128x5x5")]
