"""The small networks of the zoo by name, and what they are made of; one way of using channels each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

KINDS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {}
READS = {
    "functional_convolution": {"weight": 1},
    "einsum": {"weight": 0},
    "matmul_parameter": {"weight": 0},
    "mixture_of_kernels": {"weight": 2},
    "embedding_tied_to_the_head": {"embed.weight": 1},
    "head_tied_to_the_stem": {"encode.weight": 0},
}
"""Of weights that no layer's module holds: the dimension that reads channels."""


class Net(nn.Module):
    """Layers by name, and how they are called."""

    def __init__(self, forward: Callable[..., object], **layers: nn.Module | Tensor):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            if isinstance(layer, Tensor) and not isinstance(layer, nn.Parameter):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)

    def forward(self, *inputs: Tensor) -> object:
        """What the given function makes of the inputs."""
        return self.run(self, *inputs)


def kind(build: Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]) -> Callable[[], tuple[nn.Module, tuple]]:
    """Enters a constructor of (network, example inputs) under its name."""
    KINDS[build.__name__] = build
    return build


def images(channels: int = 3, size: int = 16) -> tuple[Tensor, ...]:
    """Two images of noise."""
    return (torch.randn(2, channels, size, size),)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: int | bool) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def block(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(conv(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU())


def pooled(x: Tensor) -> Tensor:
    """The mean of each channel."""
    return x.mean((2, 3))


def classifier(body: Callable[[nn.Module, Tensor], Tensor], width: int, **layers: nn.Module | Tensor) -> Net:
    """A network whose body ends in images of `width` channels, then a pool and a linear map to 10 classes."""
    return Net(lambda self, x: self.head(pooled(body(self, x))), **layers, head=nn.Linear(width, 10))
