"""What a data set is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

_CHUNK = 1024  # images read at once


class Batch(NamedTuple):
    """Some rows of a part.

    images: (B, C, H, W) float32, normalised
    labels: (B,) int64
    gaze: (B, h, w) float32 in [0, 1], or None
    depths: (B,) int64, how many of its layers a network that can skip some has each image pass, or None
    """

    images: Tensor
    labels: Tensor
    gaze: Tensor | None
    depths: Tensor | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a network's forward pass is given."""
        return (self.images,) if self.depths is None else (self.images, self.depths)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        """The same rows on a device."""
        images, labels = (each.to(device, non_blocking=non_blocking) for each in (self.images, self.labels))
        gaze, depths = (
            None if each is None else each.to(device, non_blocking=non_blocking) for each in (self.gaze, self.depths)
        )
        return Batch(images, labels, gaze, depths)


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, in the units of the stored images."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, images: Tensor) -> Normalization:
        """That of all pixels of images (N, C, H, W) uint8, exactly; a constant channel has the deviation 1."""
        counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
        for chunk in images.split(_CHUNK):
            for channel, pixels in enumerate(chunk.unbind(1)):
                counts[channel] += pixels.flatten().bincount(minlength=256)
        values, shares = torch.arange(256, dtype=torch.float64), counts / counts.sum(1, keepdim=True).double()
        mean = (shares * values).sum(1)
        deviation = (shares * (values - mean[:, None]).square()).sum(1).sqrt()
        deviation = torch.where(counts.amax(1) == counts.sum(1), 1.0, deviation)
        return cls(tuple(mean.tolist()), tuple(deviation.tolist()))

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) float32, less the mean and over the deviation."""
        mean, deviation = (images.new_tensor(numbers)[:, None, None] for numbers in (self.mean, self.deviation))
        return (images - mean) / deviation


@dataclass(frozen=True, eq=False)
class Part:
    """Images with their labels and, where there are any, gaze maps and regions.

    images: (N, C, H, W) uint8, float16 or float32; may be memory-mapped
    labels: (N,) int64
    gaze: (N, h, w) in [0, 1], where people looked
    regions: (N, R, h, w) bool, such as heart and lungs, for localisation
    normalization: applied to the images of a batch; None leaves them as they are
    depths: (N,) int64, how many of its layers a network that can skip some has each image pass
    As the data set of a `torch.utils.data.DataLoader` whose collate_fn returns its argument, it is read by batches.
    """

    images: Tensor
    labels: Tensor
    gaze: Tensor | None = None
    regions: Tensor | None = None
    normalization: Normalization | None = None
    depths: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("images", "gaze", "regions", "depths"):
            rows = getattr(self, name)
            if rows is not None and rows.shape[0] != len(self):
                raise ValueError(f"{name} must have a row for each of {len(self)} labels, got {rows.shape[0]}")

    def __len__(self) -> int:
        return self.labels.shape[0]

    def batch(self, indices: Tensor) -> Batch:
        """The rows at indices (B,) int64; no other is read."""
        images = self.images[indices].float()
        if self.normalization is not None:
            images = self.normalization(images)
        gaze = None if self.gaze is None else self.gaze[indices].float()
        depths = None if self.depths is None else self.depths[indices]
        return Batch(images, self.labels[indices], gaze, depths)

    def rows(self, indices: Tensor) -> Part:
        """A part of the rows at indices (B,) int64, copied into memory."""
        gaze, regions, depths = (
            None if each is None else each[indices] for each in (self.gaze, self.regions, self.depths)
        )
        return Part(self.images[indices], self.labels[indices], gaze, regions, self.normalization, depths)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.batch(torch.tensor(indices, dtype=torch.int64))


class Skipped(NamedTuple):
    """A file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three parts that share no image.

    train: to fit the weights; validation: to watch and to choose; held_out: to report, once, at the end
    class_names: one for each class, where they are known
    identity: what decides the content, as JSON: name, settings and, by what they are of, digests of the contents;
        nothing in it tells where the files lie
    skipped: what was left out with skip_bad
    region_of_class: for classes that show in one of the parts' regions, the index of that region
    standardized: what the parts' images were standardised with where they are no longer as the files have them
    """

    name: str
    classes: int
    train: Part
    validation: Part
    held_out: Part
    class_names: tuple[str, ...] = ()
    identity: dict[str, Any] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    region_of_class: dict[int, int] = field(default_factory=dict)
    standardized: Normalization | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.train.images.shape[1:])

    @property
    def names_of_classes(self) -> tuple[str, ...]:
        """`class_names`, or the labels where they are not known."""
        return self.class_names or tuple(map(str, range(self.classes)))

    @property
    def standardization(self) -> Normalization | None:
        """What makes a network's input of the files' pixels; None where they are its input as they are."""
        return self.standardized or self.train.normalization

    @property
    def missing_classes(self) -> tuple[str, ...]:
        """A sentence for each class that some part has images of and another has not."""
        parts = (self.train, self.validation, self.held_out)
        counts = torch.stack([part.labels.bincount(minlength=self.classes) for part in parts], 1)
        incomplete = ((counts == 0).any(1) & (counts > 0).any(1)).nonzero().flatten()
        return tuple(self._missing(label, *counts[label].tolist()) for label in incomplete.tolist())

    def _missing(self, label: int, train: int, validation: int, held_out: int) -> str:
        without = [part for part, count in (("validation", validation), ("held-out", held_out)) if count == 0]
        what = [f"the {' and '.join(without)} scores say nothing of it"] if without else []
        what += [] if train else ["no network can learn it"]
        return (
            f"class {self.names_of_classes[label]} has too few images, {train + validation + held_out}: {train} for "
            f"training, {validation} for validation, {held_out} held out; {', and '.join(what)}"
        )
