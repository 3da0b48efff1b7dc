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
    left = list(range(coupling.width))
    removed, added = [], []
    for step in range(coupling.width):
        candidates = left if order is None else [order[step]]
        errors = _sum([bank.added(candidates) for bank in banks], len(candidates))
        best = int(errors.argmin())
        filter = candidates[best]
        added.append(max(0.0, float(errors[best])))
        removed.append(filter)
        left.remove(filter)
        for bank in banks:
            bank.remove(filter)
    return Curve(tuple(removed), tuple(itertools.accumulate(added)))


def _sum(errors: list[Tensor], count: int) -> Tensor:
    return torch.stack(errors).sum(0) if errors else torch.zeros(count)


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


class _Bank:
    """One group of a consumer: least squares on the columns that are left, as filters leave one by one."""

    def __init__(self, covariance: Tensor, matrix: Tensor, columns: list[list[int]], energy: float) -> None:
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        self.weight = matrix.T.contiguous()  # (columns, filters of the consumer)
        self.energy = energy
        self.left = torch.ones(len(covariance), dtype=torch.bool, device=covariance.device)
        self.blocks = [torch.tensor(block, dtype=torch.int64, device=covariance.device) for block in columns]

    def added(self, filters: Sequence[int]) -> Tensor:
        """The relative error that each of the filters would add now: (filters,) float64, on the CPU."""
        errors = torch.zeros(len(filters), dtype=torch.float64)
        sizes = [len(self.blocks[filter]) for filter in filters]
        for size in set(sizes) - {0}:
            places = [place for place, found in enumerate(sizes) if found == size]
            blocks = torch.stack([self.blocks[filters[place]] for place in places])
            factor = torch.linalg.cholesky(self.inverse[blocks.unsqueeze(2), blocks.unsqueeze(1)])
            scaled = torch.linalg.solve_triangular(factor, self.weight[blocks], upper=False)
            errors[places] = scaled.square().sum((1, 2)).cpu() / self.energy
        return errors

    def remove(self, filter: int) -> None:
        """Takes a filter out: the weight of the others takes over what it can of its part."""
        block = self.blocks[filter]
        if not len(block):
            return
        factor = torch.linalg.cholesky(self.inverse[block][:, block])
        rows = torch.linalg.solve_triangular(factor, self.inverse[block], upper=False)
        self.weight -= rows.T @ torch.linalg.solve_triangular(factor, self.weight[block], upper=False)
        self.inverse.addmm_(rows.T, rows, alpha=-1)
        self.left[block] = False
        if int(self.left.sum()) < _SPARSE * len(self.left):
            self._compact()

    def _compact(self) -> None:
        """Leaves out the rows and columns, by now zero, of what has left."""
        self.inverse = self.inverse[self.left][:, self.left]
        self.weight = self.weight[self.left]
        places = self.left.cumsum(0) - 1
        self.blocks = [places[block[self.left[block]]] for block in self.blocks]
        self.left = self.left[self.left]
