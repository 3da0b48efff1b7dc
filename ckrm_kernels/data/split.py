"""How a data set is split into training, validation and held-out parts."""

from __future__ import annotations

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
    Raises ValueError for shares that are not as above, and for groups of another shape than labels.
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
    """Indices of a training and a validation part, 90 / 10 % by class, of data whose held-out part is another file.

    Raises ValueError where the classes are too small for a validation part.
    """
    train, validation, rest = split_by_class(labels, seed)
    if not len(validation):
        raise ValueError(f"the validation part is empty: {len(labels)} images for training are too few")
    return torch.cat([train, rest]).sort().values, validation


def _ends(count: int, validation: float, held_out: float) -> tuple[int, int]:
    """Where the held-out and the validation images end in a class of so many."""
    return round(count * held_out), round(count * (held_out + validation))


def _split_groups(labels: Tensor, groups: Tensor, seed: int, validation: float, held_out: float) -> Indices:
    """Groups go, large ones first, to the part that needs them most; then single ones move while that helps.

    What is made small is the sum over classes and parts of the squared excess over the wanted number of images, over
    that number.
    """
    classes, label_of = labels.unique(return_inverse=True)
    names, group_of = groups.unique(return_inverse=True)
    sizes = torch.zeros(len(names), len(classes), dtype=torch.float64)  # images of each class in each group
    sizes.index_put_((group_of, label_of), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    wanted = torch.zeros(len(classes), 3, dtype=torch.float64)  # held-out, validation, training
    for row, count in zip(wanted, sizes.sum(0).tolist(), strict=True):
        first, second = _ends(int(count), validation, held_out)
        row += torch.tensor([first, second - first, count - second])
    excess, weight = -wanted, 1 / wanted.clamp(min=1)

    def change(moved: Tensor, sign: int) -> Tensor:
        """(G, 3): by how much the sum grows when groups of sizes (G, classes) enter (1) or leave (-1) each part."""
        return (moved.square() @ weight + 2 * sign * moved @ (excess * weight)).round(decimals=9)

    side = torch.zeros(len(names), dtype=torch.int64)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    for group in order[sizes[order].sum(1).argsort(descending=True, stable=True)]:
        side[group] = change(sizes[group], 1).argmin()
        excess[:, side[group]] += sizes[group]
    while len(names):
        gain = change(sizes, 1) + change(sizes, -1).gather(1, side[:, None])
        gain.scatter_(1, side[:, None], 0)
        if gain.min() >= 0:
            break
        group, target = divmod(int(gain.argmin()), 3)
        excess[:, side[group]] -= sizes[group]
        excess[:, target] += sizes[group]
        side[group] = target
    last, middle, train = ((side[group_of] == part).nonzero().flatten() for part in range(3))
    return train, middle, last
