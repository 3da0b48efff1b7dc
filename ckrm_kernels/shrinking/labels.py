"""Labels: which filter each index of a tensor's dimensions belongs to, and which filters leave together."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

Vector = torch.Tensor
"""int64, one label for each index of a dimension; 0 where the index always stays."""


@dataclass(frozen=True)
class Labels:
    """The labels of one tensor of the traced network.

    shape: of the tensor
    along: for each dimension that can shrink its vector of labels; a dimension without one always keeps its size
    tensor: the qualified name of the parameter or buffer that it is, None for everything that is computed
    """

    shape: tuple[int, ...]
    along: Mapping[int, Vector] = field(default_factory=dict)
    tensor: str | None = None

    def vector(self, dim: int) -> Vector:
        """The labels along the dimension, zeros where it always keeps its size."""
        dim %= len(self.shape)
        return self.along[dim] if dim in self.along else torch.zeros(self.shape[dim], dtype=torch.int64)

    def plane(self, dim: int) -> torch.Tensor:
        """The labels along the dimension as a tensor of the whole shape, of stride 0 along the other ones."""
        shape = [1] * len(self.shape)
        shape[dim] = -1
        return self.along[dim].view(shape).expand(self.shape)


class Classes:
    """Labels joined into classes that leave together or not at all, each with the reason why it can't, if any."""

    def __init__(self) -> None:
        self._parent = [0]
        self._reasons = {0: "it always stays"}
        self._first: list[int] = []
        self._owners: list[tuple[str, int, int]] = []
        self._statistics: set[int] = set()

    def new(self, tensor: str, dim: int, size: int) -> Vector:
        """Labels for the indices of a dimension of a parameter or buffer."""
        self._first.append(len(self._parent))
        self._owners.append((tensor, dim, size))
        return self.anonymous(size)

    def anonymous(self, size: int) -> Vector:
        """Labels that belong to no parameter or buffer."""
        first = len(self._parent)
        self._parent.extend(range(first, first + size))
        return torch.arange(first, first + size)

    def origin(self, labels: Vector) -> tuple[str, int] | None:
        """The tensor and dimension whose labels these are, all of them and in order."""
        place = bisect.bisect_right(self._first, int(labels[0])) - 1
        if place < 0:
            return None
        tensor, dim, size = self._owners[place]
        whole = torch.arange(self._first[place], self._first[place] + size)
        return (tensor, dim) if torch.equal(labels, whole) else None

    def owned(self) -> list[tuple[str, int, range]]:
        """Every tensor and dimension with its labels, in the order in which they were made."""
        return [
            (tensor, dim, range(first, first + size))
            for first, (tensor, dim, size) in zip(self._first, self._owners, strict=True)
        ]

    def find(self, label: int) -> int:
        """The label that stands for the class."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def join(self, first: Vector, second: Vector, reason: str) -> None:
        """Make the labels leave together, pair by pair; the reason holds where one of a pair always stays."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            one, other = self.find(one), self.find(other)
            if one == other:
                continue
            if one == 0 or other == 0:
                self._reasons.setdefault(one or other, reason)
                continue
            low, high = min(one, other), max(one, other)
            self._parent[high] = low
            if high in self._reasons:
                self._reasons.setdefault(low, self._reasons.pop(high))

    def fix(self, labels: Vector, reason: str) -> None:
        """Make the classes of these labels stay."""
        for label in labels.unique().tolist():
            self._reasons.setdefault(self.find(label), reason)

    def reason(self, label: int) -> str | None:
        """Why the label's class can't leave; None if it can."""
        return self._reasons.get(self.find(label))

    def all_fixed(self, labels: Vector) -> bool:
        """Whether none of the labels' classes can leave."""
        return all(self.reason(label) is not None for label in labels.unique().tolist())

    def mark_statistics(self, labels: Vector) -> None:
        """Note that statistics are taken over these labels' filters."""
        self._statistics.update(labels.tolist())

    def with_statistics(self) -> set[int]:
        """The classes whose filters statistics are taken over."""
        return {self.find(label) for label in self._statistics}
