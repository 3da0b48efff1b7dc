"""From a model to its report: the redundancy of every layer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ckrm_kernels.backends import GPU_BACKENDS, Backend
from ckrm_kernels.distribution import checked_threshold, checked_thresholds, split_scale
from ckrm_kernels.filters import as_vectors, is_pointwise
from ckrm_kernels.functional import PsiOptions, counts_of_banks, unit_scale
from ckrm_kernels.groups import groups_of_banks
from ckrm_kernels.layers import Layer, model_layers
from ckrm_kernels.psi_config import PsiConfig
from ckrm_kernels.report import LayerRedundancy, RedundancyReport
from ckrm_kernels.sampling import chance_of_banks

Pointwise = Literal["skip", "slices", "vector"]
Track = Callable[[Sequence[Any]], Iterable[Any]]
_BINS = 100
_INNER_EDGES = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64, device="cpu")[1:-1]
_CHANCE_PAIRS, _MOST_ROUNDS = 4096, 16
_MOST_AT_ONCE = 1 << 28  # psi of slices: a second on an old core without vectors, a tenth of it on others


def measure(
    model_or_models: nn.Module | Sequence[nn.Module],
    threshold: float = 0.6,
    *,
    pointwise: Pointwise = "skip",
    details: bool = True,
    **options: Unpack[PsiOptions],
) -> RedundancyReport:
    """The redundancy of every layer of a model, beside its chance level and the number of distinct filters.

    model_or_models: a model, or several of one structure, trained independently; then the report has their means, the
        deviation of lambda^t and the values of each. Wrapped ones (torch.compile, DataParallel,
        DistributedDataParallel) are named as without the wrapper.
    threshold: a number in [0, 1]
    pointwise: what to do with layers whose slices are single numbers, 1x1 convolutions and Linear: "skip" them,
        since only luminance is left of Psi, measure them as they are ("slices"), or take each filter as one slice of
        length F1 ("vector")
    details: False leaves out the chance levels and the numbers of distinct filters, which take most of the time
    options: see `PsiOptions`; the default eps is an absolute number, so a layer's redundancy falls as its weights
        grow; scale_free=True removes that
    out: `RedundancyReport`, with a row for every module that has a weight, also for those skipped. A grouped
        convolution is compared within its groups, a depthwise one all with all; a shared weight is measured once.
    The chance level is the mean of as many permutations as it takes to draw 4096 pairs, at most 16, from a generator
    of its own: nothing of the model or of the random state changes.
    Raises ValueError for NaN or Inf in a layer or models of different structure, naming the layer, before anything
    is measured.
    """
    if isinstance(model_or_models, Mapping):
        raise TypeError("model_or_models must be a module or a sequence of modules, got a state dict: load it into one")
    given = model_or_models if isinstance(model_or_models, Iterable) else [model_or_models]
    models = [model_or_models] if isinstance(model_or_models, nn.Module) else list(given)
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model_or_models must be a module or a sequence of modules, got {type(model).__name__}")
    with torch.no_grad():
        return measure_layers([model_layers(model) for model in models], threshold, pointwise, options, details)


@torch.no_grad()
def measure_layers(
    models: Sequence[Sequence[Layer]],
    threshold: float,
    pointwise: Pointwise,
    options: PsiOptions,
    details: bool = True,
    track: Track = iter,
) -> RedundancyReport:
    """`measure` on the layers of each model; `track` wraps the iteration over them, to show progress."""
    limit, psi, backend = checked_threshold(threshold), *_resolved(options)
    if pointwise not in ("skip", "slices", "vector"):
        raise ValueError(f'pointwise must be "skip", "slices" or "vector", got {pointwise!r}')
    if not models:
        raise ValueError("model_or_models must hold at least one model, got none")
    _check_alike(models)
    for index, layers in enumerate(models):
        _check_finite(layers, f" of model {index}" if len(models) > 1 else "")
    plans = [_plan_layer(same, pointwise, psi.scale_free) for same in zip(*models, strict=True)]
    edges, order = torch.cat((_INNER_EDGES, torch.tensor([limit], dtype=torch.float64, device="cpu"))).sort(stable=True)
    at = int((order == _BINS - 1).nonzero())  # the threshold's place among the edges
    _, unscaled = split_scale({**psi.options(), "backend": backend})
    rows = []
    for plan, counts in zip(track(plans), _count(plans, edges, unscaled), strict=True):
        measured = zip(plan.banks, counts, strict=True)
        results = [_measure_banks(banks, each, at, limit, details, unscaled) for banks, each in measured]
        rows.append(_row(plan, results) if results else _skipped(plan.layer, plan.note))
    return RedundancyReport(tuple(rows), limit, len(models), psi.options())


class _Plan(NamedTuple):
    """A layer of all models: the banks to measure in each, none where it is skipped, and what to say of it."""

    layer: Layer
    banks: list[list[Tensor]]
    note: str
    has_chance: bool


class _Measured(NamedTuple):
    """What one model's layer was found to be; chance and distinct are None without details."""

    redundancy: float
    chance: float | None
    distinct: int | None
    histogram: Tensor


def _plan_layer(layers: tuple[Layer, ...], pointwise: Pointwise, scale_free: bool) -> _Plan:
    layer = layers[0]
    if layer.shape is None:
        return _Plan(layer, [], layer.note, False)
    single_numbers, note = is_pointwise(layer.banks[0]), layer.note
    if single_numbers and pointwise == "skip":
        return _Plan(layer, [], "pointwise, a slice of one number has no structure", False)
    as_one_slice = single_numbers and pointwise == "vector"
    banks = [[bank.detach() for bank in each.banks] for each in layers]
    if as_one_slice:
        banks = [[as_vectors(bank) for bank in same] for same in banks]
        note = f"{note}, each filter as one slice".lstrip(", ")
    if scale_free:
        banks = [list(unit_scale(torch.stack(same)).unbind(0)) for same in banks]
    return _Plan(layer, banks, note, not single_numbers or as_one_slice)


def _count(plans: Sequence[_Plan], edges: Tensor, psi: PsiOptions) -> Iterator[list[Tensor]]:
    """The counts of each plan: all in one call, unless that takes long on a CPU; then a plan at a time."""
    banks = [bank for plan in plans for same in plan.banks for bank in same]
    on_gpu = psi.get("backend") in GPU_BACKENDS or any(bank.is_cuda for bank in banks)
    work = sum(bank.shape[0] ** 2 // 2 * bank.shape[1] for bank in banks)
    for together in [plans] if on_gpu or work <= _MOST_AT_ONCE else [[plan] for plan in plans]:
        yield from _count_in_one_call(together, edges, psi)


def _count_in_one_call(plans: Sequence[_Plan], edges: Tensor, psi: PsiOptions) -> list[list[Tensor]]:
    """For each plan and each of its models, the pairs in each interval between the edges, (E + 2,), in one call."""
    banks = [bank for plan in plans for same in plan.banks for bank in same]
    counts = counts_of_banks(banks, edges, **psi).cpu()
    of_layers = iter(counts.split([len(same) for plan in plans for same in plan.banks]))
    return [[next(of_layers).sum(0) for _ in plan.banks] for plan in plans]


def _measure_banks(
    banks: list[Tensor], counts: Tensor, at: int, threshold: float, details: bool, psi: PsiOptions
) -> _Measured:
    """One layer of one model, given how many of its pairs lie between the edges; at: the threshold's place there."""
    above, pairs = int(counts[at + 1 : -1].sum()), int(counts[:-1].sum())
    histogram = torch.cat((counts[:at], counts[at : at + 2].sum(0, keepdim=True), counts[at + 2 : -1]))
    if counts[-1] > 0:
        return _Measured(math.nan, math.nan, 0, histogram)
    redundancy = above / max(pairs, 1)
    if not details:
        return _Measured(redundancy, None, None, histogram)
    generator = torch.Generator(banks[0].device).manual_seed(0)
    rounds = min(max(-(-_CHANCE_PAIRS // max(pairs, 1)), 1), _MOST_ROUNDS)
    chance = chance_of_banks(banks, checked_thresholds(threshold), rounds, generator, psi).item()
    filters = sum(bank.shape[0] for bank in banks)
    distinct = groups_of_banks(banks, threshold, psi).kept.numel() if above else filters
    return _Measured(redundancy, chance, distinct, histogram)


def _row(plan: _Plan, results: list[_Measured]) -> LayerRedundancy:
    layer, shape = plan.layer, plan.layer.shape
    assert shape is not None
    redundancies = tuple(each.redundancy for each in results)
    if not all(map(math.isfinite, redundancies)):
        raise ValueError(f"layer {layer.name!r} overflows its precision; scale_free=True takes its scale out")
    chances = tuple(each.chance for each in results if each.chance is not None and plan.has_chance)
    distincts = tuple(each.distinct for each in results if each.distinct is not None)
    return LayerRedundancy(
        name=layer.name,
        kind=layer.kind,
        filters=shape[0],
        slices=shape[1],
        kernel_size=shape[2:],
        pairs=sum(bank.shape[0] * (bank.shape[0] - 1) // 2 for bank in layer.banks),
        redundancy=statistics.fmean(redundancies),
        deviation=statistics.stdev(redundancies) if len(redundancies) > 1 else None,
        per_model=redundancies,
        chance=statistics.fmean(chances) if chances else None,
        chance_per_model=chances,
        distinct=statistics.fmean(distincts) if distincts else None,
        distinct_per_model=distincts,
        histogram=tuple(torch.stack([each.histogram for each in results]).sum(0).tolist()),
        histogram_per_model=tuple(tuple(each.histogram.tolist()) for each in results),
        status="measured",
        reason=plan.note,
    )


def _skipped(layer: Layer, reason: str) -> LayerRedundancy:
    shape = layer.shape
    return LayerRedundancy(
        name=layer.name,
        kind=layer.kind,
        filters=shape[0] if shape else None,
        slices=shape[1] if shape else None,
        kernel_size=shape[2:] if shape else None,
        pairs=0,
        redundancy=None,
        deviation=None,
        per_model=(),
        chance=None,
        chance_per_model=(),
        distinct=None,
        distinct_per_model=(),
        histogram=None,
        histogram_per_model=(),
        status="skipped",
        reason=reason,
    )


def _resolved(options: PsiOptions) -> tuple[PsiConfig, Backend | None]:
    """The options with their defaults, checked, and the backend."""
    unknown = set(options) - set(PsiOptions.__annotations__)
    if unknown:
        accepted = sorted({"threshold", "pointwise", "details", *PsiOptions.__annotations__})
        raise TypeError(f"measure got unknown options {sorted(unknown)}; accepted are {accepted}")
    return PsiConfig.of(options), options.get("backend")


def _check_alike(models: Sequence[Sequence[Layer]]) -> None:
    for index, layers in enumerate(models[1:], 1):
        for ours, theirs in zip_longest(models[0], layers):
            if _described(ours) != _described(theirs):
                raise ValueError(
                    "models must be of one structure: "
                    f"model 0 has {_described(ours)} where model {index} has {_described(theirs)}"
                )


def _described(layer: Layer | None) -> str:
    if layer is None:
        return "no further layer"
    groups = f", {len(layer.banks)} groups" if len(layer.banks) > 1 else ""
    return f"layer {layer.name!r} ({layer.kind}, {layer.shape or layer.note}{groups})"


def _check_finite(layers: Sequence[Layer], where: str) -> None:
    sums: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}  # one answer from a device, not one a layer
    for layer in layers:
        for bank in layer.banks:
            sums.setdefault((bank.device, bank.dtype), []).append(bank.sum())
    if all(bool(torch.stack(each).isfinite().all()) for each in sums.values()):  # no sum of a NaN or Inf is finite
        return
    for layer in layers:
        finite = [bank.flatten(1).isfinite().all(1) for bank in layer.banks]
        bad = (~torch.cat(finite)).nonzero().flatten().tolist() if finite else []
        if bad:
            listed = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
            raise ValueError(f"layer {layer.name!r}{where} has NaN or Inf in filters {listed}: nothing was measured")
