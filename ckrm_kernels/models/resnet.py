"""Residual networks of basic blocks or bottlenecks, whose layers have any widths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.models.forms import FORMS, Form

if TYPE_CHECKING:
    from ckrm_kernels.models.shape import ResNetShape


@dataclass(frozen=True)
class BlockShape:
    """One block: its channels, its stride, and whether its shortcut is a 1x1 convolution."""

    incoming: int
    inner: int
    out: int
    stride: int
    project: bool


class ResNetFeatures(nn.Module):
    """Stem and stages, with modules named as in torchvision."""

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        self.shape = shape
        form, make_block = FORMS[shape.form], BasicBlock if shape.block == "basic" else Bottleneck
        kernel = form.stem_kernel
        self.conv1 = nn.Conv2d(
            shape.in_channels, shape.stem, kernel, form.stem_stride, padding=kernel // 2, bias=form.bias
        )
        self.bn1 = nn.BatchNorm2d(shape.stem)
        for stage, blocks in enumerate(shape.blocks(), 1):
            self.add_module(f"layer{stage}", nn.Sequential(*(make_block(block, form) for block in blocks)))
        if form.kaiming and not self.conv1.weight.is_meta:  # there normal_ would load half of torch, for nothing
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """images (N, in_channels, H, W) -> what the last stage gives, (N, channels, h, w)."""
        return self.features(images)

    def features(self, images: Tensor) -> Tensor:
        """images (N, in_channels, H, W) -> what the last stage gives, (N, channels, h, w)."""
        features = functional.relu(self.bn1(self.conv1(images)))
        if FORMS[self.shape.form].pool:
            features = functional.max_pool2d(features, 3, 2, padding=1)
        for stage in self.stages():
            features = stage(features)
        return features

    def stages(self) -> Iterator[nn.Module]:
        """The stages, in order."""
        return (self.get_submodule(f"layer{stage}") for stage in range(1, len(self.shape.inner) + 1))


class ResNet(ResNetFeatures):
    """Stem, stages, global mean, linear."""

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__(shape)
        self.fc = nn.Linear(shape.outs()[-1], shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """images (N, in_channels, H, W) -> logits (N, classes)."""
        logits: Tensor = self.fc(self.features(images).mean((2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first with the stride, beside a shortcut, added."""

    def __init__(self, shape: BlockShape, form: Form) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape.incoming, shape.inner, 3, shape.stride, padding=1, bias=form.bias)
        self.bn1 = nn.BatchNorm2d(shape.inner)
        self.conv2 = nn.Conv2d(shape.inner, shape.out, 3, padding=1, bias=form.bias)
        self.bn2 = nn.BatchNorm2d(shape.out)
        self.downsample = _shortcut(shape, form)

    def forward(self, features: Tensor) -> Tensor:
        """features (N, incoming, H, W) -> (N, out, H / stride, W / stride)."""
        inner = functional.relu(self.bn1(self.conv1(features)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.downsample(features))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution beside a shortcut, added."""

    def __init__(self, shape: BlockShape, form: Form) -> None:
        super().__init__()
        strides = (shape.stride, 1) if form.stride_on_first else (1, shape.stride)
        self.conv1 = nn.Conv2d(shape.incoming, shape.inner, 1, strides[0], bias=form.bias)
        self.bn1 = nn.BatchNorm2d(shape.inner)
        self.conv2 = nn.Conv2d(shape.inner, shape.inner, 3, strides[1], padding=1, bias=form.bias)
        self.bn2 = nn.BatchNorm2d(shape.inner)
        self.conv3 = nn.Conv2d(shape.inner, shape.out, 1, bias=form.bias)
        self.bn3 = nn.BatchNorm2d(shape.out)
        self.downsample = _shortcut(shape, form)

    def forward(self, features: Tensor) -> Tensor:
        """features (N, incoming, H, W) -> (N, out, H / stride, W / stride)."""
        inner = functional.relu(self.bn1(self.conv1(features)))
        inner = functional.relu(self.bn2(self.conv2(inner)))
        return functional.relu(self.bn3(self.conv3(inner)) + self.downsample(features))


def _shortcut(shape: BlockShape, form: Form) -> nn.Module:
    if not shape.project:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(shape.incoming, shape.out, 1, shape.stride, bias=form.bias), nn.BatchNorm2d(shape.out)
    )
