"""Redundancy by random draws: estimated from a sample of the pairs, and the level that chance alone would give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import Unpack

from ckrm_kernels.backends import Backend, implementation
from ckrm_kernels.distributed import ALONE, Team
from ckrm_kernels.distribution import (
    checked_threshold,
    checked_thresholds,
    redundancy_of_banks,
    redundancy_of_sets,
    valued_banks,
)
from ckrm_kernels.filters import Weight
from ckrm_kernels.functional import all_finite
from ckrm_kernels.options import SimilarityOptions, resolve
from ckrm_kernels.sharded import team_for
from ckrm_kernels.sharing import facts_of
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.whole_numbers import whole_number

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_CHUNK = 1 << 20
_MOST_PERMUTED = 1 << 22  # numbers that are held at once, if more than one round is
_CHANCE_PAIRS, _MOST_ROUNDS = 4096, 16
_PERMUTATIONS, _SHORT = 64, 1024  # of two kinds, each of which is put after each; positions of a slice
_PERMUTED_AT_ONCE = 1 << 17  # numbers, whose places stay in a cache
_MOST_FILTERS = 4096  # of a layer that are drawn
_SMALLEST_GROUP = 4  # filters: smaller groups would be many


@dataclass(frozen=True, eq=False)
class RedundancyEstimate:
    """lambda^t estimated from sampled pairs; equal where all fields are, NaN among them too.

    value: share of the sampled pairs above the threshold
    low, high: Wilson interval of that share at `confidence`; both equal `value` where all pairs were counted
    sampled_pairs, pairs: how many were drawn, and how many there are
    """

    value: float
    low: float
    high: float
    confidence: float
    sampled_pairs: int
    pairs: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RedundancyEstimate) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


def estimate_redundancy(
    weight: Weight,
    threshold: float = 0.6,
    *,
    num_pairs: int,
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
    group: ProcessGroup | None = None,
    **options: Unpack[SimilarityOptions],
) -> RedundancyEstimate:
    """lambda^t estimated from `num_pairs` pairs drawn uniformly without replacement.

    weight: (F2, F1, *K) or a module; of a grouped one, the pairs within the groups
    threshold: a number in [0, 1], of a signed similarity in [-1, 1]
    num_pairs: how many to draw, >= 1; where it covers all pairs the result is exact
    confidence: of the Wilson score interval, in (0, 1)
    generator: makes the draw reproducible; on the CPU or the weight's device; None takes torch's default one. With
        several processes each draws all pairs, from generators that must be in one state
    group: a process group of torch.distributed, whose processes all call with the same arguments, share the work and
        have the same result; None: this process alone, or those that a weight is sharded over (DTensor)
    options: see `SimilarityOptions`
    out: `RedundancyEstimate`; NaN where the weight holds NaN or Inf or a sampled pair is NaN. Memory grows with
        `num_pairs` alone.
    Raises what `redundancy` does.
    """
    team = team_for(group, weight)
    with team.together():
        own = ("threshold", "num_pairs", "confidence", "generator", "group")
        similarity, backend = resolve(options, "estimate_redundancy", *own)
        limit = checked_threshold(threshold, similarity.lowest)
        num_pairs = whole_number("num_pairs", num_pairs)
        if not isinstance(confidence, Real) or not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
        confidence = float(confidence)
        _check_generator(generator)
        team.check()
        banks = valued_banks(weight, similarity.scale_free)
        asked = {"threshold": limit, "num_pairs": num_pairs, "confidence": confidence}
        team.check_agreement(
            lambda: [*facts_of(banks, similarity, backend, **asked), _state_of(generator, torch.device("cpu"))]
        )
        return _estimate(banks, limit, num_pairs, confidence, generator, similarity, backend, team)


def _estimate(
    banks: Sequence[Tensor],
    limit: float,
    num_pairs: int,
    confidence: float,
    generator: torch.Generator | None,
    similarity: Similarity,
    backend: Backend | None,
    team: Team,
) -> RedundancyEstimate:
    filters = banks[0].shape[0]
    pairs_per_bank = filters * (filters - 1) // 2
    pairs = pairs_per_bank * len(banks)
    if num_pairs >= pairs:
        thresholds = checked_thresholds(limit, similarity.lowest)
        exact = redundancy_of_banks(banks, thresholds, similarity, backend, team).item()
        return RedundancyEstimate(exact, exact, exact, confidence, pairs, pairs)
    above, unknown = 0, 0
    sample = uniform_sample(pairs, num_pairs, generator)
    for packed in sample.tensor_split(team.size)[team.rank].split(_CHUNK):
        which = packed // pairs_per_bank
        for b in which.unique().tolist():
            listed = packed_to_pairs(packed[which == b] % pairs_per_bank, filters)
            found = implementation(backend, banks[b]).psi_of_pairs(banks[b], listed.to(banks[b].device), similarity)
            above += int((found > limit).sum())
            unknown += int(found.isnan().sum())
    team.check()
    above, unknown = team.sum(torch.tensor([above, unknown], device="cpu")).tolist()
    value = math.nan if unknown or not all(map(all_finite, banks)) else above / num_pairs
    low, high = wilson_interval(value, num_pairs, confidence)
    return RedundancyEstimate(value, low, high, confidence, num_pairs, pairs)


def chance_redundancy(
    weight: Weight,
    threshold: float | Tensor = 0.6,
    *,
    rounds: int = 1,
    generator: torch.Generator | None = None,
    group: ProcessGroup | None = None,
    **options: Unpack[SimilarityOptions],
) -> Tensor:
    """The chance level of lambda^t: of the same slices, each with its K positions permuted on its own.

    Means and standard deviations stay and the shape that slices share goes, so a redundancy that is no higher
    than this speaks of scale rather than of repeated filters. With K = 1 there is nothing to permute.

    weight: (F2, F1, *K) or a module; of a grouped one, the pairs within the groups
    threshold: a number in [0, 1], of a signed similarity in [-1, 1], or a tensor of them
    rounds: how many times to permute and measure, >= 1; the result is the mean
    generator: makes it reproducible; on the CPU or the weight's device; None takes torch's default one of that device.
        With several processes each permutes all slices, from generators that must be in one state
    group: a process group of torch.distributed, whose processes all call with the same arguments, share the work and
        have the same result; None: this process alone, or those that a weight is sharded over (DTensor)
    options: see `SimilarityOptions`
    out: float64, of the threshold's shape; 0 where there is no pair, NaN where a pair is NaN
    Raises what `redundancy` does.
    """
    team = team_for(group, weight)
    with team.together():
        similarity, backend = resolve(options, "chance_redundancy", "threshold", "rounds", "generator", "group")
        thresholds = checked_thresholds(threshold, similarity.lowest)
        rounds = whole_number("rounds", rounds)
        _check_generator(generator)
        team.check()
        banks = valued_banks(weight, similarity.scale_free)
        asked = {"threshold": thresholds.tolist(), "rounds": rounds}
        team.check_agreement(
            lambda: [*facts_of(banks, similarity, backend, **asked), _state_of(generator, banks[0].device)]
        )
        return chance_of_banks(banks, thresholds, rounds, generator, similarity, backend, team)


def chance_of_banks(
    banks: Sequence[Tensor],
    thresholds: Tensor,
    rounds: int,
    generator: torch.Generator | None,
    similarity: Similarity,
    backend: Backend | None,
    team: Team = ALONE,
) -> Tensor:
    """The chance level over the pairs within each of several filter banks: float64, of the thresholds' shape."""
    measured = [
        redundancy_of_sets(sets, thresholds, similarity, backend, team)
        for sets in permuted_sets(banks, rounds, generator)
    ]
    return torch.cat(measured).mean(0)


def permuted_sets(
    banks: Sequence[Tensor], rounds: int, generator: torch.Generator | None
) -> Iterator[list[list[Tensor]]]:
    """The banks with the positions of every slice permuted, `rounds` times, as many at once as memory allows.

    banks: of one shape, (F2, F1, *K) each; they are permuted together
    """
    together = banks[0] if len(banks) == 1 else torch.cat(list(banks))
    at_once = max(_MOST_PERMUTED // max(together.numel(), 1), 1)
    for start in range(0, rounds, at_once):
        permuted = [_permuted(together, generator) for _ in range(min(at_once, rounds - start))]
        yield [list(each.split(banks[0].shape[0])) if len(banks) > 1 else [each] for each in permuted]


def drawn_by_chance(banks: Sequence[Tensor], chosen: Sequence[Tensor] | None = None) -> Iterator[Tensor]:
    """Filters of a layer in groups whose pairs are a sample of the layer's, the positions in every slice permuted.

    Each bank is cut at random into groups of one size, give or take one, so that its filters are in equally many pairs:
    a share of these is at least as exact as one of so many pairs that are drawn on their own. There are about 4,096,
    at least 3,072; of a layer with fewer, all are drawn, as often as it takes to have 4,096, at most 16 times.
    From a generator of its own: the same in every call and on every device.

    banks: (F2, F1, *K) each, of one F1 and *K
    chosen: of each bank the filters that there are, (n,) int64; None: all
    out: (filters, F1, *K) each, drawn one after another: no more than one need be held
    """
    sizes = [len(each) for each in chosen or banks]
    pairs = sum(size * (size - 1) // 2 for size in sizes)
    rounds = min(-(-_CHANCE_PAIRS // max(pairs, 1)), _MOST_ROUNDS)
    share = min(_MOST_FILTERS / max(sum(sizes), 1), 1)
    generator = torch.Generator().manual_seed(0)
    device = banks[0].device
    permute = _permuting(banks[0].shape[1:], rounds * sum(sizes), generator, device)
    for place, size in list(enumerate(sizes)) * rounds:
        count = math.ceil(size * share)
        order = torch.randperm(size, generator=generator, device="cpu")[:count].to(device)
        order = chosen[place][order] if chosen else order
        parts = max(min(round(pairs / _CHANCE_PAIRS), count // _SMALLEST_GROUP), 1)
        for group in order.tensor_split(parts):
            yield permute(banks[place].index_select(0, group).contiguous())


def pairs_drawn(pairs: int) -> int:
    """The least number of pairs that `drawn_by_chance` draws of a layer with so many."""
    return min(pairs * _MOST_ROUNDS, _CHANCE_PAIRS * 3 // 4)


def _permuting(
    shape: Sequence[int], filters: int, generator: torch.Generator, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """What permutes every slice of contiguous filters (n, F1, *K) in place, each by one of 4,096 permutations.

    So one in 4,096 pairs of slices keeps its shape: less than any error of a share of 4,096 pairs. Of long slices there
    are no more than slices, and none is held.

    shape: (F1, *K) of so many filters
    """
    positions, slices = math.prod(shape[1:]), max(filters * shape[0], 1)
    kinds = _PERMUTATIONS if positions <= _SHORT else min(math.isqrt(slices - 1) + 1, _PERMUTATIONS)
    first, second = torch.rand(2, kinds, positions, generator=generator, device="cpu").argsort(2).to(device)
    held = first[:, second].reshape(-1, positions) if positions <= _SHORT else None  # each after each of the second

    def places(which: Tensor) -> Tensor:
        if held is not None:
            return held.index_select(0, which)
        return first.index_select(0, which // kinds).gather(1, second.index_select(0, which % kinds))

    def permute(filters: Tensor) -> Tensor:
        for part in filters.view(-1, positions).split(max(_PERMUTED_AT_ONCE // positions, 1)):
            which = torch.randint(kinds * kinds, part.shape[:1], generator=generator, device="cpu").to(device)
            part.copy_(part.gather(1, places(which)))
        return filters

    return permute


def packed_to_pairs(packed: Tensor, filters: int) -> Tensor:
    """The pairs i < j at the given places of the packed order; exact for up to 2^25 filters.

    packed: (P,) int64 in [0, filters (filters - 1) / 2)
    out: (P, 2) int64
    """
    b = 2 * filters - 1
    i = ((b - (b * b - 8 * packed).double().sqrt()) / 2).long()
    i -= (_row_start(i, filters) > packed).long()  # the square root may be off by one rounding
    i += (_row_start(i + 1, filters) <= packed).long()
    return torch.stack((i, packed - _row_start(i, filters) + i + 1), 1)


def wilson_interval(share: float, count: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share observed in `count` draws; NaN for a NaN share."""
    # the quantile of (1 - confidence) / 2, whose tail ndtri resolves where that of (1 + confidence) / 2 rounds to 1
    z = -torch.special.ndtri(torch.tensor((1 - confidence) / 2, dtype=torch.float64, device="cpu")).item()
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    centre, scale = share + z * z / (2 * count), 1 + z * z / count
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return (min(max(low, 0.0), share), max(min(high, 1.0), share))


def _check_generator(generator: torch.Generator | None) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")


def _state_of(generator: torch.Generator | None, device: torch.device) -> str:
    """The generator, or torch's default one of the device, by a digest of its state."""
    if generator is not None:
        return f"a generator in state {sha256(generator.get_state().numpy().tobytes()).hexdigest()[:8]}"
    state = torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    digest = sha256(state.numpy().tobytes()).hexdigest()[:8]
    return f"torch's default generator in state {digest} (pass generator=, seeded alike on each)"


def _row_start(i: Tensor, filters: int) -> Tensor:
    """Packed index of the pair (i, i + 1)."""
    return i * (2 * filters - i - 1) // 2


def uniform_sample(population: int, size: int, generator: torch.Generator | None) -> Tensor:
    """(size,) int64, a uniform sample without replacement of range(population), size < population."""
    device = generator.device if generator is not None else torch.device("cpu")
    if 2 * size >= population:
        return torch.randperm(population, generator=generator, device=device)[:size]
    drawn = torch.empty(0, dtype=torch.int64, device=device)
    while drawn.numel() < size:
        more = torch.randint(population, (size,), generator=generator, device=device)
        drawn = torch.cat((drawn, more)).unique()
    # the distinct values are a uniform subset of their number; so is a random part of them
    return drawn[torch.randperm(drawn.numel(), generator=generator, device=device)[:size]]


def _permuted(bank: Tensor, generator: torch.Generator | None) -> Tensor:
    """(F2, F1, *K) with the K positions of every slice in a uniform random order of its own (Fisher-Yates)."""
    positions = (
        bank.flatten(2).flatten(0, 1).T.clone(memory_format=torch.contiguous_format)
        if bank.dim() > 2
        else bank.reshape(1, -1)
    )
    device = generator.device if generator is not None else bank.device
    for last in range(positions.shape[0] - 1, 0, -1):
        other = torch.randint(last + 1, (1, positions.shape[1]), generator=generator, device=device).to(bank.device)
        taken = positions.gather(0, other)
        positions.scatter_(0, other, positions[last : last + 1].clone())
        positions[last : last + 1] = taken
    return positions.T.reshape(bank.shape)
