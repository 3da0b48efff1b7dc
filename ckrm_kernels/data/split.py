"""How a data set is split into training, validation and held-out parts."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

Indices = tuple[Tensor, Tensor, Tensor]


def split_by_class(
    labels: Tensor, seed: int, *, validation: float = 0.1, held_out: float = 0.2, groups: Tensor | None = None
) -> Indices:
    """Indices of the training, validation and held-out parts: random, with the same shares of every class.

    labels: (N,) int64
    validation, held_out: their shares, the rest is for training; all three must be positive
    groups: (N,) int64, such as the patient of each image: no group is on two sides, and the shares of every class are
        as near as moving any one group can bring them
    out: three ascending int64 tensors that partition range(N)
    """
    if not (validation > 0 and held_out > 0 and validation + held_out < 1):
        raise ValueError(f"validation and held_out must be positive and sum to < 1, got {validation} and {held_out}")
    if groups is not None:
        if groups.shape != labels.shape:
            raise ValueError(f"groups must have the shape of labels, {tuple(labels.shape)}, got {tuple(groups.shape)}")
        return _split_groups(labels, groups, seed, validation, held_out)
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(members.numel(), generator=generator)]
        first, second = _ends(members.numel(), validation, held_out)
        for part, indices in zip(parts, (members[second:], members[first:second], members[:first]), strict=True):
            part.append(indices)
    train, middle, last = (torch.cat(part).sort().values for part in parts)
    return train, middle, last


def split_training(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of a training and a validation part, 90 / 10 % by class, of data whose held-out part is another file."""
    train, validation, rest = split_by_class(labels, seed)
    return torch.cat([train, rest]).sort().values, validation


def _ends(count: int, validation: float, held_out: float) -> tuple[int, int]:
    """Where the held-out and the validation images end in a class of so many."""
    return round(count * held_out), round(count * (held_out + validation))


def _split_groups(labels: Tensor, groups: Tensor, seed: int, validation: float, held_out: float) -> Indices:
    """Every group goes to a random part; then one after another is moved while that brings the shares closer."""
    classes, label_of = labels.unique(return_inverse=True)
    names, group_of = groups.unique(return_inverse=True)
    sizes = torch.zeros(len(names), len(classes), dtype=torch.int64)  # images of each class in each group
    sizes.index_put_((group_of, label_of), torch.ones_like(labels), accumulate=True)
    wanted = torch.tensor(
        [
            [end - start for start, end in pairwise((0, *_ends(count, validation, held_out), count))]
            for count in sizes.sum(0).tolist()
        ],
        dtype=torch.int64,
    ).reshape(-1, 3)  # (classes, 3): held-out, validation, training
    draw = torch.rand(len(names), generator=torch.Generator().manual_seed(seed))
    side = torch.bucketize(draw, torch.tensor([held_out, held_out + validation]))
    excess = torch.stack([sizes[side == part].sum(0) for part in range(3)], 1) - wanted
    every = torch.arange(len(names))
    while len(names):
        # by how much a group's move changes half the sum of the squared excesses
        pull = sizes @ excess
        change = pull - pull.gather(1, side[:, None]) + sizes.square().sum(1, keepdim=True)
        change[every, side] = 0
        if change.min() >= 0:
            break
        group, target = divmod(int(change.argmin()), 3)
        excess[:, side[group]] -= sizes[group]
        excess[:, target] += sizes[group]
        side[group] = target
    last, middle, train = ((side[group_of] == part).nonzero().flatten() for part in range(3))
    return train, middle, last
