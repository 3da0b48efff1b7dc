"""Networks that rearrange, gate and mix channels."""
# ruff: noqa: D103 (the name of a network says what it does)

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from kinds import Net, block, classifier, conv, images, kind, pooled
from torch import Tensor, nn
from torch.nn import functional

# rearranged channels


@kind
def channel_shuffle():
    def body(self, x):
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        count, channels, height, width = x.shape
        x = x.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(count, channels, height, width)
        return self.last(x)

    return classifier(body, 16, stem=block(3, 24), branch=block(12, 12), last=block(24, 16, 1)), images()


@kind
def channel_shuffle_between_groups():
    inner = nn.Sequential(block(3, 16), block(16, 24, groups=4), nn.ChannelShuffle(4), block(24, 16, groups=4))
    return classifier(lambda self, x: self.inner(x), 16, inner=inner), images()


@kind
def channel_flip():
    def body(self, x):
        x = self.stem(x)
        return self.last(x + x.flip(1))

    return classifier(body, 16, stem=block(3, 16), last=block(16, 16)), images()


@kind
def channel_roll():
    def body(self, x):
        x = self.stem(x)
        return self.last(x + torch.roll(x, 4, 1))

    return classifier(body, 16, stem=block(3, 16), last=block(16, 16)), images()


@kind
def permuted_by_a_buffer():
    def body(self, x):
        x = self.stem(x)
        return self.last(x + x[:, self.order])

    return classifier(body, 16, stem=block(3, 16), order=torch.randperm(16), last=block(16, 16)), images()


@kind
def pixel_shuffle():
    inner = nn.Sequential(block(3, 32), nn.PixelShuffle(2), conv(8, 12))
    return Net(lambda self, x: self.head(self.inner(x).relu()), inner=inner, head=nn.Conv2d(12, 3, 1)), images()


@kind
def pixel_unshuffle():
    inner = nn.Sequential(block(3, 8), nn.PixelUnshuffle(2), block(32, 12))
    return classifier(lambda self, x: self.inner(x), 12, inner=inner), images()


@kind
def maxout():
    def body(self, x):
        x = self.inner(x)
        return self.last(x.view(len(x), -1, 2, *x.shape[2:]).amax(2))

    return classifier(body, 16, inner=conv(3, 24), last=block(12, 16)), images()


@kind
def channels_last_flatten():
    """Flattened with the channel as the fastest dimension, as networks ported from TensorFlow do."""

    def forward(self, x):
        return self.head(functional.max_pool2d(self.stem(x), 4).permute(0, 2, 3, 1).flatten(1))

    return Net(forward, stem=block(3, 16), head=nn.Linear(256, 10)), images()


@kind
def patches():
    """Patch merging: 2x2 neighbours side by side, then a linear map (Swin)."""

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        count, height, width, channels = x.shape
        x = x.reshape(count, height // 2, 2, width // 2, 2, channels).transpose(2, 3)
        return self.head(self.merge(x.reshape(count, height // 2, width // 2, 4 * channels)).relu().mean((1, 2)))

    return Net(forward, stem=block(3, 8), merge=nn.Linear(32, 16), head=nn.Linear(16, 10)), images()


@kind
def temporal_shift():
    """A share of the channels comes from the image before (Lin et al. 2019)."""

    def body(self, x):
        x = self.stem(x)
        fold = x.shape[1] // 4
        shifted = torch.cat([x[:, :fold].roll(1, 0), x[:, fold:]], 1)
        return self.last(shifted)

    return classifier(body, 16, stem=block(3, 16), last=block(16, 16)), images()


@kind
def sorted_channels():
    def body(self, x):
        return self.last(self.stem(x).sort(1).values)

    return classifier(body, 16, stem=block(3, 16), last=block(16, 16)), images()


# gates and attention


def squeezed(body: Callable[[nn.Module, Tensor], Tensor]) -> Net:
    """A classifier whose body gates the channels of `stem` by two layers `down`, `up`."""
    return classifier(body, 16, stem=block(3, 16), down=nn.Linear(16, 8), up=nn.Linear(8, 16), last=block(16, 16))


@kind
def squeeze_excitation():
    def body(self, x):
        x = self.stem(x)
        return self.last(x * self.up(self.down(functional.adaptive_avg_pool2d(x, 1)).relu()).sigmoid())

    return classifier(body, 16, stem=block(3, 16), down=conv(16, 8, 1), up=conv(8, 16, 1), last=block(16, 16)), images()


@kind
def squeeze_excitation_by_shape():
    def body(self, x):
        x = self.stem(x)
        count, channels, _, _ = x.shape
        return self.last(x * self.up(self.down(pooled(x)).relu()).sigmoid().view(count, channels, 1, 1))

    return squeezed(body), images()


@kind
def squeeze_excitation_by_constants():
    def body(self, x):
        x = self.stem(x)
        return self.last(x * self.up(self.down(pooled(x)).relu()).sigmoid().view(-1, 16, 1, 1))

    return squeezed(body), images()


@kind
def efficient_channel_attention():
    """A one-dimensional convolution along the channels (ECA-Net)."""

    def body(self, x):
        x = self.stem(x)
        gate = self.along(pooled(x)[:, None]).sigmoid()
        return self.last(x * gate[:, 0, :, None, None])

    along = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    return classifier(body, 16, stem=block(3, 16), along=along, last=block(16, 16)), images()


@kind
def spatial_attention():
    """A map from the mean and the maximum over channels (CBAM)."""

    def body(self, x):
        x = self.stem(x)
        gate = self.map(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()
        return self.last(x * gate)

    return classifier(body, 16, stem=block(3, 16), map=conv(2, 1, 7), last=block(16, 16)), images()


@kind
def selective_kernels():
    """A softmax over branches for each channel (SKNet)."""

    def body(self, x):
        branches = torch.stack([self.small(x), self.large(x)], 1)
        scores = self.scores(self.down(branches.sum(1).mean((2, 3))).relu()).view(len(x), 2, -1, 1, 1)
        return self.last((branches * scores.softmax(1)).sum(1))

    layers = {"small": block(3, 12), "large": block(3, 12, 5), "down": nn.Linear(12, 8), "scores": nn.Linear(8, 24)}
    return classifier(body, 16, **layers, last=block(12, 16)), images()


@kind
def attention():
    """Four heads, query, key and value in one linear map."""

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        count, tokens, width = x.shape
        query, key, value = self.qkv(x).reshape(count, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        mixed = (query @ key.transpose(-2, -1) / math.sqrt(width // 4)).softmax(-1) @ value
        x = x + self.project(mixed.transpose(1, 2).reshape(count, tokens, width))
        return self.head(x.mean(1))

    layers = {"embed": nn.Conv2d(3, 16, 4, 4), "qkv": nn.Linear(16, 48), "project": nn.Linear(16, 16)}
    return Net(forward, **layers, head=nn.Linear(16, 10)), images()


@kind
def multihead_attention_module():
    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attend(x, x, x)[0]).mean(1))

    attend = nn.MultiheadAttention(16, 4, batch_first=True)
    return Net(forward, embed=nn.Conv2d(3, 16, 4, 4), attend=attend, head=nn.Linear(16, 10)), images()


@kind
def single_head_nonlocal():
    """Query and key of one head over the positions (non-local network)."""

    def body(self, x):
        x = self.stem(x)
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (query.transpose(1, 2) @ key).softmax(-1)
        return self.last(x + (value @ weights.transpose(1, 2)).view_as(x))

    layers = {name: conv(16, width, 1) for name, width in (("query", 8), ("key", 8), ("value", 16))}
    return classifier(body, 16, stem=block(3, 16), **layers, last=block(16, 16)), images(size=8)


@kind
def transformer_encoder_layer():
    def forward(self, x):
        return self.head(self.encode(self.embed(x).flatten(2).transpose(1, 2)).mean(1))

    encode = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return Net(forward, embed=nn.Conv2d(3, 16, 4, 4), encode=encode, head=nn.Linear(16, 10)), images()


@kind
def mixer():
    """Linear maps along the tokens and along the channels (MLP-Mixer)."""

    def forward(self, x):
        x = self.embed(x).flatten(2)
        x = x + self.tokens(x)
        x = x.transpose(1, 2)
        return self.head((x + self.channels(x)).mean(1))

    def perceptron(width):
        return nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))

    layers = {"embed": nn.Conv2d(3, 12, 4, 4), "tokens": perceptron(16), "channels": perceptron(12)}
    return Net(forward, **layers, head=nn.Linear(12, 10)), images()


@kind
def gram_matrix():
    """Second moments of the channels (bilinear pooling): x x^T."""

    def forward(self, x):
        x = self.stem(x).flatten(2)
        return self.head((x @ x.transpose(1, 2)).flatten(1))

    return Net(forward, stem=block(3, 8), head=nn.Linear(64, 10)), images(size=8)
