"""A part of a data set's training images, for trainings that are to be shorter."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ckrm_kernels.data.dataset import Dataset


def with_fraction(data: Dataset, fraction: float, seed: int) -> Dataset:
    """The data set with a random fraction of its training images, of every class alike, copied into memory.

    fraction: in (0, 1]; 1 gives the data set itself
    The other parts, and what all images are normalised with, stay as they are.
    """
    if fraction == 1:
        return data
    train = data.train.rows(rows_by_class(data.train.labels, fraction, seed))
    return replace(data, train=train, identity={**data.identity, "fraction": fraction})


def rows_by_class(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Ascending indices of a random fraction of every class, at least one of each. labels: (N,) int64"""
    generator, chosen = torch.Generator().manual_seed(seed), []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = max(round(len(members) * fraction), 1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values
