"""Ridge regression from sums of products, streamed in float64."""

from __future__ import annotations

import torch
from torch import Tensor


class Sums:
    """Of pairs of rows x (columns) and t (targets), for each of g regressions on its own.

    Rows are shifted by the means of the first ones added, so that what varies little about a large mean keeps its
    digits.
    """

    def __init__(self, shift: tuple[Tensor, Tensor] | None = None) -> None:
        self.shift = shift
        self.count = 0
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, t: Tensor) -> None:
        """x: (rows, g, columns), t: (rows, g, targets), of any floating dtype."""
        if not len(x):
            return
        x, t = x.double().transpose(0, 1), t.double().transpose(0, 1)
        if self.shift is None:
            self.shift = (x.mean(1, keepdim=True), t.mean(1, keepdim=True))
        x, t = x - self.shift[0], t - self.shift[1]
        new = [x.mT @ x, x.mT @ t, t.square().sum(1), x.sum(1), t.sum(1)]
        self._sums = [old.add_(each) for old, each in zip(self._sums, new, strict=True)] if self._sums else new
        self.count += x.shape[1]

    def __add__(self, other: Sums) -> Sums:
        """Of the rows of both; they must share a shift."""
        if not (self.count and other.count):
            return self if self.count else other
        result = Sums(self.shift)
        result.count = self.count + other.count
        result._sums = [one + two for one, two in zip(self._sums, other._sums, strict=True)]
        return result

    def moments(self, centred: bool) -> Moments:
        """Means of products: about the means, or as they are."""
        assert self.shift is not None
        xx, xt, tt, x, t = (each / self.count for each in self._sums)
        xx, xt, tt = xx - _outer(x, x), xt - _outer(x, t), tt - t.square()
        x, t = x + self.shift[0].squeeze(1), t + self.shift[1].squeeze(1)
        if not centred:
            xx, xt, tt = xx + _outer(x, x), xt + _outer(x, t), tt + t.square()
        return Moments(xx, xt, tt, x, t, centred)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)


class Moments:
    """Of x and t, in float64: xx (g, columns, columns), xt (g, columns, targets), tt (g, targets), means x and t."""

    def __init__(self, xx: Tensor, xt: Tensor, tt: Tensor, x: Tensor, t: Tensor, centred: bool) -> None:
        self.xx, self.xt, self.tt, self.x, self.t, self.centred = xx, xt, tt, x, t, centred

    @property
    def finite(self) -> bool:
        """Whether no row held NaN or Inf."""
        return bool(torch.isfinite(self.xx).all() and torch.isfinite(self.tt).all())

    def ridge(self, around: Tensor, ridge: float) -> Tensor:
        """The matrix (g, targets, columns) of the least squared error plus the squared distance from another.

        ridge: the factor of the squared distance, in units of the mean diagonal of xx
        """
        penalty = ridge * self.xx.diagonal(dim1=1, dim2=2).mean(1)
        penalised = self.xx + torch.diag_embed(penalty.unsqueeze(1).expand(self.xx.shape[:2]))
        wanted = self.xt - self.xx @ around.mT
        factor, info = torch.linalg.cholesky_ex(penalised)
        if bool(info.any()):
            change = torch.linalg.pinv(penalised, hermitian=True) @ wanted
        else:
            change = torch.cholesky_solve(wanted, factor)
        return around + change.mT

    def constant(self, matrix: Tensor) -> Tensor:
        """What must be added to x times the matrix for its mean to be that of t: (g, targets)."""
        return self.t - (matrix @ self.x.unsqueeze(-1)).squeeze(-1)

    def share(self, matrix: Tensor, constant: Tensor) -> float:
        """The squared error of x times the matrix plus the constant, as a share of the targets' variance.

        constant: 0 where the moments are not centred
        """
        squared = self.tt - 2 * (matrix.mT * self.xt).sum(1) + ((matrix @ self.xx) * matrix).sum(2)
        energy = self.t.square()
        if self.centred:
            squared = squared + (self.constant(matrix) - constant).square()
        variance = self.tt if self.centred else self.tt - energy
        least = torch.finfo(torch.float64).eps * energy.sum()  # of targets that do not vary, their square
        scale = float(torch.maximum(variance.sum(), least))
        error = max(float(squared.sum()), 0.0)
        return error / scale if error else 0.0
