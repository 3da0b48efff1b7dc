"""Norms, scales, shared modules, autograd, control flow, inputs and outputs of other kinds."""
# ruff: noqa: D103 (the name of a network says what it does)

from __future__ import annotations

import torch
from kinds import Net, block, classifier, conv, images, kind, pooled
from torch import Tensor, nn
from torch.nn import functional

# norms and element-wise layers


@kind
def convnext():
    def body(self, x):
        x = self.stem(x)
        inner = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(functional.gelu(self.up(inner)))).permute(0, 3, 1, 2)

    layers = {"stem": nn.Conv2d(3, 16, 2, 2), "depthwise": conv(16, 16, 7, groups=16), "norm": nn.LayerNorm(16)}
    gamma = nn.Parameter(torch.ones(16))
    return classifier(body, 16, **layers, up=nn.Linear(16, 32), down=nn.Linear(32, 16), gamma=gamma), images()


@kind
def group_norm():
    inner = nn.Sequential(conv(3, 16), nn.GroupNorm(4, 16), nn.ReLU(), conv(16, 12), nn.ReLU())
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


@kind
def instance_norm():
    inner = nn.Sequential(conv(3, 16), nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(), conv(16, 12), nn.ReLU())
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


@kind
def layer_norm_over_images():
    inner = nn.Sequential(conv(3, 12), nn.LayerNorm([12, 16, 16]), nn.ReLU(), conv(12, 12))
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


@kind
def rms_norm():
    inner = nn.Sequential(nn.Linear(20, 16), nn.RMSNorm(16), nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 5))
    return inner, (torch.randn(2, 20),)


@kind
def local_response_norm():
    inner = nn.Sequential(conv(3, 16), nn.LocalResponseNorm(5), nn.ReLU(), conv(16, 12))
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


@kind
def unit_length():
    """Features divided by their length, as metric learning does."""

    def forward(self, x):
        return self.head(functional.normalize(self.embed(pooled(self.stem(x))), dim=1))

    return Net(forward, stem=block(3, 16), embed=nn.Linear(16, 12), head=nn.Linear(12, 10)), images()


@kind
def prelu():
    inner = nn.Sequential(conv(3, 16), nn.PReLU(16), conv(16, 12), nn.PReLU())
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


@kind
def weight_norm():
    inner = nn.Sequential(nn.utils.parametrizations.weight_norm(conv(3, 16)), nn.ReLU(), conv(16, 12))
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


@kind
def spectral_norm():
    inner = nn.Sequential(conv(3, 16), nn.ReLU(), nn.utils.parametrizations.spectral_norm(conv(16, 12)), nn.ReLU())
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


@kind
def buffer_of_scales():
    def body(self, x):
        return self.last(self.stem(x) * self.scale + self.shift)

    layers = {"scale": torch.rand(1, 16, 1, 1), "shift": nn.Parameter(torch.randn(16, 1, 1))}
    return classifier(body, 16, stem=block(3, 16), **layers, last=block(16, 16)), images()


@kind
def gate_of_one_channel():
    def body(self, x):
        x = self.stem(x)
        return self.last(x * self.gate(x).sigmoid())

    return classifier(body, 16, stem=block(3, 16), gate=conv(16, 1, 1), last=block(16, 16)), images()


@kind
def global_mean_and_maximum():
    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))

    return Net(forward, stem=block(3, 16), head=nn.Linear(32, 10)), images()


@kind
def dropped_channels():
    inner = nn.Sequential(block(3, 16), nn.Dropout2d(0.2), block(16, 12))
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


# modules, autograd and control flow


@kind
def called_twice():
    def body(self, x):
        x = self.stem(x)
        return self.last(self.again(self.again(x)))

    return classifier(body, 12, stem=block(3, 16), again=block(16, 16), last=block(16, 12)), images()


@kind
def tied_weights():
    first, second = conv(16, 16), conv(16, 16)
    second.weight = first.weight
    inner = nn.Sequential(block(3, 16), first, nn.ReLU(), second, nn.ReLU())
    return classifier(lambda self, x: self.inner(x), 16, inner=inner), images()


@kind
def frozen_weights():
    network = nn.Sequential(block(3, 16), block(16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    network.requires_grad_(False)
    network[-1].requires_grad_(True)
    return network, images()


@kind
def detached_head():
    def forward(self, x):
        x = self.stem(x)
        return self.head(pooled(x)), self.side(pooled(x.detach()))

    return Net(forward, stem=block(3, 16), head=nn.Linear(16, 10), side=nn.Linear(16, 2)), images()


class Straight(torch.autograd.Function):
    """The sign, with the gradient of the identity (straight-through)."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        """The sign of x."""
        return x.sign()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        """The gradient as it comes."""
        return gradient


@kind
def own_autograd_function():
    def body(self, x):
        return self.last(Straight.apply(self.stem(x)))

    return classifier(body, 12, stem=conv(3, 16), last=block(16, 12)), images()


@kind
def dictionary_of_outputs():
    def forward(self, x):
        x = self.stem(x)
        return {"mask": self.mask(x), "class": self.head(pooled(x))}

    return Net(forward, stem=block(3, 16), mask=nn.Conv2d(16, 1, 1), head=nn.Linear(16, 10)), images()


@kind
def feature_returned():
    """Returns its features beside the classes, so that they can't be narrowed."""

    def forward(self, x):
        x = self.stem(x)
        return self.head(pooled(x)), x

    return Net(forward, stem=nn.Sequential(block(3, 16), block(16, 12)), head=nn.Linear(12, 10)), images()


@kind
def two_inputs():
    def forward(self, left, right):
        return self.head(pooled(self.last(self.left(left) + self.right(right))))

    layers = {"left": block(3, 16), "right": block(1, 16), "last": block(16, 12), "head": nn.Linear(12, 10)}
    return Net(forward, **layers), images() + images(1)


@kind
def text_convolution():
    def forward(self, tokens):
        return self.head(self.inner(self.embed(tokens).transpose(1, 2)).amax(-1))

    inner = nn.Sequential(nn.Conv1d(12, 16, 3), nn.ReLU())
    return Net(forward, embed=nn.Embedding(50, 12), inner=inner, head=nn.Linear(16, 5)), (
        torch.randint(0, 50, (2, 20)),
    )


@kind
def recurrent():
    def forward(self, x):
        return self.head(self.recur(self.inner(x).transpose(1, 2))[0][:, -1])

    inner = nn.Sequential(nn.Conv1d(4, 16, 3), nn.ReLU())
    return Net(forward, inner=inner, recur=nn.GRU(16, 12, batch_first=True), head=nn.Linear(12, 5)), (
        torch.randn(2, 4, 20),
    )


@kind
def data_dependent_branch():
    def body(self, x):
        x = self.stem(x)
        return self.last(x if x.mean() > 0 else -x)

    return classifier(body, 12, stem=block(3, 16), last=block(16, 12)), images()
