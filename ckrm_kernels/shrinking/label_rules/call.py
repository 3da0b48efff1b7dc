"""One call of an operation, as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ckrm_kernels.shrinking.labels import Classes, Labels, Vector
from ckrm_kernels.shrinking.watching import Source

Along = dict[int, Vector]
"""The labels of a result: for each dimension that can shrink its vector."""


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    name: of the operation
    target: the operation, to run it on labels
    arguments: by name, tensors as `Labels`; a default where none was given
    shapes: of its results that are tensors
    source: where it stands in the model's source
    """

    name: str
    target: Callable[..., Any]
    arguments: Mapping[str, Any]
    shapes: Sequence[tuple[int, ...]]
    source: Source
    classes: Classes

    def __getitem__(self, argument: str) -> Any:
        return self.arguments.get(argument)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return self.shapes[0]

    @property
    def first(self) -> Labels:
        """Its first tensor."""
        return next(iter(self.tensors()))

    def tensors(self) -> Iterator[Labels]:
        """All its tensors, those in lists too."""
        return (leaf for leaf in pytree.tree_leaves(dict(self.arguments)) if isinstance(leaf, Labels))

    def because(self, what: str) -> str:
        """A reason: what the operation does, and where it stands."""
        return f"{what} ({self.name}" + (f", {self.source.place})" if self.source.place else ")")

    def join(self, first: Vector, second: Vector, what: str) -> None:
        """Make labels leave together; what: why they stay if one of them does."""
        self.classes.join(first, second, self.because(what))

    def join_rows(self, labels: Vector, rows: int, what: str) -> Vector:
        """Make equal positions of that many equal pieces leave together; gives the first piece."""
        pieces = labels.view(rows, -1)
        for piece in pieces[1:]:
            self.join(pieces[0], piece, what)
        return pieces[0]

    def fix(self, labels: Vector, what: str) -> None:
        """Make the labels stay."""
        self.classes.fix(labels, self.because(what))

    def fix_all(self, labels: Labels, what: str) -> None:
        """Make all labels of a tensor stay."""
        for vector in labels.along.values():
            self.fix(vector, what)

    def run(self, tensor: Labels, dim: int) -> Any:
        """The operation's result on the labels along one dimension of its only tensor."""
        plane = tensor.plane(dim)
        values = {name: plane if value is tensor else value for name, value in self.arguments.items()}
        return self.target(**values) if "self" not in values else self.target(values.pop("self"), **values)

    def settle(self, plane: torch.Tensor, computed: Sequence[bool] | None = None) -> Along:
        """The labels of a result of which the plane holds one for each element.

        computed: for each dimension whether its size is not a constant of the model's source; None where all are
        Where the labels vary along several dimensions, a dimension was split: the model keeps the number of pieces, and
        equal positions of them leave together. What can shrink is the dimension of computed size, else the longest.
        """
        varying = [
            dim
            for dim in range(plane.dim())
            if plane.stride(dim) and not torch.equal(plane, plane.narrow(dim, 0, 1).expand_as(plane))
        ]
        for dim in range(plane.dim()):
            if dim not in varying:
                plane = plane.narrow(dim, 0, 1)
        if not varying:
            self.fix(plane.reshape(-1), "all its filters at once")
            return {}
        can_shrink = [dim for dim in varying if computed is None or computed[dim]]
        if not can_shrink:
            self.fix(plane.reshape(-1), "a size that is a constant")
            return {}
        free = max(can_shrink, key=lambda dim: (plane.shape[dim], dim))
        pieces = plane.movedim(free, -1).reshape(-1, plane.shape[free])
        for piece in pieces[1:]:
            self.join(pieces[0], piece, "split into pieces")
        return {free: pieces[0]}


Result = Along | list[Along]
Rule = Callable[[Call], Result]


def named(rule: Rule, names: str) -> dict[str, Rule]:
    """The rule of each of the operations, their names with spaces between."""
    return dict.fromkeys(names.split(), rule)
