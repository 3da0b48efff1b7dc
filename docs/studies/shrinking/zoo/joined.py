"""Networks that concatenate, split and slice channels."""
# ruff: noqa: D103 (the name of a network says what it does)

from __future__ import annotations

import torch
from kinds import Net, block, classifier, conv, images, kind
from torch import nn
from torch.nn import functional

# concatenation, splits and slices


@kind
def densenet():
    def body(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.transition(x)

    layers = nn.ModuleList(block(12 + 8 * index, 8) for index in range(3))
    return classifier(body, 16, stem=block(3, 12), layers=layers, transition=block(36, 16, 1)), images()


@kind
def inception():
    def body(self, x):
        x = self.stem(x)
        return self.last(torch.cat([self.one(x), self.three(x), self.pool(x)], 1))

    pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), block(16, 4, 1))
    return classifier(
        body, 16, stem=block(3, 16), one=block(16, 8, 1), three=block(16, 12), pool=pool, last=block(24, 16, 1)
    ), images()


@kind
def unet():
    def forward(self, x):
        fine = self.fine(x)
        coarse = self.coarse(functional.max_pool2d(fine, 2))
        up = functional.interpolate(coarse, scale_factor=2, mode="bilinear")
        return self.head(self.join(torch.cat([up, fine], 1)))

    layers = {"fine": block(3, 8), "coarse": block(8, 16), "join": block(24, 8), "head": nn.Conv2d(8, 2, 1)}
    return Net(forward, **layers), images()


@kind
def unet_transposed():
    def forward(self, x):
        fine = self.fine(x)
        up = self.up(self.coarse(functional.max_pool2d(fine, 2)))
        return self.head(self.join(torch.cat((fine, up), 1)))

    layers = {"fine": block(3, 8), "coarse": block(8, 16), "up": nn.ConvTranspose2d(16, 8, 2, 2)}
    return Net(forward, **layers, join=block(16, 8), head=nn.Conv2d(8, 2, 1)), images()


@kind
def fully_convolutional_with_skip_sum():
    def forward(self, x):
        fine = self.fine(x)
        coarse = self.coarse(fine)
        return self.head(fine + functional.interpolate(coarse, size=fine.shape[2:], mode="nearest"))

    layers = {"fine": block(3, 12), "coarse": block(12, 12, stride=2), "head": nn.Conv2d(12, 2, 1)}
    return Net(forward, **layers), images()


@kind
def crelu():
    def body(self, x):
        x = self.stem(x)
        return self.last(torch.cat([x, -x], 1).relu())

    return classifier(body, 16, stem=conv(3, 12), last=block(24, 16)), images()


@kind
def concatenated_with_itself():
    def body(self, x):
        x = self.stem(x)
        return self.last(torch.cat([x, x], 1))

    return classifier(body, 16, stem=block(3, 12), last=block(24, 16)), images()


@kind
def concatenated_along_width():
    def body(self, x):
        return self.last(torch.cat([self.left(x), self.right(x)], 3))

    return classifier(body, 16, left=block(3, 12), right=block(3, 12, 1), last=block(12, 16)), images()


@kind
def concatenated_along_batch():
    def body(self, x):
        left, right = self.last(torch.cat([self.left(x), self.right(x)], 0)).chunk(2)
        return left + right

    return classifier(body, 16, left=block(3, 12), right=block(3, 12, 1), last=block(12, 16)), images()


@kind
def concatenations_in_a_chain():
    def body(self, x):
        a = self.a(x)
        b = torch.cat([a, self.b(a)], 1)
        c = torch.cat([self.c(b), b], 1)
        return self.d(torch.cat([c, a], 1))

    return classifier(body, 12, a=block(3, 8), b=block(8, 6), c=block(14, 10), d=block(32, 12)), images()


@kind
def chunk_gate():
    def body(self, x):
        value, gate = self.inner(x).chunk(2, 1)
        return self.last(value * gate.sigmoid())

    return classifier(body, 16, inner=block(3, 24), last=block(12, 16)), images()


@kind
def glu():
    return classifier(
        lambda self, x: self.last(functional.glu(self.inner(x), 1)), 16, inner=conv(3, 24), last=block(12, 16)
    ), images()


@kind
def tensor_split():
    def body(self, x):
        first, second, third = self.inner(x).tensor_split(3, 1)
        return self.last(first + second * third)

    return classifier(body, 16, inner=block(3, 24), last=block(8, 16)), images()


@kind
def split_by_a_constant():
    def body(self, x):
        first, second = self.inner(x).split(16, -3)
        return self.last(torch.cat([self.own(first), second], 1))

    return classifier(body, 16, inner=block(3, 32), own=block(16, 16), last=block(32, 16)), images()


@kind
def split_by_sizes():
    def body(self, x):
        first, second = torch.split(self.inner(x), [20, 12], 1)
        return self.one(first) + self.two(second)

    return classifier(body, 16, inner=block(3, 32), one=block(20, 16), two=block(12, 16)), images()


@kind
def slice_by_a_constant():
    def body(self, x):
        x = self.inner(x)
        return self.one(x[:, :16]) + self.two(x[:, 16:])

    return classifier(body, 16, inner=block(3, 32), one=block(16, 16), two=block(16, 16)), images()


@kind
def every_other_channel():
    def body(self, x):
        x = self.inner(x)
        return self.last(x[:, ::2] * x[:, 1::2])

    return classifier(body, 16, inner=block(3, 32), last=block(16, 16)), images()


@kind
def narrow():
    def body(self, x):
        x = self.inner(x)
        return self.last(x.narrow(1, 0, 16) + x.narrow(1, 16, 16))

    return classifier(body, 16, inner=block(3, 32), last=block(16, 16)), images()


@kind
def yolo_c2f():
    """The block of YOLOv8: chunked, a chain on the second half, all concatenated."""

    def body(self, x):
        parts = list(self.first(x).chunk(2, 1))
        parts.extend(layer(parts[-1]) for layer in self.chain)
        return self.last(torch.cat(parts, 1))

    chain = nn.ModuleList([block(8, 8), block(8, 8)])
    return classifier(body, 16, first=block(3, 16), chain=chain, last=block(32, 16, 1)), images()


@kind
def yolo_focus():
    """The stem of YOLOv5: four interleaved images side by side."""

    def body(self, x):
        x = self.stem(x)
        corners = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.last(torch.cat(corners, 1))

    return classifier(body, 16, stem=block(3, 8), last=block(32, 16)), images()


@kind
def ghost():
    def body(self, x):
        primary = self.primary(x)
        return self.last(torch.cat([primary, self.cheap(primary)], 1))

    return classifier(body, 16, primary=block(3, 12), cheap=block(12, 12, groups=12), last=block(24, 16, 1)), images()
