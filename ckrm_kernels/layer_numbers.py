"""The numbers of one layer of one model: its redundancy beside the levels that tell what it speaks of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ckrm_kernels.backends import Backend
from ckrm_kernels.distributed import ALONE, Team
from ckrm_kernels.distribution import histogram_of_omega, omega_of_banks, share_of_chosen, share_of_omega
from ckrm_kernels.filters import parts_of
from ckrm_kernels.functional import over_scale
from ckrm_kernels.groups import groups_of_banks, kept_of_omega
from ckrm_kernels.sampling import drawn_by_chance
from ckrm_kernels.sharing import is_ordinary, shared_counts
from ckrm_kernels.similarity import Similarity

Over = Callable[[Tensor], Tensor]
DEAD = 1e-2
"""A filter is dead whose root mean square is at most this share of its layer's: then its slices' squares are below the
default eps times the layer's mean square, so that eps decides its Psi, and it has 1e-4 of a usual filter's power."""
_AT_ONCE = 1 << 20  # numbers of drawn filters, whose pairs are counted in one call


class Level(NamedTuple):
    """lambda^t and its chance level; None where slices are single numbers, or without details."""

    redundancy: float
    chance: float | None = None
    distinct: int | None = None


class LayerNumbers(NamedTuple):
    """What one model's layer was found to be.

    measured: by the similarity asked for; scale_free: of the layer over its root mean square, None where the similarity
        is that or does not depend on scale; live: among the filters that are not dead
    """

    histogram: tuple[int, ...]
    measured: Level
    dead: int | None = None
    live: Level | None = None
    scale_free: Level | None = None


class Wanted(NamedTuple):
    """What is computed beside lambda^t.

    chance: whether there is anything to permute; scale_free: whether the similarity depends on scale
    """

    chance: bool
    scale_free: bool


def plain_numbers(counts: Tensor, at: int) -> LayerNumbers:
    """lambda^t and the histogram of a layer.

    counts: of its pairs between the edges of the histogram's bins and the threshold, which is at place `at` of them
    """
    of_pairs = counts[:-1].tolist()
    histogram = (*of_pairs[:at], sum(of_pairs[at : at + 2]), *of_pairs[at + 2 :])
    return LayerNumbers(histogram, Level(_share_above(counts, at)))


def detailed_numbers(
    banks: list[Tensor],
    edges: Tensor,
    at: int,
    wanted: Wanted,
    similarity: Similarity,
    backend: Backend | None,
    team: Team = ALONE,
) -> LayerNumbers:
    """The numbers of a layer with its levels; only the plain ones where Psi of a pair is NaN.

    banks: (F2, F1, *K) each, of one shape, finite; as they are, whatever similarity.scale_free
    edges: the inner ones of the histogram's equal bins, and the threshold, at place `at`
    team: whose processes all call, and share the pairs
    """
    pairs = _Pairs(edges[at].item(), similarity, backend, team)
    omega = pairs.held(banks)
    if omega is None:
        plain = plain_numbers(shared_counts(banks, edges, similarity, backend, team).sum(0).cpu(), at)
    else:
        histogram = tuple(histogram_of_omega(omega, len(edges), similarity).tolist())
        plain = LayerNumbers(histogram, Level(share_of_omega(omega, pairs.threshold)))
    if math.isnan(plain.measured.redundancy):
        return plain
    alive = _alive(banks)
    dead = sum(int((~each).sum()) for each in alive)
    measured = pairs.level(banks, plain.measured.redundancy, omega)
    live = pairs.of_live(banks, alive, omega, wanted.chance) if dead else None
    del omega  # before there are others
    scale_free, over = pairs.of_scale_free(banks, repeating=dead > 1) if wanted.scale_free else (None, None)
    if wanted.chance:
        chance, of_scale_free = pairs.by_chance(banks, over)
        measured = measured._replace(chance=chance)
        scale_free = scale_free._replace(chance=of_scale_free) if scale_free else None
    return LayerNumbers(plain.histogram, measured, dead, live if dead else measured, scale_free)


class _Pairs(NamedTuple):
    """What is asked of the pairs of banks."""

    threshold: float
    similarity: Similarity
    backend: Backend | None
    team: Team

    def held(self, banks: Sequence[Tensor]) -> list[Tensor] | None:
        """Their packed Psi; None where they are too many, or several processes can compute a part each."""
        if self.team.size > 1 and all(is_ordinary(bank, self.similarity) for bank in banks):
            return None
        return omega_of_banks(banks, self.similarity, self.backend)

    def share_above(self, banks: Iterable[Tensor]) -> float:
        """lambda^t over the pairs of all banks."""
        return self.shares_above(banks, None)[0]

    def by_chance(self, banks: Sequence[Tensor], over: Over | None) -> tuple[float, float | None]:
        """The chance level of the banks, and of them over their scale where that is given."""
        return self.shares_above(drawn_by_chance(banks), over)

    def shares_above(self, banks: Iterable[Tensor], over: Over | None) -> tuple[float, float | None]:
        """lambda^t over the pairs of all banks, and of them over their scale where that is given.

        banks: no more are held at once than it takes for calls of a size; overwritten where there is a scale
        """
        edge = torch.tensor([self.threshold], dtype=torch.float64, device="cpu")
        counts = torch.zeros(2, 3, dtype=torch.int64, device="cpu")
        for some in _batches(banks):
            counts[0] += shared_counts(some, edge, self.similarity, self.backend, self.team).sum(0).cpu()
            if over is not None:
                some[:] = map(over, some)
                counts[1] += shared_counts(some, edge, self.similarity, self.backend, self.team).sum(0).cpu()
            some.clear()  # before the next are made
        return _share_above(counts[0], 0), None if over is None else _share_above(counts[1], 0)

    def level(self, banks: Sequence[Tensor], redundancy: float, omega: Sequence[Tensor] | None) -> Level:
        """With the number of distinct filters. omega: of the banks, where it is held already"""
        if redundancy == 0:
            return Level(redundancy, None, sum(len(bank) for bank in banks))
        held = omega or self.held(banks)
        if held is None:
            distinct = groups_of_banks(banks, self.threshold, self.similarity, self.backend, self.team).kept.numel()
        else:
            distinct = sum(kept_of_omega(psi, len(bank), self.threshold) for psi, bank in zip(held, banks, strict=True))
        return Level(redundancy, None, distinct)

    def of_live(
        self, banks: Sequence[Tensor], alive: Sequence[Tensor], omega: Sequence[Tensor] | None, with_chance: bool
    ) -> Level:
        """The level of the filters that are not dead. alive: of each bank, which these are"""
        chosen = [each.nonzero().flatten() for each in alive]
        chance = self.share_above(drawn_by_chance(banks, chosen)) if with_chance else None
        if omega is None:
            live = (bank.index_select(0, each) for bank, each in zip(banks, chosen, strict=True))
            return Level(self.share_above(live), chance)
        return Level(share_of_chosen(omega, alive, self.threshold), chance)

    def of_scale_free(self, banks: Sequence[Tensor], *, repeating: bool) -> tuple[Level, Over]:
        """The level of the banks over their root mean square, and what puts filters of theirs over it.

        repeating: whether pairs are known to be above the threshold; else they are only counted first, for which no
            Psi need be exact
        """
        unit, peak, scale = over_scale(banks)
        omega = self.held(unit) if repeating else None
        redundancy = self.share_above(unit) if omega is None else share_of_omega(omega, self.threshold)
        return self.level(unit, redundancy, omega), partial(_over, peak, scale)


def _share_above(counts: Tensor, at: int) -> float:
    """lambda^t by the pairs in each interval between edges, the threshold being at place `at` of these."""
    return math.nan if counts[-1] > 0 else int(counts[at + 1 : -1].sum()) / max(int(counts.sum()), 1)


def _alive(banks: list[Tensor]) -> list[Tensor]:
    """For each bank, which filters are not dead: (F2,) bool."""
    norms = [torch.cat([_norms(some) for some in parts_of(bank)]) for bank in banks]
    together = torch.cat(norms)
    limit = DEAD * together.square().sum().div(max(together.numel(), 1)).sqrt()
    return [norm > limit for norm in norms]


def _norms(filters: Tensor) -> Tensor:
    return torch.linalg.vector_norm(filters.flatten(1).double(), dim=1)


def _batches(banks: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The banks in lists of at least so many numbers, which alone hold them."""
    batch: list[Tensor] = []
    numbers = 0
    for bank in banks:
        batch.append(bank)
        numbers += bank.numel()
        del bank
        if numbers >= _AT_ONCE:
            yield batch
            batch, numbers = [], 0
    if batch:
        yield batch


def _over(peak: Tensor, scale: Tensor, filters: Tensor) -> Tensor:
    """Filters over the two numbers of `over_scale`, in place where they are of their type."""
    return filters.to(scale.dtype).div_(peak).div_(scale)
