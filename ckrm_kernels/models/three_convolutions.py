"""Three convolutions and one dense layer, of which images may skip the last ones: CNN 1 and CNN 3 of layer elimination.

"Systematic Model Complexity Reduction by Elimination of Irrelevant Layers in Convolutional Neural Networks", section 3:
three convolutions without pooling, of equal height and width, ReLU, one dense layer. It gives no sizes. Since one dense
layer has to take what any of the convolutions gives, all three have one width here, 3x3 kernels and a padding of 1, and
the dense layer reads all H x W positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ckrm_kernels.models.network import Network
from ckrm_kernels.whole_numbers import whole_number

if TYPE_CHECKING:
    from ckrm_kernels.data import Dataset

LAYERS = 3


@dataclass(frozen=True)
class ThreeConvolutions(Network):
    """The network by its one width.

    width: filters of each convolution
    image_size: (H, W) of its images, which decides the size of the dense layer
    in_channels, classes: what goes in and comes out
    Raises ValueError, naming it, for a setting that is not as above.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: str = field(default="three-convolutions", init=False)
    width: int = 16
    image_size: tuple[int, int] = (28, 28)
    in_channels: int = 1
    classes: int = 10

    def __post_init__(self) -> None:
        for name in ("width", "in_channels", "classes"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        size: Any = self.image_size
        if not isinstance(size, (list, tuple)) or len(size) != 2:
            raise ValueError(f"image_size must be two whole numbers, height and width, got {size!r}")
        object.__setattr__(self, "image_size", tuple(whole_number("image_size", side) for side in size))

    def build(self) -> SkippableConvolutions:
        """The network, newly initialised by torch's default generator."""
        return SkippableConvolutions(self)

    def widths(self) -> dict[str, int]:
        """The one width, "width"."""
        return {"width": self.width}

    def with_widths(self, widths: Mapping[str, int]) -> ThreeConvolutions:
        """The same network of another width; raises ValueError for an unknown name."""
        unknown = sorted(set(widths) - {"width"})
        if unknown:
            raise ValueError(f"widths has unknown names {unknown}; accepted are ['width']")
        return replace(self, width=widths.get("width", self.width))

    def width_of_layer(self) -> dict[str, str]:
        """All three convolutions have the one width."""
        return {f"conv{layer}": "width" for layer in range(1, LAYERS + 1)}

    def stage_of_width(self) -> dict[str, str]:
        """One stage."""
        return {"width": "convolutions"}

    def adapted_to(self, data: Dataset) -> ThreeConvolutions:
        """The network for the data's images and classes."""
        channels, height, width = data.image_shape
        return replace(self, in_channels=channels, image_size=(height, width), classes=data.classes)


class SkippableConvolutions(nn.Module):
    """The built network. An image of depth d passes the first d convolutions, then the dense layer."""

    def __init__(self, shape: ThreeConvolutions) -> None:
        super().__init__()
        height, width = shape.image_size
        self.image_shape = (shape.in_channels, height, width)
        self.conv1 = nn.Conv2d(shape.in_channels, shape.width, 3, padding=1)
        self.conv2 = nn.Conv2d(shape.width, shape.width, 3, padding=1)
        self.conv3 = nn.Conv2d(shape.width, shape.width, 3, padding=1)
        self.dense = nn.Linear(shape.width * height * width, shape.classes)

    def forward(self, images: Tensor, depths: Tensor | None = None) -> Tensor:
        """images (N, C, H, W) -> logits (N, classes).

        depths: (N,) int64 from 1 to 3, how many convolutions each image passes; None: all
        A convolution computes only for the images that pass it, in one batch, and is not called where there are none:
        its weight then has no gradient at all, not one of zeros, and an optimiser leaves it and its own state alone.
        Raises ValueError for images of another size and for other depths.
        """
        if depths is None:
            return self.to_depth(images, LAYERS)
        leaving = self._counts(images, depths)
        order = depths.argsort(stable=True)
        rest = images[order]
        ready: list[Tensor] = []
        for convolution, count in zip(self._convolutions(), leaving, strict=True):
            if ready and not len(rest):
                break
            rest = convolution(rest).relu()
            ready.append(rest[:count])
            rest = rest[count:]
        return self._logits(torch.cat(ready))[order.argsort()]

    def to_depth(self, images: Tensor, depth: int) -> Tensor:
        """images (N, C, H, W) -> logits (N, classes), all images through the first `depth` convolutions."""
        *_, last = islice(self.activations(images), depth)
        return self._logits(last)

    def activations(self, images: Tensor) -> Iterator[Tensor]:
        """Of each convolution in turn, what it gives after ReLU: (N, width, H, W)."""
        self._check_images(images)
        for convolution in self._convolutions():
            images = convolution(images).relu()
            yield images

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature maps of each convolution."""
        return tuple(convolution.out_channels for convolution in self._convolutions())

    def _convolutions(self) -> tuple[nn.Conv2d, ...]:
        return self.conv1, self.conv2, self.conv3

    def _logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self.dense(features.flatten(1))
        return logits

    def _check_images(self, images: Tensor) -> None:
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"images must be (N, {', '.join(map(str, self.image_shape))}), got {tuple(images.shape)}")

    def _counts(self, images: Tensor, depths: Tensor) -> list[int]:
        """How many of the images have each depth."""
        self._check_images(images)
        if depths.dtype != torch.int64 or depths.shape != images.shape[:1]:
            raise ValueError(
                f"depths must be int64 ({len(images)},), one for each image, got {depths.dtype} {tuple(depths.shape)}"
            )
        counts: list[int] = torch.bincount(depths.clamp(0, LAYERS + 1), minlength=LAYERS + 2).tolist()
        if counts[0] or counts[-1]:
            raise ValueError(f"depths must lie from 1 to {LAYERS}, got {int(depths.min())} to {int(depths.max())}")
        return counts[1:-1]
