"""Which filters can leave at what cost: elimination one by one, the consumers' weights refitted after each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ckrm_kernels.shrinking.couplings import Coupling, Graph, Layer
from ckrm_kernels.shrinking.moments import Moments, tensor_of, weight_matrix

_SPARSE = 0.75  # of the columns of an inverse: with fewer left it is made smaller
_PENDING = 128  # rows of updates of an inverse that are done at once
_NO_ENERGY = 1e-12  # of the second moment of a layer's output: below, its variance is rounding


@dataclass(frozen=True)
class Curve:
    """In which order a coupling's filters leave, and what it costs.

    order: every filter, first to leave first
    error: after each, the least squared error that the coupling's consumers are left with, over the variance of their
        outputs, summed over consumers; ascending. One that loses all that it reads has 1
    """

    order: tuple[int, ...]
    error: tuple[float, ...]


def eliminate(
    model: nn.Module,
    graph: Graph,
    coupling: Coupling,
    moments: Mapping[str, Moments],
    order: Sequence[int] | None = None,
) -> Curve | None:
    """The coupling's filters in the order of the least added error, or the errors along a given order.

    moments: of the inputs of its consumers, by layer; a consumer without is left out of account
    order: every filter once, first to leave first
    Blockwise optimal brain surgeon (Hassibi and Stork 1993; OBC, arXiv:2208.11580; ZipLM, arXiv:2302.04089): of a
    consumer W with the covariance H of its inputs, `Moments.shrunk`, the filter of columns u adds
    tr(W_u (H^-1_uu)^-1 W_u^T), and W and H^-1 are updated exactly when it leaves; in float64, over all consumers.
    out: None where there is no consumer with moments
    Raises ValueError for an order that is none of all filters.
    """
    if order is not None and sorted(order) != list(range(coupling.width)):
        raise ValueError(f"order must hold each of the {coupling.width} filters of {coupling.name!r} once")
    consumers = [layer for layer in graph.consumers(coupling) if layer.name in moments]
    if not consumers:
        return None
    banks = [bank for layer in consumers for bank in _banks(model, coupling, layer, moments[layer.name])]
    added: list[float] | Tensor
    order, added = _greedy(coupling.width, banks) if order is None else (order, _along(order, banks))
    return Curve(tuple(order), tuple(itertools.accumulate(max(0.0, float(error)) for error in added)))


def _along(order: Sequence[int], banks: Sequence[_Bank]) -> Tensor:
    """What each filter adds when they leave in the order: (filters,)."""
    return sum((bank.added_along(order) for bank in banks), torch.zeros(len(order), dtype=torch.float64))


def _greedy(width: int, banks: Sequence[_Bank]) -> tuple[list[int], list[float]]:
    """Next leaves always the filter that adds the least, the first of equals; the order, and what each adds."""
    eliminations = [_Elimination(bank) for bank in banks]
    left = torch.ones(width, dtype=torch.bool)
    order: list[int] = []
    added: list[float] = []
    for _ in range(width):
        errors = sum((each.errors for each in eliminations), torch.zeros(width, dtype=torch.float64))
        filter = int(errors.where(left, torch.inf).argmin())
        order.append(filter)
        added.append(float(errors[filter]))
        left[filter] = False
        for each in eliminations:
            each.remove(filter)
    return order, added


def _banks(model: nn.Module, coupling: Coupling, layer: Layer, moments: Moments) -> list[_Bank]:
    """The groups of a consumer as separate problems; none where its output does not vary."""
    matrix = weight_matrix(model, layer)
    columns = _columns(coupling, layer, matrix.shape[2], tensor_of(model, layer.weight).shape[2:].numel(), moments)
    aligned, covariance = moments.aligned(matrix.double()), moments.shrunk()
    energy = _energy(aligned, covariance)
    if energy <= _NO_ENERGY * _energy(aligned, moments.second):
        return []
    return [_Bank(*parts, energy) for parts in zip(covariance, aligned, columns, strict=True)]


def _energy(matrix: Tensor, second: Tensor) -> float:
    """The sum over filters of the second moments of what the matrix puts out."""
    return float(((matrix @ second) * matrix).sum())


def _columns(coupling: Coupling, layer: Layer, width: int, kernel: int, moments: Moments) -> list[list[list[int]]]:
    """For each group of a consumer and each filter of the coupling the columns of the moments that leave with it.

    width: columns of a group's matrix; kernel: of these, those of one channel
    """
    units = torch.empty(width, dtype=torch.int64)
    units[moments.columns.cpu()] = torch.arange(len(moments.columns)).unsqueeze(1).expand(moments.columns.shape)
    unit_of = units.tolist()
    groups: list[list[list[int]]] = [[[] for _ in range(coupling.width)] for _ in range(layer.groups)]
    channels = width // kernel
    for entry in coupling.with_role("consumes"):
        if (entry.tensor, entry.dim) != (layer.weight, layer.input_dim):
            continue
        for filter, positions in enumerate(entry.positions):
            for position in positions:
                own = groups[position // channels : position // channels + 1] if layer.kind == "transposed" else groups
                first = position % channels * kernel
                for group in own:
                    group[filter] = sorted({*group[filter], *unit_of[first : first + kernel]})
    return groups


@dataclass(frozen=True)
class _Bank:
    """One group of a consumer: least squares on its columns.

    covariance: (columns, columns); matrix: (filters of the consumer, columns); columns: of each filter of the coupling
    those that leave with it; energy: what errors are relative to
    """

    covariance: Tensor
    matrix: Tensor
    columns: Sequence[Sequence[int]]
    energy: float

    def added_along(self, order: Sequence[int]) -> Tensor:
        """The relative error that each filter adds when they leave in the order, which is of all: (filters,), CPU.

        With the covariance U U^T, U upper triangular and the columns in the order in which they leave, the inverse is
        L L^T of L = U^-T, and what the block u of columns adds is ||(L^-1 W^T)_u||^2 = ||(U^T W^T)_u||^2.
        """
        leaving = [column for filter in order for column in self.columns[filter]]
        staying = sorted({*range(len(self.covariance))} - {*leaving})
        backward = torch.tensor([*leaving, *staying], device=self.covariance.device).flip(0)
        lower = torch.linalg.cholesky(self.covariance[backward][:, backward])
        squares = (self.matrix[:, backward] @ lower).square().sum(0).flip(0)[: len(leaving)].cpu() / self.energy
        sizes = torch.tensor([len(self.columns[filter]) for filter in order])
        return torch.zeros(len(order), dtype=squares.dtype).index_add_(
            0, torch.arange(len(order)).repeat_interleave(sizes), squares
        )


class _Elimination:
    """A bank whose filters leave one by one: what each would add now.

    Of the columns that are left it holds the inverse covariance I and the weight W (columns, filters of the consumer).
    A block u that leaves changes them by I -= R^T R and W -= R^T X, with I_uu = L L^T, R = L^-1 I_u and X = L^-1 W_u.
    These products of few rows are put off until they are `_PENDING` rows in all; meanwhile of I and W W^T the blocks
    of each filter alone, which decide what it adds, are kept as they are now.
    """

    def __init__(self, bank: _Bank) -> None:
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(bank.covariance))
        self.weight = bank.matrix.T.contiguous()
        self.rows, self.outputs = self.inverse[:0], self.weight[:0]  # put off
        self.left = torch.ones(len(self.inverse), dtype=torch.bool, device=self.inverse.device)
        self.alike = [
            _Alike(torch.tensor(filters), torch.tensor([bank.columns[filter] for filter in filters]), bank.energy)
            for filters in _by_size(bank.columns)
        ]
        self.errors = torch.zeros(len(bank.columns), dtype=torch.float64)
        self._renew()

    def remove(self, filter: int) -> None:
        """Takes a filter out: the weight of the others takes over what it can of its part."""
        block = self._columns_of(filter)
        if block is None:
            return
        inverse = self.inverse[block] - self.rows[:, block].T @ self.rows
        weight = self.weight[block] - self.rows[:, block].T @ self.outputs
        factor = torch.linalg.cholesky(inverse[:, block])
        rows = torch.linalg.solve_triangular(factor, inverse, upper=False)
        outputs = torch.linalg.solve_triangular(factor, weight, upper=False)
        squares = outputs @ outputs.T
        products = self.weight @ outputs.T - self.rows.T @ (self.outputs @ outputs.T) - rows.T @ squares / 2
        self.rows, self.outputs = torch.cat([self.rows, rows]), torch.cat([self.outputs, outputs])
        self.left[block] = False
        for each in self.alike:
            each.leave(filter, rows, products)
        if len(self.rows) >= _PENDING:
            self._settle()
        for each in self.alike:
            self.errors[each.filters] = each.errors()

    def _columns_of(self, filter: int) -> Tensor | None:
        found = (each.blocks[each.filters == filter] for each in self.alike)
        return next((blocks[0] for blocks in found if len(blocks)), None)

    def _settle(self) -> None:
        """Does what was put off, and leaves out columns that have left once they are many."""
        self.inverse.addmm_(self.rows.T, self.rows, alpha=-1)
        self.weight.addmm_(self.rows.T, self.outputs, alpha=-1)
        stay = self.left.nonzero().squeeze(1)
        if len(stay) < _SPARSE * len(self.left):
            self.inverse = self.inverse.index_select(0, stay).index_select(1, stay)
            self.weight = self.weight.index_select(0, stay)
            places = self.left.cumsum(0) - 1
            for each in self.alike:
                each.blocks = places[each.blocks]
            self.left = self.left[stay]
        self.rows, self.outputs = self.inverse[:0], self.weight[:0]
        self._renew()

    def _renew(self) -> None:
        for each in self.alike:
            each.renew(self.inverse, self.weight)
            self.errors[each.filters] = each.errors()


def _by_size(columns: Sequence[Sequence[int]]) -> list[list[int]]:
    """The filters that have columns, those with as many as each other together."""
    sizes = [len(block) for block in columns]
    return [[filter for filter, found in enumerate(sizes) if found == size] for size in sorted({*sizes} - {0})]


class _Alike:
    """Filters with as many columns as each other: their blocks of I and W W^T, see `_Elimination`.

    filters: (n,) on the CPU; blocks: (n, columns), their columns; inverse, squares: (columns, columns, n)
    """

    def __init__(self, filters: Tensor, blocks: Tensor, energy: float) -> None:
        self.filters, self.blocks, self.energy = filters, blocks, energy

    def renew(self, inverse: Tensor, weight: Tensor) -> None:
        """Takes the blocks of I and W."""
        self.inverse = inverse[self.blocks.T.unsqueeze(1), self.blocks.T]
        self.squares = (weight[self.blocks] @ weight[self.blocks].mT).movedim(0, 2).contiguous()

    def leave(self, filter: int, rows: Tensor, products: Tensor) -> None:
        """A filter leaves, of these or of others. rows: R; products: W X^T - R^T X X^T / 2, of W as it was"""
        stay = self.filters != filter
        if not bool(stay.all()):
            self.filters, self.blocks = self.filters[stay], self.blocks[stay]
            self.inverse, self.squares = self.inverse[:, :, stay], self.squares[:, :, stay]
        for row, product in zip(rows, products.T, strict=True):  # a product of many tiny matrices is slow
            own, change = row[self.blocks.T], product[self.blocks.T]
            self.inverse.addcmul_(own.unsqueeze(1), own, value=-1)
            self.squares.addcmul_(own.unsqueeze(1), change, value=-1).addcmul_(change.unsqueeze(1), own, value=-1)

    def errors(self) -> Tensor:
        """The relative error that each would add: (filters,), on the CPU."""
        if len(self.inverse) == 1:
            return (self.squares / self.inverse).flatten().cpu() / self.energy
        squares, inverse = self.squares.movedim(2, 0), self.inverse.movedim(2, 0)
        solved = torch.cholesky_solve(squares, torch.linalg.cholesky(inverse))
        return solved.diagonal(dim1=1, dim2=2).sum(1).cpu() / self.energy
