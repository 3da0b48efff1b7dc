"""Residual networks of basic blocks or bottlenecks, whose layers have any widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.models import ggcam
from ckrm_kernels.models.forms import FORMS, Form, FormName
from ckrm_kernels.models.network import Network, TrainingChoices, cross_entropy
from ckrm_kernels.whole_numbers import whole_number

if TYPE_CHECKING:
    from ckrm_kernels.data import Batch, Dataset

BlockName = Literal["basic", "bottleneck"]
HeadName = Literal["linear", "gg-cam"]
_BLOCKS_OF_DEPTH: dict[int, tuple[BlockName, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


@dataclass(frozen=True)
class BlockShape:
    """One block: its channels, its stride, and whether its shortcut is a 1x1 convolution."""

    incoming: int
    inner: int
    out: int
    stride: int
    project: bool


@dataclass(frozen=True)
class ResNetShape(Network):
    """A residual network, by its widths. Layers that are added to each other share one width.

    stem: filters of the first convolution
    inner: for each stage, the inner width of each of its blocks: the filters of a basic block's first convolution, or
        of a bottleneck's 1x1 and 3x3, which share them
    out: for each stage, the filters of every block's last convolution, and of the projection beside it; None, for
        bottlenecks alone, infers them from the inner widths, see `outs`
    in_channels, classes: what goes in and comes out
    block: basic (two 3x3 convolutions) or bottleneck (1x1, 3x3, 1x1)
    form: stem, strides, biases and projections, see `forms`. "small" is for small images; "paper" that of the CKRM
        paper, "paper-small" the same for small images; "torchvision" the usual one, whose state dicts load
    head: mean and linear, or "gg-cam": class activation maps, see `ggcam`
    Raises ValueError, naming it, for a setting that is not as above.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: str = field(default="resnet", init=False)
    stem: int = 32
    inner: tuple[tuple[int, ...], ...] = ((32,), (64,), (128,))
    out: tuple[int, ...] | None = (32, 64, 128)
    in_channels: int = 1
    classes: int = 10
    block: BlockName = "basic"
    form: FormName = "small"
    head: HeadName = "linear"

    def __post_init__(self) -> None:
        for name, accepted in (("block", BlockName), ("form", FormName), ("head", HeadName)):
            if getattr(self, name) not in get_args(accepted):
                raise ValueError(f"{name} must be one of {get_args(accepted)}, got {getattr(self, name)!r}")
        if self.out is None and self.block == "basic":
            raise ValueError("out must hold a width for each stage of basic blocks, got None, which is for bottlenecks")
        stages = len(self.inner) if self.out is None else len(self.out)
        if not stages or len(self.inner) != stages or not all(self.inner):
            raise ValueError(
                f"inner must hold one width for each block of each stage of out, got {self.inner} and {self.out}"
            )
        named = {**self.widths(), "in_channels": self.in_channels, "classes": self.classes}
        numbers = {name: whole_number(name, value) for name, value in named.items()}
        sizes = {name: numbers[name] for name in ("in_channels", "classes")}
        for name, value in {**sizes, **self._of_widths(numbers)}.items():
            object.__setattr__(self, name, value)

    def widths(self) -> dict[str, int]:
        """Every width that can be chosen, by name, in the order of the layers.

        "conv1" is the stem; "layer1.0.conv1" a basic block's inner width, "layer1.0.conv2" a bottleneck's; "layer1"
        what the blocks of stage 1 add up, where it is not inferred.
        """
        widths = {"conv1": self.stem}
        for stage, blocks in enumerate(self.inner, 1):
            widths |= {self._inner_name(stage, block): width for block, width in enumerate(blocks)}
            if self.out is not None:
                widths[f"layer{stage}"] = self.out[stage - 1]
        return widths

    def with_widths(self, widths: Mapping[str, int]) -> ResNetShape:
        """The same network with the widths named changed; raises ValueError for an unknown name."""
        unknown = sorted(set(widths) - set(self.widths()))
        if unknown:
            raise ValueError(f"widths has unknown names {unknown}; accepted are {sorted(self.widths())}")
        return replace(self, **self._of_widths({**self.widths(), **widths}))

    def _of_widths(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """The fields that hold the widths, of a value for each of them by name."""
        inner = tuple(
            tuple(widths[self._inner_name(stage, block)] for block in range(len(blocks)))
            for stage, blocks in enumerate(self.inner, 1)
        )
        out = None if self.out is None else tuple(widths[f"layer{stage}"] for stage in range(1, len(inner) + 1))
        return {"stem": widths["conv1"], "inner": inner, "out": out}

    def width_of_layer(self) -> dict[str, str]:
        """For each convolution of the network, by its module's name, the name of its width: equal names are tied.

        Convolutions whose width is inferred are left out.
        """
        names = {"conv1": "conv1"}
        for stage, blocks in enumerate(self.blocks(), 1):
            for place, block in enumerate(blocks):
                path, inner = f"layer{stage}.{place}", self._inner_name(stage, place)
                *first, last = ("conv1", "conv2") if self.block == "basic" else ("conv1", "conv2", "conv3")
                names |= {f"{path}.{convolution}": inner for convolution in first}
                if self.out is not None:
                    names[f"{path}.{last}"] = f"layer{stage}"
                if self.out is not None and block.project:
                    names[f"{path}.downsample.0"] = f"layer{stage}"
        prefix = "features." if self.head == "gg-cam" else ""
        return {prefix + layer: name for layer, name in names.items()}

    def stage_of_width(self) -> dict[str, str]:
        """For each width the name of its stage: "conv1" for the stem, "layer1" for all of stage 1."""
        return {name: name.partition(".")[0] for name in self.widths()}

    def adapted_to(self, data: Dataset) -> ResNetShape:
        """The network for the data's channels and classes; raises ValueError for GG-CAM without gaze maps."""
        if self.head == "gg-cam":
            ggcam.check_data(data)
        return replace(self, in_channels=data.image_shape[0], classes=data.classes)

    def check_training(self, training: TrainingChoices) -> None:
        """Raises ValueError for what GG-CAM does not take."""
        if self.head == "gg-cam":
            ggcam.check_training(training)

    def loss(
        self, model: nn.Module, batch: Batch, class_weights: Tensor | None, label_smoothing: float = 0.0
    ) -> Tensor:
        """Cross entropy, or that of GG-CAM, which smoothes no labels; see `Network`."""
        if self.head == "gg-cam":
            return ggcam.gaze_loss(model, batch, class_weights)
        return cross_entropy(model, batch, class_weights, label_smoothing)

    def outs(self) -> tuple[int, ...]:
        """For each stage, the width of what its blocks add up: `out`, or what is inferred from `inner`.

        That is the rule of the CKRM paper's Table 2: a stage's inner width is half of what comes in, so that a stage
        gives twice the widest inner width of the next, and the last one widens in the proportion of the one before.
        One stage alone gives four times its inner width.
        """
        if self.out is not None:
            return self.out
        widest = [max(blocks) for blocks in self.inner]
        if len(widest) == 1:
            return (4 * widest[0],)
        outs = [2 * following for following in widest[1:]]
        return (*outs, max(round(widest[-1] * outs[-1] / widest[-2]), 1))

    def blocks(self) -> list[list[BlockShape]]:
        """The blocks of each stage."""
        form = FORMS[self.form]
        incoming, stages = self.stem, []
        for stage, (inner, out) in enumerate(zip(self.inner, self.outs(), strict=True)):
            stride = form.first_stage_stride if stage == 0 else 2
            project = form.always_project or stride != 1 or incoming != out
            first = BlockShape(incoming, inner[0], out, stride, project)
            stages.append([first, *(BlockShape(out, width, out, 1, False) for width in inner[1:])])
            incoming = out
        return stages

    def build(self) -> ResNet | ggcam.GGCAM:
        """The network, newly initialised by torch's default generator."""
        if self.head == "linear":
            return ResNet(self)
        return ggcam.GGCAM(ResNetFeatures(self), self.outs()[-1], self.classes)

    def _inner_name(self, stage: int, block: int) -> str:
        return f"layer{stage}.{block}." + ("conv1" if self.block == "basic" else "conv2")


def resnet_shape(
    depth: int,
    *,
    form: FormName,
    in_channels: int,
    classes: int,
    widths: tuple[int, ...] = (64, 64, 128, 256, 512),
    head: HeadName = "linear",
) -> ResNetShape:
    """A residual network of one of the usual depths.

    depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks)
    widths: of the stem and of the blocks of the four stages; bottlenecks' outputs are inferred
    Raises ValueError, naming it, for an argument that is not as above, or that `ResNetShape` does not take.
    """
    if depth not in _BLOCKS_OF_DEPTH:
        raise ValueError(f"depth must be one of {list(_BLOCKS_OF_DEPTH)}, got {depth!r}")
    block, blocks = _BLOCKS_OF_DEPTH[depth]
    if len(widths) != 1 + len(blocks):
        raise ValueError(f"widths must hold five numbers, for the stem and each of four stages, got {widths!r}")
    stem, *stages = widths
    inner = tuple((width,) * count for width, count in zip(stages, blocks, strict=True))
    out = tuple(stages) if block == "basic" else None
    return ResNetShape(stem, inner, out, in_channels, classes, block, form, head)


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
