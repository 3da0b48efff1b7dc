"""Each spatial kernel of a weight or a model to the pattern that it is nearest to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ckrm_kernels.arrays import Array, as_tensor
from ckrm_kernels.backends import Backend, implementation
from ckrm_kernels.distributed import ALONE, Team
from ckrm_kernels.distribution import checked_threshold
from ckrm_kernels.filters import Weight, is_pointwise, parts_of
from ckrm_kernels.functional import checked_weight, not_finite
from ckrm_kernels.layer_numbers import DEAD
from ckrm_kernels.layer_plans import Banks, LayerPlan, check_finite, facts_of_models, of_each, plans_of
from ckrm_kernels.layers import Layer, model_layers
from ckrm_kernels.ops import result_dtype
from ckrm_kernels.patterns.bank import NONE, ZERO, Bank, names_of, patterns_of
from ckrm_kernels.patterns.result import LayerPatterns, PatternReport, Shown
from ckrm_kernels.report.result import Source
from ckrm_kernels.sampling import permuted_sets
from ckrm_kernels.sharded import gathered, team_for
from ckrm_kernels.sharing import checksum
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.version import __version__

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

THRESHOLD = 0.9
"""Of random 3x3 kernels, with normal or uniform weights, six or seven in a thousand exceed it with a known pattern."""
Track = Callable[[Sequence[Any]], Iterable[Any]]
_BLOCK = 1 << 15  # slices that are compared at once
_SAMPLE, _MOST_ROUNDS = 4096, 16  # of permuted slices
_SHOWN = 64  # kernels that a figure can draw
_BINS = 60


def match_patterns(
    weight_or_model: Weight,
    bank: Bank = None,
    threshold: float = THRESHOLD,
    signed: bool = True,
    *,
    backend: Backend | None = None,
    group: ProcessGroup | None = None,
) -> PatternReport:
    """Each spatial kernel, a slice of a filter, as the pattern that it is nearest to (the VGNet paper's section 3).

    weight_or_model: a weight (F2, F1, *K), or a model, of which every layer with a weight has a row
    bank: what the kernels are compared with. None: identity, gaussian (of several widths), gaussian off centre (by half
        a position, as where padding is on one side only), constant, the six edge detectors of `edge_detectors` and,
        where the sign counts, the negatives of all these, "-identity" and so on. Names of some of these. Or a dict of
        names and kernels of one's own, floating-point tensors of as many dimensions as the model's kernels have and no
        larger; smaller ones are put in the middle of zeros
    threshold: a kernel whose cosine with no pattern is above it is of none; in [-1, 1], unsigned in [0, 1]
    signed: whether a kernel and its negative differ; else a pattern stands for its negative, too
    backend: None picks; "reference", "cpu", "triton" or "cuda" forces
    group: a process group of torch.distributed, whose processes all call with the same arguments, share out the layers
        and have the same report; None: this process alone, or those that the weights are sharded over (DTensor), of
        which one layer is gathered at a time
    out: `PatternReport`

    The nearness of a kernel to a pattern is their cosine as `cross_psi` has it, of slices as filters of one slice: it
    takes out the scale of each kernel and keeps its mean, by which alone a blur, the identity and a Laplacian differ.
    A kernel whose root mean square is at most a hundredth of its layer's is "zero". In kernels larger than 3x3, an edge
    detector is there twice, in the middle and stretched to the whole (bilinearly, less its mean); in kernels that are
    lines, summed across them; in those of a size below 3 or of three dimensions, not at all.

    Raises TypeError or ValueError for a bank that is none: an unknown name, a pattern of zeros, with NaN, or larger
    than a layer's kernels, named; and for NaN or Inf in a layer, named. With several processes, also what `measure`
    does. Nothing of the model changes.
    """
    team = team_for(group, weight_or_model)
    with torch.no_grad(), team.together():
        layers, name = _layers_of(weight_or_model, team)
        return match_layers(layers, bank, threshold, signed, backend=backend, sources=[Source(name)], team=team)


@torch.no_grad()
def match_layers(
    layers: Sequence[Layer],
    bank: Bank = None,
    threshold: float = THRESHOLD,
    signed: bool = True,
    *,
    track: Track = iter,
    backend: Backend | None = None,
    sources: Sequence[Source] = (),
    notes: Sequence[str] = (),
    team: Team = ALONE,
) -> PatternReport:
    """`match_patterns` on layers that are read already.

    track: wraps the iteration over them, to show progress; team: whose processes all call, within its `together`
    """
    similarity = Similarity("cosine", signed=signed)
    limit = checked_threshold(threshold, similarity.lowest)
    names = names_of(bank, signed)
    comparisons = {
        size: _comparison(bank, names, size, limit, similarity, backend)
        for size in {each.shape[2:] for each in layers if each.shape and not is_pointwise(each.banks[0])}
    }
    asked = [f"threshold {limit}", f"signed {signed}", f"backend {backend}", f"patterns {names}"]
    asked += [f"kernels {size}, checksum {checksum(each.kernels)}" for size, each in comparisons.items()]
    team.check_agreement(lambda: [*asked, *facts_of_models([layers])])
    plans = plans_of([(layer,) for layer in layers], "skip", False, ALONE)
    for layer in layers:
        if layer.banks and not layer.sharded and layer.banks[0].shape[2:] in comparisons:
            _check_finite(layer)
    check_finite([plan for plan in plans if plan.is_sharded], [""], team)

    def row_of(plan: LayerPlan, banks: Banks, _: Team) -> LayerPatterns:
        return _row(replace(plan.layer, banks=tuple(banks[0])), comparisons)

    found = of_each(plans, [plan.cost_of_patterns for plan in plans], row_of, team, whole=True)
    rows = [row or _row(layer, comparisons) for layer, row in zip(track(layers), found, strict=True)]
    return PatternReport(
        tuple(rows),
        names,
        limit,
        signed,
        tuple(sources),
        tuple(notes),
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        {"ckrm_kernels": __version__, "torch": torch.__version__},
    )


def _layers_of(weight_or_model: Weight, team: Team) -> tuple[list[Layer], str]:
    """What `match_patterns` is given as layers, and what it is."""
    if isinstance(weight_or_model, nn.Module):
        return model_layers(weight_or_model, sharded=True), type(weight_or_model).__name__
    if not isinstance(weight_or_model, (Tensor, Array)):
        raise TypeError(f"weight_or_model must be a tensor, an array or a module, got {type(weight_or_model).__name__}")
    team.check()
    weight = checked_weight(gathered(as_tensor(weight_or_model, "weight_or_model")), "weight_or_model")
    if weight.is_meta:
        raise ValueError("weight_or_model is on the meta device, it has no values")
    return [Layer("", "Tensor", (weight.detach(),))], "a tensor"


class _Comparison(NamedTuple):
    """What the kernels of one size are compared with.

    kernels: (M, 1, *K) float64 on the CPU; owners: for each the place of its pattern among the names
    names: of the patterns, then "zero" and "none"
    """

    kernels: Tensor
    owners: Tensor
    names: tuple[str, ...]
    threshold: float
    similarity: Similarity
    backend: Backend | None

    def of_slices(self, slices: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
        """(n, *K) and which of them are zero, (n,) bool -> the place among the names, and the cosine of the nearest."""
        slices = slices.to(result_dtype(slices.dtype)).unsqueeze(1)
        kernels = self.kernels.to(slices.device, slices.dtype)
        cosine = implementation(self.backend, slices, kernels).cross_psi(slices, kernels, self.similarity)
        nearness, nearest = cosine.max(1)
        place = self.owners.to(slices.device)[nearest]
        place = torch.where(nearness > self.threshold, place, self.names.index(NONE))
        return torch.where(zero, self.names.index(ZERO), place), torch.where(zero, 0, nearness)

    def of_bank(self, bank: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a bank (F2, F1, *K), with zero (F2, F1); (F2, F1) each. A block of slices is held at a time."""
        filters = _filters_at_once(bank)
        place = torch.empty(bank.shape[:2], dtype=torch.int64, device=bank.device)
        nearness = torch.empty(bank.shape[:2], dtype=result_dtype(bank.dtype), device=bank.device)
        blocks = zip(*(each.split(filters) for each in (bank, zero, place, nearness)), strict=True)
        for some, which, own_place, own_nearness in blocks:
            found = self.of_slices(some.reshape(-1, *bank.shape[2:]), which.flatten())
            own_place.copy_(found[0].view_as(own_place))
            own_nearness.copy_(found[1].view_as(own_nearness))
        return place, nearness


def _comparison(
    bank: Bank,
    names: tuple[str, ...],
    kernel_size: Sequence[int],
    threshold: float,
    similarity: Similarity,
    backend: Backend | None,
) -> _Comparison:
    patterns = patterns_of(bank, names, kernel_size)
    kernels = [pattern.kernels for pattern in patterns] or [
        torch.zeros(1, *kernel_size, dtype=torch.float64, device="cpu")
    ]
    owners = [names.index(pattern.name) for pattern in patterns for _ in pattern.kernels]
    return _Comparison(
        torch.cat(kernels).unsqueeze(1),
        torch.tensor(owners or [len(names) + 1], device="cpu"),
        (*names, ZERO, NONE),
        threshold,
        similarity,
        backend,
    )


def _row(layer: Layer, comparisons: dict[tuple[int, ...], _Comparison]) -> LayerPatterns:
    shape = layer.shape
    if shape is None:
        return LayerPatterns(layer.name, layer.kind, None, None, None, "skipped", layer.note)
    sizes = (layer.name, layer.kind, shape[0], shape[1], shape[2:])
    comparison = comparisons.get(shape[2:])
    if comparison is None or 0 in shape[:2]:
        reason = "no kernels" if 0 in shape[:2] else "pointwise, a kernel of one number has no pattern"
        return LayerPatterns(*sizes, "skipped", reason)
    zero = _zero_kernels(layer.banks)
    found = [comparison.of_bank(bank, which) for bank, which in zip(layer.banks, zero, strict=True)]
    place, nearness = (torch.cat(each).cpu() for each in zip(*found, strict=True))
    counts = place.flatten().bincount(minlength=len(comparison.names))
    shares = dict(zip(comparison.names, (counts.double() / place.numel()).tolist(), strict=True))
    return LayerPatterns(
        *sizes,
        "measured",
        "",
        place,
        nearness,
        shares,
        _by_chance(layer.banks, zero, comparison),
        _shown(layer.banks, place, comparison.names),
    )


def _zero_kernels(banks: Sequence[Tensor]) -> list[Tensor]:
    """Of each bank (F2, F1, *K) which slices are all but zero beside the whole layer: (F2, F1) bool."""
    together = torch.empty((len(banks), *banks[0].shape[:2]), dtype=torch.float64, device=banks[0].device)
    for bank, norms in zip(banks, together, strict=True):
        filters = _filters_at_once(bank)
        for some, own in zip(bank.split(filters), norms.split(filters), strict=True):
            own.copy_(_norms(some))
    limit = DEAD * together.square().mean().sqrt()
    return list((together <= limit).unbind(0))


def _filters_at_once(bank: Tensor) -> int:
    """Of a bank (F2, F1, *K), that hold about a block of slices."""
    return max(_BLOCK // max(bank.shape[1], 1), 1)


def _norms(filters: Tensor) -> Tensor:
    return torch.linalg.vector_norm(filters.flatten(2).double(), dim=2)


def _by_chance(banks: Sequence[Tensor], zero: Sequence[Tensor], comparison: _Comparison) -> float:
    """The share of kernels that a pattern is near to once their positions are permuted, of about 4,096 or all."""
    slices = torch.cat([_spread(bank, _SAMPLE // len(banks) or 1) for bank in banks])
    which = torch.cat([_spread(each, _SAMPLE // len(banks) or 1) for each in zero])
    rounds = min(-(-_SAMPLE // len(slices)), _MOST_ROUNDS)
    generator = torch.Generator().manual_seed(0)
    matched = 0
    for together in permuted_sets([slices.unsqueeze(1)], rounds, generator):
        for (permuted,) in together:
            place, _ = comparison.of_slices(permuted.squeeze(1), which)
            matched += int((place < len(comparison.names) - 2).sum())
    return matched / (rounds * len(slices))


def _spread(values: Tensor, most: int) -> Tensor:
    """(F2, F1, ...) -> at most so many of the slices, evenly spread: (n, ...)."""
    slices = values.shape[0] * values.shape[1]
    chosen = torch.arange(min(slices, most), device=values.device) * max(slices, most) // most
    return values[chosen // values.shape[1], chosen % values.shape[1]]


def _shown(banks: Sequence[Tensor], place: Tensor, names: Sequence[str]) -> Shown:
    """Some of the kernels, evenly spread, with the distribution of the layer's values."""
    most, step = -(-_SHOWN // len(banks)), -(-len(banks) // _SHOWN)  # of a bank, and from one to the next
    kernels = torch.cat([_spread(bank, most) for bank in banks[::step]]).cpu().float()
    places = torch.cat([_spread(each, most) for each in place.split([len(bank) for bank in banks])[::step]])
    limit = max(abs(float(end)) for bank in banks for end in bank.aminmax()) or 1.0
    parts = (some.float() for bank in banks for some in parts_of(bank))
    counts = torch.stack([torch.histc(some, _BINS, -limit, limit).cpu() for some in parts]).sum(0, dtype=torch.int64)
    return Shown(kernels, tuple(names[each] for each in places), limit, tuple(counts.tolist()))


def _check_finite(layer: Layer) -> None:
    bad = not_finite(layer.banks)
    if bad:
        where = f"layer {layer.name!r}" if layer.name else "weight_or_model"
        raise ValueError(f"{where} has NaN or Inf in filters {bad[:8]}: no kernel was compared")
