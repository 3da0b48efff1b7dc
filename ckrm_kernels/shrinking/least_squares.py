"""Ridge regressions of targets t on columns x, from rows that stream by, in float64; g of them side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from ckrm_kernels.shrinking.products import add_products, mirror


class Sums:
    """The sums of products of rows: memory for columns x columns, however many rows there are.

    Rows are shifted by the mean of the first ones added: what varies little about a large mean keeps its digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift: list[Tensor] = []
        self._sums: list[Tensor] = []

    def alike(self) -> Sums:
        """Others, of no rows yet, that have the same shift and so can be joined with these."""
        result = Sums()
        result._shift = self._shift
        return result

    def add(self, x: Tensor, t: Tensor) -> None:
        """x: (rows, g, columns), t: (rows, g, targets), of any floating dtype."""
        if not len(x):
            return
        x, t = x.double().transpose(0, 1), t.double().transpose(0, 1)
        if not self._shift:
            self._shift += [x.mean(1, keepdim=True), t.mean(1, keepdim=True)]
        if not self._sums:
            groups, columns, targets = len(x), x.shape[2], t.shape[2]
            shapes = [(columns, columns), (columns, targets), (targets,), (columns,), (targets,)]
            self._sums += [x.new_zeros(groups, *shape) for shape in shapes]
        x, t = x - self._shift[0], t - self._shift[1]
        xx, xt, tt, x_sum, t_sum = self._sums
        add_products(xx, x)
        xt.baddbmm_(x.mT, t)
        tt += t.square().sum(1)
        x_sum += x.sum(1)
        t_sum += t.sum(1)
        self.count += x.shape[1]

    def joined(self, other: Sums) -> Sums:
        """Those of the rows of both."""
        result = self.alike()
        result.count = self.count + other.count
        result._sums = [one + two for one, two in zip(self._sums, other._sums, strict=True)]
        return result

    def problem(self, centred: bool) -> SummedProblem:
        """The regression on the rows; centred: with a constant."""
        xx, xt, tt, x, t = (each / self.count for each in self._sums)
        xx, xt, tt = mirror(xx).sub_(_outer(x, x)), xt - _outer(x, t), tt - t.square()
        x, t = x + self._shift[0].squeeze(1), t + self._shift[1].squeeze(1)
        return SummedProblem(xx, xt, tt, x, t, centred)


class SummedProblem:
    """Covariances xx (g, columns, columns), xt (g, columns, targets), variances tt (g, targets), means x and t."""

    def __init__(self, xx: Tensor, xt: Tensor, tt: Tensor, x: Tensor, t: Tensor, centred: bool) -> None:
        self.variance, self.energy = tt, t.square()
        self.x, self.t, self.centred = x, t, centred
        self.xx, self.xt, self.tt = xx, xt, tt
        if not centred:
            self.xx, self.xt, self.tt = xx + _outer(x, x), xt + _outer(x, t), tt + t.square()

    @property
    def finite(self) -> bool:
        """Whether no row held NaN or Inf."""
        return bool(torch.isfinite(self.xx).all() and torch.isfinite(self.tt).all())

    def solved(self, around: Tensor, ridge: float) -> Tensor:
        """The matrix (g, targets, columns) of the least squared error plus the penalised distance from another.

        ridge: the factor of the squared distance, in units of the mean square of the columns
        """
        penalty = ridge * self.xx.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
        penalised = self.xx + torch.diag_embed(penalty.expand(self.xx.shape[:2]))
        return around + _solve(penalised, self.xt - self.xx @ around.mT).mT

    def constant(self, matrix: Tensor) -> Tensor:
        """What lets the mean of x times the matrix be that of t: (g, targets); 0 where it is not centred."""
        best = self.t - (matrix @ self.x.unsqueeze(-1)).squeeze(-1)
        return best if self.centred else torch.zeros_like(best)

    def share(self, matrix: Tensor, constant: Tensor) -> float:
        """The squared error of x times the matrix plus the constant, as a share of the variance of t.

        constant: (g, targets); 0 where it is not centred
        """
        squared = self.tt - 2 * (matrix.mT * self.xt).sum(1) + ((matrix @ self.xx) * matrix).sum(2)
        if self.centred:
            squared = squared + (self.constant(matrix) - constant).square()
        return _share(squared, self.variance, self.energy)


class Rows:
    """The rows themselves: for more columns than rows."""

    def __init__(self) -> None:
        self.count = 0
        self._rows: list[tuple[Tensor, Tensor]] = []

    def alike(self) -> Rows:
        """Others, of no rows yet."""
        return Rows()

    def add(self, x: Tensor, t: Tensor) -> None:
        """x: (rows, g, columns), t: (rows, g, targets), of any floating dtype."""
        self._rows.append((x, t))
        self.count += len(x)

    def joined(self, other: Rows) -> Rows:
        """Those of both."""
        result = Rows()
        result._rows, result.count = self._rows + other._rows, self.count + other.count
        return result

    def problem(self, centred: bool) -> RowProblem:
        """The regression on the rows; centred: with a constant."""
        x, t = (torch.cat(each).double().transpose(0, 1) for each in zip(*self._rows, strict=True))
        return RowProblem(x, t, centred)


class RowProblem:
    """As `SummedProblem`, of the rows x (g, rows, columns) and t (g, rows, targets)."""

    def __init__(self, x: Tensor, t: Tensor, centred: bool) -> None:
        self.x, self.t, self.centred = x, t, centred

    @property
    def finite(self) -> bool:
        """Whether no row holds NaN or Inf."""
        return bool(torch.isfinite(self.x).all() and torch.isfinite(self.t).all())

    def solved(self, around: Tensor, ridge: float) -> Tensor:
        """The matrix (g, targets, columns), by the products of rows instead of columns."""
        off = self.t - self.x @ around.mT
        x = self.x - self.x.mean(1, keepdim=True) if self.centred else self.x
        off = off - off.mean(1, keepdim=True) if self.centred else off
        penalty = ridge * x.square().mean((1, 2)).unsqueeze(1) * x.shape[1]
        products = x @ x.mT
        penalised = products + torch.diag_embed(penalty.expand(products.shape[:2]))
        return around + _solve(penalised, off).mT @ x

    def constant(self, matrix: Tensor) -> Tensor:
        """What lets the mean of x times the matrix be that of t: (g, targets); 0 where it is not centred."""
        best = (self.t - self.x @ matrix.mT).mean(1)
        return best if self.centred else torch.zeros_like(best)

    def share(self, matrix: Tensor, constant: Tensor) -> float:
        """The squared error of x times the matrix plus the constant, as a share of the variance of t."""
        squared = (self.t - self.x @ matrix.mT - constant.unsqueeze(1)).square().mean(1)
        return _share(squared, self.t.var(1, correction=0), self.t.mean(1).square())


Problem = SummedProblem | RowProblem


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Of symmetric positive matrices; of singular ones the least solution."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool(info.any()):
        return torch.linalg.pinv(matrix, hermitian=True) @ right
    return torch.cholesky_solve(right, factor)


def _share(squared: Tensor, variance: Tensor, energy: Tensor) -> float:
    error = max(float(squared.sum()), 0.0)
    rounding = torch.finfo(torch.float64).eps * float(energy.sum())  # below, targets do not vary
    scale = max(float(variance.sum()), rounding)
    return error / (scale or 1.0)  # of targets that are all 0 the error itself
