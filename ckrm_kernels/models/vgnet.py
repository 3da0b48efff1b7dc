"""VGNet: small networks of depthwise convolutions whose kernels may be fixed edge detectors and blurs.

Zhang et al., Efficient CNN architecture design guided by visualization (VGNet paper): section 4, Tables 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ckrm_kernels.models.network import Network
from ckrm_kernels.models.vgnet_blocks import (
    ConvBlock,
    DownsamplingBlock,
    HalfIdentityBlock,
    KernelName,
    SharedDepthwise,
    fixed_kernels,
    kept_channels,
    mixing,
    pointwise,
    same_kernels,
)
from ckrm_kernels.whole_numbers import whole_number

if TYPE_CHECKING:
    from ckrm_kernels.data import Dataset

VariantName = Literal["c", "g", "f1", "f2", "f3", "f4"]
FormName = Literal["imagenet", "cifar"]
ActivationName = Literal["relu", "silu"]
_ACTIVATIONS: dict[ActivationName, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class Kernels(NamedTuple):
    """Of what a variant's depthwise convolutions are: of the downsampling blocks, of the others, the last one."""

    downsampling: KernelName
    mixing: KernelName
    last: KernelName


VARIANTS: dict[VariantName, Kernels] = {
    "c": Kernels("learnable", "learnable", "learnable"),
    "g": Kernels("blur", "learnable", "learnable"),
    "f1": Kernels("blur", "edges and blurs", "learnable"),
    "f2": Kernels("blur", "edges and blurs", "edges and blurs"),
    "f3": Kernels("blur", "four edges", "learnable"),
    "f4": Kernels("blur", "four edges", "four edges"),
}
"""The variants of the paper's Table 4."""


class _Size(NamedTuple):
    stem: int
    stages: tuple[int, ...]
    blocks: tuple[int, ...]


SIZES: dict[str, _Size] = {
    "1.0mp": _Size(28, (56, 112, 224, 368), (4, 7, 13, 2)),
    "1.5mp": _Size(32, (64, 128, 256, 512), (3, 7, 14, 2)),
    "2.0mp": _Size(32, (72, 168, 376, 512), (3, 6, 13, 2)),
    "2.5mp": _Size(32, (80, 192, 400, 544), (3, 6, 16, 2)),
}
"""By name, from millions of parameters: filters of the stem, channels and blocks of each stage."""


@dataclass(frozen=True)
class VGNetShape(Network):
    """A VGNet, by its channels.

    stem: filters of the first convolution
    stages: for each stage its channels, an even number, half of which each block makes anew
    blocks: for each stage its blocks: one that downsamples, and those that keep half as it is
    in_channels, classes: what goes in and comes out
    variant: which depthwise kernels are fixed: "c" none; "g" those that downsample, to a blur; "f1" and "f3" all others
        but the last layer's too, to six edge detectors and two blurs, or to four edge detectors; "f2", "f4" all
    form: "imagenet"; "cifar" for small images: stem and first stage keep the resolution, and the first stage's
        downsampling kernels are learnable
    activation: "relu" or "silu"
    squeeze: squeeze-and-excitation after each pointwise convolution but the last
    Raises ValueError, naming it, for a setting that is not as above.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: str = field(default="vgnet", init=False)
    stem: int = SIZES["1.0mp"].stem
    stages: tuple[int, ...] = SIZES["1.0mp"].stages
    blocks: tuple[int, ...] = SIZES["1.0mp"].blocks
    in_channels: int = 3
    classes: int = 1000
    variant: VariantName = "g"
    form: FormName = "imagenet"
    activation: ActivationName = "relu"
    squeeze: bool = False

    def __post_init__(self) -> None:
        for name, accepted in (("variant", VariantName), ("form", FormName), ("activation", ActivationName)):
            if getattr(self, name) not in get_args(accepted):
                raise ValueError(f"{name} must be one of {get_args(accepted)}, got {getattr(self, name)!r}")
        if not isinstance(self.squeeze, bool):
            raise ValueError(f"squeeze must be True or False, got {self.squeeze!r}")
        if not self.stages or len(self.stages) != len(self.blocks):
            raise ValueError(f"blocks must hold a number for each of stages, got {self.blocks} and {self.stages}")
        for name in ("stem", "in_channels", "classes"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        for name in ("stages", "blocks"):
            object.__setattr__(self, name, tuple(whole_number(name, value) for value in getattr(self, name)))
        odd = [channels for channels in self.stages if channels % 2]
        if odd:
            raise ValueError(f"stages must be even numbers of channels, got {odd[0]}")

    @property
    def kernels(self) -> Kernels:
        """Of what the depthwise convolutions are."""
        return VARIANTS[self.variant]

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the stem and of each stage."""
        return ((2, 2) if self.form == "imagenet" else (1, 1)) + (2,) * (len(self.stages) - 1)

    def widths(self) -> dict[str, int]:
        """Every width that can be chosen: "stem", and "stage1" for half of that stage's channels, and so on."""
        return {"stem": self.stem, **{f"stage{n}": channels // 2 for n, channels in enumerate(self.stages, 1)}}

    def with_widths(self, widths: Mapping[str, int]) -> VGNetShape:
        """The same network with the widths named changed; raises ValueError for an unknown name."""
        unknown = sorted(set(widths) - set(self.widths()))
        if unknown:
            raise ValueError(f"widths has unknown names {unknown}; accepted are {sorted(self.widths())}")
        stem, *halves = (whole_number(name, width) for name, width in {**self.widths(), **widths}.items())
        return replace(self, stem=stem, stages=tuple(2 * half for half in halves))

    def width_of_layer(self) -> dict[str, str]:
        """For each convolution whose filters a width counts the name of the width: equal names are tied.

        Fixed kernels count none, and what has another number of filters is inferred.
        """
        names = {"stem.conv": "stem"}
        if self.downsampling_kernels(1) == "learnable":
            names["stage1.0.spatial"] = "stem"
        for number, (incoming, out) in enumerate(self.ends(), 1):
            width = f"stage{number}"
            if out == 2 * kept_channels(incoming, out):
                names[f"{width}.0.pointwise.conv"] = width
            for block in range(1, self.blocks[number - 1]):
                if self.kernels.mixing == "learnable":
                    names[f"{width}.{block}.spatial"] = width
                names[f"{width}.{block}.pointwise.conv"] = width
        return names

    def stage_of_width(self) -> dict[str, str]:
        """For each width the name of its stage, which is its own."""
        return {name: name for name in self.widths()}

    def adapted_to(self, data: Dataset) -> VGNetShape:
        """The network for the data's channels and classes; raises ValueError for images smaller than its stride."""
        channels, height, width = data.image_shape
        if min(height, width) < self.stride:
            raise ValueError(
                f"the images of {data.name} must have at least {self.stride} pixels a side for a VGNet of "
                f"{len(self.stages)} stages in the {self.form} form, which is its stride, got {height}x{width}"
            )
        return replace(self, in_channels=channels, classes=data.classes)

    @property
    def stride(self) -> int:
        """Of the whole network: pixels of an image to one position of the last stage."""
        return math.prod(self.strides)

    def build(self) -> VGNet:
        """The network, newly initialised by torch's default generator."""
        return VGNet(self)

    def __str__(self) -> str:
        channels = "/".join(map(str, (self.stem, *self.stages)))
        squeeze = ", squeeze-and-excitation" if self.squeeze else ""
        return f"VGNet{self.variant.upper()} ({self.form} form, channels {channels}, {self.activation}{squeeze})"

    def ends(self) -> list[tuple[int, int]]:
        """For each stage the channels that go in and those that come out."""
        return list(zip((self.stem, *self.stages), self.stages, strict=False))

    def downsampling_kernels(self, stage: int) -> KernelName:
        """Of the first block of a stage, from 1."""
        return "learnable" if self.form == "cifar" and stage == 1 else self.kernels.downsampling


def vgnet_shape(
    variant: str,
    size: str,
    *,
    form: FormName = "imagenet",
    squeeze: bool = False,
    activation: ActivationName = "relu",
    in_channels: int = 3,
    classes: int = 1000,
) -> VGNetShape:
    """A VGNet of one of the paper's sizes.

    variant: "c", "g", "f1", "f2", "f3" or "f4"; size: "1.0mp", "1.5mp", "2.0mp" or "2.5mp"
    Raises ValueError, naming it, for an argument that is not as above, or that `VGNetShape` does not take.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    stem, stages, blocks = SIZES[size]
    chosen: Any = variant
    return VGNetShape(stem, stages, blocks, in_channels, classes, chosen, form, activation, squeeze)


class VGNet(nn.Module):
    """Stem, stages, a depthwise and a pointwise convolution, global mean, linear."""

    def __init__(self, shape: VGNetShape) -> None:
        super().__init__()
        self.shape = shape
        activation = _ACTIVATIONS[shape.activation]
        self.stem = ConvBlock(shape.in_channels, shape.stem, 3, activation, shape.strides[0])
        for number in range(1, len(shape.stages) + 1):
            self.add_module(f"stage{number}", _stage(shape, number))
        channels, last = shape.stages[-1], shape.kernels.last
        # fixed kernels need not be shared: none is a parameter
        self.spatial = SharedDepthwise(channels) if last == "learnable" else mixing(channels, last)
        self.pointwise = pointwise(channels, channels, activation, squeeze=False)
        self.classifier = nn.Linear(channels, shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """images (N, in_channels, H, W) -> logits (N, classes)."""
        features = self.stem(images)
        for number in range(1, len(self.shape.stages) + 1):
            features = torch.cat(self.get_submodule(f"stage{number}")(features), 1)
        logits: Tensor = self.classifier(self.pointwise(self.spatial(features)).mean((2, 3)))
        return logits

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As every module does it, but ValueError for one of another variant or size, before anything is loaded.

        Not strictly, a VGNetC takes the fixed blurs of a VGNetG, to learn from there.
        """
        if strict:
            self._check_same(state_dict)
        return super().load_state_dict(state_dict, strict, assign)

    def _check_same(self, state_dict: Mapping[str, Any]) -> None:
        own, given = (
            {name: tuple(value.shape) for name, value in each.items()} for each in (self.state_dict(), state_dict)
        )
        for name in (*own, *given):
            if own.get(name) != given.get(name):
                raise ValueError(
                    f"state_dict must be of a {self.shape}, got one of another variant or size: "
                    f"{name} is {given.get(name, 'absent')}, not {own.get(name, 'absent')}"
                )
        blurred = [name for name in self._learnt_where_others_blur() if _are_blurs(state_dict[name])]
        if blurred:
            raise ValueError(
                f"state_dict must be of a {self.shape}, got one of another variant: {blurred[0]} holds fixed blurs; "
                "strict=False loads them all the same"
            )

    def _learnt_where_others_blur(self) -> list[str]:
        """The weights of downsampling blocks that are learnt here and fixed in all other variants, by their names."""
        fixed = replace(self.shape, variant="g")
        stages = range(1, len(self.shape.stages) + 1)
        learnt = [n for n in stages if self.shape.downsampling_kernels(n) != fixed.downsampling_kernels(n)]
        return [f"stage{number}.0.spatial.weight" for number in learnt]


def _are_blurs(weight: Tensor) -> bool:
    return not weight.is_meta and same_kernels(weight, fixed_kernels("blur"))


def _stage(shape: VGNetShape, number: int) -> nn.Sequential:
    """The blocks of a stage, from 1, newly initialised."""
    incoming, out = shape.ends()[number - 1]
    kernels, style = shape.downsampling_kernels(number), (_ACTIVATIONS[shape.activation], shape.squeeze)
    first = DownsamplingBlock(incoming, out, shape.strides[number], kernels, *style)
    blocks = range(1, shape.blocks[number - 1])
    return nn.Sequential(first, *(HalfIdentityBlock(out, shape.kernels.mixing, *style) for _ in blocks))
