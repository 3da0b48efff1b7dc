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
from ckrm_kernels.shrinking.finished_parts import FinishedParts
from ckrm_kernels.shrinking.least_squares import Problem, Rows, Sums
from ckrm_kernels.shrinking.moments import tensor_of
from ckrm_kernels.shrinking.observing import calls_of, evaluating

Removed = Mapping[str, Collection[int]]


class Batches(Protocol):
    """Inputs of forward passes: (arguments, keywords) of each; `calibration.Calibration`, or a list."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]: ...


WIDEST = 4608
"""The most columns whose products are summed: 512 channels under a 3x3 kernel. Of more, as many rows are kept as take
twice the memory of these sums."""

_ROWS_PER_COLUMN = 8
_LEAST_ROWS = 8192
_ROWS_AT_ONCE = 2048
_AGREES = 0.05  # of the largest output: what half precision, or TF32 in a product of many terms, may be off
_COPIES = 6  # of the sums: to fit, to check, each as a regression, the penalised one and its factor
_KIND = "layer"
_RIDGES = (1, 10, 100, 1000)


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
    keep: FinishedParts | None = None,
) -> dict[str, Refit]:
    """Refits the layers that read removed filters, front to back, in place; a row for each.

    Each layer's inputs in the small network, refitted so far, are mapped by ridge regression to its outputs in the
    original. The constant goes into its bias, or the running mean of the batch norm that alone follows it.

    small: `surgery.without(original, graph, removed)`; calibration: inputs in batches, the same in every pass
    ridge: the factor of the squared distance from the weights as they were, in units of the inputs' mean square
    keep: where layers are kept as they are finished, and found by an equal call
    Source: He, Zhang and Sun 2017, "Channel pruning for accelerating very deep neural networks", equation 3.
    """
    layers = _consumers(graph, removed)
    found = {}
    with evaluating(small, original):
        for layer in tracked(layers, "refitting", "layers") if progress else layers:
            pair = _Pair(small, original, graph, layer, _kept(original, graph, removed, layer.weight, layer.output_dim))
            reason = pair.why_not()
            found[layer.name] = (
                Refit(None, None, reason) if reason else _kept_or_refitted(pair, calibration, ridge, keep)
            )
    return found


def _kept_or_refitted(pair: _Pair, calibration: Batches, ridge: float, keep: FinishedParts | None) -> Refit:
    part = None if keep is None else keep.find(_KIND, pair.layer.name)
    if part is not None:
        for name, tensor in pair.fitted.items():
            tensor.copy_(part.tensors[name])
        return Refit(*part.value)
    refitted = _refitted(pair, calibration, ridge)
    if keep is not None:
        keep.keep(_KIND, pair.layer.name, refitted, pair.fitted)
    return refitted


def memory(original: nn.Module, graph: Graph, removed: Removed) -> int:
    """Bytes that `refit` takes at most beside the two networks and one batch in them."""
    return max((_bytes(original, graph, removed, layer) for layer in _consumers(graph, removed)), default=0)


def _bytes(original: nn.Module, graph: Graph, removed: Removed, layer: Layer) -> int:
    weight = tensor_of(original, layer.weight)
    inputs = len(_kept(original, graph, removed, layer.weight, layer.input_dim))
    columns = inputs * weight.shape[2:].numel() // (layer.groups if layer.kind == "transposed" else 1)
    held = layer.groups * columns**2 if columns <= WIDEST else 2 * WIDEST**2
    return 8 * _COPIES * held


def _consumers(graph: Graph, removed: Removed) -> list[Layer]:
    """What reads a filter that leaves, in the order in which it runs."""
    shrunk = [coupling for coupling in graph.couplings if removed.get(coupling.name)]
    names = {layer.name for coupling in shrunk for layer in graph.consumers(coupling)}
    return [layer for layer in graph.layers if layer.name in names]


def _kept(original: nn.Module, graph: Graph, removed: Removed, tensor: str, dim: int) -> list[int]:
    """The indices that stay in a dimension of a tensor."""
    gone = {
        index
        for coupling in graph.couplings
        for entry in coupling.entries
        if (entry.tensor, entry.dim) == (tensor, dim)
        for index in entry.of(removed.get(coupling.name, ()))
    }
    return [index for index in range(tensor_of(original, tensor).shape[dim]) if index not in gone]


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

    @property
    def fitted(self) -> dict[str, Tensor]:
        """The tensors that a refit changes."""
        found = {"weight": self.module.weight, "bias": self.module.bias}
        if self.norm is not None:
            found["mean"] = self.norm.running_mean
        return {name: tensor for name, tensor in found.items() if tensor is not None}

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

    @property
    def at_most(self) -> int:
        """The rows that suffice."""
        columns = self.matrix().shape[2]
        return max(_LEAST_ROWS, _ROWS_PER_COLUMN * columns) if columns <= WIDEST else 2 * WIDEST**2 // columns

    def matrix(self) -> Tensor:
        """The small layer's weight: (groups, filters, columns), float64."""
        return unfolding.matrix(self.module, self.module.weight).double()

    def wanted(self, module: Any, output: Tensor, at_most: int, seed: int) -> tuple[Tensor, Tensor]:
        """Positions of a call of the original's layer, and what its filters that stay gave there, by group."""
        positions = unfolding.sampled(unfolding.row_count(module, output), at_most, seed)
        rows, kept = unfolding.rows(module, output, positions), torch.tensor(self.kept, device=output.device)
        if self.layer.kind == "transposed":
            return positions, rows.unflatten(1, (self.layer.groups, -1)).index_select(2, kept)
        return positions, rows.index_select(1, kept).unflatten(1, (len(self.matrix()), -1))


class _Observation:
    """What is seen of a pair on the calibration: three quarters to fit, one to check."""

    def __init__(self, pair: _Pair, batches: int) -> None:
        self.pair = pair
        wide = pair.matrix().shape[2] > WIDEST
        self.fitting: Any = Rows() if wide else Sums()
        self.held_out: Any = self.fitting.alike()
        self.linear = True
        self._batches, self._batch = batches, -1
        self._wanted: list[tuple[Tensor, Tensor]] = []

    def add(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Runs both networks on a batch, up to the layer."""
        self._batch += 1
        layer = self.pair.layer
        self._wanted = calls_of(self.pair.original, layer.name, layer.calls, args, kwargs, self._want)
        calls_of(self.pair.small, layer.name, layer.calls, args, kwargs, self._see)

    def _want(self, module: Any, input: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        at_most = -(-self.pair.at_most // (self._batches * self.pair.layer.calls))
        return self.pair.wanted(module, output, at_most, self._batch)

    def _see(self, module: Any, input: Tensor, output: Tensor) -> None:
        positions, targets = self._wanted.pop(0)
        size = unfolding.output_size(module, output)
        self.linear = self.linear and _computes_a_product(module, input, output, positions[:16])
        count = unfolding.row_count(module, output)
        for places, t in zip(positions.split(_ROWS_AT_ONCE), targets.split(_ROWS_AT_ONCE), strict=True):
            x = unfolding.columns(module, input, places, size)
            held = self._held(places, count).to(x.device)
            self.fitting.add(x[~held], t[~held])
            self.held_out.add(x[held], t[held])

    def _held(self, positions: Tensor, count: int) -> Tensor:
        """Every fourth batch; of fewer than four batches the last quarter of each."""
        if self._batches >= 4:
            return torch.full(positions.shape, self._batch % 4 == 3)
        return 4 * positions >= 3 * count


def _computes_a_product(module: Any, input: Tensor, output: Tensor, positions: Tensor) -> bool:
    """Whether the output at some positions is the module's weight times its input."""
    x = unfolding.columns(module, input, positions, unfolding.output_size(module, output)).double()
    product = torch.einsum("pgk,gfk->pgf", x, unfolding.matrix(module, module.weight).double()).flatten(1)
    if module.bias is not None:
        product = product + module.bias.double()
    computed = unfolding.rows(module, output, positions).double()
    off = float((computed - product).abs().max() / product.abs().max().clamp_min(torch.finfo(product.dtype).tiny))
    return off <= _AGREES or not bool(torch.isfinite(product).all())


def _refitted(pair: _Pair, calibration: Batches, ridge: float) -> Refit:
    seen = _Observation(pair, len(calibration))
    for args, kwargs in calibration:
        seen.add(args, kwargs)
    if not (seen.fitting.count and seen.held_out.count):
        return Refit(None, None, "too few calibration inputs reach it")
    if not seen.linear:
        return Refit(None, None, "its output is not its weight times its input")
    module, norm, weight = pair.module, pair.norm, pair.matrix()
    centred = module.bias is not None or norm is not None
    bias = weight.new_zeros(weight.shape[:2]) if module.bias is None else module.bias.double().view(weight.shape[:2])
    check = seen.held_out.problem(centred)
    if not (check.finite and seen.fitting.problem(centred).finite):
        return Refit(None, None, "its inputs or outputs are not finite")
    before, (after, best) = check.share(weight, bias), _best_ridge(seen.fitting.problem(centred), check, weight, ridge)
    if not after < before:
        return Refit(before, before, f"its error on held-out inputs would be {after:.3g}")
    del check
    every = seen.fitting.joined(seen.held_out).problem(centred)
    fitted = every.solved(weight, best)
    _write(module, norm, fitted, every.constant(fitted).flatten())
    return Refit(before, after)


def _best_ridge(fit: Problem, check: Problem, weight: Tensor, least: float) -> tuple[float, float]:
    """The least error on the rows to check, and at which ridge: the fewer the rows for the columns, the larger."""
    errors = []
    for ridge in (least * factor for factor in _RIDGES):
        fitted = fit.solved(weight, ridge)
        errors.append((check.share(fitted, fit.constant(fitted)), ridge))
    return min(errors)


def _write(module: Any, norm: Any, matrix: Tensor, constant: Tensor) -> None:
    module.weight.copy_(unfolding.weight_of(module, matrix))
    if module.bias is not None:
        module.bias.copy_(constant)
    elif norm is not None:
        norm.running_mean -= constant.to(norm.running_mean.dtype)
