"""A part of a data set, for a first look at what takes long on all of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ckrm_kernels.data.dataset import Dataset, Part


def sampled(data: Dataset, fraction: float, seed: int) -> Dataset:
    """The data set with that share of each class's images to train and to validate with, at least one.

    The held-out part stays whole, so that scores are comparable, and the standardisation stays that of all images.
    """
    generator = torch.Generator().manual_seed(seed)
    train, validation = (_sampled(part, fraction, generator) for part in (data.train, data.validation))
    return replace(data, train=train, validation=validation, identity={**data.identity, "fraction": fraction})


def _sampled(part: Part, fraction: float, generator: torch.Generator) -> Part:
    kept = []
    for label in part.labels.unique():
        members = (part.labels == label).nonzero().flatten()
        count = max(round(len(members) * fraction), 1)
        kept.append(members[torch.randperm(len(members), generator=generator)[:count]])
    rows = torch.cat(kept).sort().values

    def of_rows(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    return replace(
        part,
        images=part.images[rows],
        labels=part.labels[rows],
        gaze=of_rows(part.gaze),
        regions=of_rows(part.regions),
    )
