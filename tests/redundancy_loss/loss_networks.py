"""A small network of what a penalty meets: a stem, a residual sum, a grouped, a depthwise and a pointwise layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INPUT = (2, 2, 6, 6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.outer = nn.Conv2d(10, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.point = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.outer(self.inner_norm(self.inner(x)).relu())
        return self.head(self.point(self.grouped(x).relu()).relu().mean((2, 3)))


SPATIAL = ("stem", "inner", "outer", "grouped")


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()
