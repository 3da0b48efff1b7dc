"""The blocks of VGNet: depthwise convolutions, learnable or fixed, beside the identity (VGNet paper, section 4).

Only pointwise convolutions, and the stem, have a norm and an activation, the norm after the activation. No convolution
has a bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.patterns import edge_detectors, gaussian

KernelName = Literal["learnable", "blur", "edges and blurs", "four edges"]
Halves = tuple[Tensor, Tensor]
_CHUNKS = 8  # of the channels, that share their kernels in the last depthwise convolution


def fixed_kernels(name: KernelName) -> Tensor:
    """The paper's kernels of that name, (n, 3, 3) float64 on the CPU: of EK1 to EK6, GK1 and GK2 of its Fig. 7."""
    blurs = torch.stack([gaussian(3, 1.1), gaussian(3, 0.6)])
    if name == "blur":
        return blurs[:1]
    return edge_detectors()[:4] if name == "four edges" else torch.cat([edge_detectors(), blurs])


class FixedDepthwise(nn.Conv2d):
    """A depthwise 3x3 convolution whose kernels are not learnt: a buffer, saved and loaded with the state dict.

    kernels: (n, 3, 3); channel c has kernel c mod n
    Loading a state dict that holds other kernels is an error: it is of another variant.
    """

    def __init__(self, channels: int, kernels: Tensor, stride: int = 1) -> None:
        super().__init__(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        tiled = kernels.repeat(math.ceil(channels / len(kernels)), 1, 1)[:channels, None].to(self.weight)
        del self.weight
        self.register_buffer("weight", tiled)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = f"{prefix}weight"
        if self._are_other_kernels(state_dict.get(name)):
            error_msgs.append(f"{name} must hold this variant's fixed kernels, the state dict is of another variant")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _are_other_kernels(self, weight: Tensor | None) -> bool:
        if weight is None or weight.shape != self.weight.shape or weight.is_meta or self.weight.is_meta:
            return False
        return not same_kernels(weight, self.weight)


def same_kernels(first: Tensor, second: Tensor) -> bool:
    """Whether two weights that broadcast are the same fixed kernels, of any floating types and devices."""
    # kernels of two variants are further apart, and half types nearer
    return torch.allclose(first.float().to(second.device), second.float(), rtol=0, atol=1e-2)


def depthwise(channels: int, kernels: KernelName, stride: int = 1) -> nn.Conv2d:
    """A depthwise 3x3 convolution alone."""
    if kernels == "learnable":
        return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return FixedDepthwise(channels, fixed_kernels(kernels), stride)


def mixing(channels: int, kernels: KernelName) -> nn.Module:
    """The depthwise convolution that mixes positions; fixed kernels, which have no scale of their own, with a norm."""
    layer = depthwise(channels, kernels)
    return layer if kernels == "learnable" else nn.Sequential(layer, nn.BatchNorm2d(channels))


class SharedDepthwise(nn.Module):
    """A depthwise 3x3 convolution whose kernels are the same for each of eight chunks of the channels.

    Where eight does not divide the channels, there are as many chunks as divide both.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.chunks = math.gcd(channels, _CHUNKS)
        self.depthwise = depthwise(channels // self.chunks, "learnable")

    def forward(self, features: Tensor) -> Tensor:
        """features (N, channels, H, W) -> the same shape."""
        return torch.cat([self.depthwise(chunk) for chunk in features.chunk(self.chunks, 1)], 1)


class ConvBlock(nn.Sequential):
    """A convolution, an activation, a norm."""

    def __init__(
        self, incoming: int, out: int, kernel: int, activation: Callable[[], nn.Module], stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(incoming, out, kernel, stride, padding=kernel // 2, bias=False)
        self.activation = activation()
        self.norm = nn.BatchNorm2d(out)


class SqueezeExcite(nn.Module):
    """Weighs each channel by a number in (0, 1) that is computed from the means of all.

    They pass through a quarter of the channels, rounded to a multiple of 8 that is at least 0.9 of it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = divisible_by_8(channels // 4)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """features (N, channels, H, W) -> the same shape."""
        weights: Tensor = self.expand(functional.relu(self.reduce(features.mean((2, 3), keepdim=True))))
        return features * weights.sigmoid()


def divisible_by_8(value: int) -> int:
    """The nearest multiple of 8, at least 8 and at least 0.9 of the value."""
    nearest = max((value + 4) // 8 * 8, 8)
    return nearest if nearest >= 0.9 * value else nearest + 8


def pointwise(incoming: int, out: int, activation: Callable[[], nn.Module], squeeze: bool) -> ConvBlock:
    """A 1x1 convolution, an activation and a norm; with squeeze, squeeze-and-excitation."""
    block = ConvBlock(incoming, out, 1, activation)
    if squeeze:
        block.add_module("squeeze", SqueezeExcite(out))
    return block


class DownsamplingBlock(nn.Module):
    """Blurs, keeps the last channels of that as they are and makes the rest of the output from all (Fig. 8a).

    kept: how many channels are kept: half of the output, or all that come in where these are fewer
    """

    def __init__(
        self,
        incoming: int,
        out: int,
        stride: int,
        kernels: KernelName,
        activation: Callable[[], nn.Module],
        squeeze: bool,
    ) -> None:
        super().__init__()
        self.spatial = depthwise(incoming, kernels, stride)
        self.kept = kept_channels(incoming, out)
        self.pointwise = pointwise(incoming, out - self.kept, activation, squeeze)
        self._all_kept, self._halves_made = self.kept == incoming, out == 2 * self.kept

    def forward(self, features: Tensor) -> Halves:
        """features (N, incoming, H, W) -> two halves (N, out / 2, H / stride, W / stride)."""
        blurred = self.spatial(features)
        kept = blurred if self._all_kept else blurred[:, -self.kept :]
        made = self.pointwise(blurred)
        if self._halves_made:
            return kept, made
        left, right = torch.cat([kept, made], 1).chunk(2, 1)
        return left, right


def kept_channels(incoming: int, out: int) -> int:
    """How many channels a downsampling block keeps as they are."""
    return min(out // 2, incoming)


class HalfIdentityBlock(nn.Module):
    """The right half becomes the left one; the new right half is made of both, positions mixed in the right one alone.

    (Fig. 8b)
    """

    def __init__(self, channels: int, kernels: KernelName, activation: Callable[[], nn.Module], squeeze: bool) -> None:
        super().__init__()
        self.spatial = mixing(channels // 2, kernels)
        self.pointwise = pointwise(channels, channels // 2, activation, squeeze)

    def forward(self, halves: Halves) -> Halves:
        """Two halves (N, channels / 2, H, W) -> two of the same shape."""
        left, right = halves
        return right, self.pointwise(torch.cat([left, self.spatial(right)], 1))
