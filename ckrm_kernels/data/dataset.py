"""What a data set is, and how it is split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Images (B, C, H, W) float32, normalised, their labels (B,) int64 and gaze maps (B, h, w) in [0, 1], if any."""

    images: Tensor
    labels: Tensor
    gaze: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """Images (N, C, H, W) float32 and their labels (N,) int64."""

    images: Tensor
    labels: Tensor
    gaze: Tensor | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    def batch(self, indices: Tensor) -> Batch:
        """The images of those indices."""
        return Batch(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """A data set in three parts that share no image.

    train: to fit the weights; validation: to watch and to choose; held_out: to report, once, at the end
    """

    name: str
    classes: int
    train: Part
    validation: Part
    held_out: Part
    class_names: tuple[str, ...] = ()
    identity: dict = field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.train.images.shape[1:])


def split_by_class(
    labels: Tensor, seed: int, *, validation: float = 0.1, held_out: float = 0.2
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the training, validation and held-out parts: random, with the same shares of every class.

    labels: (N,) int64
    validation, held_out: their shares, the rest is for training; all three must be positive
    out: three ascending int64 tensors that partition range(N)
    """
    if not (validation > 0 and held_out > 0 and validation + held_out < 1):
        raise ValueError(f"validation and held_out must be positive and sum to < 1, got {validation} and {held_out}")
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(members.numel(), generator=generator)]
        first = round(members.numel() * held_out)
        second = round(members.numel() * (held_out + validation))
        for part, indices in zip(parts, (members[second:], members[first:second], members[:first]), strict=True):
            part.append(indices)
    train, middle, last = (torch.cat(part).sort().values for part in parts)
    return train, middle, last
