"""The fold: what reads removed filters is refitted to what it computed with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ckrm_kernels.presentation.progress import tracked
from ckrm_kernels.shrinking import unfolding
from ckrm_kernels.shrinking.couplings import Graph, Layer
from ckrm_kernels.shrinking.least_squares import Sums
from ckrm_kernels.shrinking.observing import calls_of, evaluating

Removed = Mapping[str, Collection[int]]


class Batches(Protocol):
    """Inputs of forward passes: (arguments, keywords) of each; `calibration.Calibration`, or a list."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]: ...


_ROWS_PER_COLUMN = 16
_LEAST_ROWS = 16384


class Refit(NamedTuple):
    """What the fold made of a layer.

    before, after: the squared error of its outputs on held-out positions, as a share of their variance, with its
        weights as they were and refitted; None where it could not be refitted
    reason: why it kept its weights; None where it was refitted
    """

    before: float | None
    after: float | None
    reason: str | None = None


def refit(
    small: nn.Module,
    original: nn.Module,
    graph: Graph,
    removed: Removed,
    calibration: Batches,
    *,
    ridge: float = 1e-3,
    progress: bool = False,
) -> dict[str, Refit]:
    """Refits the layers that read removed filters, front to back, in place; a row for each.

    Each layer's inputs in the small network, refitted so far, are mapped by ridge regression to its outputs in the
    original. The constant goes into its bias, or the running mean of the batch norm that alone follows it.

    small: `surgery.without(original, graph, removed)`; calibration: inputs in batches, the same in every pass
    ridge: the factor of the squared distance from the weights as they were, in units of the inputs' mean square
    Source: He, Zhang and Sun 2017, "Channel pruning for accelerating very deep neural networks", equation 3.
    """
    layers = _consumers(graph, removed)
    found = {}
    with evaluating(small, original):
        for layer in tracked(layers, "refitting", "layers") if progress else layers:
            pair = _Pair(small, original, graph, layer, _kept(original, graph, removed, layer))
            reason = pair.why_not()
            found[layer.name] = Refit(None, None, reason) if reason else _refitted(pair, calibration, ridge)
    return found


def _consumers(graph: Graph, removed: Removed) -> list[Layer]:
    """What reads a filter that leaves, in the order in which it runs."""
    shrunk = [coupling for coupling in graph.couplings if removed.get(coupling.name)]
    names = {layer.name for coupling in shrunk for layer in graph.consumers(coupling)}
    return [layer for layer in graph.layers if layer.name in names]


def _kept(original: nn.Module, graph: Graph, removed: Removed, layer: Layer) -> list[int]:
    """The indices that stay in the dimension of the layer's weight that counts its filters."""
    gone = {
        index
        for coupling in graph.couplings
        for entry in coupling.entries
        if entry.tensor == layer.weight and entry.dim == layer.output_dim
        for index in entry.of(removed.get(coupling.name, ()))
    }
    count = original.get_parameter(layer.weight).shape[layer.output_dim]
    return [index for index in range(count) if index not in gone]


@dataclass(frozen=True)
class _Pair:
    """A layer in the small network and in the original; kept: which of its filters the small one has."""

    small: nn.Module
    original: nn.Module
    graph: Graph
    layer: Layer
    kept: list[int]

    @property
    def module(self) -> Any:
        """In the small network."""
        return self.small.get_submodule(self.layer.name)

    @property
    def norm(self) -> Any:
        """The batch norm that alone follows the layer and no other, with statistics of its own; None without."""
        alike = [other for other in self.graph.layers if other.norm == self.layer.norm]
        if self.layer.norm is None or len(alike) > 1:
            return None
        norm = self.small.get_submodule(self.layer.norm)
        return norm if isinstance(norm.running_mean, Tensor) else None

    def why_not(self) -> str | None:
        """Why it can't be refitted, if so."""
        if not self.layer.is_module:
            return "a functional call, whose inputs can't be observed"
        if not isinstance(self.module, unfolding.Unfoldable) or parametrize.is_parametrized(self.module):
            return f"a {type(self.module).__name__}, whose weight is computed from other tensors"
        sharing = [other.name for other in self.graph.layers if other.weight == self.layer.weight]
        if len(sharing) > 1:
            return f"{' and '.join(sharing)} share one weight"
        return None

    def observed(self, call: tuple[Any, Any], at_most: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each call in one pass: sampled positions as shares of all, columns in the small, outputs in the original.

        Columns are (positions, groups, columns), outputs (positions, groups, kept filters of a group).
        """
        args, kwargs = call

        def inputs(module: Any, input: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
            count = unfolding.row_count(module, output)
            positions = unfolding.sampled(count, at_most, seed)
            return positions / count, unfolding.columns(module, input, positions, unfolding.output_size(module, output))

        def outputs(module: Any, input: Tensor, output: Tensor) -> Tensor:
            positions = unfolding.sampled(unfolding.row_count(module, output), at_most, seed)
            return self.targets(unfolding.rows(module, output, positions))

        name, calls = self.layer.name, self.layer.calls
        seen = calls_of(self.small, name, calls, args, kwargs, inputs)
        wanted = calls_of(self.original, name, calls, args, kwargs, outputs)
        for (shares, x), t in zip(seen, wanted, strict=True):
            yield shares, x, t

    def targets(self, rows: Tensor) -> Tensor:
        """Outputs of the original (positions, all filters) at those that stay, by groups of the small layer."""
        kept = torch.tensor(self.kept, device=rows.device)
        if self.layer.kind == "transposed":
            return rows.unflatten(1, (self.layer.groups, -1)).index_select(2, kept)
        return rows.index_select(1, kept).unflatten(1, (getattr(self.module, "groups", 1), -1))


def _refitted(pair: _Pair, calibration: Batches, ridge: float) -> Refit:
    fitting, held_out = _sums(pair, calibration)
    if not (fitting.count and held_out.count):
        return Refit(None, None, "too few calibration inputs reach it")
    module, norm = pair.module, pair.norm
    centred = module.bias is not None or norm is not None
    fit, check, every = (sums.moments(centred) for sums in (fitting, held_out, fitting + held_out))
    if not every.finite:
        return Refit(None, None, "its inputs or outputs overflow")
    weight = unfolding.matrix(module, module.weight).double()
    bias = weight.new_zeros(weight.shape[:2])
    if module.bias is not None:
        bias = module.bias.double().reshape(bias.shape)
    trial = fit.ridge(weight, ridge)
    before, after = check.share(weight, bias), check.share(trial, fit.constant(trial) if centred else bias)
    if not after < before:
        return Refit(before, before, f"refitting it would not lessen its error on held-out inputs ({after:.3g})")
    fitted = every.ridge(weight, ridge)
    module.weight.copy_(unfolding.weight_of(module, fitted))
    constant = every.constant(fitted).flatten()
    if module.bias is not None:
        module.bias.copy_(constant)
    elif norm is not None:
        norm.running_mean -= constant.to(norm.running_mean.dtype)
    return Refit(before, after)


def _sums(pair: _Pair, calibration: Batches) -> tuple[Sums, Sums]:
    """Of three quarters of the inputs, and of the last one: of every fourth batch, or of each of fewer than four."""
    columns = unfolding.matrix(pair.module, pair.module.weight).shape[2]
    rows = max(_LEAST_ROWS, _ROWS_PER_COLUMN * columns)
    batches = len(calibration)
    at_most = -(-rows // (batches * pair.layer.calls))
    fitting, held_out = Sums(), Sums()
    for index, call in enumerate(calibration):
        for shares, x, t in pair.observed(call, at_most, index):
            held = torch.full_like(shares, index % 4 == 3, dtype=torch.bool) if batches >= 4 else shares >= 0.75
            fitting.add(x[~held], t[~held])
            held_out.shift = fitting.shift
            held_out.add(x[held], t[held])
    return fitting, held_out
