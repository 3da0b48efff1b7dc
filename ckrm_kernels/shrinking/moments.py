"""What a layer sees on the calibration: mean and second moment of its unfolded inputs, summed while they stream by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ckrm_kernels.presentation.progress import tracked
from ckrm_kernels.shrinking import unfolding
from ckrm_kernels.shrinking.calibration import Calibration, images_of
from ckrm_kernels.shrinking.copying import copied
from ckrm_kernels.shrinking.couplings import Coupling, Graph, Layer
from ckrm_kernels.shrinking.products import add_products, mirror

WIDEST = 4608
"""The most columns that are kept apart: 512 channels under a 3x3 kernel. Beyond, those of a channel are aggregated."""

SHRINKAGE = 1e-3
"""The least by which a covariance is shrunk."""

AT_ONCE = 2**31
"""Bytes of moments that are held at once; a network that has more is run several times."""

_ROWS = 2048  # of unfolded inputs at a time
_LEAST_ROWS_OF_AN_IMAGE = 32
_ROWS_PER_COLUMN = 10


@dataclass(frozen=True)
class Moments:
    """The moments of what a layer's weight is applied to: rows u, its unfolded inputs.

    A row's columns are a convolution's input channels of one group, the kernel's positions within each, as in
    `weight_matrix`; a linear layer's input features.

    rows: how many were summed
    mean: (groups, columns) float64
    second: (groups, columns, columns) float64, the mean of u u^T
    columns: (units, span) int64, for each column of `mean` and `second` the columns of the weight's matrix that it
        stands for: one, or, where there are more than `WIDEST`, those of one channel, whose moments are aggregated as
        if the layer treated them alike
    """

    rows: int
    mean: Tensor
    second: Tensor
    columns: Tensor

    @property
    def covariance(self) -> Tensor:
        """(groups, columns, columns): the second moment about the mean, as a bias or a norm takes the mean."""
        return self.second - self.mean.unsqueeze(2) * self.mean.unsqueeze(1)

    def shrunk(self) -> Tensor:
        """The covariance, shrunk towards its mean variance: what regression on it loses elsewhere, not on these rows.

        (groups, columns, columns): (1 - rho) S + rho mean(diagonal of S) I, with the rho of oracle approximating
        shrinkage (Chen, Wiesel, Eldar and Hero 2010; that of their published code), and at least `SHRINKAGE`. Of more
        than two rows a column rho falls by their number: so many show themselves what is redundant.
        """
        covariance = self.covariance
        columns = covariance.shape[2]
        variances = covariance.diagonal(dim1=1, dim2=2)
        squares, square = covariance.square().sum(), variances.sum(1).square().sum()
        spread = (self.rows + 1) * (squares - square / columns)
        oracle = min(float((squares + square) / spread), 1.0) if spread > 0 else 1.0
        rho = max(oracle * min(2 * columns / self.rows, 1.0), SHRINKAGE)
        identity = torch.eye(columns, dtype=covariance.dtype, device=covariance.device)
        return (1 - rho) * covariance + rho * variances.mean() * identity

    def aligned(self, matrix: Tensor) -> Tensor:
        """A weight's matrix (groups, filters, units span) by the moments' columns: (groups, filters span, units)."""
        return matrix[:, :, self.columns].permute(0, 1, 3, 2).flatten(1, 2)


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter, buffer or computed weight by its qualified name, detached."""
    path, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(path), attribute).detach()


def weight_matrix(model: nn.Module, layer: Layer) -> Tensor:
    """The weight of a layer's module as the linear map of its unfolded inputs, see `unfolding.matrix`."""
    module: Any = model.get_submodule(layer.name)
    return unfolding.matrix(module, tensor_of(model, layer.weight))


def input_moments(
    model: nn.Module,
    graph: Graph,
    calibration: Calibration,
    layers: Iterable[str],
    *,
    progress: bool = False,
) -> dict[str, Moments]:
    """The moments of the inputs of the layers, in one pass over the calibration; `memory` says what that takes.

    layers: names of the graph's; those without a module that hooks can see are left out
    progress: shows it on standard error
    Convolutions of any dimension, stride, dilation and padding, grouped, transposed, and linear layers. Rows are
    sampled, by a fixed seed: of each image at least 32, and in all at least ten for each column, where there are so
    many. A module that is called several times has the rows of all calls. Runs a private copy in evaluation mode.
    Raises ValueError where a layer's inputs are not finite.
    """
    chosen = [layer for layer in map(graph.layer, layers) if layer.is_module]
    private = copied(model).eval()
    sums = {layer.name: _Sums(private, graph, layer, calibration) for layer in chosen}
    for layer in chosen:
        private.get_submodule(layer.name).register_forward_hook(sums[layer.name].add, with_kwargs=True)
    with torch.no_grad():
        for args, kwargs in tracked(calibration, "observing layers", "batches") if progress else calibration:
            for found in sums.values():
                found.images = images_of((args, kwargs))
            private(*args, **kwargs)
    return {name: found.moments() for name, found in sums.items() if found.rows}


def memory(graph: Graph, model: nn.Module, layers: Iterable[str]) -> int:
    """Bytes of the moments of the layers."""
    return sum(_bytes(model, graph, layer) for layer in map(graph.layer, layers) if layer.is_module)


def passes(
    graph: Graph, model: nn.Module, couplings: Iterable[Coupling], at_most: int = AT_ONCE
) -> list[list[Coupling]]:
    """The couplings, in parts whose consumers' moments take at most so many bytes, or those of one coupling."""
    parts: list[list[Coupling]] = []
    for coupling in couplings:
        joined = [*parts[-1], coupling] if parts else []
        readers = {layer.name for each in joined for layer in graph.consumers(each)}
        if joined and memory(graph, model, readers) <= at_most:
            parts[-1] = joined
        else:
            parts.append([coupling])
    return parts


def _bytes(model: nn.Module, graph: Graph, layer: Layer) -> int:
    units = len(_columns(model, graph, layer))
    return 8 * layer.groups * (units * units + units)


def _columns(model: nn.Module, graph: Graph, layer: Layer) -> Tensor:
    """(units, span): which columns of the layer's matrix share one of the moments."""
    weight = tensor_of(model, layer.weight)
    channels, kernel = weight.shape[layer.input_dim], weight.shape[2:].numel()
    if layer.kind == "transposed":
        channels //= layer.groups
    columns = torch.arange(channels * kernel)
    if len(columns) <= WIDEST:
        return columns.unsqueeze(1)
    if layer.kind != "linear":
        return columns.view(channels, kernel)
    return _flattened_filters(graph, layer, channels)


def _flattened_filters(graph: Graph, layer: Layer, features: int) -> Tensor:
    """The features of a linear layer by the filters that they are flattened from; each alone, where they are uneven."""
    filters = [
        positions
        for coupling in graph.couplings
        for entry in coupling.with_role("consumes")
        if (entry.tensor, entry.dim) == (layer.weight, layer.input_dim)
        for positions in entry.positions
    ]
    if sum(map(len, filters)) == features and len(set(map(len, filters))) == 1:
        return torch.tensor(filters)
    return torch.arange(features).unsqueeze(1)


class _Sums:
    """The running sums of one layer; `add` is its module's forward hook."""

    def __init__(self, model: nn.Module, graph: Graph, layer: Layer, calibration: Calibration) -> None:
        self.layer, self.rows, self.calls = layer, 0, 0
        weight = tensor_of(model, layer.weight)
        self.columns = _columns(model, graph, layer).to(weight.device)
        units = len(self.columns)
        self.total = torch.zeros(layer.groups, units, dtype=torch.float64, device=weight.device)
        self.products = torch.zeros(layer.groups, units, units, dtype=torch.float64, device=weight.device)
        self.rows_of_an_image = max(_LEAST_ROWS_OF_AN_IMAGE, math.ceil(_ROWS_PER_COLUMN * units / calibration.images))
        self.images = 0  # of the batch that runs

    def add(
        self, module: unfolding.Unfoldable, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> None:
        """Adds a sample of the rows of one call."""
        given = args[0] if args else kwargs["input"]
        count, size = unfolding.row_count(module, output), unfolding.output_size(module, output)
        positions = unfolding.sampled(count, self.rows_of_an_image * self.images, self.calls)
        self.calls += 1
        for part in positions.split(_ROWS):
            self.add_rows(unfolding.columns(module, given, part, size).double())

    def add_rows(self, unfolded: Tensor) -> None:
        """unfolded: (rows, groups, columns) float64."""
        by_group = unfolded.transpose(0, 1)
        parts = [by_group] if self.columns.shape[1] == 1 else by_group[:, :, self.columns].unbind(3)
        for part in parts:
            self.total += part.sum(1)
            add_products(self.products, part)
        self.rows += len(unfolded) * len(parts)

    def moments(self) -> Moments:
        """What was summed."""
        mean, second = self.total / self.rows, mirror(self.products) / self.rows
        if not bool(torch.isfinite(second).all()):
            raise ValueError(f"the inputs of layer {self.layer.name!r} have NaN or Inf on the calibration")
        return Moments(self.rows, mean, second, self.columns)
