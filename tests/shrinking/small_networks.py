"""Hand-made networks of every kind, with what can shrink in them and what can't, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

OUTPUT = "its filters are the model's output"


class Network(nn.Module):
    """Modules, parameters and buffers by their names, and a function for its forward."""

    def __init__(self, run: Callable[..., Any], **members: Any):
        super().__init__()
        self.run = run
        for name, member in members.items():
            if isinstance(member, torch.Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


@dataclass(frozen=True)
class Small:
    """A network with what is expected of its graph.

    build: makes it
    shrinkable: for each coupling how many filters may leave
    fixed: for each layer with filters that can't leave a part of the reason
    statistics: the couplings that statistics are taken over
    inputs: shapes of its positional arguments
    """

    build: Callable[[], nn.Module]
    shrinkable: Mapping[str, int]
    fixed: Mapping[str, str] = field(default_factory=lambda: {"last": OUTPUT})
    statistics: tuple[str, ...] = ()
    inputs: tuple[tuple[int, ...], ...] = ((2, 3, 8, 8),)

    def model(self) -> nn.Module:
        """Made anew in float64 and evaluation mode; every parameter and buffer is random."""
        torch.manual_seed(0)
        model = self.build().double().eval()
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor) * 0.3)
        return model

    def example(self) -> tuple[torch.Tensor, ...]:
        """Random inputs of the shapes."""
        generator = torch.Generator().manual_seed(1)
        return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.inputs)


def _conv(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


def residual() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.bn(m.stem(x)).relu()
        x = x + m.bn2(m.second(m.bn1(m.first(x)).relu_()))
        return m.last(_mean(x))

    norms = {"bn": nn.BatchNorm2d(8), "bn1": nn.BatchNorm2d(6), "bn2": nn.BatchNorm2d(8)}
    return Network(run, stem=_conv(3, 8), first=_conv(8, 6), second=_conv(6, 8), last=nn.Linear(8, 4), **norms)


def dense() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        x = torch.cat([x, m.a(m.norm_a(x).relu())], 1)
        x = torch.cat([x, m.b(m.norm_b(x).relu())], 1)
        return m.last(_mean(x))

    norms = {"norm_a": nn.BatchNorm2d(4), "norm_b": nn.BatchNorm2d(7)}
    return Network(run, stem=_conv(3, 4), a=_conv(4, 3), b=_conv(7, 5), last=nn.Linear(12, 4), **norms)


def mobile() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.project(m.bn(m.depthwise(m.stem(x))).relu())))

    return Network(
        run,
        stem=_conv(3, 6),
        depthwise=_conv(6, 6, groups=6),
        bn=nn.BatchNorm2d(6),
        project=_conv(6, 5, 1),
        last=nn.Linear(5, 4),
    )


def depthwise_multiplier() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.depthwise(m.stem(x)).relu()))

    return Network(run, stem=_conv(3, 4), depthwise=_conv(4, 8, groups=4), last=nn.Linear(8, 4))


def grouped() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.middle(m.stem(x)).relu()))

    return Network(run, stem=_conv(3, 8), middle=_conv(8, 12, groups=4), last=nn.Linear(12, 4))


def transposed() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(m.up(m.stem(x)).relu())

    return Network(run, stem=_conv(3, 6), up=nn.ConvTranspose2d(6, 5, 2, 2), last=_conv(5, 2))


def grouped_transposed() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(m.up(m.stem(x)).relu())

    return Network(run, stem=_conv(3, 6), up=nn.ConvTranspose2d(6, 8, 2, 2, groups=2), last=_conv(8, 2))


def depthwise_transposed() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(m.up(m.stem(x)).relu())

    return Network(run, stem=_conv(3, 6), up=nn.ConvTranspose2d(6, 6, 2, 2, groups=6), last=_conv(6, 2))


def one_dimension() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(F.max_pool1d(m.bn(m.stem(x)).relu(), 2).flatten(1))

    return Network(run, stem=nn.Conv1d(3, 6, 3, padding=1), bn=nn.BatchNorm1d(6), last=nn.Linear(24, 4))


def three_dimensions() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(F.adaptive_avg_pool3d(m.bn(m.stem(x)).relu(), 1).flatten(1))

    return Network(run, stem=nn.Conv3d(3, 6, 3, padding=1), bn=nn.BatchNorm3d(6), last=nn.Linear(6, 4))


def perceptron() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(m.second(m.first(x).tanh()).relu())

    return Network(run, first=nn.Linear(3, 7), second=nn.Linear(7, 6), last=nn.Linear(6, 4))


def squeeze_excitation() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        gate = m.widen(m.narrow(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        return m.last(_mean(x * gate))

    return Network(run, stem=_conv(3, 8), narrow=_conv(8, 3, 1), widen=_conv(3, 8, 1), last=nn.Linear(8, 4))


def squeeze_excitation_by_view() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        batch, channels = x.shape[:2]
        gate = m.widen(m.narrow(x.mean((2, 3))).relu()).sigmoid()
        return m.last(_mean(x * gate.view(batch, channels, 1, 1)))

    return Network(run, stem=_conv(3, 8), narrow=nn.Linear(8, 3), widen=nn.Linear(3, 8), last=nn.Linear(8, 4))


def view_of_constants() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        gate = m.widen(m.narrow(x.mean((2, 3))).relu()).sigmoid()
        return m.last((x * gate.view(-1, 8, 1, 1)).mean((2, 3)))

    return Network(run, stem=_conv(3, 8), narrow=nn.Linear(8, 3), widen=nn.Linear(3, 8), last=nn.Linear(8, 4))


def unet() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        fine = m.down1(x).relu()
        coarse = m.down2(F.max_pool2d(fine, 2)).relu()
        up = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        return m.last(m.join(torch.cat([fine, up], 1)).relu())

    return Network(run, down1=_conv(3, 4), down2=_conv(4, 6), join=_conv(10, 5), last=_conv(5, 2, 1))


def flattened() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(m.stem(x).relu(), 4)
        return m.last(x.view(x.shape[0], -1))

    return Network(run, stem=_conv(3, 6), last=nn.Linear(24, 4))


def flattened_nhwc() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(m.stem(x).relu(), 4)
        return m.last(x.permute(0, 2, 3, 1).flatten(1))

    return Network(run, stem=_conv(3, 6), last=nn.Linear(24, 4))


def flipped() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return m.last(_mean((x + x.flip(1)).relu()))

    return Network(run, stem=_conv(3, 6), last=nn.Linear(6, 4))


def option_a() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x).relu()
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return m.last(_mean((m.second(m.first(x).relu()) + shortcut).relu()))

    first = nn.Conv2d(4, 5, 3, stride=2, padding=1)
    return Network(run, stem=_conv(3, 4), first=first, second=_conv(5, 8), last=nn.Linear(8, 4))


def uneven_split() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        one, other = m.stem(x).split([4, 2], dim=-3)
        return m.last(torch.cat([_mean(one), _mean(other)], 1))

    return Network(run, stem=_conv(3, 6), last=nn.Linear(6, 4))


def constant_split() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        one, other = m.stem(x).split(4, -3)
        return m.last(_mean(one * other))

    return Network(run, stem=_conv(3, 8), last=nn.Linear(4, 4))


def computed_split() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        one, other = x.split(x.shape[1] // 2, 1)
        return m.last(_mean(one * other))

    return Network(run, stem=_conv(3, 8), last=nn.Linear(4, 4))


def strided() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return m.last(_mean(x[:, ::2] * x[:, 1::2]))

    return Network(run, stem=_conv(3, 8), last=nn.Linear(4, 4))


def chunked() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        one, other = m.stem(x).chunk(2, 1)
        return m.last(_mean(torch.cat([one, m.inner(other).relu()], 1)))

    return Network(run, stem=_conv(3, 8), inner=_conv(4, 5), last=nn.Linear(9, 4))


def tensor_split() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        one, other, third = m.stem(x).tensor_split(3, 1)
        return m.last(_mean(one * other - third))

    return Network(run, stem=_conv(3, 6), last=nn.Linear(2, 4))


def gated() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(F.glu(m.stem(x), 1).mean((2, 3)))

    return Network(run, stem=_conv(3, 8), last=nn.Linear(4, 4))


def first_channels() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return m.last(_mean(m.inner(x[:, :5]).relu()))

    return Network(run, stem=_conv(3, 8), inner=_conv(5, 6), last=nn.Linear(6, 4))


def narrowed() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.inner(m.stem(x).narrow(1, 2, 4)).relu()))

    return Network(run, stem=_conv(3, 8), inner=_conv(4, 6), last=nn.Linear(6, 4))


def selected() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return m.last(_mean(m.inner(x) * x[:, 1].unsqueeze(1)))

    return Network(run, stem=_conv(3, 8), inner=_conv(8, 6), last=nn.Linear(6, 4))


def pixel_shuffle() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(F.pixel_shuffle(m.stem(x), 2).relu())

    return Network(run, stem=_conv(3, 12), last=_conv(3, 2))


def pixel_unshuffle() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(F.pixel_unshuffle(m.stem(x), 2).relu())

    return Network(run, stem=_conv(3, 5), last=_conv(20, 2))


def channel_shuffle() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return m.last(_mean(m.grouped(x).relu()))

    return Network(run, stem=_conv(3, 8), grouped=_conv(8, 4, groups=2), last=nn.Linear(4, 4))


def functional_convolution() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(F.conv2d(x, m.kernel, m.shift, padding=1).relu()))

    kernel, shift = nn.Parameter(torch.empty(6, 3, 3, 3)), nn.Parameter(torch.empty(6))
    return Network(run, kernel=kernel, shift=shift, last=nn.Linear(6, 4))


def scales() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.first(x * m.image_scale) * m.scale
        x = m.second(x.relu()) - m.offset
        return m.last(_mean(x) * m.gamma)

    return Network(
        run,
        image_scale=torch.empty(3, 1, 1),
        scale=nn.Parameter(torch.empty(1, 6, 1, 1)),
        offset=torch.empty(1, 5, 1, 1),
        gamma=nn.Parameter(torch.empty(5)),
        first=_conv(3, 6),
        second=_conv(6, 5),
        last=nn.Linear(5, 4),
    )


def twice() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return m.last(_mean(m.inner(m.inner(x).relu()).relu()))

    return Network(run, stem=_conv(3, 6), inner=_conv(6, 6), last=nn.Linear(6, 4))


def tied() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return m.last(_mean(m.one(x).relu() * m.other(x.tanh())))

    one, other = _conv(6, 5), _conv(6, 5)
    other.weight = one.weight
    return Network(run, stem=_conv(3, 6), one=one, other=other, last=nn.Linear(5, 4))


def activations() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.slopes(F.leaky_relu_(m.stem(x), 0.1)).clamp(-2, 2)
        x = torch.where(x > 0, x, F.silu(x) + 0.5 * F.gelu(x) - F.hardswish(x) / 3)
        x = F.relu6(x + 1).exp() * F.softplus(x).sigmoid_() + F.mish(x) ** 2 + F.elu(x) + F.logsigmoid(x) + F.selu(x)
        return m.last(F.dropout(_mean(F.dropout2d(x, training=m.training)), training=m.training))

    return Network(run, stem=_conv(3, 6), slopes=nn.PReLU(6), last=nn.Linear(6, 4))


def layer_norm() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        y = m.norm(x.permute(0, 2, 3, 1))
        y = (m.scale * m.narrow(F.gelu(m.widen(y)))).permute(0, 3, 1, 2)
        return m.last(_mean(x + y))

    widen, narrow, scale = nn.Linear(6, 8), nn.Linear(8, 6), nn.Parameter(torch.empty(6))
    layers = {"stem": _conv(3, 6), "widen": widen, "narrow": narrow, "last": nn.Linear(6, 4)}
    return Network(run, norm=nn.LayerNorm(6), scale=scale, **layers)


def rms_norm() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(m.norm(m.first(x)))

    return Network(run, first=nn.Linear(3, 6), norm=nn.RMSNorm(6), last=nn.Linear(6, 4))


def group_norm() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.norm(m.stem(x)).relu()))

    return Network(run, stem=_conv(3, 8), norm=nn.GroupNorm(2, 8), last=nn.Linear(8, 4))


def instance_norm() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.norm(m.stem(x)).relu()))

    return Network(run, stem=_conv(3, 6), norm=nn.InstanceNorm2d(6, affine=True), last=nn.Linear(6, 4))


def norms_of_each_channel() -> nn.Module:
    """Without tensors of their own, and as many groups as channels."""

    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.batch(m.alone(m.instance(m.stem(x)))).relu()
        return m.last(_mean(m.groups(m.inner(x)).relu()))

    norms = {"instance": nn.InstanceNorm2d(6), "alone": nn.GroupNorm(6, 6, affine=False), "groups": nn.GroupNorm(5, 5)}
    batch = nn.BatchNorm2d(6, affine=False, track_running_stats=False)
    return Network(run, stem=_conv(3, 6), inner=_conv(6, 5), batch=batch, last=nn.Linear(5, 4), **norms)


def norms_over_channels() -> nn.Module:
    """Without tensors of their own."""

    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.layer(m.stem(x).movedim(1, -1)).movedim(-1, 1).relu()
        x = m.groups(m.second(x)).relu()
        return m.last(m.root(_mean(m.third(x))))

    norms = {"layer": nn.LayerNorm(6, elementwise_affine=False), "root": nn.RMSNorm(5, elementwise_affine=False)}
    layers = {"stem": _conv(3, 6), "second": _conv(6, 8), "third": _conv(8, 5), "last": nn.Linear(5, 4)}
    return Network(run, groups=nn.GroupNorm(2, 8, affine=False), **norms, **layers)


def groups_of_one_by_a_constant() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(F.group_norm(F.group_norm(m.inner(m.stem(x)), 6), m.inner.out_channels).relu()))

    return Network(run, stem=_conv(3, 5), inner=_conv(5, 6), last=nn.Linear(6, 4))


def read_by_data() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return m.last(_mean(torch.cat([x.data, m.inner(x)], 1)))

    return Network(run, stem=_conv(3, 6), inner=_conv(6, 5), last=nn.Linear(11, 4))


def unpooled() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x, places = F.max_pool2d(m.stem(x), 2, return_indices=True)
        return m.last(_mean(F.max_unpool2d(m.inner(x), places, 2)))

    return Network(run, stem=_conv(3, 6), inner=_conv(6, 6), last=nn.Linear(6, 4))


def blurred() -> nn.Module:
    """One kernel for as many channels as there are."""

    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        kernel = torch.outer(m.line, m.line / m.line.sum()).expand(x.shape[1], 1, 3, 3)
        return m.last(_mean(m.inner(F.conv2d(x, kernel, stride=2, groups=x.shape[1]))))

    return Network(run, stem=_conv(3, 6), line=torch.empty(3), inner=_conv(6, 5), last=nn.Linear(5, 4))


def folded() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(F.fold(m.inner(m.stem(x)).flatten(2), (9, 9), 2)))

    return Network(run, stem=_conv(3, 6), inner=_conv(6, 20), last=nn.Linear(5, 4))


def in_frequencies() -> nn.Module:
    """A scale of each channel and frequency, then real and imaginary parts beside each other."""

    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft2(m.stem(x)) * torch.view_as_complex(m.scales)
        mixed = m.mix(torch.cat([spectrum.real, spectrum.imag], 1))
        return m.last(_mean(torch.fft.irfft2(torch.complex(*mixed.chunk(2, 1)))))

    scales = nn.Parameter(torch.empty(6, 8, 5, 2))
    return Network(run, stem=_conv(3, 6), scales=scales, mix=_conv(12, 10, 1), last=nn.Linear(5, 4))


def frequencies_of_filters() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.inner(torch.fft.fft(m.stem(x), dim=1).abs())))

    return Network(run, stem=_conv(3, 6), inner=_conv(6, 5), last=nn.Linear(5, 4))


def spectral_norm() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.inner(m.stem(x))))

    inner = nn.utils.parametrizations.spectral_norm(_conv(6, 5))
    return Network(run, stem=_conv(3, 6), inner=inner, last=nn.Linear(5, 4))


def response_norm() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.norm(m.stem(x)).relu()))

    return Network(run, stem=_conv(3, 6), norm=nn.LocalResponseNorm(3), last=nn.Linear(6, 4))


def attention() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = m.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)
        return m.last((x + m.narrow(m.widen(x).relu())).mean(1))

    layers = {"widen": nn.Linear(8, 7), "narrow": nn.Linear(7, 8), "last": nn.Linear(8, 4)}
    return Network(run, qkv=nn.Linear(8, 24), **layers)


def _heads(x: torch.Tensor) -> torch.Tensor:
    return x.view(*x.shape[:2], -1, 2).transpose(1, 2)


def attention_of_any_heads() -> nn.Module:
    """Their number is computed, so that whole heads can leave."""

    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (_heads(layer(x)) for layer in (m.query, m.key, m.value))
        return m.last(m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1))

    layers = {name: nn.Linear(5, 8) for name in ("query", "key", "value")}
    return Network(run, **layers, out=nn.Linear(8, 5), last=nn.Linear(5, 4))


def attention_by_products() -> nn.Module:
    """A bias of each head among the scores."""

    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (_heads(layer(x)) for layer in (m.query, m.key, m.value))
        scores = (q @ k.transpose(-2, -1) * 0.7 + m.bias).softmax(-1)
        return m.last(m.out((scores @ v).transpose(1, 2).flatten(2)).mean(1))

    layers = {name: nn.Linear(5, 8) for name in ("query", "key", "value")}
    return Network(run, **layers, bias=nn.Parameter(torch.empty(4, 4, 4)), out=nn.Linear(8, 5), last=nn.Linear(5, 4))


def attention_in_groups() -> nn.Module:
    """More heads ask than answer."""

    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (_heads(layer(x)) for layer in (m.query, m.key, m.value))
        x = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return m.last(m.out(x.transpose(1, 2).flatten(2)).mean(1))

    layers = {"query": nn.Linear(5, 8), "key": nn.Linear(5, 4), "value": nn.Linear(5, 4)}
    return Network(run, **layers, out=nn.Linear(8, 5), last=nn.Linear(5, 4))


def other_names() -> nn.Module:
    """Operations by their other names, and statistics along space."""

    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = torch.subtract(torch.multiply(m.stem(x), 2), torch.divide(m.other(x), 3))
        x = torch.concatenate([torch.absolute(x), torch.special.expit(torch.negative(x))], 1)
        x = x @ m.mix + torch.diff(x, dim=-1)
        x = x.quantile(0.3, -1) + x.kthvalue(2, -1)[0] + torch.vstack([x[:1], x[1:]]).mean(-1)
        return m.last(m.inner(torch.hstack([x, x * 2]).mean(-1)))

    layers = {"stem": _conv(3, 6), "other": _conv(3, 6), "inner": nn.Linear(24, 5), "last": nn.Linear(5, 4)}
    return Network(run, mix=torch.empty(8, 7), **layers)


def recurrent() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(m.second(m.cell(m.first(x))[0]).relu())

    cell = nn.GRU(6, 5, batch_first=True)
    return Network(run, first=nn.Linear(3, 6), cell=cell, second=nn.Linear(5, 7), last=nn.Linear(7, 4))


def softmax_over_filters() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return m.last(_mean(m.inner(x.softmax(1)).relu()))

    return Network(run, stem=_conv(3, 6), inner=_conv(6, 5), last=nn.Linear(5, 4))


def mean_over_filters() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return m.last(_mean(m.inner(x) * x.mean(1, keepdim=True)))

    return Network(run, stem=_conv(3, 6), inner=_conv(6, 5), last=nn.Linear(5, 4))


def rolled() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.inner(m.stem(x).roll(1, 1)).roll((1, 2), (2, 3)).relu()))

    return Network(run, stem=_conv(3, 6), inner=_conv(6, 5), last=nn.Linear(5, 4))


def permuted_by_buffer() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(m.inner(m.stem(x)[:, m.order]).relu()))

    order = torch.tensor([3, 1, 0, 2])
    return Network(run, stem=_conv(3, 4), order=order, inner=_conv(4, 5), last=nn.Linear(5, 4))


def crelu() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        return m.last(_mean(torch.cat([x, -x], 1).relu()))

    return Network(run, stem=_conv(3, 5), last=nn.Linear(10, 4))


def beside_each_other() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(torch.cat([m.one(x), m.other(x)], -1).mean((2, 3)))

    return Network(run, one=_conv(3, 5), other=_conv(3, 5), last=nn.Linear(5, 4))


def stacked() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        both = torch.stack([m.one(x), m.other(x)], 1)
        return m.last((both * both.mean((3, 4), keepdim=True).softmax(1)).sum(1).mean((2, 3)))

    return Network(run, one=_conv(3, 5), other=_conv(3, 5), last=nn.Linear(5, 4))


def with_the_image() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([x, m.stem(x).relu()], 1)
        return m.last(_mean(x + m.inner(x)))

    return Network(run, stem=_conv(3, 5), inner=_conv(8, 8), last=nn.Linear(8, 4))


def two_inputs_and_outputs() -> nn.Module:
    def run(m: Network, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        x = m.stem(x).relu() + m.embed(y)[..., None, None]
        return {"classes": m.last(_mean(x)), "pair": (m.inner(x), x.mean())}

    layers = {"stem": _conv(3, 6), "embed": nn.Linear(5, 6), "inner": _conv(6, 2), "last": nn.Linear(6, 4)}
    return Network(run, **layers)


def detached_head() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = m.stem(x).relu()
        with torch.no_grad():
            seen = m.head(_mean(x.detach()) * 2)
        return m.last(_mean(x)), seen

    return Network(run, stem=_conv(3, 6), head=nn.Linear(6, 2), last=nn.Linear(6, 4))


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


def custom_function() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        return m.last(_mean(_Doubled.apply(m.stem(x)).relu()))

    return Network(run, stem=_conv(3, 6), last=nn.Linear(6, 4))


def patches() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        columns = F.unfold(m.stem(x), 2, stride=2)
        return m.last(columns.transpose(1, 2)).mean(1)

    return Network(run, stem=_conv(3, 5), last=nn.Linear(20, 4))


def frames() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        b, t = x.shape[:2]
        x = m.stem(x.flatten(0, 1)).relu()
        x = x.view(b, t, *x.shape[1:]).mean(1)
        return m.last(_mean(x))

    return Network(run, stem=_conv(3, 6), last=nn.Linear(6, 4))


def standardised_weights() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x).relu()
        weight = m.inner.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return m.last(_mean(F.conv2d(x, weight, m.inner.bias, padding=1).relu()))

    return Network(run, stem=_conv(3, 6), inner=_conv(6, 5), last=nn.Linear(5, 4))


def without_a_rule() -> nn.Module:
    def run(m: Network, x: torch.Tensor) -> torch.Tensor:
        x = torch.cdist(m.stem(x).flatten(2), m.other(x).flatten(2))
        return m.last(x.mean(1))

    return Network(run, stem=_conv(3, 6), other=_conv(3, 5), last=nn.Linear(5, 4))


_EITHER = {"last": OUTPUT}

NETWORKS: dict[str, Small] = {
    "residual": Small(residual, {"stem": 8, "first": 6}),
    "dense": Small(dense, {"stem": 4, "a": 3, "b": 5}),
    "mobile": Small(mobile, {"stem": 6, "project": 5}),
    "depthwise multiplier": Small(depthwise_multiplier, {"stem": 4}),
    "grouped": Small(grouped, {"stem": 2, "middle": 3}),
    "transposed": Small(transposed, {"stem": 6, "up": 5}),
    "grouped transposed": Small(grouped_transposed, {"stem": 3, "up": 4}),
    "depthwise transposed": Small(depthwise_transposed, {"stem": 6}),
    "one dimension": Small(one_dimension, {"stem": 6}, inputs=((2, 3, 8),)),
    "three dimensions": Small(three_dimensions, {"stem": 6}, inputs=((2, 3, 4, 4, 4),)),
    "perceptron": Small(perceptron, {"first": 7, "second": 6}, inputs=((2, 4, 3),)),
    "squeeze and excitation": Small(squeeze_excitation, {"stem": 8, "narrow": 3}),
    "squeeze and excitation by view": Small(squeeze_excitation_by_view, {"stem": 8, "narrow": 3}),
    "view of constants": Small(
        view_of_constants, {"narrow": 3}, {"stem": "", "widen": "gate.view(-1, 8, 1, 1)", **_EITHER}
    ),
    "U-Net": Small(unet, {"down1": 4, "down2": 6, "join": 5}),
    "flattened": Small(flattened, {"stem": 6}),
    "flattened NHWC": Small(flattened_nhwc, {"stem": 6}),
    "flipped": Small(flipped, {"stem": 3}),
    "option A": Small(
        option_a,
        {"stem": 4, "first": 5},
        {"second": "+ shortcut).relu()", "last": OUTPUT},
    ),
    "uneven split": Small(uneven_split, {}, {"stem": "split", **_EITHER}),
    "constant split": Small(constant_split, {}, {"stem": "x).split(4, -3)`", **_EITHER}),
    "computed split": Small(computed_split, {"stem": 4}),
    "strided": Small(strided, {"stem": 4}),
    "chunked": Small(chunked, {"stem": 4, "inner": 5}),
    "tensor_split": Small(tensor_split, {"stem": 2}),
    "gated": Small(gated, {"stem": 4}),
    "first channels": Small(first_channels, {"inner": 6}, {"stem": "x[:, :5]", **_EITHER}),
    "narrowed": Small(narrowed, {"inner": 6}, {"stem": ".narrow(1, 2, 4)", **_EITHER}),
    "selected": Small(selected, {"inner": 6}, {"stem": "single filters taken by their index (select", **_EITHER}),
    "pixel shuffle": Small(pixel_shuffle, {"stem": 3}),
    "pixel unshuffle": Small(pixel_unshuffle, {"stem": 5}),
    "channel shuffle": Small(channel_shuffle, {"stem": 2, "grouped": 2}),
    "functional convolution": Small(functional_convolution, {"kernel": 6}),
    "scales": Small(scales, {"first": 6, "second": 5}),
    "twice": Small(twice, {"stem": 6}),
    "tied": Small(tied, {"stem": 6, "one": 5}),
    "activations": Small(activations, {"stem": 6}),
    "layer norm": Small(layer_norm, {"stem": 6, "widen": 8}, statistics=("stem",)),
    "RMS norm": Small(rms_norm, {"first": 6}, statistics=("first",), inputs=((2, 4, 3),)),
    "group norm": Small(group_norm, {"stem": 4}, statistics=("stem",)),
    "instance norm": Small(instance_norm, {"stem": 6}),
    "norms of each channel": Small(norms_of_each_channel, {"stem": 6, "inner": 5}),
    "norms over channels": Small(
        norms_over_channels, {"stem": 6, "second": 4, "third": 5}, statistics=("stem", "second", "third")
    ),
    "groups of one by a constant": Small(
        groups_of_one_by_a_constant, {"stem": 5}, {"inner": "all its filters leave together", **_EITHER}
    ),
    "read by .data": Small(read_by_data, {"stem": 6, "inner": 5}),
    "unpooled": Small(unpooled, {"stem": 6}),
    "blurred": Small(blurred, {"stem": 6, "inner": 5}),
    "folded": Small(folded, {"stem": 6, "inner": 5}),
    "in frequencies": Small(in_frequencies, {"stem": 6, "mix": 5}),
    "frequencies of filters": Small(frequencies_of_filters, {"inner": 5}, {"stem": "Fourier transform", **_EITHER}),
    "spectral norm": Small(spectral_norm, {}, {"stem": "(SpectralNorm)", "inner": "(SpectralNorm)", **_EITHER}),
    "response norm": Small(response_norm, {"stem": 6}, statistics=("stem",)),
    "attention": Small(attention, {"widen": 7}, {"qkv": "(matmul", "narrow": "", **_EITHER}, inputs=((2, 4, 8),)),
    "attention of any heads": Small(attention_of_any_heads, {"query": 4, "out": 5}, inputs=((2, 4, 5),)),
    "attention by products": Small(attention_by_products, {"query": 4, "out": 5}, inputs=((2, 4, 5),)),
    "attention in groups": Small(
        attention_in_groups,
        {"out": 5},
        {**dict.fromkeys(("query", "key", "value"), "attention"), **_EITHER},
        inputs=((2, 4, 5),),
    ),
    "other names": Small(other_names, {"stem": 6, "inner": 5}),
    "recurrent": Small(recurrent, {"second": 7}, {"first": "(gru", **_EITHER}, inputs=((2, 4, 3),)),
    "softmax over filters": Small(softmax_over_filters, {"inner": 5}, {"stem": "x.softmax(1)", **_EITHER}),
    "mean over filters": Small(mean_over_filters, {"inner": 5}, {"stem": "x.mean(1, keepdim=True)", **_EITHER}),
    "rolled": Small(rolled, {"inner": 5}, {"stem": ".roll(1, 1)", **_EITHER}),
    "permuted by a buffer": Small(permuted_by_buffer, {"inner": 5}, {"stem": "[:, m.order]", **_EITHER}),
    "CReLU": Small(crelu, {"stem": 5}),
    "beside each other": Small(beside_each_other, {"one": 5}),
    "stacked": Small(stacked, {"one": 5}),
    "with the image": Small(with_the_image, {"stem": 5}, {"inner": "x + m.inner(x)", **_EITHER}),
    "two inputs and outputs": Small(
        two_inputs_and_outputs,
        {},
        {"stem": "x.mean()", "embed": "x.mean()", "inner": OUTPUT, "last": OUTPUT},
        inputs=((2, 3, 8, 8), (2, 5)),
    ),
    "detached head": Small(detached_head, {"stem": 6}, {"head": OUTPUT, "last": OUTPUT}),
    "custom function": Small(custom_function, {"stem": 6}),
    "patches": Small(patches, {"stem": 5}),
    "frames": Small(frames, {"stem": 6}, inputs=((2, 3, 3, 8, 8),)),
    "standardised weights": Small(
        standardised_weights, {"inner.weight": 5}, {"stem": "weight.mean((1, 2, 3)", **_EITHER}
    ),
    "without a rule": Small(
        without_a_rule, {}, {"stem": "an operation without a rule (cdist", "other": "cdist", **_EITHER}
    ),
}
