"""The fold: what reads removed filters is refitted to what it computed with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ckrm_kernels.presentation.progress import tracked
from ckrm_kernels.shrinking import fold_cost, unfolding
from ckrm_kernels.shrinking.couplings import Graph, Layer
from ckrm_kernels.shrinking.finished_parts import FinishedParts
from ckrm_kernels.shrinking.fold_cost import Removed, consumers, in_parts, indices_left, regression_size, rows_of
from ckrm_kernels.shrinking.forward_passes import Batches, ForwardPasses, Seen
from ckrm_kernels.shrinking.least_squares import Problem, Rows, Sums
from ckrm_kernels.shrinking.observing import calls_of, evaluating

_ROWS_AT_ONCE = 2048
_CHECKED = 16  # of these, whether they are products
_AGREES = 0.05  # of the largest output: what half precision, or TF32 in a product of many terms, may be off
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
    layers = consumers(graph, removed)
    found: dict[str, Refit] = {}
    with evaluating(small, original):
        pairs = [
            _Pair(small, original, graph, layer, indices_left(original, graph, removed, layer.weight, layer.output_dim))
            for layer in layers
        ]
        for pair in pairs:
            row = _found(pair, keep)
            if row is not None:
                found[pair.layer.name] = row
        pairs = [pair for pair in pairs if pair.layer.name not in found]
        sizes = [regression_size(original, graph, removed, pair.layer).outputs for pair in pairs]
        outputs = _Outputs(pairs, sizes, calibration)
        with closing(ForwardPasses(small, [pair.layer for pair in pairs], calibration)) as passes:
            for pair in tracked(pairs, "refitting", "layers") if progress else pairs:
                row = found[pair.layer.name] = _refitted(pair, outputs.of(pair), passes, ridge)
                if keep is not None:
                    keep.keep(_KIND, pair.layer.name, row, pair.fitted)
    return {layer.name: found[layer.name] for layer in layers}


def _found(pair: _Pair, keep: FinishedParts | None) -> Refit | None:
    """Of a layer that can't be refitted why not; of one that is refitted already its row, its tensors put in place."""
    reason = pair.why_not()
    if reason is not None:
        return Refit(None, None, reason)
    part = None if keep is None else keep.find(_KIND, pair.layer.name)
    if part is None:
        return None
    for name, tensor in pair.fitted.items():
        tensor.copy_(part.tensors[name])
    return Refit(*part.value)


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
    def columns(self) -> int:
        """Of the small layer's matrix."""
        return unfolding.matrix(self.module, self.module.weight).shape[2]

    @property
    def groups(self) -> int:
        """Of the small layer's matrix."""
        return len(unfolding.matrix(self.module, self.module.weight))

    def matrix(self) -> Tensor:
        """The small layer's weight: (groups, filters, columns), float64."""
        return unfolding.matrix(self.module, self.module.weight).double()

    def rows(self, module: Any, output: Tensor, at_most: int, seed: int) -> _Rows:
        """What the filters that stay gave at sampled positions of a call of the original's layer, by group."""
        positions = unfolding.sampled(unfolding.row_count(module, output), at_most, seed)
        rows, kept = unfolding.rows(module, output, positions), torch.tensor(self.kept, device=output.device)
        if self.layer.kind == "transposed":
            return _Rows(positions, rows.unflatten(1, (self.layer.groups, -1)).index_select(2, kept))
        return _Rows(positions, rows.index_select(1, kept).unflatten(1, (self.groups, -1)))


class _Rows(NamedTuple):
    """Of a call: positions (rows,), and the outputs there (rows, groups, filters of a group)."""

    positions: Tensor
    outputs: Tensor


class _Outputs:
    """What layers of the original give on the calibration, of as many in one pass as `fold_cost.AT_ONCE` allows."""

    def __init__(self, pairs: Sequence[_Pair], sizes: Sequence[int], calibration: Batches) -> None:
        """sizes: bytes of each layer's"""
        left = iter(pairs)
        self._parts = [[next(left) for _ in part] for part in in_parts(sizes)]
        self._calibration = calibration
        self._seen: dict[str, list[list[_Rows]]] = {}

    def of(self, pair: _Pair) -> list[list[_Rows]]:
        """Those of a layer, by batch and call; each layer once, in order."""
        if pair.layer.name not in self._seen:
            self._observe(self._parts.pop(0))
        return self._seen.pop(pair.layer.name)

    def _observe(self, part: list[_Pair]) -> None:
        self._seen = {pair.layer.name: [] for pair in part}
        calls = {pair.layer.name: pair.layer.calls for pair in part}
        for index, (args, kwargs) in enumerate(self._calibration):
            takes = {pair.layer.name: partial(self._take, pair, index) for pair in part}
            for name, rows in calls_of(part[0].original, calls, args, kwargs, takes).items():
                self._seen[name].append(rows)

    def _take(self, pair: _Pair, seed: int, module: Any, input: Tensor, output: Tensor) -> _Rows:
        at_most = -(-rows_of(pair.columns) // (len(self._calibration) * pair.layer.calls))
        return pair.rows(module, output, at_most, seed)


class _Observation:
    """What is seen of a pair on the calibration: three quarters to fit, one to check."""

    def __init__(self, pair: _Pair, batches: int) -> None:
        self.pair = pair
        self.fitting: Any = Rows() if pair.columns > fold_cost.WIDEST else Sums()
        self.held_out: Any = self.fitting.alike()
        self.linear = True
        self._batches, self._batch = batches, -1

    def add(self, calls: Iterable[Seen], wanted: Sequence[_Rows]) -> None:
        """Adds a batch: the calls of the small network's layer. wanted: what the original gives in each"""
        self._batch += 1
        left = iter(wanted)
        for seen in calls:
            self._see(*seen, next(left))

    def _see(self, module: Any, input: Tensor, output: Tensor, wanted: _Rows) -> None:
        size = unfolding.output_size(module, output)
        count = unfolding.row_count(module, output)
        parts = (each.split(_ROWS_AT_ONCE) for each in wanted)
        for places, t in zip(*parts, strict=True):
            x = unfolding.columns(module, input, places, size)
            self.linear = self.linear and _computes_a_product(module, x[:_CHECKED], output, places[:_CHECKED])
            held = self._held(places, count).to(x.device)
            self.fitting.add(x[~held], t[~held])
            self.held_out.add(x[held], t[held])

    def _held(self, positions: Tensor, count: int) -> Tensor:
        """Every fourth batch; of fewer than four batches the last quarter of each."""
        if self._batches >= 4:
            return torch.full(positions.shape, self._batch % 4 == 3)
        return 4 * positions >= 3 * count


def _computes_a_product(module: Any, columns: Tensor, output: Tensor, positions: Tensor) -> bool:
    """Whether the output at some positions is the module's weight times the columns there."""
    matrix = unfolding.matrix(module, module.weight).double()
    product = torch.einsum("pgk,gfk->pgf", columns.double(), matrix).flatten(1)
    if module.bias is not None:
        product = product + module.bias.double()
    computed = unfolding.rows(module, output, positions).double()
    off = float((computed - product).abs().max() / product.abs().max().clamp_min(torch.finfo(product.dtype).tiny))
    return off <= _AGREES or not bool(torch.isfinite(product).all())


def _refitted(pair: _Pair, outputs: Sequence[Sequence[_Rows]], passes: ForwardPasses, ridge: float) -> Refit:
    seen = _Observation(pair, len(outputs))
    for batch, wanted in enumerate(outputs):
        with closing(passes.calls(batch, pair.layer)) as calls:
            seen.add(calls, wanted)
    if not (seen.fitting.count and seen.held_out.count):
        return Refit(None, None, "too few calibration inputs reach it")
    if not seen.linear:
        return Refit(None, None, "its output is not its weight times its input")
    module, norm, weight = pair.module, pair.norm, pair.matrix()
    centred = module.bias is not None or norm is not None
    bias = weight.new_zeros(weight.shape[:2]) if module.bias is None else module.bias.double().view(weight.shape[:2])
    fit, check = seen.fitting.problem(centred), seen.held_out.problem(centred)
    if not (check.finite and fit.finite):
        return Refit(None, None, "its inputs or outputs are not finite")
    before, (after, best) = check.share(weight, bias), _best_ridge(fit, check, weight, ridge)
    if not after < before:
        return Refit(before, before, f"its error on held-out inputs would be {after:.3g}")
    del fit, check
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
