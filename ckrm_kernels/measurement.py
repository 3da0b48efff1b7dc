"""From a model to its report: the redundancy of every layer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from datetime import datetime, timezone
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ckrm_kernels.backends import GPU_BACKENDS, Backend
from ckrm_kernels.choices import Pointwise
from ckrm_kernels.distributed import ALONE, Team
from ckrm_kernels.distribution import checked_threshold, inner_edges
from ckrm_kernels.filters import as_vectors, is_pointwise
from ckrm_kernels.functional import counts_of_banks
from ckrm_kernels.layer_numbers import LayerNumbers, Level, Wanted, detailed_numbers, plain_numbers
from ckrm_kernels.layer_plans import Banks, LayerPlan, check_finite, facts_of_models, of_each, plans_of
from ckrm_kernels.layers import Layer, descriptions, model_layers
from ckrm_kernels.options import SimilarityOptions, resolve
from ckrm_kernels.patterns.matching import match_layers
from ckrm_kernels.presentation.progress import tracked
from ckrm_kernels.report import KernelPatterns, LayerRedundancy, RedundancyReport
from ckrm_kernels.report.result import ScaleFreeRedundancy, Source
from ckrm_kernels.ring import own_filters, ring_counts
from ckrm_kernels.sharded import team_for
from ckrm_kernels.sharing import shared_counts
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.version import __version__

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Track = Callable[[Sequence[Any]], Iterable[Any]]
_Found = tuple[list[LayerNumbers], KernelPatterns | None]  # of a layer of each model, and of all of them
_ABSENT = "no such layer"
_BINS = 100
_MOST_AT_ONCE = 1 << 28  # pairs of slices: a second on an old core without vectors, a tenth of it on others


def measure(
    model_or_models: nn.Module | Sequence[nn.Module],
    threshold: float = 0.6,
    *,
    pointwise: Pointwise = "skip",
    details: bool = True,
    patterns: bool = False,
    progress: bool = False,
    group: ProcessGroup | None = None,
    **options: Unpack[SimilarityOptions],
) -> RedundancyReport:
    """The redundancy of every layer of a model, beside its chance level and the number of distinct filters.

    model_or_models: a model, or several of one structure, trained independently; then the report has their means, the
        deviation of lambda^t and the values of each, layers matched by name. Wrapped ones (torch.compile,
        DataParallel, DistributedDataParallel) are named as without the wrapper.
    threshold: a number in [0, 1], of a signed similarity in [-1, 1]
    pointwise: what to do with layers whose slices are single numbers, 1x1 convolutions and Linear: "skip" them,
        since only luminance is left of Psi, measure them as they are ("slices"), or take each filter as one slice of
        length F1 ("vector")
    details: False leaves out what takes most of the time: the chance levels, the numbers of distinct and of dead
        filters, and the same of the scale-free layer
    patterns: also what share of each layer's spatial kernels looks like a known one, see `match_patterns`
    progress: show on standard error how many layers are done
    group: a process group of torch.distributed, whose processes all call with the same model, share the work and have
        the same report; None: this process alone, or those that the model's weights are sharded over (DTensors of
        `fully_shard`, tensor parallelism or any mesh), of which one layer is gathered at a time
    options: see `SimilarityOptions`; the default eps is an absolute number, so a layer's redundancy falls as its
        weights grow; scale_free=True removes that
    out: `RedundancyReport`, with a row for every module that has a weight, also for those skipped. A grouped
        convolution is compared within its groups, a depthwise one all with all; a shared weight is measured once.
    The weight measured is the one that a forward pass uses, where it can be had without one (parametrisations, the
    hooks of torch.nn.utils, weights that a subclass computes in its forward, low-rank adapters); the row's reason says
    where it can't, and why a layer was skipped.
    The chance level is a share of about 4,096 pairs of permuted filters (at least 3,072), or where a layer has fewer,
    of all, permuted as often as it takes to have so many, at most 16 times. They are drawn by a generator of its own:
    nothing of the model or of the random state changes.
    Raises TypeError or ValueError, naming it, for an argument that is not as above; ValueError for NaN or Inf in a
    layer that would be measured or models of different structure, naming the layer, before anything is measured, and
    for a layer whose Psi overflow its precision; RuntimeError for a backend that can't run on a layer's device.
    With several processes it raises ValueError on all of them where they were given different arguments or weights,
    with the first difference; `PeerError`, of `ckrm_kernels.distributed`, where another one failed, with its message,
    or can't be reached; TypeError, ValueError or RuntimeError for a group that is none, that this process is not in, or
    that was destroyed; and ValueError for weights sharded over processes that are not all in the group, or, without
    one, over meshes that no single group is known of.
    """
    team = team_for(group, model_or_models)
    with torch.no_grad(), team.together():
        own = ("threshold", "pointwise", "details", "patterns", "progress", "group")
        similarity, backend = resolve(options, "measure", *own)
        models = _checked_models(model_or_models)
        layers = [model_layers(model, sharded=True) for model in models]
        track: Track = tracked if progress and team.is_first else iter
        report = measure_layers(
            layers, threshold, pointwise, similarity, details, track, backend=backend, patterns=patterns, team=team
        )
    return replace(report, sources=tuple(Source(type(model).__name__) for model in models))


@torch.no_grad()
def measure_layers(
    models: Sequence[Sequence[Layer]],
    threshold: float,
    pointwise: Pointwise,
    similarity: Similarity,
    details: bool = True,
    track: Track = iter,
    *,
    backend: Backend | None = None,
    sources: Sequence[Source] = (),
    notes: Sequence[str] = (),
    scale_free_beside: bool = True,
    patterns: bool = False,
    team: Team = ALONE,
) -> RedundancyReport:
    """`measure` on the layers of each model.

    track: wraps the iteration over the layers, to show progress
    sources: what each model was read from, whose names errors then give; notes: on how it was read
    scale_free_beside: whether the details include those of the scale-free layer
    team: whose processes all call, within its `together`
    """
    limit = checked_threshold(threshold, similarity.lowest)
    if pointwise not in ("skip", "slices", "vector"):
        raise ValueError(f'pointwise must be "skip", "slices" or "vector", got {pointwise!r}')
    if not models:
        raise ValueError("model_or_models must hold at least one model, got none")
    names = _names(len(models), sources)
    _check_alike(models, names)
    plans = plans_of(list(_by_name(models)), pointwise, similarity.scale_free, team)
    settings = [f"threshold {limit}", f"pointwise {pointwise}", f"details {details}", f"patterns {patterns}"]
    settings += [f"scale-free beside {scale_free_beside}", f"backend {backend}", repr(similarity)]
    team.check_agreement(lambda: [*settings, *facts_of_models(models)])
    check_finite(plans, names, team)
    edges, order = torch.cat(
        (inner_edges(_BINS, similarity), torch.tensor([limit], dtype=torch.float64, device="cpu"))
    ).sort(stable=True)
    at = int((order == _BINS - 1).nonzero())  # the threshold's place among the edges
    scale_free = similarity.depends_on_scale and scale_free_beside

    def numbers_of(plan: LayerPlan, stored: Banks, team: Team) -> list[LayerNumbers]:
        if plan.goes_round:
            return [plain_numbers(each, at) for each in _counted_in_ring(plan, edges, similarity, backend, team)]
        how = similarity, backend, team
        if details:
            wanted = Wanted(plan.has_chance, scale_free)
            return [detailed_numbers(plan.prepared(each), edges, at, wanted, *how) for each in stored]
        return [plain_numbers(shared_counts(plan.prepared(each), edges, *how).sum(0).cpu(), at) for each in stored]

    def found_of(plan: LayerPlan, stored: Banks, team: Team) -> _Found:
        look = _patterns_of(plan, stored, backend) if patterns and not plan.goes_round else None
        return numbers_of(plan, stored, team), look

    found: Iterator[_Found | None]
    if details or patterns or team.size > 1:
        found = of_each(plans, [plan.cost(details, patterns) for plan in plans], found_of, team)
    else:
        found = (
            ([plain_numbers(each, at) for each in of_models], None) if of_models else None
            for of_models in _count(plans, edges, similarity, backend)
        )
    rows = []
    for plan, of_plan in zip(track(plans), found, strict=True):
        if of_plan is None:
            rows.append(_skipped(plan.layer, plan.note))
            continue
        numbers, look = of_plan
        _check_known(plan, numbers)
        rows.append(replace(_row(plan, numbers, similarity.lowest), patterns=look))
    return RedundancyReport(
        tuple(rows),
        limit,
        len(models),
        similarity,
        pointwise,
        tuple(sources),
        tuple(notes),
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        {"ckrm_kernels": __version__, "torch": torch.__version__},
    )


def check_layers(models: Sequence[Sequence[Layer]], pointwise: Pointwise, sources: Sequence[Source] = ()) -> None:
    """Raises the ValueError of `measure_layers` for layers with NaN or Inf, without measuring anything."""
    plans = plans_of(list(_by_name(models)), pointwise, False, ALONE)
    check_finite(plans, _names(len(models), sources), ALONE)


def structure_of(layers: Sequence[Layer]) -> Hashable:
    """What layers that can be measured together have in common, in whatever order: equal where it is the same."""
    return frozenset(descriptions(layers).items())


def _checked_models(model_or_models: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    if isinstance(model_or_models, Mapping):
        raise TypeError("model_or_models must be a module or a sequence of modules, got a state dict: load it into one")
    if isinstance(model_or_models, (str, PathLike)):
        raise TypeError(
            f"model_or_models must be a module or a sequence of modules, got {model_or_models!r}: "
            "`ckrm measure` reads files"
        )
    given = model_or_models if isinstance(model_or_models, Iterable) else [model_or_models]
    models = [model_or_models] if isinstance(model_or_models, nn.Module) else list(given)
    for model in models:
        if not isinstance(model, nn.Module):
            held = getattr(model, "module", None)  # of an exported program, or of what keeps averaged weights
            hint = f": measure its module{'' if isinstance(held, nn.Module) else '()'}" if held is not None else ""
            name = type(model).__name__
            raise TypeError(f"model_or_models must be a module or a sequence of modules, got {name}{hint}")
    return models


def _by_name(models: Sequence[Sequence[Layer]]) -> Iterator[tuple[Layer, ...]]:
    """The layers of the models by name, in the first one's order, a shared weight where it has it."""
    named = [{layer.name: layer for layer in layers} for layers in models]
    for first in models[0]:
        same = [layers[first.name] for layers in named]
        if first.shared_with is None:
            same = [layers[each.shared_with or each.name] for each, layers in zip(same, named, strict=True)]
        yield (first, *same[1:])


def _count(
    plans: Sequence[LayerPlan], edges: Tensor, similarity: Similarity, backend: Backend | None
) -> Iterator[list[Tensor]]:
    """The counts of each plan: all in one call, unless that takes long on a CPU; then a plan at a time."""
    banks = [bank for plan in plans for layer in plan.of_models for bank in layer.banks]
    on_gpu = backend in GPU_BACKENDS or any(bank.is_cuda for bank in banks)
    work = sum(bank.shape[0] ** 2 // 2 * bank.shape[1] for bank in banks)
    for together in [plans] if on_gpu or work <= _MOST_AT_ONCE else [[plan] for plan in plans]:
        yield from _count_in_one_call(together, edges, similarity, backend)


def _count_in_one_call(
    plans: Sequence[LayerPlan], edges: Tensor, similarity: Similarity, backend: Backend | None
) -> list[list[Tensor]]:
    """For each plan and each of its models, the pairs in each interval between the edges, (E + 2,), in one call."""
    of_plans = [[plan.prepared(same) for same in plan.gathered()] for plan in plans]
    banks = [bank for of_models in of_plans for same in of_models for bank in same]
    counts = counts_of_banks(banks, edges, similarity, backend).cpu()
    of_layers = iter(counts.split([len(same) for of_models in of_plans for same in of_models]))
    return [[next(of_layers).sum(0) for _ in of_models] for of_models in of_plans]


def _counted_in_ring(
    plan: LayerPlan, edges: Tensor, similarity: Similarity, backend: Backend | None, team: Team
) -> Iterator[Tensor]:
    """For each model, the pairs in each interval between the edges, (E + 2,), of filters that go round."""
    for layer in plan.of_models:
        assert layer.sharded is not None
        first, own = own_filters(layer.sharded.bank)
        own = as_vectors(own) if plan.as_one_slice else own
        yield ring_counts(first, own, edges, similarity, backend, team).cpu()


def _row(plan: LayerPlan, numbers: list[LayerNumbers], lowest: float) -> LayerRedundancy:
    layer, shape = plan.layer, plan.layer.shape
    assert shape is not None
    measured = _over_models([each.measured for each in numbers])
    dead = tuple(each.dead for each in numbers if each.dead is not None)
    live = [each.live for each in numbers if each.live is not None]
    scale_free = [each.scale_free for each in numbers if each.scale_free is not None]
    return LayerRedundancy(
        name=layer.name,
        kind=layer.kind,
        filters=shape[0],
        slices=shape[1],
        kernel_size=shape[2:],
        pairs=plan.pairs,
        **measured,
        histogram=tuple(map(sum, zip(*(each.histogram for each in numbers), strict=True))),
        histogram_per_model=tuple(each.histogram for each in numbers),
        status="measured",
        reason=plan.note,
        dead=statistics.fmean(dead) if dead else None,
        dead_per_model=dead,
        live_redundancy=statistics.fmean(each.redundancy for each in live) if live else None,
        live_chance=_mean([each.chance for each in live if each.chance is not None]),
        scale_free=ScaleFreeRedundancy(**_over_models(scale_free)) if scale_free else None,
        lowest=lowest,
    )


def _patterns_of(plan: LayerPlan, stored: Banks, backend: Backend | None) -> KernelPatterns | None:
    """What the layer's spatial kernels look like, the mean over the models; None where they are single numbers."""
    if is_pointwise(plan.layer.banks[0]):
        return None
    found = []
    for banks in map(plan.prepared, stored):
        layer = replace(plan.layer, banks=tuple(banks), note="", sharded=None)
        found += [astuple(each.as_columns()) for each in match_layers([layer], backend=backend).measured]
    return KernelPatterns(*map(statistics.fmean, zip(*found, strict=True))) if found else None


def _over_models(levels: Sequence[Level]) -> dict[str, Any]:
    """The fields that `LayerRedundancy` and `ScaleFreeRedundancy` have of lambda^t, its chance level and distinct."""
    redundancies = tuple(each.redundancy for each in levels)
    chances = tuple(each.chance for each in levels if each.chance is not None)
    distincts = tuple(each.distinct for each in levels if each.distinct is not None)
    return {
        "redundancy": statistics.fmean(redundancies),
        "deviation": statistics.stdev(redundancies) if len(redundancies) > 1 else None,
        "per_model": redundancies,
        "chance": _mean(chances),
        "chance_per_model": chances,
        "distinct": _mean(distincts),
        "distinct_per_model": distincts,
    }


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


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


def _names(models: int, sources: Sequence[Source]) -> list[str]:
    """What errors call each model; nothing for a single one."""
    if len(sources) == models:
        return [source.name for source in sources]
    if models == 1:
        return [", ".join(source.name for source in sources)]
    return [f"model {index}" for index in range(models)]


def _check_alike(models: Sequence[Sequence[Layer]], names: Sequence[str]) -> None:
    """Raises ValueError, naming the first difference, unless the models have the same layers, in whatever order."""
    ours = descriptions(models[0])
    for index, layers in enumerate(models):
        theirs = descriptions(layers)
        for name in (*ours, *theirs):
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"models must be of one structure: {names[0]} has {ours.get(name, _ABSENT)} "
                    f"where {names[index]} has {theirs.get(name, _ABSENT)}"
                )


def _check_known(plan: LayerPlan, numbers: Sequence[LayerNumbers]) -> None:
    if not all(math.isfinite(each.measured.redundancy) for each in numbers):
        raise ValueError(f"layer {plan.layer.name!r} overflows its precision; scale_free=True takes its scale out")
