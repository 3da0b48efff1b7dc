"""MT-UNet: a U-Net that tells the class of an image and where a reader looks on it (Zhu, Rohling, Salcudean 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels.models.gaze import check_batch, check_gaze, gaze_distribution, weighed_by_uncertainty
from ckrm_kernels.models.network import Network
from ckrm_kernels.whole_numbers import whole_number

if TYPE_CHECKING:
    from ckrm_kernels.data import Batch, Dataset

_DROPOUT = 0.25


@dataclass(frozen=True)
class MTUNetShape(Network):
    """The description of an `MTUNet`. `mt_unet_shape` makes one of a width for each level.

    encoder: for each level, from the images down, the widths of its two 3x3 convolutions; between levels 2x2 max-pools
    decoder: for each step back up, from the deepest level, the widths of the convolution behind the upsampling and of
        the two that read it beside the encoder's map of that level; one step fewer than there are levels
    saliency: the width of the 3x3 convolution of the saliency head
    The hidden layer of the classification head is as wide as the last map of the decoder. Images need a side of at
    least 2^(levels - 1).
    Raises ValueError, naming it, for a setting that is not as above.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: str = field(default="mt-unet", init=False)
    encoder: tuple[tuple[int, int], ...] = ((8, 8), (16, 16), (32, 32))
    decoder: tuple[tuple[int, int, int], ...] = ((16, 16, 16), (8, 8, 8))
    saliency: int = 8
    in_channels: int = 1
    classes: int = 3

    def __post_init__(self) -> None:
        if len(self.encoder) < 2 or len(self.decoder) != len(self.encoder) - 1:
            raise ValueError(
                f"encoder must have two levels or more and decoder a step less, got {self.encoder} and {self.decoder}"
            )
        for name, count in (("encoder", 2), ("decoder", 3)):
            if any(len(widths) != count for widths in getattr(self, name)):
                raise ValueError(f"{name} must hold {count} widths each time, got {getattr(self, name)}")
        named = {**self.widths(), "in_channels": self.in_channels, "classes": self.classes}
        numbers = {name: whole_number(name, value) for name, value in named.items()}
        sizes = {name: numbers[name] for name in ("in_channels", "classes")}
        for name, value in {**sizes, **self._of_widths(numbers)}.items():
            object.__setattr__(self, name, value)

    @property
    def stride(self) -> int:
        """The least height and width of an image: of the deepest level's map one pixel is left."""
        return int(2 ** (len(self.encoder) - 1))

    def widths(self) -> dict[str, int]:
        """The width of each 3x3 convolution, by its name: none shares that of another."""
        widths = {f"encoder.{level}.{name}": width for level, name, width in _named(self.encoder, ("conv1", "conv2"))}
        steps = _named(self.decoder, ("up", "conv1", "conv2"))
        widths |= {f"decoder.{step}.{name}": width for step, name, width in steps}
        return {**widths, "saliency_conv": self.saliency}

    def with_widths(self, widths: Mapping[str, int]) -> MTUNetShape:
        """The same network with the widths named changed; raises ValueError for an unknown name."""
        unknown = sorted(set(widths) - set(self.widths()))
        if unknown:
            raise ValueError(f"widths has unknown names {unknown}; accepted are {sorted(self.widths())}")
        return replace(self, **self._of_widths({**self.widths(), **widths}))

    def width_of_layer(self) -> dict[str, str]:
        """For each 3x3 convolution, by its name, that of its width, which is the same."""
        return {name: name for name in self.widths()}

    def stage_of_width(self) -> dict[str, str]:
        """For each width its level, "level1" for the images' size: with one width to each it is the usual U-Net."""
        return {name: f"level{self._level(name) + 1}" for name in self.widths()}

    def adapted_to(self, data: Dataset) -> MTUNetShape:
        """The network for the data's channels and classes.

        Raises ValueError without gaze maps, for maps that sum to 0, and for images smaller than the network's stride.
        """
        if any(part.gaze is None for part in (data.train, data.validation, data.held_out)):
            raise ValueError(
                f"network must be one without a saliency head for {data.name}, which has no gaze maps, got {self.kind}"
            )
        _check_size(data.image_shape[1:], self.stride)
        check_gaze(data)
        return replace(self, in_channels=data.image_shape[0], classes=data.classes)

    def loss(
        self, model: nn.Module, batch: Batch, class_weights: Tensor | None, label_smoothing: float = 0.0
    ) -> Tensor:
        """That of `MTUNet`, of a batch with gaze maps; see `Network`."""
        if batch.gaze is None:
            raise ValueError("batch must have gaze maps for the loss of MT-UNet, got None")
        network: Any = model
        loss: Tensor = network.loss(batch.images, batch.labels, batch.gaze, class_weights, label_smoothing)
        return loss

    def build(self) -> MTUNet:
        """The network, newly initialised by torch's default generator."""
        return MTUNet(self)

    def _of_widths(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """The fields that hold the widths, of a value for each of them by name."""
        groups: dict[str, list[int]] = {}
        for name in self.widths():
            groups.setdefault(name.rpartition(".")[0], []).append(widths[name])
        return {
            "encoder": tuple(tuple(groups[f"encoder.{level}"]) for level in range(len(self.encoder))),
            "decoder": tuple(tuple(groups[f"decoder.{step}"]) for step in range(len(self.decoder))),
            "saliency": widths["saliency_conv"],
        }

    def _level(self, width: str) -> int:
        part, _, rest = width.partition(".")
        place = int(rest.partition(".")[0] or 0)
        return place if part != "decoder" else len(self.decoder) - 1 - place


def mt_unet_shape(
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024), *, in_channels: int = 1, classes: int = 3
) -> MTUNetShape:
    """The U-Net of a width for each level, which encoder and decoder share; their number is its depth, at least two.

    The published one is the default: 34,632,836 parameters, and one more in the loss.
    Raises ValueError for widths that `MTUNetShape` does not take.
    """
    encoder = tuple((width, width) for width in widths)
    decoder = tuple((width, width, width) for width in reversed(widths[:-1]))
    return MTUNetShape(encoder, decoder, widths[0] if widths else 0, in_channels, classes)


class MTUNet(nn.Module):
    """A U-Net with two heads: the class from the deepest and the last map, the saliency from the last."""

    def __init__(self, shape: MTUNetShape) -> None:
        super().__init__()
        self.shape = shape
        channels = [shape.in_channels, *(out for _, out in shape.encoder)]
        self.encoder = nn.ModuleList(
            DoubleConvolution(incoming, *widths) for incoming, widths in zip(channels, shape.encoder, strict=False)
        )
        below = [channels[-1], *(out for *_, out in shape.decoder)]
        skips = list(reversed(channels[1:-1]))
        self.decoder = nn.ModuleList(
            DecoderStep(incoming, skipped, *widths)
            for incoming, skipped, widths in zip(below, skips, shape.decoder, strict=False)
        )
        deepest, last = channels[-1], below[-1]
        self.saliency_conv = nn.Conv2d(last, shape.saliency, 3, padding=1)
        self.saliency_bn = nn.BatchNorm2d(shape.saliency)
        self.saliency_out = nn.Conv2d(shape.saliency, 1, 1)
        self.hidden = nn.Linear(deepest + last, last)
        self.dropout = nn.Dropout(_DROPOUT)
        self.fc = nn.Linear(last, shape.classes)
        self.mt_loss = MultiTaskLoss()

    def forward(self, images: Tensor, with_saliency: bool = False) -> Any:
        """images (N, in_channels, H, W) -> logits (N, classes); with_saliency: (logits, what `saliency` gives)."""
        deepest, last = self.features(images)
        logits = self._logits(deepest, last)
        return (logits, self._saliency(last)) if with_saliency else logits

    def saliency(self, images: Tensor) -> Tensor:
        """images (N, in_channels, H, W) -> the logarithm of each pixel's probability (N, H, W)."""
        return self._saliency(self.features(images)[1])

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (N, in_channels, H, W) -> the deepest map (N, C, h, w) and the last one (N, c, H, W).

        Raises ValueError for images smaller than the network's stride.
        """
        _check_size(images.shape[2:], self.shape.stride)
        skips: list[Tensor] = []
        features = images
        for level in self.encoder:
            features = level(functional.max_pool2d(features, 2) if skips else features)
            skips.append(features)
        deepest = skips.pop()
        for step in self.decoder:
            features = step(features, skips.pop())
        return deepest, features

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        gaze: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The loss to train with, a scalar; see `MultiTaskLoss`.

        labels: (N,) int64; gaze: (N, h, w) >= 0, of any size; class_weights: (classes,), None weighs all alike
        """
        logits, saliency = self(images, with_saliency=True)
        loss: Tensor = self.mt_loss(logits, saliency, labels, gaze, class_weights, label_smoothing)
        return loss

    def _logits(self, deepest: Tensor, last: Tensor) -> Tensor:
        means = torch.cat((deepest.mean((2, 3)), last.mean((2, 3))), 1)
        logits: Tensor = self.fc(functional.relu(self.dropout(self.hidden(means))))
        return logits

    def _saliency(self, last: Tensor) -> Tensor:
        if last.shape[1] != self.saliency_conv.in_channels:
            raise ValueError(
                f"the saliency head reads {self.saliency_conv.in_channels} channels of the last map, which has "
                f"{last.shape[1]}: shrink the network with its saliency, of example inputs "
                '{"images": images, "with_saliency": True}'
            )
        scores: Tensor = self.saliency_out(functional.relu(self.saliency_bn(self.saliency_conv(last))))
        return scores[:, 0].flatten(1).log_softmax(1).unflatten(1, scores.shape[2:])


class DoubleConvolution(nn.Module):
    """Two 3x3 convolutions, each with batch normalisation and ReLU."""

    def __init__(self, incoming: int, inner: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, inner, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, out, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, features: Tensor) -> Tensor:
        """features (N, incoming, H, W) -> (N, out, H, W)."""
        features = functional.relu(self.bn1(self.conv1(features)))
        return functional.relu(self.bn2(self.conv2(features)))


class DecoderStep(nn.Module):
    """The map from below, upsampled and convolved, beside the encoder's map of this level; then two convolutions."""

    def __init__(self, incoming: int, skipped: int, up: int, inner: int, out: int) -> None:
        super().__init__()
        self.up = nn.Conv2d(incoming, up, 3, padding=1)
        self.bn_up = nn.BatchNorm2d(up)
        self.conv1 = nn.Conv2d(skipped + up, inner, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, out, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """features (N, incoming, h, w), skip (N, skipped, H, W) -> (N, out, H, W)."""
        # to the size of the skip: twice as large, and one more where the pool left a row or column out
        features = functional.interpolate(features, skip.shape[2:], mode="nearest")
        features = functional.relu(self.bn_up(self.up(features)))
        features = functional.relu(self.bn1(self.conv1(torch.cat((skip, features), 1))))
        return functional.relu(self.bn2(self.conv2(features)))


class MultiTaskLoss(nn.Module):
    """Cross entropy, and how far the predicted saliency is from the gaze, the former weighed by a trained scalar.

    CE / sc^2 + ln(sc + 1) + KL(gaze || saliency) / (2 ss^2) + ln(ss + 1), with ss = 1

    The parameter is ln_sc, at first 0. The gaze map is scaled to the sum 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ln_sc = nn.Parameter(torch.tensor(0.0))

    def forward(
        self,
        logits: Tensor,
        saliency: Tensor,
        labels: Tensor,
        gaze: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The loss, a scalar of at least float32.

        logits: (N, classes); saliency: (N, H, W) logarithms of probabilities; labels: (N,) int64
        gaze: (N, h, w) floating point, >= 0, resized to (H, W) where it differs
        class_weights: (classes,) of the cross entropy; None weighs all alike
        label_smoothing: of the cross entropy, in [0, 1)
        Raises ValueError for other shapes, and for gaze maps that sum to 0, naming their rows.
        """
        if saliency.dim() != 3 or labels.shape != saliency.shape[:1]:
            raise ValueError(f"saliency must be (N, H, W) for the {len(labels)} labels, got {tuple(saliency.shape)}")
        check_batch(gaze, saliency, "saliency")
        dtype = torch.promote_types(saliency.dtype, torch.float32)
        looked = gaze_distribution(gaze.to(dtype), saliency.shape[1:])
        distance = functional.kl_div(saliency.to(dtype), looked, reduction="batchmean")
        classes = functional.cross_entropy(logits.to(dtype), labels, class_weights, label_smoothing=label_smoothing)
        return weighed_by_uncertainty(classes, self.ln_sc) + distance / 2 + math.log(2)


def _named(groups: tuple[tuple[int, ...], ...], names: tuple[str, ...]) -> Iterator[tuple[int, str, int]]:
    """Place, name and width of each convolution."""
    for place, widths in enumerate(groups):
        for name, width in zip(names, widths, strict=True):
            yield place, name, width


def _check_size(size: tuple[int, ...] | torch.Size, stride: int) -> None:
    if min(size) < stride:
        raise ValueError(
            f"images must have a height and width of at least {stride}, the stride of the network, got "
            f"{'x'.join(map(str, size))}"
        )
