"""A residual network of basic blocks for small images, whose layers have any widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ResNetShape:
    """The widths of a residual network. Layers that are added to each other share one width.

    stem: filters of the first convolution
    inner: for each stage, the filters of the first convolution of each of its blocks
    out: for each stage, the filters of every block's second convolution, and of the projection beside it
    in_channels, classes: what goes in and comes out
    """

    stem: int = 32
    inner: tuple[tuple[int, ...], ...] = ((32,), (64,), (128,))
    out: tuple[int, ...] = (32, 64, 128)
    in_channels: int = 1
    classes: int = 10

    def __post_init__(self) -> None:
        if not self.out or len(self.inner) != len(self.out) or not all(self.inner):
            raise ValueError(
                f"inner must hold one width for each block of each stage of out, got {self.inner} and {self.out}"
            )
        named = {**self.widths(), "in_channels": self.in_channels, "classes": self.classes}
        for name, value in named.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")

    def widths(self) -> dict[str, int]:
        """Every width that can be chosen, by name, in the order of the layers."""
        widths = {"conv1": self.stem}
        for stage, (blocks, out) in enumerate(zip(self.inner, self.out, strict=True), 1):
            widths |= {f"layer{stage}.{block}.conv1": width for block, width in enumerate(blocks)}
            widths[f"layer{stage}"] = out
        return widths

    def with_widths(self, widths: Mapping[str, int]) -> ResNetShape:
        """The same network with the widths named changed; raises ValueError for an unknown name."""
        unknown = sorted(set(widths) - set(self.widths()))
        if unknown:
            raise ValueError(f"widths has unknown names {unknown}; accepted are {sorted(self.widths())}")
        every = {**self.widths(), **widths}
        inner = tuple(
            tuple(every[f"layer{stage}.{block}.conv1"] for block in range(len(blocks)))
            for stage, blocks in enumerate(self.inner, 1)
        )
        out = tuple(every[f"layer{stage}"] for stage in range(1, len(self.out) + 1))
        return replace(self, stem=every["conv1"], inner=inner, out=out)

    def width_of_layer(self) -> dict[str, str]:
        """For each convolution of the network, by its module's name, the name of its width: equal names are tied."""
        names = {"conv1": "conv1"}
        for stage, blocks in enumerate(self.inner, 1):
            for block in range(len(blocks)):
                names[f"layer{stage}.{block}.conv1"] = f"layer{stage}.{block}.conv1"
                names[f"layer{stage}.{block}.conv2"] = f"layer{stage}"
            names[f"layer{stage}.0.downsample.0"] = f"layer{stage}"
        return names

    def build(self) -> ResNet:
        """The network, newly initialised by torch's default generator."""
        return ResNet(self)


class ResNet(nn.Module):
    """Stem, stages of basic blocks, global mean, linear.

    Modules are named as in torchvision. The stem is 3x3 with stride 1 and without pooling, and each stage after the
    first halves the image. The first block of every stage projects its shortcut, whatever the widths, so that only
    the blocks of one stage are tied to each other.
    """

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        self.shape = shape
        self.conv1 = nn.Conv2d(shape.in_channels, shape.stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.stem)
        incoming = shape.stem
        for stage, (inner, out) in enumerate(zip(shape.inner, shape.out, strict=True), 1):
            self.add_module(f"layer{stage}", _stage(incoming, inner, out, stride=1 if stage == 1 else 2))
            incoming = out
        self.fc = nn.Linear(incoming, shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """images (N, in_channels, H, W) -> logits (N, classes)."""
        features = functional.relu(self.bn1(self.conv1(images)))
        for stage in self.stages():
            features = stage(features)
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits

    def stages(self) -> Iterator[nn.Module]:
        """The stages, in order."""
        return (self.get_submodule(f"layer{stage}") for stage in range(1, len(self.shape.out) + 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, added."""

    def __init__(self, incoming: int, inner: int, out: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, inner, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if project:
            self.downsample = nn.Sequential(nn.Conv2d(incoming, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, features: Tensor) -> Tensor:
        """features (N, incoming, H, W) -> (N, out, H / stride, W / stride)."""
        inner = functional.relu(self.bn1(self.conv1(features)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.downsample(features))


def _stage(incoming: int, inner: tuple[int, ...], out: int, stride: int) -> nn.Sequential:
    first = BasicBlock(incoming, inner[0], out, stride, project=True)
    return nn.Sequential(first, *(BasicBlock(out, width, out, 1, project=False) for width in inner[1:]))
