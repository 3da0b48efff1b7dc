"""Operations beyond layers: recurrences, transforms, sorting, sampling, windows, and norms without tensors."""
# ruff: noqa: D103 (the name of a network says what it does)

from __future__ import annotations

from collections.abc import Callable

import torch
from kinds import Net, block, classifier, conv, images, kind, pooled
from torch import Tensor, nn
from torch.nn import functional


def between(operation: Callable[..., Tensor], width: int = 16, **layers: nn.Module | Tensor) -> Net:
    """A stem and a last block of 12 filters, and between them an operation (network, x) that gives `width` channels."""
    body = lambda self, x: self.last(operation(self, self.stem(x)))  # noqa: E731
    return classifier(body, 12, stem=block(3, 16), last=block(width, 12), **layers)


# norms without tensors of their own


@kind
def instance_norm_without_weights():
    return between(lambda self, x: self.norm(x), norm=nn.InstanceNorm2d(16)), images()


@kind
def batch_norm_without_tensors():
    norm = nn.BatchNorm2d(16, affine=False, track_running_stats=False)
    return between(lambda self, x: self.norm(x), norm=norm), images()


@kind
def layer_norm_without_weights():
    def operation(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return between(operation, norm=nn.LayerNorm(16, elementwise_affine=False)), images()


@kind
def layer_norm_of_its_own_width():
    """Over the channels by `functional.layer_norm` with the width that x has."""

    def operation(self, x):
        x = x.movedim(1, -1)
        return functional.layer_norm(x, x.shape[-1:]).movedim(-1, 1)

    return between(operation), images()


@kind
def group_norm_of_each_channel():
    return between(lambda self, x: self.norm(x), norm=nn.GroupNorm(16, 16)), images()


@kind
def group_norm_without_weights():
    return between(lambda self, x: self.norm(x), norm=nn.GroupNorm(4, 16, affine=False)), images()


@kind
def spectral_norm_reads():
    """What reads the filters is divided by its largest singular value."""
    read = nn.utils.parametrizations.spectral_norm(conv(16, 16))
    return between(lambda self, x: self.read(x), read=read), images()


@kind
def standardised_weights():
    """Each filter's weights less their mean, by their deviation."""

    def operation(self, x):
        weight = self.standard.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight, padding=1)

    return between(operation, standard=conv(16, 16, bias=False)), images()


@kind
def response_of_all_channels():
    """Global response norm (ConvNeXt V2)."""

    def operation(self, x):
        length = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        return x + self.gamma * x * length / (length.mean(1, keepdim=True) + 1e-6)

    return between(operation, gamma=nn.Parameter(torch.randn(1, 16, 1, 1))), images()


# along channels


@kind
def softmax_over_channels():
    return between(lambda self, x: x.softmax(1)), images()


@kind
def cumulative_sum_of_channels():
    return between(lambda self, x: x.cumsum(1)), images()


@kind
def largest_channels():
    return between(lambda self, x: x.topk(8, 1).values, 8), images()


@kind
def transform_along_channels():
    return between(lambda self, x: torch.fft.fft(x, dim=1).real), images()


@kind
def channels_taken_by_a_buffer():
    return between(lambda self, x: x[:, self.order], 8, order=torch.tensor([3, 1, 4, 15, 9, 2, 6, 5])), images()


@kind
def weighted_by_position():
    """Channel c times c."""

    def operation(self, x):
        return x * torch.arange(x.shape[1], dtype=x.dtype).view(1, -1, 1, 1)

    return between(operation), images()


@kind
def number_of_the_largest_channel():
    """A map of which channel is largest, one-hot."""

    def operation(self, x):
        return functional.one_hot(x.argmax(1), 16).movedim(-1, 1).to(x.dtype)

    return between(operation), images()


@kind
def differences_of_channels():
    return between(lambda self, x: x[:, 1:] - x[:, :-1], 15), images()


@kind
def correlation_of_features():
    """Scalar products of two images' features at each place (stereo matching)."""

    def forward(self, left, right):
        left, right = self.stem(left), self.stem(right)
        volume = [(left * functional.pad(right, (shift, 0))[..., : left.shape[-1]]).mean(1) for shift in range(4)]
        return self.head(pooled(self.last(torch.stack(volume, 1))))

    return Net(forward, stem=block(3, 16), last=block(4, 12), head=nn.Linear(12, 10)), images() + images()


# along space


@kind
def transform_along_space():
    """A learned filter of each channel in the frequencies (global filter network)."""

    def operation(self, x):
        spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.filters)
        return torch.fft.irfft2(spectrum, s=x.shape[-2:], norm="ortho")

    return between(operation, filters=nn.Parameter(torch.randn(16, 16, 9, 2))), images()


@kind
def transform_with_both_parts():
    """Real and imaginary part beside each other as channels (fast Fourier convolution)."""

    def operation(self, x):
        spectrum = torch.fft.rfft2(x, norm="ortho")
        mixed = self.mix(torch.cat([spectrum.real, spectrum.imag], 1))
        real, imaginary = mixed.chunk(2, 1)
        return x + torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:], norm="ortho")

    return between(operation, mix=block(32, 32, 1)), images()


@kind
def cumulative_sum_of_space():
    return between(lambda self, x: x.cumsum(2).flip(2)), images()


@kind
def sorted_positions():
    return between(lambda self, x: x.flatten(2).sort(-1).values.view_as(x)), images()


@kind
def best_positions():
    return between(lambda self, x: x.flatten(2).topk(4, -1).values.unsqueeze(-1)), images()


@kind
def warped():
    """Sampled where a convolution says (spatial transformer, deformation)."""

    def operation(self, x):
        size = x.shape[-2:]
        axes = [torch.linspace(-1, 1, n, dtype=x.dtype) for n in size]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)
        return functional.grid_sample(x, grid + 0.1 * self.offset(x).permute(0, 2, 3, 1), align_corners=False)

    return between(operation, offset=conv(16, 2)), images()


@kind
def deformable_kernel():
    """Nine samples of each place at learned offsets, put together by a 1x1 convolution."""

    def operation(self, x):
        count, _, height, length = x.shape
        offsets = self.offset(x).view(count, 9, 2, height, length).permute(0, 1, 3, 4, 2)
        axes = [torch.linspace(-1, 1, n, dtype=x.dtype) for n in (height, length)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)
        sampled = [functional.grid_sample(x, grid + 0.1 * offsets[:, k], align_corners=False) for k in range(9)]
        return self.mix(torch.cat(sampled, 1))

    return between(operation, offset=conv(16, 18), mix=conv(144, 16, 1)), images(size=8)


@kind
def unfolded_and_folded():
    """Patches weighted, then summed back into an image."""

    def operation(self, x):
        patches = functional.unfold(x, 3, padding=1) * self.weights
        return functional.fold(patches, x.shape[-2:], 3, padding=1)

    return between(operation, weights=nn.Parameter(torch.randn(1, 1, 64))), images(size=8)


@kind
def unpooled():
    """Maxima put back in their places (SegNet)."""

    def operation(self, x):
        small, places = functional.max_pool2d(x, 2, return_indices=True)
        return functional.max_unpool2d(small, places, 2)

    return between(operation), images()


@kind
def unpooled_after_a_layer():
    def operation(self, x):
        small, places = self.pool(x)
        return self.unpool(self.inner(small), places)

    layers = {"pool": nn.MaxPool2d(2, return_indices=True), "unpool": nn.MaxUnpool2d(2), "inner": block(16, 16)}
    return between(operation, **layers), images()


@kind
def upsampled_in_three_ways():
    def operation(self, x):
        sizes = [self.one(functional.max_pool2d(x, 2)), self.two(functional.avg_pool2d(x, 4))]
        nearest = functional.interpolate(sizes[0], size=x.shape[-2:])
        return x + nearest + functional.interpolate(sizes[1], x.shape[-2:], mode="bicubic", align_corners=True)

    return between(operation, one=block(16, 16), two=block(16, 16, 1)), images()


@kind
def coordinates_beside():
    """Two channels of coordinates put beside x (coordinate convolution)."""

    def operation(self, x):
        axes = [torch.linspace(-1, 1, n, dtype=x.dtype) for n in x.shape[-2:]]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(x.shape[0], -1, -1, -1)
        return torch.cat([x, grid], 1)

    return between(operation, 18), images()


@kind
def learned_positions():
    """A learned image of each channel added."""
    positions = nn.Parameter(torch.randn(1, 16, 16, 16))
    return between(lambda self, x: x + self.positions, positions=positions), images()


@kind
def fixed_positions():
    """Sines and cosines of the position, as many as there are channels, computed in the forward."""

    def operation(self, x):
        rates = torch.arange(8, dtype=x.dtype).view(-1, 1, 1)
        angle = rates * torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)
        return x + torch.cat([angle.sin(), angle.cos()]).expand(16, x.shape[2], -1)

    return between(operation), images()


@kind
def mirrored_border():
    return between(lambda self, x: functional.avg_pool2d(functional.pad(x, (2, 2, 1, 1), mode="reflect"), 3)), images()


@kind
def border_all_round():
    return between(
        lambda self, x: self.wrap(x), wrap=nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular")
    ), images()


@kind
def blur():
    """A fixed kernel, expanded to the channels that x has (anti-aliasing)."""

    def operation(self, x):
        kernel = self.kernel.expand(x.shape[1], 1, 3, 3)
        return functional.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])

    return between(operation, kernel=torch.randn(1, 1, 3, 3)), images()


@kind
def blur_kept_for_each_channel():
    """The same with a buffer as wide as the layer."""

    def operation(self, x):
        return functional.conv2d(x, self.kernel, stride=2, padding=1, groups=x.shape[1])

    return between(operation, kernel=torch.randn(1, 1, 3, 3).repeat(16, 1, 1, 1)), images()


@kind
def pooled_power():
    """Generalised mean with a learned power."""

    def forward(self, x):
        x = self.stem(x).clamp(min=1e-3)
        return self.head(functional.adaptive_avg_pool2d(x.pow(self.power), 1).pow(1 / self.power).flatten(1))

    power = nn.Parameter(torch.tensor([3.0]))
    return Net(forward, stem=block(3, 16), power=power, head=nn.Linear(16, 10)), images()


# recurrences and attention after convolutions


@kind
def lstm_of_columns():
    """A line of text read from left to right, each column one step."""

    def forward(self, x):
        steps = self.stem(x).mean(2).transpose(1, 2)
        return self.head(self.read(steps)[0].mean(1))

    read = nn.LSTM(16, 12, batch_first=True, bidirectional=True)
    return Net(forward, stem=block(3, 16), read=read, head=nn.Linear(24, 10)), images()


@kind
def convolutional_lstm():
    def forward(self, x):
        x = self.stem(x)
        state = memory = torch.zeros_like(x)
        for _ in range(2):
            gates = self.gates(torch.cat([x, state], 1))
            enter, forget, out, new = gates.chunk(4, 1)
            memory = forget.sigmoid() * memory + enter.sigmoid() * new.tanh()
            state = out.sigmoid() * memory.tanh()
        return self.head(pooled(state))

    return Net(forward, stem=block(3, 16), gates=conv(32, 64), head=nn.Linear(16, 10)), images()


@kind
def attention_across_channels():
    """Softmax over the channels' Gram matrix (cross-covariance attention)."""

    def operation(self, x):
        rows = x.flatten(2)
        return ((rows @ rows.transpose(1, 2)).softmax(-1) @ rows).view_as(x) + x

    return between(operation), images()


@kind
def pooled_by_attention():
    """A learned query attends to the positions, by nn.MultiheadAttention."""

    def forward(self, x):
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        query = self.query.expand(x.shape[0], 1, 16)
        return self.head(self.inner(self.attend(query, tokens, tokens)[0].squeeze(1)).relu())

    layers = {"stem": block(3, 16), "attend": nn.MultiheadAttention(16, 4, batch_first=True)}
    query = nn.Parameter(torch.randn(1, 1, 16))
    return Net(forward, **layers, query=query, inner=nn.Linear(16, 24), head=nn.Linear(24, 10)), images()


@kind
def embedding_bag():
    def forward(self, tokens):
        return self.head(self.inner(self.embed(tokens)).relu())

    layers = {"embed": nn.EmbeddingBag(50, 12), "inner": nn.Linear(12, 16), "head": nn.Linear(16, 5)}
    return Net(forward, **layers), (torch.randint(0, 50, (2, 20)),)


@kind
def embedding_tied_to_the_head():
    """The scores of words by the embedding that reads them."""

    def forward(self, tokens):
        x = self.embed(tokens).transpose(1, 2)
        return functional.linear(self.inner(x).transpose(1, 2), self.embed.weight)

    inner = nn.Sequential(nn.Conv1d(12, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 12, 1))
    return Net(forward, embed=nn.Embedding(50, 12), inner=inner), (torch.randint(0, 50, (2, 20)),)
