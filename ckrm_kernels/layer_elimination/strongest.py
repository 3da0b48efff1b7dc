"""Which images activate a network's feature maps most, and which layer each of them is assigned to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ckrm_kernels.data import Batch, Part
from ckrm_kernels.data.files import Track, untracked
from ckrm_kernels.models import SkippableConvolutions
from ckrm_kernels.training.evaluation import outputs_of


@dataclass(frozen=True)
class Selection:
    """The images that were chosen of one part, by their rows in it.

    chosen: for each layer, for each of its maps, rows, the strongest activation first; an image may be in several
    """

    chosen: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def layer_of_row(self) -> dict[int, int]:
        """For each chosen row, ascending, its layer from 0: the highest one that chose it."""
        layers = {row: layer for layer, maps in enumerate(self.chosen) for rows in maps for row in rows}
        return dict(sorted(layers.items()))

    @property
    def rows(self) -> Tensor:
        """(M,) int64, ascending."""
        return torch.tensor(list(self.layer_of_row), dtype=torch.int64)

    @property
    def layers(self) -> Tensor:
        """(M,) int64 from 0, of each row."""
        return torch.tensor(list(self.layer_of_row.values()), dtype=torch.int64)

    @property
    def found(self) -> tuple[int, ...]:
        """How many different images each layer chose."""
        return tuple(len({row for rows in maps for row in rows}) for maps in self.chosen)

    @property
    def won(self) -> tuple[int, ...]:
        """How many images are assigned to each layer."""
        return tuple(self.layers.bincount(minlength=len(self.chosen)).tolist())


def strongest_activations(
    model: SkippableConvolutions,
    part: Part,
    maps: int = 10,
    images_per_map: int = 10,
    track: Track = untracked,
) -> Selection:
    """For each convolution's first maps, the images whose activation, after ReLU, has the highest mean absolute value.

    part: read in batches; maps: at most the network's width
    track: shows progress, called as `rich.progress.track` is
    Of equal activations the image that comes first in the part is taken. A map that an image does not activate at all
    does not choose it, so that a dead map chooses none. The model is left in the mode that it was in. Raises ValueError
    where the part holds fewer images than could be chosen, layers x maps x images.
    """
    layers = len(model.widths)
    if maps > min(model.widths):
        raise ValueError(f"maps must be at most the width of the convolutions, {min(model.widths)}, got {maps}")
    check_enough(len(part), layers, maps, images_per_map)
    scores = _mean_activations(model, part, maps, track)
    order = scores.argsort(dim=0, descending=True, stable=True)[:images_per_map]
    chosen = [
        tuple(row for row in order[:, column].tolist() if scores[row, column] > 0) for column in range(scores.shape[1])
    ]
    return Selection(tuple(tuple(chosen[layer * maps : (layer + 1) * maps]) for layer in range(layers)))


def check_enough(images: int, layers: int, maps: int, images_per_map: int) -> None:
    """Raises ValueError where so many images are fewer than could be chosen."""
    most = layers * maps * images_per_map
    if images < most:
        raise ValueError(
            f"the training part holds {images} images, and the selection needs at least {layers} layers x {maps} maps "
            f"x {images_per_map} images = {most}: take more of the data, or lower maps or images_per_map"
        )


def _mean_activations(model: SkippableConvolutions, part: Part, maps: int, track: Track) -> Tensor:
    """(N, layers x maps) float32 on the CPU."""

    def means(batch: Batch) -> Tensor:
        return torch.cat([features[:, :maps].abs().mean((2, 3)) for features in model.activations(batch.images)], 1)

    return outputs_of(model, part, torch.arange(len(part)), means, partial(track, description="choosing images"))
