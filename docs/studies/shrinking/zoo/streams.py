"""Chains and residual streams, and convolutions of every kind."""
# ruff: noqa: D103 (the name of a network says what it does)

from __future__ import annotations

import torch
from kinds import Net, block, classifier, conv, images, kind, pooled
from torch import Tensor, nn
from torch.nn import functional


@kind
def plain():
    return nn.Sequential(
        block(3, 16), block(16, 24, stride=2), block(24, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    ), images()


@kind
def vgg_flattened():
    features = nn.Sequential(block(3, 16), nn.MaxPool2d(2), block(16, 16), nn.MaxPool2d(2))
    return nn.Sequential(
        features, nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10)
    ), images()


class Residual(nn.Module):
    """The basic block of a residual network."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, bias=False), nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """A residual of x."""
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(inner + self.shortcut(x))


@kind
def resnet():
    blocks = nn.Sequential(block(3, 16), Residual(16, 16), Residual(16, 32, 2), Residual(32, 32))
    return classifier(lambda self, x: self.blocks(x), 32, blocks=blocks), images()


@kind
def preactivation_resnet():
    def body(self, x):
        x = self.stem(x)
        for inner in self.blocks:
            x = x + inner(x)
        return functional.relu(self.norm(x))

    def inner():
        return nn.Sequential(
            nn.BatchNorm2d(16), nn.ReLU(), conv(16, 24), nn.BatchNorm2d(24), nn.ReLU(inplace=True), conv(24, 16)
        )

    layers = {"stem": conv(3, 16), "blocks": nn.ModuleList([inner(), inner()]), "norm": nn.BatchNorm2d(16)}
    return classifier(body, 16, **layers), images()


@kind
def padded_shortcut():
    """Option A of He et al. 2016: strided, then zero channels appended."""

    def body(self, x):
        x = self.stem(x)
        return functional.relu(self.inner(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))

    return classifier(body, 32, stem=block(3, 16), inner=block(16, 32, stride=2)), images()


@kind
def mobilenet():
    def body(self, x):
        x = self.stem(x)
        return self.last(x + self.inverted(x))

    inverted = nn.Sequential(
        block(16, 48, 1), block(48, 48, groups=48), conv(48, 16, 1, bias=False), nn.BatchNorm2d(16)
    )
    return classifier(body, 32, stem=block(3, 16), inverted=inverted, last=block(16, 32, 1)), images()


@kind
def depth_multiplier():
    inner = nn.Sequential(block(3, 8), block(8, 16, groups=8), block(16, 12, 1))
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


@kind
def batch_norm_without_weights():
    inner = nn.Sequential(conv(3, 16), nn.BatchNorm2d(16, affine=False), nn.ReLU(), conv(16, 16), nn.ReLU())
    return classifier(lambda self, x: self.inner(x), 16, inner=inner), images()


@kind
def multilayer_perceptron():
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 10)), (
        torch.randn(2, 20),
    )


@kind
def residual_of_linear():
    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.down(functional.gelu(self.up(x))))

    layers = {"embed": nn.Linear(20, 16), "up": nn.Linear(16, 32), "down": nn.Linear(32, 16), "head": nn.Linear(16, 5)}
    return Net(forward, **layers), (torch.randn(2, 20),)


# convolutions of other dimensions and kinds


@kind
def conv1d():
    inner = nn.Sequential(nn.Conv1d(4, 16, 5), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 16, 3, groups=16))
    return Net(lambda self, x: self.head(self.inner(x).amax(-1)), inner=inner, head=nn.Linear(16, 5)), (
        torch.randn(2, 4, 32),
    )


@kind
def conv3d():
    inner = nn.Sequential(nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 12, 3))
    return Net(lambda self, x: self.head(self.inner(x).mean((2, 3, 4))), inner=inner, head=nn.Linear(12, 5)), (
        torch.randn(2, 1, 10, 10, 10),
    )


@kind
def grouped_convolution():
    inner = nn.Sequential(block(3, 16), block(16, 32, groups=4), block(32, 16, 1))
    return classifier(lambda self, x: self.inner(x), 16, inner=inner), images()


@kind
def grouped_transposed_convolution():
    inner = nn.Sequential(block(3, 16), nn.ConvTranspose2d(16, 8, 2, 2, groups=4), nn.ReLU(), conv(8, 12))
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


@kind
def transposed_convolutions():
    inner = nn.Sequential(
        block(3, 16, stride=2), nn.ConvTranspose2d(16, 12, 3, 2, 1, output_padding=1), nn.BatchNorm2d(12), nn.ReLU()
    )
    return Net(lambda self, x: self.head(self.inner(x)), inner=inner, head=nn.Conv2d(12, 2, 1)), images()


@kind
def functional_convolution():
    def body(self, x):
        return functional.conv2d(self.stem(x), self.weight, self.bias, padding=1).relu()

    layers = {"weight": nn.Parameter(torch.randn(12, 16, 3, 3) / 12), "bias": nn.Parameter(torch.randn(12))}
    return classifier(body, 12, stem=block(3, 16), **layers), images()


@kind
def einsum():
    def body(self, x):
        return torch.einsum("bchw,cd->bdhw", self.stem(x), self.weight).relu()

    return classifier(body, 12, stem=block(3, 16), weight=nn.Parameter(torch.randn(16, 12) / 4)), images()


@kind
def matmul_parameter():
    def forward(self, x):
        return self.head((pooled(self.stem(x)) @ self.weight).relu())

    layers = {"stem": block(3, 16), "weight": nn.Parameter(torch.randn(16, 12) / 4), "head": nn.Linear(12, 10)}
    return Net(forward, **layers), images()
