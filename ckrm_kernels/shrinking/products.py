"""Sums of x^T x over rows that stream by: half of the symmetric matrix is computed, and mirrored at the end."""

from __future__ import annotations

from torch import Tensor

_NARROW = 256  # columns of the blocks below which nothing is saved


def add_products(total: Tensor, x: Tensor) -> None:
    """Adds x^T x to the blocks of the total that hold its lower triangle; `mirror` completes them.

    total: (g, columns, columns); x: (g, rows, columns)
    """
    columns = x.shape[2]
    step = max(-(-columns // 8), _NARROW)
    if columns <= step:
        total.baddbmm_(x.mT, x)
        return
    for sums, rows in zip(total, x, strict=True):
        for first in range(0, columns, step):
            sums[first:, first : first + step].addmm_(rows[:, first:].T, rows[:, first : first + step])


def mirror(total: Tensor) -> Tensor:
    """Makes the matrices (g, columns, columns) symmetric by their lower triangles, in place."""
    total.tril_()
    return total.add_(total.tril(-1).mT)
